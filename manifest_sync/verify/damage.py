"""What a look for damage finds: each damaged object, the files and snapshots it hurts, and its cure. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from manifest_sync.model import Path, json_path

Ranges = tuple[tuple[int, int], ...]
"""Sequences of snapshots: ranges with both ends included, ascending, disjoint and not adjacent."""


def make_ranges(spans: Iterable[tuple[int, int]]) -> Ranges:
    """The shortest form of some ranges (both ends included) that may overlap and come in any order."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def show_ranges(ranges: Ranges) -> str:
    """Text for people: ``3-7, 9``."""
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


class Kind(StrEnum):
    """Which object of a repository is damaged."""

    HEAD = "head"
    SNAPSHOT = "snapshot"
    PAGE = "page"
    PACK = "pack"
    EXTERNAL = "adopted object"
    HISTORY = "history block"
    COLLECTION = "gc list"


@dataclass(frozen=True, slots=True)
class HurtFile:
    """One path that cannot be had from the bucket as some snapshots list it.

    ``head``: the current state is one of them. ``host``: who wrote it.
    """

    path: Path
    snapshots: Ranges
    head: bool
    host: str


@dataclass(frozen=True, slots=True)
class Damage:
    """One object that is missing or not what it should be.

    Attributes:
        key: its key in the bucket; the URL of an adopted object.
        what: what is wrong with it, for people.
        snapshots: the snapshots that need it.
        head: the current state cannot be had whole because of it.
        files: what it hurts, in path order. For a lost page of which no copy is known here, and for a
            snapshot, the paths are not known; ``count`` and ``between`` then say what the head tells of it.
        cached: this machine has what is needed to write it again.
    """

    kind: Kind
    key: str
    what: str
    snapshots: Ranges = ()
    head: bool = False
    files: tuple[HurtFile, ...] = ()
    count: int = 0
    between: tuple[Path, Path] | None = None
    cached: bool = False

    @property
    def hosts(self) -> dict[str, int]:
        """Who wrote the files that are hurt, and how many: most first."""
        return dict(Counter(file.host for file in self.files).most_common())

    @property
    def repair(self) -> str:
        """What puts it right, for people."""
        return _CURES[self.kind](self)

    def to_json(self) -> dict[str, Any]:
        """One item of ``damaged`` of ``verify --json``."""
        return {
            "kind": self.kind.value,
            "key": self.key,
            "what": self.what,
            "head": self.head,
            "snapshots": [list(pair) for pair in self.snapshots],
            "count": self.count,
            "between": None if self.between is None else [json_path(path) for path in self.between],
            "files": [
                {
                    "path": json_path(file.path),
                    "head": file.head,
                    "snapshots": [list(pair) for pair in file.snapshots],
                    "host": file.host,
                }
                for file in self.files
            ],
            "hosts": self.hosts,
            "repair": self.repair,
        }


def _cure_head(_: Damage) -> str:
    return "`manifest-sync doctor --restore-head` writes a new one from the newest snapshot"


def _cure_snapshot(damage: Damage) -> str:
    if damage.cached:
        return "`manifest-sync push --repair` here writes it again"
    return (
        "`manifest-sync push --repair` on a machine for which this snapshot is the newest it has seen; "
        "else only a copy of the object from elsewhere. The other snapshots are not affected"
    )


def _cure_page(damage: Damage) -> str:
    if damage.cached:
        return "`manifest-sync push --repair` here writes it again: this machine keeps a copy of it"
    return (
        "`manifest-sync push --repair` on a machine that has pulled or pushed since it was written "
        "and so keeps a copy of it; if there is none, `push --repair --drop-lost` on the one with the newest "
        "files lets go of it and sends again what is there"
    )


def _cure_pack(damage: Damage) -> str:
    hosts = ", ".join(f"{host} ({count})" for host, count in list(damage.hosts.items())[:5])
    wrote = f"; they were written by {hosts}" if hosts else ""
    return f"`manifest-sync push --repair` on a machine that has these files{wrote}"


def _cure_external(_: Damage) -> str:
    return (
        "`manifest-sync adopt` takes over what is there now; `manifest-sync push --repair` on a machine that "
        "has the files as they were sends them to the bucket"
    )


def _cure_history(_: Damage) -> str:
    return "`manifest-sync push --repair` writes it again if a snapshot that lists its ids is kept"


def _cure_collection(_: Damage) -> str:
    return "`manifest-sync push --repair` takes it out of the head; nothing but some uploads hangs on it"


_CURES = {
    Kind.HEAD: _cure_head,
    Kind.SNAPSHOT: _cure_snapshot,
    Kind.PAGE: _cure_page,
    Kind.PACK: _cure_pack,
    Kind.EXTERNAL: _cure_external,
    Kind.HISTORY: _cure_history,
    Kind.COLLECTION: _cure_collection,
}


@dataclass(slots=True)
class VerifyReport:
    """The outcome of one ``verify``."""

    read_data: bool = False
    local: bool = False
    damaged: list[Damage] = field(default_factory=list)
    unchecked: list[tuple[str, str]] = field(default_factory=list)
    """What could not be looked at, and why: not known to be damaged."""
    checked: dict[str, int] = field(default_factory=dict)
    """Objects looked at, by kind."""
    files: int = 0
    """Files of the current state; with ``local`` those here."""
    bytes: int = 0
    """Bytes read of packs."""
    missed: list[Path] = field(default_factory=list)
    """With ``local``: files whose content is not what the index recorded although their stat is."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    snapshot: str = ""
    sequence: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def head_hurt(self) -> bool:
        """Whether the current state cannot be had whole."""
        return any(damage.head for damage in self.damaged)

    @property
    def exit_code(self) -> int:
        """7 when anything is damaged, 3 when something could not be looked at, else 0."""
        if self.damaged or self.missed:
            return 7
        return 3 if self.unchecked or self.skipped else 0

    def to_json(self) -> dict[str, Any]:
        """The fields of ``verify --json``."""
        return {
            "command": "verify",
            "read_data": self.read_data,
            "local": self.local,
            "clean": not self.damaged and not self.missed,
            "head_hurt": self.head_hurt,
            "damaged": [damage.to_json() for damage in self.damaged],
            "unchecked": [{"key": key, "reason": reason} for key, reason in self.unchecked],
            "missed": [json_path(path) for path in self.missed],
            "skipped": [{"path": json_path(path), "reason": reason} for path, reason in self.skipped],
            "checked": self.checked,
            "files": self.files,
            "bytes": self.bytes,
            "snapshot": self.snapshot,
            "sequence": self.sequence,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }

"""What a run tells: its progress while it goes on, and its report at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from manifest_sync.errors import ManifestSyncError
from manifest_sync.model import Path, display, json_path
from manifest_sync.times import rfc3339_ns

NOTHING_THERE = "nothing is there, neither here nor in the bucket"
"""Why a name that was asked for is skipped."""


class Progress(Protocol):
    """Told of progress by the operations; the command line draws bars from it.

    Stages are ``scan``, ``hash`` and ``transfer``; each counts files and bytes apart.
    """

    def begin(self, stage: str, files: int | None = None, bytes_: int | None = None) -> None:
        """A stage starts; totals where they are known."""

    def advance(self, stage: str, files: int = 0, bytes_: int = 0) -> None:
        """So many more files and bytes are done."""

    def end(self, stage: str) -> None:
        """The stage is over."""

    def note(self, text: str) -> None:
        """One line a person wants to see now (a retry, a race lost and tried again)."""


class Silent:
    """Progress that nobody watches."""

    def begin(self, stage: str, files: int | None = None, bytes_: int | None = None) -> None:
        """See `Progress`."""

    def advance(self, stage: str, files: int = 0, bytes_: int = 0) -> None:
        """See `Progress`."""

    def end(self, stage: str) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""


@dataclass(slots=True)
class RunReport:
    """The outcome of one push or pull; ``to_json`` gives the object that ``--json`` prints."""

    command: str
    mode: str
    dry_run: bool = False
    new: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    left: dict[str, int] = field(default_factory=dict)
    """What the mode did not do: counts by case name (see `manifest_sync.diff.Case`)."""
    conflicts: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    nowhere: list[Path] = field(default_factory=list)
    """What was named and is neither here nor in the bucket; in the end it is among ``skipped``."""
    actions: list[str] = field(default_factory=list)
    """With ``dry_run`` (or ``verbose``): one stable line an action, in path order."""
    why: list[str] = field(default_factory=list)
    """The case of each of ``actions`` by name; empty where the command knows no cases."""
    missed: list[Path] = field(default_factory=list)
    """With ``--checksum``: files whose change the stat cache had not shown."""
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    """What the bucket does not hold although it should, with the reason."""
    selection: list[Path] = field(default_factory=list)
    """What this machine tracks; empty when that is everything."""
    waiting: list[Path] = field(default_factory=list)
    """Of a push that sends only what holds still: changed files that do not yet."""
    limit: str = ""
    """Of a dry run: what would stop it, for people; '' when nothing would."""
    published: bool = False
    """Whether this run made a new head."""
    to: str = ""
    """The folder that files were restored into; '' for the tree."""
    run: str = ""
    """The run's name in the trash, for ``undo``; '' when nothing was changed here."""
    bytes: int = 0
    stored_bytes: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    snapshot: str = ""
    sequence: int = 0
    seconds: float = 0.0

    def note_skipped(self, skipped: Mapping[Path, str]) -> None:
        """What could not be dealt with: ``skipped``, and the names at which nothing is."""
        self.skipped = sorted({**dict.fromkeys(self.nowhere, NOTHING_THERE), **skipped}.items())

    @property
    def exit_code(self) -> int:
        """8 with a limit in the way, 7 with damage, 6 with conflicts, 3 when files were skipped, else 0."""
        if self.limit:
            return 8
        if self.damaged:
            return 7
        if self.conflicts:
            return 6
        return 3 if self.skipped else 0

    def to_json(self) -> dict[str, Any]:
        """The fields of ``--json``, as `docs/cli.md` names them."""
        return {
            "command": self.command,
            "mode": self.mode,
            "dry_run": self.dry_run,
            "new": self.new,
            "changed": self.changed,
            "deleted": self.deleted,
            "unchanged": self.unchanged,
            "left": self.left,
            "conflicts": [json_path(p) for p in self.conflicts],
            "skipped": [{"path": json_path(p), "reason": r} for p, r in self.skipped],
            "actions": self.actions,
            "why": self.why,
            "missed": [json_path(p) for p in self.missed],
            "damaged": [{"path": json_path(p), "reason": r} for p, r in self.damaged],
            "selection": [json_path(p) for p in self.selection],
            "limit": self.limit,
            "run": self.run,
            "bytes": self.bytes,
            "stored_bytes": self.stored_bytes,
            "requests": self.requests,
            "snapshot": self.snapshot,
            "sequence": self.sequence,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class SyncReport:
    """The outcome of a sync: a pull, then a push.

    ``error`` is what stopped the push after the pull was done (a key that only reads, say); ``push`` is empty
    then.
    """

    pull: RunReport
    push: RunReport
    error: ManifestSyncError | None = None

    @property
    def conflicts(self) -> list[Path]:
        """The paths in conflict, in path order; most are met by both halves."""
        return sorted({*self.pull.conflicts, *self.push.conflicts})

    @property
    def skipped(self) -> list[tuple[Path, str]]:
        """What either half skipped; the push looked last, so its reason stands."""
        return sorted({**dict(self.pull.skipped), **dict(self.push.skipped)}.items())

    @property
    def damaged(self) -> list[tuple[Path, str]]:
        """What the bucket does not hold although it should, as either half found it."""
        return sorted({**dict(self.push.damaged), **dict(self.pull.damaged)}.items())

    @property
    def left(self) -> dict[str, int]:
        """What is left undone once both halves are done: the push looked last, `drop` is the pull's."""
        if self.error is not None:
            return self.pull.left
        done_by_pull = ("new_there", "changed_there") if self.pull.dry_run else ()
        left = {case: count for case, count in self.push.left.items() if case not in done_by_pull}
        return left | {case: count for case, count in self.pull.left.items() if case == "dropped"}

    @property
    def exit_code(self) -> int:
        """That of the error, else the graver one of both halves."""
        if self.error is not None:
            return self.error.exit_code
        return max(self.pull.exit_code, self.push.exit_code)

    def to_json(self) -> dict[str, Any]:
        """The fields of ``sync --json``; with those of an error, and no ``push``, where that failed."""
        error = self.error
        told = {"error": error.code, "message": error.message, "hint": error.hint} if error else {}
        return {
            "command": "sync",
            **told,
            "pull": self.pull.to_json(),
            "push": None if error else self.push.to_json(),
            "left": self.left,
            "conflicts": [json_path(p) for p in self.conflicts],
            "skipped": [{"path": json_path(p), "reason": r} for p, r in self.skipped],
            "damaged": [{"path": json_path(p), "reason": r} for p, r in self.damaged],
            "exit": self.exit_code,
        }


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a conflict: size in bytes, mtime in nanoseconds; in the bucket also by whom and when."""

    size: int
    mtime_ns: int
    host: str = ""
    time: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields of ``status --json``."""
        found: dict[str, Any] = {
            "size": self.size,
            "mtime": rfc3339_ns(self.mtime_ns),
            "mtime_ns": self.mtime_ns,
        }
        return {**found, "host": self.host, "time": self.time} if self.time else found


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path that both sides changed: what each side has now, None for nothing."""

    path: Path
    case: str
    local: Side | None
    remote: Side | None

    def to_json(self) -> dict[str, Any]:
        """The fields of ``status --json``."""
        return {
            "path": json_path(self.path),
            "case": self.case,
            "local": self.local.to_json() if self.local else None,
            "remote": self.remote.to_json() if self.remote else None,
        }


@dataclass(slots=True)
class StatusReport:
    """Drift between here and the bucket: the paths of every case by its name."""

    cases: dict[str, list[Path]] = field(default_factory=dict)
    """Case name (``new_here``, ``changed_here``, ``conflict`` …) to its paths, in path order."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    """Where the bucket's list of files is lost: what differs there is not known."""
    unchanged: int = 0
    offline: bool = False
    snapshot: str = ""
    sequence: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    """Both sides of every path in conflict, in path order."""
    dropped: list[Path] = field(default_factory=list)
    """What `drop` took away here and the bucket holds."""
    two_owners: list[Path] = field(default_factory=list)
    """What is git's now, by the rules or because git tracks it, and is in the bucket all the same."""
    selection: list[Path] = field(default_factory=list)
    """What this machine tracks; empty when that is everything."""
    trash_files: int = 0
    trash_bytes: int = 0
    trash_sole: list[Path] = field(default_factory=list)
    """Paths of what the trash holds and the bucket does not."""
    requests: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def has_drift(self) -> bool:
        """Whether any path differs."""
        return any(self.cases.values())

    def to_json(self) -> dict[str, Any]:
        """The fields of ``status --json``."""
        return {
            "command": "status",
            "cases": {name: [json_path(p) for p in paths] for name, paths in self.cases.items()},
            "skipped": [{"path": json_path(p), "reason": r} for p, r in self.skipped],
            "damaged": [{"path": json_path(p), "reason": r} for p, r in self.damaged],
            "unchanged": self.unchanged,
            "drift": self.has_drift,
            "offline": self.offline,
            "snapshot": self.snapshot,
            "sequence": self.sequence,
            "conflicts": [conflict.to_json() for conflict in self.conflicts],
            "dropped": [json_path(p) for p in self.dropped],
            "two_owners": [json_path(p) for p in self.two_owners],
            "selection": [json_path(p) for p in self.selection],
            "trash_files": self.trash_files,
            "trash_bytes": self.trash_bytes,
            "trash_sole": [json_path(p) for p in self.trash_sole],
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }


def describe(path: Path, verb: str) -> str:
    """One stable line for a plan: ``upload exp01/a.json``."""
    return f"{verb:<9} {display(path)}"

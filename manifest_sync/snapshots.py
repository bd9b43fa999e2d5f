"""The chain of snapshots that leads to a head: walking it, and finding one by what a person calls it.

What is kept is never derived from a listing: the walk follows parents. A listing only helps to find the key
of an id (after a recovery, sequence numbers have gaps) and to look up many at once.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime

from manifest_sync import manifest as fmt
from manifest_sync.errors import Damaged, UsageError
from manifest_sync.manifest import Manifest
from manifest_sync.repository import Head, Repository
from manifest_sync.times import parse_rfc3339, parse_when

_KEY = re.compile(r"snapshots/(\d{10,18})-([0-9a-f]{32})\.json\.zst\Z")
_PREFIX = re.compile(r"[0-9a-f]{4,32}\Z")
HEAD_WORDS = ("head", "latest")


class Snapshots:
    """The snapshots of one head's chain. What `find` and `load` load is kept for the life of the object."""

    def __init__(self, repository: Repository, head: Head) -> None:
        self._repository = repository
        self._head = head.manifest
        self._loaded: dict[str, Manifest] = {head.manifest.snapshot: head.manifest}
        self._listed: dict[str, int] | None = None
        self._chain: list[tuple[int, str]] | None = None

    def parent(self, manifest: Manifest) -> Manifest | None:
        """The snapshot that ``manifest`` was published upon; None when there is none or it was collected.

        Raises:
            Damaged: it should be kept and is missing or unreadable.
        """
        if not self.has_parent(manifest.sequence, manifest.parent):
            return None
        return self.read(manifest.sequence - 1, manifest.parent)

    def has_parent(self, sequence: int, parent: str) -> bool:
        """Whether the ``parent`` of a snapshot of this sequence number is kept."""
        return bool(parent) and sequence > self._head.oldest

    def walk(self) -> Iterator[Manifest]:
        """The head and its ancestors, newest first, down to the oldest that is kept.

        Raises:
            Damaged: one of them is missing or unreadable.
        """
        current: Manifest | None = self._head
        while current is not None:
            yield current
            current = self.parent(current)

    def pinned(self) -> list[Manifest]:
        """The pinned snapshots, as the head lists them.

        Raises:
            Damaged: one of them is missing or unreadable.
        """
        return [self._load(pin.sequence, pin.snapshot) for pin in self._head.pins]

    def chain(self) -> list[tuple[int, str]]:
        """Sequence and id of every snapshot of the chain that is kept, newest first, by one listing."""
        if self._chain is None:
            listed = self._listing()
            pinned = {pin.snapshot for pin in self._head.pins}
            found = [(self._head.sequence, self._head.snapshot)]
            for id_ in self._repository.iter_ancestors(self._head):
                sequence = listed.get(id_)
                if sequence is not None and (sequence >= self._head.oldest or id_ in pinned):
                    found.append((sequence, id_))
            self._chain = found
        return self._chain

    def load(self, sequence: int, id_: str) -> Manifest:
        """A snapshot of `chain`.

        Raises:
            Damaged: it is missing or unreadable.
        """
        return self._load(sequence, id_)

    def find(self, text: str, now: datetime) -> Manifest:
        """The snapshot that a person means by ``text``.

        Args:
            text: a sequence number, a prefix of an id (4 digits or more), the name of a pin, ``head``, or a
                time: then the newest snapshot that is not younger.
            now: the present, in the zone that times without one are meant in.

        Raises:
            UsageError: nothing or more than one is meant.
            Damaged: it is meant, and is missing or unreadable.
        """
        text = text.strip()
        if text.lower() in HEAD_WORDS:
            return self._head
        found = self._by_name(text)
        if found is None:
            moment = parse_when(text, now)
            if moment is None:
                raise UsageError(
                    f"{text!r} names no snapshot that is kept",
                    "use a sequence number, a prefix of an id or a time; `manifest-sync log` lists them",
                )
            return self._at(text, moment)
        return self.load(*found)

    def _by_name(self, text: str) -> tuple[int, str] | None:
        chain = self.chain()
        if text.isdecimal() and len(text) <= 18:
            for sequence, id_ in chain:
                if sequence == int(text):
                    return sequence, id_
        named = [(pin.sequence, pin.snapshot) for pin in self._head.pins if pin.name == text]
        if len(named) == 1:
            return named[0]
        if not _PREFIX.match(text.lower()):
            return None
        matching = [pair for pair in chain if pair[1].startswith(text.lower())]
        if len(matching) > 1:
            shown = ", ".join(f"{id_[:12]} (sequence {sequence})" for sequence, id_ in matching[:5])
            raise UsageError(f"{text!r} is the beginning of several snapshots: {shown}", "give more of it")
        return matching[0] if matching else None

    def _at(self, text: str, moment: datetime) -> Manifest:
        """By bisection: clocks of several machines order the chain well enough for a person's question."""
        oldest_first = self.chain()[::-1]
        position = bisect_left(range(len(oldest_first)), True, key=lambda n: self._time(n) > moment)
        if position == 0:
            first = self.load(*oldest_first[0])
            raise UsageError(
                f"no snapshot is kept from {text!r}: the oldest is sequence {first.sequence} of {first.time}",
                "`manifest-sync log` lists what there is",
            )
        return self.load(*oldest_first[position - 1])

    def _time(self, number: int) -> datetime:
        chain = self.chain()
        manifest = self.load(*chain[len(chain) - 1 - number])
        return parse_rfc3339(manifest.time) or datetime.min.replace(tzinfo=UTC)

    def _load(self, sequence: int, id_: str) -> Manifest:
        found = self._loaded.get(id_)
        if found is None:
            found = self._loaded[id_] = self.read(sequence, id_)
        return found

    def read(self, sequence: int, id_: str) -> Manifest:
        """A snapshot, not kept in memory: a long chain of big manifests would fill it.

        Args:
            sequence: where it most likely is; a listing finds it elsewhere.

        Raises:
            Damaged: it is missing or unreadable.
        """
        found = self._repository.load_snapshot(sequence, id_)
        if found is None:
            listed = self._listing().get(id_)
            found = None if listed is None else self._repository.load_snapshot(listed, id_)
        if found is None:
            raise Damaged(
                f"snapshot {id_[:12]} (sequence {sequence}) is missing from "
                f"{self._repository.store.location}",
                "the current state is not affected; `manifest-sync verify` names what is",
            )
        return found

    def _listing(self) -> dict[str, int]:
        if self._listed is None:
            self._listed = {id_: sequence for sequence, id_ in list_snapshots(self._repository)}
        return self._listed


def list_snapshots(repository: Repository) -> list[tuple[int, str]]:
    """Sequence and id of every snapshot object there is, of whatever chain, lowest sequence first."""
    found = (_KEY.match(item.key) for item in repository.store.list("snapshots/"))
    return sorted((int(match[1]), match[2]) for match in found if match)


def key_of(manifest: Manifest) -> str:
    """Key of a snapshot's object."""
    return fmt.snapshot_key(manifest.sequence, manifest.snapshot)

"""The chain of snapshots that leads to a head: walking it, and finding one by what a person calls it.

What is kept is never derived from a listing: the walk follows parents. A listing only helps to find the key
of an id (after a recovery, sequence numbers have gaps) and to look up many at once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from manifest_sync.errors import Damaged, UsageError
from manifest_sync.keys import parse_snapshot_key
from manifest_sync.manifest import Manifest
from manifest_sync.repository import Head, Repository
from manifest_sync.times import parse_rfc3339, parse_when

_PREFIX = re.compile(r"[0-9a-f]{4,32}\Z")
_STEPS = re.compile(r"(.+)~(\d{1,9})\Z", re.DOTALL)
_HEAD_WORDS = ("head", "latest")


@dataclass(frozen=True, slots=True)
class Link:
    """One snapshot of the chain. ``stored``: whether there is an object; without one it is missing.

    ``sequence`` of a missing one is what it must be unless a recovery left a gap just there.
    """

    sequence: int
    id: str
    stored: bool


class Snapshots:
    """The snapshots of one head's chain. What `find` and `load` load is kept for the life of the object."""

    def __init__(self, repository: Repository, head: Head) -> None:
        self._repository = repository
        self._head = head.manifest
        self._loaded: dict[str, Manifest] = {head.manifest.snapshot: head.manifest}
        self._listed: dict[str, int] | None = None

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

    def iter_links(self) -> Iterator[Link]:
        """Every snapshot that should be kept, newest first: the head's chain, then pins that are not in it.

        One listing, and history blocks as they are due: who stops early pays for no more.

        Raises:
            Damaged: a history block is lost, and so is the snapshot that could stand in for it.
        """
        head = self._head
        yield Link(head.sequence, head.snapshot, stored=True)
        pins = {pin.snapshot: pin.sequence for pin in head.pins}
        pins.pop(head.snapshot, None)
        if head.sequence > head.oldest:
            listed = self._listing()
            sequence = head.sequence
            for id_ in self._iter_ancestors():
                # A sequence is its parent's + 1 or, after a recovery, higher: this is the highest it can be.
                sequence -= 1
                found = listed.get(id_)
                stored = found is not None and found <= sequence
                sequence = found if found is not None and stored else sequence
                if sequence < head.oldest:
                    break
                pins.pop(id_, None)
                yield Link(sequence, id_, stored)
        for id_, sequence in sorted(pins.items(), key=lambda pin: pin[1], reverse=True):
            yield Link(sequence, id_, self._listing().get(id_) == sequence)

    def find(self, text: str, now: datetime) -> Manifest:
        """The snapshot that a person means by ``text``.

        Args:
            text: a sequence number, a prefix of an id (4 digits or more), the name of a pin, ``head``, or a
                time: then the newest snapshot that is not younger. ``~N`` behind it goes N snapshots back.
            now: the present, in the zone that times without one are meant in.

        Raises:
            UsageError: nothing or more than one is meant.
            Damaged: it is meant, and is missing or unreadable.
        """
        text = text.strip()
        steps = _STEPS.match(text)
        if steps is None:
            return self._find(text, now)
        manifest = self._find(steps[1].strip(), now)
        back = int(steps[2])
        links = itertools.dropwhile(lambda link: link.id != manifest.snapshot, self.iter_links())
        found = next(itertools.islice(links, back, None), None)
        if found is None or found.sequence > manifest.sequence:
            raise UsageError(
                f"no snapshot is kept that lies {back} before sequence {manifest.sequence}",
                "`manifest-sync log --all` lists what there is",
            )
        return self.load(found.sequence, found.id)

    def meaning(self, text: str, now: datetime) -> str:
        """What `find` takes a text for when it is the name of no pin; '' for nothing."""
        if text.isdecimal():
            return "a sequence number"
        if text.lower() in _HEAD_WORDS:
            return "the head"
        if _STEPS.match(text):
            return "steps back from another snapshot"
        if parse_when(text, now) is not None:
            return "a time"
        return "the beginning of an id" if self._by_id(text) else ""

    def load(self, sequence: int, id_: str) -> Manifest:
        """The snapshot with this id; ``sequence`` is where it is looked for first.

        Raises:
            Damaged: it is missing or unreadable.
        """
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
            raise missing(self._repository, sequence, id_)
        return found

    def _find(self, text: str, now: datetime) -> Manifest:
        if text.lower() in _HEAD_WORDS:
            return self._head
        found = self._by_name(text)
        if found is not None:
            return self.load(found.sequence, found.id)
        moment = parse_when(text, now)
        if moment is None:
            raise UsageError(
                f"{text!r} names no snapshot that is kept{self._why_not(text)}",
                "use a sequence number, a prefix of an id or a time; `manifest-sync log` lists them",
            )
        return self._at(text, moment)

    def _by_name(self, text: str) -> Link | None:
        if text.isdecimal() and len(text) <= 18:
            for link in self.iter_links():
                if link.sequence == int(text):
                    return link
        pins = [pin for pin in self._head.pins if pin.name and pin.name == text]
        named = [Link(pin.sequence, pin.snapshot, stored=True) for pin in pins] or self._by_id(text)
        if len(named) > 1:
            shown = ", ".join(f"{link.id[:12]} (sequence {link.sequence})" for link in named[:5])
            raise UsageError(f"{text!r} may mean several snapshots: {shown}", "name one of them")
        return named[0] if named else None

    def _by_id(self, text: str) -> list[Link]:
        """The snapshots whose id begins with the text."""
        prefix = text.lower()
        if not _PREFIX.match(prefix):
            return []
        return [link for link in self.iter_links() if link.id.startswith(prefix)]

    def _why_not(self, text: str) -> str:
        """What became of a sequence number that is not there."""
        if not text.isdecimal():
            return ""
        if int(text) > self._head.sequence:
            return f": the newest is sequence {self._head.sequence}"
        if int(text) < self._head.oldest:
            return f": it was collected; the oldest is sequence {self._head.oldest}"
        return ""

    def _at(self, text: str, moment: datetime) -> Manifest:
        """By bisection: several machines' clocks order the chain well enough for a person's question."""
        links: list[Link] = []
        for link in self.iter_links():
            if not links or link.sequence < links[-1].sequence:  # else a pin outside the chain
                links.append(link)
        links.reverse()
        low, high = -1, len(links)
        while high - low > 1:
            middle = (low + high) // 2
            time = self._trusted_time(links, middle)
            if time is not None and time > moment:
                high = middle
            else:
                low = middle
        if low < 0:
            first = self.load(links[0].sequence, links[0].id)
            raise UsageError(
                f"no snapshot is kept from {text!r}: the oldest is sequence {first.sequence} of {first.time}",
                "`manifest-sync log --all` lists what there is",
            )
        return self.load(links[low].sequence, links[low].id)

    def _trusted_time(self, links: list[Link], number: int) -> datetime | None:
        """The middle one of three neighbours' times: a single push with a wrong clock misleads nobody."""
        own = self._time(links[number])
        if number in (0, len(links) - 1):
            return own
        before, after = self._time(links[number - 1]), self._time(links[number + 1])
        if own is not None and before is not None and after is not None:
            return sorted((before, own, after))[1]
        return own or before or after

    def _time(self, link: Link) -> datetime | None:
        """When it was published, None when that cannot be known."""
        try:
            return parse_rfc3339(self.load(link.sequence, link.id).time) if link.stored else None
        except Damaged:
            return None

    def _iter_ancestors(self) -> Iterator[str]:
        """Ids of the snapshots before the head, newest first.

        A history block that is lost is bridged: the snapshot that was published just before the block was
        cut still lists the same ids in itself.
        """
        manifest = self._head
        while True:
            last = manifest.snapshot
            try:
                for id_ in self._repository.iter_ancestors(manifest):
                    last = id_
                    yield id_
            except Damaged:
                sequence = self._listing().get(last)
                older = None if sequence is None else self._repository.load_snapshot(sequence, last)
                if older is None or older.sequence >= manifest.sequence:
                    raise
                manifest = older
            else:
                return

    def _listing(self) -> dict[str, int]:
        if self._listed is None:
            self._listed = {id_: sequence for sequence, id_ in list_snapshots(self._repository)}
        return self._listed


def missing(repository: Repository, sequence: int, id_: str) -> Damaged:
    """The error for a snapshot that should be there and is not."""
    return Damaged(
        f"snapshot {id_[:12]} (sequence {sequence}) is missing from {repository.store.location}",
        "the current state is not affected; `manifest-sync verify` names what is",
    )


def list_snapshots(repository: Repository) -> list[tuple[int, str]]:
    """Sequence and id of every snapshot object there is, of whatever chain, lowest sequence first."""
    found = (parse_snapshot_key(item.key) for item in repository.store.list("snapshots/"))
    return sorted(snapshot for snapshot in found if snapshot is not None)

"""Which snapshots a collection keeps. Pure.

What is kept of the chain is always its newest part, without gaps: readers follow parents. Pins are kept
besides; they are the caller's to add.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

DEFAULT_KEEP_LAST = 10
DEFAULT_KEEP_WITHIN = timedelta(days=30)
REPACK_MESSAGE = "gc: repacked"
"""By its message a repack is told from other pushes; who pushes under it loses nothing by that."""


@dataclass(frozen=True, slots=True)
class Member:
    """One snapshot of the chain, as retention looks at it.

    ``time`` is None where it cannot be read. ``is_repack``: it holds the same files as its parent.
    """

    sequence: int
    snapshot: str
    time: datetime | None
    fence: int
    is_repack: bool = False


@dataclass(frozen=True, slots=True)
class Retention:
    """Keep the last ``keep_last`` snapshots, and those younger than ``keep_within`` (None: by count alone).

    A collection's own snapshot (its fence is above its parent's) does not count: it holds what its parent
    holds. Nor does a snapshot count beside the repack that was published upon it.

    A snapshot is as young as the youngest of itself and its ancestors, so that a machine whose clock is
    behind does not cost anyone history.
    """

    keep_last: int = DEFAULT_KEEP_LAST
    keep_within: timedelta | None = DEFAULT_KEEP_WITHIN

    def count(self, chain: Sequence[Member], now: datetime) -> int:
        """How many of ``chain`` (newest first, the head included) are kept; at least the head.

        Args:
            now: the present, with a zone.
        """
        cutoff = None if self.keep_within is None else now - self.keep_within
        kept = 1
        counted = 0
        for number, (member, counts) in enumerate(zip(chain, _counts(chain), strict=True)):
            counted += counts
            if counts and counted <= self.keep_last:
                kept = number + 1
            if cutoff is not None and member.time is not None and member.time >= cutoff:
                kept = number + 1
        return kept

    def is_settled(self, chain: Sequence[Member]) -> bool:
        """Whether nothing older than ``chain`` (newest first) can be kept, whatever it is."""
        # Of the last it is not known whether it is a collection's own.
        counted = sum(list(_counts(chain))[:-1])
        return self.keep_within is None and counted >= self.keep_last


def _counts(chain: Sequence[Member]) -> Iterator[bool]:
    """Whether each snapshot counts. The last one does unless it is known to be the parent of a repack."""
    is_copy = False
    for number, member in enumerate(chain):
        is_collection = number + 1 < len(chain) and member.fence != chain[number + 1].fence
        yield not is_collection and not is_copy
        is_copy = member.is_repack or (is_copy and is_collection)


def parse_retention(keep_last: int | None, keep_within: timedelta | None) -> Retention:
    """The retention asked for; who names one rule gets that one, who names none gets both defaults."""
    if keep_last is None and keep_within is None:
        return Retention()
    return Retention(keep_last or 1, keep_within)

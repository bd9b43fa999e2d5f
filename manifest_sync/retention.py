"""Which snapshots a collection keeps. Pure.

What is kept of the chain is always its newest part, without gaps: readers follow parents. Pins are kept
besides; they are the caller's to add.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

DEFAULT_KEEP_LAST = 10
DEFAULT_KEEP_WITHIN = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Member:
    """One snapshot of the chain, as retention looks at it. ``time`` is None where it cannot be read."""

    sequence: int
    snapshot: str
    time: datetime | None
    fence: int


@dataclass(frozen=True, slots=True)
class Retention:
    """Keep the last ``keep_last`` snapshots, and those younger than ``keep_within`` (None: by count alone).

    A collection's own snapshot (its fence is above its parent's) does not count: it holds what its parent
    holds. A snapshot is as young as the youngest of itself and its ancestors, so that a machine whose clock
    is behind does not cost anyone history.
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
        for number, member in enumerate(chain):
            if number + 1 == len(chain) or member.fence == chain[number + 1].fence:
                counted += 1
                if counted <= self.keep_last:
                    kept = number + 1
            if cutoff is not None and member.time is not None and member.time >= cutoff:
                kept = number + 1
        return kept

    def is_settled(self, chain: Sequence[Member]) -> bool:
        """Whether nothing older than ``chain`` (newest first) can be kept, whatever it is."""
        counted = sum(child.fence == parent.fence for child, parent in itertools.pairwise(chain))
        return self.keep_within is None and counted >= self.keep_last


def parse_retention(keep_last: int | None, keep_within: timedelta | None) -> Retention:
    """The retention asked for; who names one rule gets that one, who names none gets both defaults."""
    if keep_last is None and keep_within is None:
        return Retention()
    return Retention(keep_last or 1, keep_within)

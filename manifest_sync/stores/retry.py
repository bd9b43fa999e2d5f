"""Trying again: which failures pass, and how long to wait for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from manifest_sync.errors import ManifestSyncError

T = TypeVar("T")

MAX_RETRY_AFTER = 120.0


class Transient(Exception):
    """A request failed in a way that may pass.

    Attributes:
        error: what to raise once the tries are used up.
        rejected: the store certainly did not act on the request.
        retry_after: seconds the store asked to wait; 0 when it did not.
        max_tries: a lower number of tries for this kind of failure, or 0.
    """

    def __init__(
        self,
        error: ManifestSyncError,
        *,
        rejected: bool = False,
        retry_after: float = 0.0,
        max_tries: int = 0,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.rejected = rejected
        self.retry_after = retry_after
        self.max_tries = max_tries


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential waits with full jitter: clients that failed together must not come back together.

    ``base`` and ``cap`` in seconds; try n waits a random part of ``min(cap, base * 2**n)``, and never less
    than the store asked for. ``sleep`` and ``random`` are parameters so that tests need not wait.
    """

    tries: int = 6
    base: float = 0.5
    cap: float = 20.0
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def run(
        self,
        attempt: Callable[[], T],
        *,
        only_rejected: bool = False,
        on_wait: Callable[[Transient, int, float], None] | None = None,
    ) -> T:
        """Call ``attempt`` until it does not raise `Transient`.

        Args:
            attempt: makes one request.
            only_rejected: try again only after a failure that certainly had no effect.
            on_wait: told of each failure before the wait: what it was, how often the request has failed,
                and the seconds until it is tried again.

        Raises:
            Transient: the last one.
        """
        number = 0
        while True:
            try:
                return attempt()
            except Transient as failure:
                number += 1
                if number >= (failure.max_tries or self.tries) or (only_rejected and not failure.rejected):
                    raise
                wait = self.random() * min(self.cap, self.base * 2.0 ** (number - 1))
                wait = max(wait, failure.retry_after)
                if on_wait is not None:
                    on_wait(failure, number, wait)
            self.sleep(wait)


def parse_retry_after(text: str | None, now: datetime | None = None) -> float:
    """Seconds to wait from a ``Retry-After`` header, which holds seconds or a date; 0 when unreadable."""
    if not text:
        return 0.0
    try:
        if text.strip().isdecimal():
            seconds = float(text)
        else:
            when = parsedate_to_datetime(text)
            seconds = (when.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds()
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)

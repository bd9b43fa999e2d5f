"""``--bwlimit``: one rate for all that goes to and comes from stores, over all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from manifest_sync.config import parse_size
from manifest_sync.errors import UsageError

CREDIT_SECONDS = 0.1
"""For so long a pause may be made up for afterwards."""
STEP_SECONDS = 1.0
"""Whoever waits says so once a step: waiting for this is no silence of the store."""
LEAST = 16 * 1024
"""Bytes a second. Below this a store would take a request for dead while it waits for its turn."""


class Pace:
    """A token bucket: every byte has its moment, and whoever takes bytes waits until theirs.

    Args:
        rate: bytes a second; 0 for no limit.
        clock, sleep: seconds; for tests.
    """

    def __init__(
        self,
        rate: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._due = clock()

    def take(self, count: int, alive: Callable[[], None] = lambda: None) -> None:
        """Account for ``count`` bytes, and wait until they are due; ``alive`` is called meanwhile."""
        if not self._rate:
            return
        with self._lock:
            self._due = due = max(self._due, self._clock() - CREDIT_SECONDS) + count / self._rate
        while (left := due - self._clock()) > 0:
            self._sleep(min(left, STEP_SECONDS))
            alive()


def parse_rate(text: str) -> int:
    """Bytes a second such as ``10M``, ``1.5MiB/s``, ``512k``; the steps are powers of 1,024. ``0``: no limit.

    Raises:
        UsageError: it is none, or too low to be kept without requests running into timeouts.
    """
    try:
        rate = parse_size(text.strip().removesuffix("/s"))
    except UsageError:
        raise UsageError(f"{text!r} is no rate", "write it like 10M or 1.5MiB/s; 0 for no limit") from None
    if 0 < rate < LEAST:
        raise UsageError(f"a rate of {text} is too low", f"the least is {LEAST // 1024}KiB/s")
    return rate

"""What a person is told while a store keeps them waiting: that something is wrong, not every detail of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from manifest_sync.stores.retry import Transient

_SPACING_SECONDS = 10.0
_LONG_WAIT = 5.0


class Notes:
    """Passes on a line every ten seconds at most, however many requests fail side by side.

    A first failure that is tried again at once is no news and is kept quiet.
    """

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._told = -_SPACING_SECONDS

    def on_wait(self, failure: Transient, failed: int, wait: float) -> None:
        """See `Retry.run`."""
        if failed > 1 or wait >= _LONG_WAIT:
            self._say(f"{failure.error.message}; trying again in {max(round(wait), 1)} s")

    def on_silence(self, request: str, idle: float) -> None:
        """See `Patience.run`; ``request`` is its method and key."""
        self._say(f"no answer from the store for {round(idle)} s ({request}); still waiting")

    def _say(self, text: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._told < _SPACING_SECONDS:
                return
            self._told = now
        self._tell(text)

"""Requests that never end: each is given up once nothing of it has moved for a while.

A timeout of the connection alone does not do that: a byte now and then keeps it happy, and it does not
cover the look-up of the host's name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from manifest_sync.stores.pace import Pace

T = TypeVar("T")
Beat = Callable[[int], None]
"""To be called whenever so many bytes of a request have moved, or are about to."""

PIECE = 16 * 1024
"""Bytes that must come or go within the time; they set the slowest rate that is put up with."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Waits for requests.

    Args:
        seconds: how long nothing may move before a request is given up.
        worried: how long nothing may move before the user is told, once a request.
        pace: what all requests keep to.
    """

    seconds: float
    worried: float = 20.0
    pace: Pace = field(default_factory=Pace)

    def run(self, request: Callable[[Beat], T], on_silence: Callable[[float], None]) -> T:
        """The request's result, or what it raises.

        Args:
            request: makes the request, and calls what it is given whenever something has moved.
            on_silence: told for how many seconds nothing has moved.

        Raises:
            TimeoutError: nothing moved for too long. The request goes on in its thread, which nobody
                waits for any more, not even the exit of the program.
        """
        running = _Running(request, self.pace)
        running.start()
        worried = False
        while True:
            idle = time.monotonic() - running.moved
            left = self.seconds - idle if worried else min(self.worried, self.seconds) - idle
            if running.done.wait(max(left, 0.0)):
                return running.outcome()
            idle = time.monotonic() - running.moved
            if idle >= self.seconds:
                raise TimeoutError(f"nothing moved for {self.seconds:g} seconds")
            if idle >= self.worried and not worried:
                worried = True
                on_silence(idle)


class _Running(threading.Thread, Generic[T]):
    """One request in a thread that does not keep the process alive."""

    def __init__(self, request: Callable[[Beat], T], pace: Pace) -> None:
        super().__init__(daemon=True, name="request")
        self._pace = pace
        self._request = request
        self._result: T | None = None
        self._error: BaseException | None = None
        self.done = threading.Event()
        self.moved = time.monotonic()

    def run(self) -> None:
        try:
            self._result = self._request(self._beat)
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            self._error = error
        self.done.set()

    def _beat(self, count: int) -> None:
        self._moves()
        self._pace.take(count, self._moves)

    def _moves(self) -> None:
        self.moved = time.monotonic()

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

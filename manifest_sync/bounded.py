"""Calls that may never return, given a deadline: a hung mount or a store that drips one byte a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class TimedOut(Exception):
    """The call was still running at its deadline; it goes on in its thread, which no exit waits for."""


class _Call(threading.Thread):
    """One call in a thread that does not keep the process alive."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: object = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            self.error = error


def within(seconds: float, call: Callable[[], T]) -> T:
    """The call's result, or what it raises.

    Raises:
        TimedOut: it took longer than ``seconds``.
    """
    found = all_within(seconds, [call])[0]
    if isinstance(found, BaseException):
        raise found
    return found


def all_within(seconds: float, calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """All calls at once; for each its result or what it raised, `TimedOut` for one that is still running."""
    threads = [_Call(call) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    found: list[T | BaseException] = []
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            found.append(TimedOut(f"no answer within {seconds:g} seconds"))
        else:
            found.append(thread.error or thread.result)  # type: ignore[arg-type]
    return found

"""A store that fails on purpose, at a request chosen beforehand."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeVar

from manifest_sync.errors import StoreUnavailable
from manifest_sync.stores.base import Listed, Object, Store, Unknown

T = TypeVar("T")

Method = Literal["get", "get_range", "put", "put_if", "list", "delete"]
Kind = Literal["before", "after_lost_reply", "crash", "crash_after"]


class Crash(BaseException):
    """The process died here: no handler for ordinary exceptions sees it."""


@dataclass
class Fault:
    """Strikes once, at the call after ``after`` matching ones."""

    method: Method | Literal["any"]
    after: int
    kind: Kind
    key_prefix: str
    seen: int = 0
    fired: bool = False


class FaultyStore:
    """Wraps a store and adds faults to it.

    ``before``: the request never arrives. ``after_lost_reply``: it takes effect and the answer is lost.
    Both raise what a real store raises: `Unknown` from ``put_if``, ``StoreUnavailable`` from the rest.
    ``crash``: this call and every later one raise `Crash` without effect, as if the process had died;
    with ``crash_after`` this call takes effect first.

    As a context manager it fails the test when a planned fault never fired: such a test proves nothing.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, str]] = []
        """Every call that was made, in order: method and key."""
        self._lock = threading.Lock()
        self._dead = False

    def add_fault(
        self, method: Method | Literal["any"], *, after: int = 0, kind: Kind, key_prefix: str = ""
    ) -> Fault:
        """Plan a fault for the call number ``after`` (from 0) of ``method`` on a key with ``key_prefix``."""
        fault = Fault(method, after, kind, key_prefix)
        self.faults.append(fault)
        return fault

    def check(self) -> None:
        """Fail when a planned fault never fired."""
        unfired = [fault for fault in self.faults if not fault.fired]
        assert not unfired, f"planned faults never fired: {unfired}; calls were {self.calls}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.check()

    @property
    def location(self) -> str:
        return self.inner.location

    @property
    def requests(self) -> Counter[str]:
        return self.inner.requests

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        return self._run(
            "get", key, lambda: self.inner.get(key, unless_etag=unless_etag, max_bytes=max_bytes)
        )

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        return self._run("get_range", key, lambda: self.inner.get_range(key, offset, length, etag=etag))

    def put(self, key: str, body: bytes) -> None:
        self._run("put", key, lambda: self.inner.put(key, body))

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        return self._run("put_if", key, lambda: self.inner.put_if(key, body, etag=etag))

    def list(self, prefix: str) -> Iterator[Listed]:
        yield from self._run("list", prefix, lambda: list(self.inner.list(prefix)))

    def delete(self, key: str) -> None:
        self._run("delete", key, lambda: self.inner.delete(key))

    def close(self) -> None:
        self.inner.close()

    def _run(self, method: Method, key: str, call: Callable[[], T]) -> T:
        kind = self._due(method, key)
        if kind == "crash":
            raise Crash(f"{method} {key}")
        if kind is None:
            return call()
        if kind in ("after_lost_reply", "crash_after"):
            call()
        if kind == "crash_after":
            raise Crash(f"{method} {key}")
        error = StoreUnavailable(f"planned fault ({kind}) at {method} {key}")
        raise Unknown(key, error) if method == "put_if" else error

    def _due(self, method: Method, key: str) -> Kind | None:
        with self._lock:
            if self._dead:
                return "crash"
            self.calls.append((method, key))
            due: Kind | None = None
            for fault in self.faults:
                if fault.fired or fault.method not in ("any", method) or not key.startswith(fault.key_prefix):
                    continue
                fault.seen += 1
                if due is None and fault.seen > fault.after:
                    fault.fired = True
                    due = fault.kind
            self._dead = due in ("crash", "crash_after")
            return due

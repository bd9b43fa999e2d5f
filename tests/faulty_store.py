"""A store that fails on purpose, at a request chosen beforehand."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeVar

from manifest_sync.errors import AccessDenied, StoreUnavailable
from manifest_sync.stores.base import (
    Listed,
    NotFound,
    Object,
    Part,
    PreconditionFailed,
    Readable,
    Store,
    Unknown,
)

T = TypeVar("T")

Method = Literal["get", "get_range", "put", "put_if", "list", "delete"]
Kind = Literal[
    "pass",
    "before",
    "after_lost_reply",
    "crash",
    "crash_after",
    "denied",
    "missing",
    "flipped",
    "cut",
    "long",
    "other",
    "error_body",
    "stale",
    "short",
    "empty",
    "refused",
    "unconditional",
]
SPOILED: tuple[Kind, ...] = ("flipped", "cut", "long", "other", "error_body", "stale")
"""Wrong answers to a read."""
LISTINGS: tuple[Kind, ...] = ("short", "empty")
KINDS: dict[Method, tuple[Kind, ...]] = {
    "get": ("before", "denied", "missing", *SPOILED),
    "get_range": ("before", "denied", "missing", "flipped", "other"),
    "put": ("before", "after_lost_reply", "denied"),
    "put_if": ("before", "after_lost_reply", "denied", "refused", "unconditional"),
    "list": ("before", "denied", *LISTINGS),
    "delete": ("before", "after_lost_reply", "denied"),
}
"""What can befall a call, apart from a crash: ``get_range`` itself sees to it that the length is right."""
_ANYWHERE: tuple[Kind, ...] = ("pass", "before", "after_lost_reply", "crash", "crash_after")
_ERROR_BODY = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"


class Crash(BaseException):
    """The process died here: no handler for ordinary exceptions sees it."""


def _nothing() -> None:
    return None


@dataclass
class Fault:
    """Strikes once, at the call after ``after`` matching ones."""

    method: Method | Literal["any"]
    after: int
    kind: Kind
    key_prefix: str
    body: bytes = b""
    etag: str = ""
    meanwhile_before: Callable[[], object] = _nothing
    meanwhile_after: Callable[[], object] = _nothing
    seen: int = 0
    fired: bool = False


class FaultyStore:
    """Wraps a store and adds faults to it.

    ``before``: the request never arrives. ``after_lost_reply``: it takes effect and the answer is lost.
    Both raise what a real store raises: `Unknown` from ``put_if``, ``StoreUnavailable`` from the rest.
    ``crash``: this call and every later one raise `Crash` without effect, as if the process had died;
    with ``crash_after`` this call takes effect first.
    ``denied``: refused with `AccessDenied`. ``missing``: there seems to be no such object. ``flipped``,
    ``cut``, ``long``: one bit of what is read is wrong, its second half is gone, it is followed by more.
    ``other``: it is another object's. ``error_body``: it is what should have come with an error's status.
    ``stale``: it is an earlier version, given as ``body`` and ``etag``. ``short``, ``empty``: a listing in
    which the second half, or everything, is left out. ``refused``: the condition is said not to be met.
    ``unconditional``: the condition is ignored. ``pass``: all goes well.

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
        self,
        method: Method | Literal["any"],
        *,
        after: int = 0,
        kind: Kind,
        key_prefix: str = "",
        body: bytes = b"another object's bytes",
        etag: str = "",
        meanwhile_before: Callable[[], object] = _nothing,
        meanwhile_after: Callable[[], object] = _nothing,
    ) -> Fault:
        """Plan a fault for the call number ``after`` (from 0) of ``method`` on a key with ``key_prefix``.

        Args:
            body: what ``other`` and ``stale`` give.
            etag: the ETag that ``stale`` gives with it.
            meanwhile_before: called before the call takes effect, if it does.
            meanwhile_after: called when it has taken effect, before its caller hears of it.
        """
        assert kind in _ANYWHERE or (method != "any" and kind in KINDS[method]), f"{kind} at {method}"
        fault = Fault(method, after, kind, key_prefix, body, etag, meanwhile_before, meanwhile_after)
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
        fault = self._due("get", key)
        if fault is not None and fault.kind == "stale":
            return None if unless_etag == fault.etag else Object(fault.body, fault.etag)
        found = self._run(
            fault, "get", key, lambda: self.inner.get(key, unless_etag=unless_etag, max_bytes=max_bytes)
        )
        return found if found is None or fault is None else Object(_spoiled(found.body, fault), found.etag)

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        fault = self._due("get_range", key)
        body = self._run(
            fault, "get_range", key, lambda: self.inner.get_range(key, offset, length, etag=etag)
        )
        return body if fault is None else _spoiled(body, fault)

    def put(self, key: str, body: bytes) -> None:
        self._run(self._due("put", key), "put", key, lambda: self.inner.put(key, body))

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        fault = self._due("put_if", key)
        if fault is not None and fault.kind == "refused":
            raise PreconditionFailed(key)
        if fault is not None and fault.kind == "unconditional":
            fault.meanwhile_before()
            self.inner.put(key, body)
            found = self.inner.get(key, max_bytes=len(body))
            assert found is not None
            return found.etag
        return self._run(fault, "put_if", key, lambda: self.inner.put_if(key, body, etag=etag))

    def list(self, prefix: str) -> Iterator[Listed]:
        fault = self._due("list", prefix)
        found = self._run(fault, "list", prefix, lambda: list(self.inner.list(prefix)))
        kept = {"short": len(found) // 2, "empty": 0}
        yield from found[: None if fault is None else kept.get(fault.kind)]

    def delete(self, key: str) -> None:
        self._run(self._due("delete", key), "delete", key, lambda: self.inner.delete(key))

    def beside(self, place: str) -> Readable:
        return _Beside(self, self.inner.beside(place), place)

    def close(self) -> None:
        self.inner.close()

    def _run(self, fault: Fault | None, method: Method, key: str, call: Callable[[], T]) -> T:
        if fault is None:
            return call()
        if fault.kind == "crash":
            raise Crash(f"{method} {key}")
        if fault.kind == "denied":
            raise AccessDenied(f"planned fault at {method} {key}", "use another key")
        if fault.kind == "missing":
            raise NotFound(key)
        fault.meanwhile_before()
        if fault.kind != "before":
            done = call()
            fault.meanwhile_after()
            if fault.kind == "crash_after":
                raise Crash(f"{method} {key}")
            if fault.kind != "after_lost_reply":
                return done
        error = StoreUnavailable(f"planned fault ({fault.kind}) at {method} {key}", "try again")
        raise Unknown(key, error) if method == "put_if" else error

    def _due(self, method: Method, key: str) -> Fault | None:
        with self._lock:
            if self._dead:
                raise Crash(f"{method} {key}")
            self.calls.append((method, key))
            due: Fault | None = None
            for fault in self.faults:
                if fault.fired or fault.method not in ("any", method) or not key.startswith(fault.key_prefix):
                    continue
                fault.seen += 1
                if due is None and fault.seen > fault.after:
                    fault.fired = True
                    due = fault
            self._dead = due is not None and due.kind in ("crash", "crash_after")
            return due


def _spoiled(body: bytes, fault: Fault) -> bytes:
    """What is read under a fault, instead of ``body``."""
    middle = len(body) // 2
    match fault.kind:
        case "flipped":
            return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        case "cut":
            return body[:middle]
        case "long":
            return body + body[:7]
        case "other":
            return (fault.body * (len(body) // len(fault.body) + 1))[: len(body)]
        case "error_body":
            return _ERROR_BODY
    return body


class _Beside:
    """What lies outside, with the same faults; the keys are whole URLs, unquoted."""

    def __init__(self, outer: FaultyStore, inner: Readable, place: str) -> None:
        self._outer = outer
        self._inner = inner
        self._place = place

    def get_part(self, key: str, offset: int, length: int, *, etag: str) -> Part:
        name = f"{self._place}/{key}"
        fault = self._outer._due("get_range", name)
        part = self._outer._run(
            fault, "get_range", name, lambda: self._inner.get_part(key, offset, length, etag=etag)
        )
        return part if fault is None else Part(_spoiled(part.data, fault), part.mtime_ns)

    def list(self, prefix: str) -> Iterator[Listed]:
        name = f"{self._place}/{prefix}"
        yield from self._outer._run(
            self._outer._due("list", name), "list", name, lambda: [*self._inner.list(prefix)]
        )

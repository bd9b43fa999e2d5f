"""A store whose user stalls at a chosen request while others go on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from manifest_sync.stores.base import Listed, Object, Readable, Store


class PausedStore:
    """Wraps a store; before a chosen call it does what it was told, in full, and then makes the call.

    As a context manager it fails the test when the pause never came: such a test proves nothing.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.calls: list[tuple[str, str]] = []
        """Every call, in order: method and key."""
        self._pauses: list[tuple[Callable[[str, str], bool], Callable[[], object]]] = []
        self._lock = threading.RLock()

    def pause(self, method: str, prefix: str, action: Callable[[], object]) -> None:
        """Do ``action`` before the first call of ``method`` on a key with ``prefix``."""
        self._pauses.append((lambda m, key: m == method and key.startswith(prefix), action))

    def pause_at(self, number: int, action: Callable[[], object]) -> None:
        """Do ``action`` before the call number ``number``, from 0."""
        self._pauses.append((lambda _, __: len(self.calls) == number + 1, action))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            assert not self._pauses, f"a pause never came; calls were {self.calls}"

    def _come(self, method: str, key: str) -> None:
        with self._lock:
            self.calls.append((method, key))
            due = [pause for pause in self._pauses if pause[0](method, key)]
            self._pauses = [pause for pause in self._pauses if pause not in due]
            for _, action in due:
                action()

    @property
    def location(self) -> str:
        return self.inner.location

    @property
    def requests(self) -> Counter[str]:
        return self.inner.requests

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        self._come("get", key)
        return self.inner.get(key, unless_etag=unless_etag, max_bytes=max_bytes)

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        self._come("get_range", key)
        return self.inner.get_range(key, offset, length, etag=etag)

    def put(self, key: str, body: bytes) -> None:
        self._come("put", key)
        self.inner.put(key, body)

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        self._come("put_if", key)
        return self.inner.put_if(key, body, etag=etag)

    def list(self, prefix: str) -> Iterator[Listed]:
        self._come("list", prefix)
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self._come("delete", key)
        self.inner.delete(key)

    def beside(self, place: str) -> Readable:
        self._come("beside", place)
        return self.inner.beside(place)

    def close(self) -> None:
        self.inner.close()

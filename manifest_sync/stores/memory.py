"""A store in this process's memory: for tests, and the shortest statement of what a store does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from manifest_sync.canonical import hash_bytes
from manifest_sync.stores.base import (
    Listed,
    NotFound,
    Object,
    Part,
    PreconditionFailed,
    RequestCounter,
    check_size,
    not_beside,
    too_short,
)


class MemoryStore:
    """A dictionary that keeps the contract of `Store`."""

    _shared: ClassVar[dict[str, tuple[dict[str, tuple[Object, float]], threading.Lock]]] = {}

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._objects: dict[str, tuple[Object, float]] = {}
        self._lock = threading.Lock()
        self._count = RequestCounter()

    @classmethod
    def shared(cls, name: str) -> MemoryStore:
        """A store over the objects that every store of this process with that ``name`` shares."""
        store = cls(name)
        store._objects, store._lock = cls._shared.setdefault(name, (store._objects, store._lock))
        return store

    @property
    def location(self) -> str:
        """See `Store`."""
        return f"memory://{self._name}"

    @property
    def requests(self) -> Counter[str]:
        """See `Store`."""
        return self._count.counts

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        """See `Store`."""
        self._count.add("GET")
        found = self._find(key)
        if found.etag == unless_etag:
            return None
        check_size(key, len(found.body), max_bytes)
        return found

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """See `Store`."""
        if length == 0:
            return b""
        self._count.add("GET")
        found = self._find(key)
        if etag is not None and found.etag != etag:
            raise PreconditionFailed(key)
        if offset + length > len(found.body):
            raise too_short(key, offset + length, len(found.body))
        return found.body[offset : offset + length]

    def put(self, key: str, body: bytes) -> None:
        """See `Store`."""
        self._count.add("PUT")
        with self._lock:
            self._set(key, body)

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        """See `Store`."""
        self._count.add("PUT")
        with self._lock:
            found = self._objects.get(key)
            if (found[0].etag if found else None) != etag:
                raise PreconditionFailed(key)
            return self._set(key, body)

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Store`."""
        self._count.add("LIST")
        with self._lock:
            found = list(self._objects.items())
        for key, (stored, modified) in found:
            if key.startswith(prefix):
                yield Listed(key, len(stored.body), stored.etag, modified)

    def delete(self, key: str) -> None:
        """See `Store`."""
        self._count.add("DELETE")
        with self._lock:
            self._objects.pop(key, None)

    def beside(self, place: str) -> MemoryStore:
        """See `Store`."""
        if not place.startswith("memory://"):
            raise not_beside(self.location, place)
        other = MemoryStore.shared(place.removeprefix("memory://"))
        other._count = self._count
        return other

    def get_part(self, key: str, offset: int, length: int, *, etag: str) -> Part:
        """See `Readable`."""
        return Part(self.get_range(key, offset, length, etag=etag))

    def close(self) -> None:
        """See `Store`."""

    def _find(self, key: str) -> Object:
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise NotFound(key)
        return found[0]

    def _set(self, key: str, body: bytes) -> str:
        stored = Object(bytes(body), hash_bytes(body).hex())
        self._objects[key] = (stored, time.time())
        return stored.etag

"""A store in memory: fast tests, and the plainest reading of the contract."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import FormatError, StoreUnavailable
from manifest_sync.stores.base import Listed, NotFound, Object, PreconditionFailed


class MemoryStore:
    """Objects in a dictionary; the ETag is the BLAKE3 of the content."""

    def __init__(self, location: str = "memory:") -> None:
        self.location = location
        self.requests: Counter[str] = Counter()
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def _count(self, kind: str) -> None:
        self.requests[kind] += 1

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        with self._lock:
            self._count("GET")
            if key not in self._objects:
                raise NotFound(key)
            body = self._objects[key][0]
        etag = hash_bytes(body).hex()
        if etag == unless_etag:
            return None
        if len(body) > max_bytes:
            raise FormatError(f"{key} has {len(body)} bytes; at most {max_bytes} are allowed")
        return Object(body, etag)

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        with self._lock:
            self._count("GET")
            if key not in self._objects:
                raise NotFound(key)
            body = self._objects[key][0]
        if etag is not None and etag != hash_bytes(body).hex():
            raise PreconditionFailed(key)
        part = body[offset : offset + length]
        if len(part) != length:
            raise StoreUnavailable(f"{key}: bytes {offset} to {offset + length} are beyond its end")
        return part

    def put(self, key: str, body: bytes) -> None:
        with self._lock:
            self._count("PUT")
            self._objects[key] = (bytes(body), time.time())

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        with self._lock:
            self._count("PUT")
            present = self._objects.get(key)
            if (None if present is None else hash_bytes(present[0]).hex()) != etag:
                raise PreconditionFailed(key)
            self._objects[key] = (bytes(body), time.time())
            return hash_bytes(body).hex()

    def list(self, prefix: str) -> Iterator[Listed]:
        with self._lock:
            self._count("LIST")
            found = [
                Listed(key, len(body), hash_bytes(body).hex(), modified)
                for key, (body, modified) in sorted(self._objects.items())
                if key.startswith(prefix)
            ]
        yield from found

    def delete(self, key: str) -> None:
        with self._lock:
            self._count("DELETE")
            self._objects.pop(key, None)

    def close(self) -> None:
        """Nothing is open."""

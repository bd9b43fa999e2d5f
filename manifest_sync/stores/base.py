"""What every store offers: get, get_range, put, put_if, list, delete; nothing about what keys mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Object:
    """An object's content and its opaque ETag."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One object in a listing; ``modified`` in seconds since 1970."""

    key: str
    size: int
    etag: str
    modified: float


class NotFound(Exception):
    """There is no object of this name."""


class PreconditionFailed(Exception):
    """The condition of a conditional request did not hold."""


class Unknown(Exception):
    """Whether a conditional write took effect is not known."""


class Store(Protocol):
    """A place for immutable objects and one head. Safe to call from several threads."""

    requests: Counter[str]

    @property
    def location(self) -> str: ...
    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None: ...
    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes: ...
    def put(self, key: str, body: bytes) -> None: ...
    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str: ...
    def list(self, prefix: str) -> Iterator[Listed]: ...
    def delete(self, key: str) -> None: ...
    def close(self) -> None: ...

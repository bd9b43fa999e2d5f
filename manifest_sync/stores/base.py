"""What a store can do, in the few words the rest of the program needs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from manifest_sync.errors import FormatError, UsageError


@dataclass(frozen=True, slots=True)
class Object:
    """One object's bytes and the ETag that ``put_if`` needs to replace exactly them (opaque text)."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a listing. ``modified`` in Unix seconds by the store's clock.

    ``etag`` is empty where the store would have to read the object to know it (a folder).
    """

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of an object, and the time of the file it was made from (nanoseconds since 1970), where the
    tool that wrote it noted that with the object: rclone does."""

    data: bytes
    mtime_ns: int | None = None


class NotFound(Exception):
    """There is no object under ``key``. Control flow between modules: no user ever sees it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} does not exist")
        self.key = key


class PreconditionFailed(Exception):
    """The object is not the one named by the condition; nothing was written or read."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is not what the condition names")
        self.key = key


class Unknown(Exception):
    """Whether a ``put_if`` took effect is not known: the answer was lost. Read the object to find out."""

    def __init__(self, key: str, cause: BaseException) -> None:
        super().__init__(f"whether {key} was written is not known: {cause}")
        self.key = key
        self.cause = cause


class Readable(Protocol):
    """A place whose objects are listed and read and never written: what lies outside of a repository.

    Raises what a `Store` raises.
    """

    def get_part(self, key: str, offset: int, length: int, *, etag: str) -> Part:
        """Exactly ``length`` bytes from ``offset`` of the object whose ETag is ``etag``.

        Where ETags cost reading the object (a folder), ``etag`` is not looked at: who reads knows the hash of
        what it wants. Raises as `Store.get_range`.
        """
        ...

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Store`."""
        ...


class Store(Protocol):
    """Keys to immutable bytes, and one compare-and-swap. Every method may be called from any thread.

    Beside the exceptions named below every method raises ``StoreUnavailable`` when the store kept failing,
    ``AccessDenied`` when it refused the credentials, and ``NoRepository`` when the bucket does not exist.
    """

    @property
    def location(self) -> str:
        """Where it is, for messages; holds no secret."""
        ...

    @property
    def requests(self) -> Counter[str]:
        """Requests made so far, retries included, by ``GET``, ``PUT``, ``LIST`` and ``DELETE``."""
        ...

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        """The whole object, or None when its ETag is still ``unless_etag``.

        Raises:
            NotFound: there is none.
            FormatError: it is larger than ``max_bytes``; no more than that was read.
        """
        ...

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """Exactly ``length`` bytes from ``offset``; none at all are none, without a request.

        Raises:
            NotFound: there is no such object.
            PreconditionFailed: its ETag is not ``etag``.
            FormatError: the object ends before the range does.
        """
        ...

    def put(self, key: str, body: bytes) -> None:
        """Write or replace the object; it is durable when this returns."""
        ...

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        """Replace the object whose ETag is ``etag``, or create it when ``etag`` is None; the new ETag.

        Of any number of racing calls with the same condition exactly one succeeds.

        Raises:
            PreconditionFailed: the object is another one, or is missing, or (None) exists.
            Unknown: the answer was lost.
        """
        ...

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key begins with the text ``prefix``, in no particular order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; that there is none is fine."""
        ...

    def beside(self, place: str) -> Readable:
        """Another place of this kind, read with the same credentials: ``s3://BUCKET`` at the same endpoint,
        or ``file://``, whose keys are paths without the leading ``/``. Its requests are counted here.

        Raises:
            UsageError: it is a place of another kind.
        """
        ...

    def close(self) -> None:
        """Give connections back. The store cannot be used afterwards."""
        ...


class RequestCounter:
    """``requests`` for a store that many threads use: ``Counter`` alone would lose counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str) -> None:
        """Count one request of ``kind``."""
        with self._lock:
            self.counts[kind] += 1


def not_beside(location: str, place: str) -> UsageError:
    """The error for a place that is not read through a store of another kind."""
    return UsageError(f"{place} is not a place of the kind of {location}", "use a URL of the same kind")


def check_size(key: str, size: int, max_bytes: int) -> None:
    """Raise ``FormatError`` when an object is larger than its reader can expect."""
    if size > max_bytes:
        raise FormatError(
            f"{key} has {size:,} bytes; at most {max_bytes:,} were expected",
            "it was not written by manifest-sync, or by a much newer version",
        )


def too_short(key: str, end: int, size: int | None = None) -> FormatError:
    """The error for a range that reaches beyond the object's end."""
    has = "fewer" if size is None else f"only {size:,}"
    return FormatError(
        f"{key} has {has} bytes; {end:,} or more were expected",
        "the object was truncated or replaced; `manifest-sync verify` names what is affected",
    )

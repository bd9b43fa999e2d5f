"""A store of which nothing is asked: what a command with ``--offline`` has in the bucket's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

from manifest_sync.errors import StoreUnavailable
from manifest_sync.stores.base import Listed, Object, Readable


class OfflineStore:
    """Refuses every request, so that none can be made by mistake; and opening it takes no time.

    Args:
        location: what the place is called, for messages.
    """

    def __init__(self, location: str) -> None:
        self._location = location

    @property
    def location(self) -> str:
        """See `Store`."""
        return self._location

    @property
    def requests(self) -> Counter[str]:
        """None."""
        return Counter()

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        """Refused."""
        self._refuse(key)

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """Refused."""
        self._refuse(key)

    def put(self, key: str, body: bytes) -> None:
        """Refused."""
        self._refuse(key)

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        """Refused."""
        self._refuse(key)

    def list(self, prefix: str) -> Iterator[Listed]:
        """Refused."""
        self._refuse(prefix)

    def delete(self, key: str) -> None:
        """Refused."""
        self._refuse(key)

    def beside(self, place: str) -> Readable:
        """Refused."""
        self._refuse(place)

    def close(self) -> None:
        """Nothing was opened."""

    def _refuse(self, what: str) -> NoReturn:
        raise StoreUnavailable(
            f"{what} at {self._location} is not kept here, and with --offline nothing is asked of the bucket",
            "run the same command without --offline",
        )

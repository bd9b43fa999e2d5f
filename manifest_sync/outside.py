"""Reading objects that a page names and that lie outside the repository: adopted from other tools.

They are read through the repository's own store, with its credentials and its endpoint, and only as the
version that was adopted: another tool may change or delete them at any time.
"""

from __future__ import annotations

import threading

from manifest_sync.errors import FormatError, NoRepository, UsageError
from manifest_sync.externals import is_etag, split_url
from manifest_sync.model import PackRef
from manifest_sync.stores.base import NotFound, PreconditionFailed, Readable, Store

CHANGED = "another tool changed it since it was adopted; `manifest-sync adopt` takes over what is there now"
GONE = (
    "another tool deleted it since it was adopted; `manifest-sync push --repair` on a machine that has the "
    "file sends it again"
)


class LostOutside(Exception):
    """An adopted object is not there as it was adopted; the text says why, for people."""


class Unreachable(LostOutside):
    """It cannot be read from here, whatever it is: that is no damage."""


class Outside:
    """The objects outside of one repository. May be used from several threads.

    Args:
        store: the repository's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places: dict[str, Readable] = {}
        self._lock = threading.Lock()

    def locate(self, url: str) -> tuple[Readable, str]:
        """Where an object is read, and its key there.

        Raises:
            Unreachable: not from here.
        """
        try:
            place, key = split_url(url)
            with self._lock:
                if place not in self._places:
                    self._places[place] = self._store.beside(place)
                return self._places[place], key
        except (FormatError, UsageError) as error:
            raise Unreachable(f"it cannot be read from here: {error.message}") from None

    def read(self, pack: PackRef, offset: int, length: int) -> bytes:
        """Some bytes of an object, as long as it is the one that was adopted.

        Raises:
            LostOutside: it is not, or it cannot be read from here.
            StoreUnavailable, AccessDenied: the store failed.
        """
        place, key = self.locate(pack.url)
        if not is_etag(pack.etag):
            raise LostOutside("its page names it by an ETag that cannot be one")
        try:
            return place.get_part(key, offset, length, etag=pack.etag).data
        except NotFound:
            raise LostOutside(GONE) from None
        except (PreconditionFailed, FormatError):
            raise LostOutside(CHANGED) from None
        except NoRepository as error:
            raise LostOutside(error.message) from None

    def fault(self, pack: PackRef) -> str:
        """What is wrong with an object, as far as its ETag and its end tell; '' if nothing."""
        try:
            self.read(pack, max(pack.size - 1, 0), 1)
        except LostOutside as error:
            return str(error)
        if not pack.url.startswith("file://"):
            return ""
        try:
            self.read(pack, pack.size, 1)
        except LostOutside:
            return ""
        return CHANGED

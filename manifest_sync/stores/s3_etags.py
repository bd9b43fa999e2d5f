"""In what form a store wants an ETag in ``If-Match``.

RFC 9110 says with its quotes, and so do R2, AWS and others. Ceph compares the text with its own, which has
none, and so refuses every replacement. A store that does not understand a form may also ignore it and
overwrite what is there; so the other form is used only where a trial on a key of its own has shown that it
lets the right ETag pass and no wrong one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping

from manifest_sync.errors import ManifestSyncError
from manifest_sync.stores.base import NotFound, PreconditionFailed, Unknown


class EtagForm:
    """Replaces objects on condition of their ETag.

    Args:
        swap: writes an object under a condition, given as boto3 names it; the new ETag.
        current: the ETag of an object; raises `NotFound`.
        delete: removes an object.
    """

    def __init__(
        self,
        swap: Callable[[str, bytes, Mapping[str, str]], str],
        current: Callable[[str], str],
        delete: Callable[[str], None],
    ) -> None:
        self._swap = swap
        self._current = current
        self._delete = delete
        self._is_bare: bool | None = None
        """None until a replacement has shown it."""

    def replace(self, key: str, body: bytes, etag: str) -> str:
        """Replace the object whose ETag is ``etag``; the new ETag.

        Raises:
            PreconditionFailed, Unknown: as `Store.put_if`.
        """
        try:
            done = self._swap(key, body, {"IfMatch": etag.strip('"') if self._is_bare else etag})
        except PreconditionFailed:
            if self._is_bare is not None or not self._wants_it_bare(key, etag):
                raise
            return self._swap(key, body, {"IfMatch": etag.strip('"')})
        if self._is_bare is None:
            self._is_bare = False
        return done

    def _wants_it_bare(self, key: str, etag: str) -> bool:
        """Whether the refusal of ``etag`` can only be one of its form. Most are lost races."""
        if not etag.startswith('"'):
            return False
        try:
            if self._current(key) != etag:
                return False
            self._is_bare = self._keeps_bare_conditions()
        except (NotFound, ManifestSyncError):
            return False
        return self._is_bare

    def _keeps_bare_conditions(self) -> bool:
        key = f"probe/{secrets.token_hex(8)}-etag"
        try:
            etag = self._swap(key, b"first", {"IfNoneMatch": "*"}).strip('"')
            with contextlib.suppress(PreconditionFailed):
                self._swap(key, b"by a wrong ETag", {"IfMatch": "0" * len(etag)})
                return False
            self._swap(key, b"by the right one", {"IfMatch": etag})
        except (PreconditionFailed, Unknown):
            return False
        finally:
            with contextlib.suppress(ManifestSyncError):
                self._delete(key)
        return True

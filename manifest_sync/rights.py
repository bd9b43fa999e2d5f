"""What a key may do at a place, found out by trying: read, list, write, delete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from manifest_sync.errors import AccessDenied, StoreUnavailable
from manifest_sync.stores.base import NotFound, Store

_BODY = b"manifest-sync tries what this key may do"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a key may do. Reading is not in it: without that nothing works at all.

    Where writing is refused, deleting is not tried, and counts as refused.
    """

    list: bool
    write: bool
    delete: bool

    @property
    def refused(self) -> tuple[str, ...]:
        """The verbs that are refused."""
        found = (("list", self.list), ("write", self.write), ("delete", self.delete))
        return tuple(verb for verb, may in found if not may)

    def describe(self) -> str:
        """Such as ``it may read and list; it may not write or delete: pull works and push does not``."""
        if not self.refused:
            return "it may read, list, write and delete"
        allowed = ["read", *(verb for verb in ("list", "write", "delete") if verb not in self.refused)]
        if not self.write:
            works = "pull works and push does not"
        elif self.list:
            works = "push and pull work, gc does not"
        else:
            works = "push and pull work; log, verify, gc, pin, drop and --at do not"
        return f"it may {' and '.join(allowed)}; it may not {' or '.join(self.refused)}: {works}"


def try_rights(store: Store, key: str) -> Rights:
    """Try to list, write, read what was written, and delete it.

    Args:
        key: where an object may be written that nobody else has; it stays there if it may not be deleted.

    Raises:
        AccessDenied: what may be written may not be read.
        StoreUnavailable: what was written is not what is read, or a request failed.
    """
    may_list = _may(lambda: next(iter(store.list(key)), None))
    may_write = _may(lambda: store.put(key, _BODY))
    if not may_write:
        return Rights(may_list, False, False)
    try:
        found = store.get(key, max_bytes=1 << 16)
    except NotFound:
        found = None
    may_delete = _may(lambda: store.delete(key))
    if found is None or found.body != _BODY:
        raise StoreUnavailable(
            f"{store.location}: what was just written is not what is read",
            "a cache or proxy between here and the store answers for it: reach the store directly",
        )
    return Rights(may_list, True, may_delete)


def _may(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except AccessDenied:
        return False
    return True

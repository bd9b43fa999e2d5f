"""What becomes of an object that is offered for adoption, given what the head has at its path. Pure."""

from __future__ import annotations

from enum import StrEnum

from manifest_sync.externals import packs_of, same_etag
from manifest_sync.index.adopted import Outsider
from manifest_sync.model import Entry, EntryType, PackRef


class Verdict(StrEnum):
    """What becomes of one object."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"
    """Only its content tells."""


NEEDS_READING = (Verdict.NEW, Verdict.CHANGED, Verdict.UNKNOWN)


def judge(found: Outsider, entry: Entry | None, head: Entry | None, *, published: bool) -> Verdict:
    """What becomes of an object.

    Args:
        found: the object.
        entry: what was made of it, if it was read.
        head: what the head has at its path.
        published: whether just this version of it was adopted from here before.
    """
    packs = packs_of(head) if head is not None else set()
    if any(is_of(found, entry, pack) for pack in packs):
        # The head has it; or has what a push made of it, in which some of its chunks are left.
        return Verdict.UNCHANGED
    came_from_it = bool(head and head.chunks) and {p.url for p in packs} == {found.url}
    came_from_it = came_from_it and head is not None and _is_whole(head)
    if came_from_it:
        return Verdict.CHANGED
    if published:
        return Verdict.SUPERSEDED
    if head is None:
        return Verdict.NEW
    if head.type is not EntryType.FILE or head.size != found.size:
        return Verdict.CONFLICT
    if entry is None:
        return Verdict.UNKNOWN
    return Verdict.UNCHANGED if entry.hash == head.hash else Verdict.CONFLICT


def _is_whole(head: Entry) -> bool:
    """Whether an entry is all of one object, from its beginning to its end, and so as it was adopted: what a
    push cut off, or put into another order, may be made of nothing but chunks of it."""
    pack, end = head.chunks[0].frame.pack, 0
    for chunk in head.chunks:
        if chunk.frame.pack != pack or (chunk.frame.offset, chunk.offset) != (end, 0):
            return False
        end += chunk.length
    return end == pack.size


def is_of(found: Outsider, entry: Entry | None, pack: PackRef) -> bool:
    """Whether a pack is this version of the object. In a folder only its content tells."""
    if pack.url != found.url or pack.size != found.size:
        return False
    return same_etag(pack.etag, found.etag) if found.etag else entry is not None and pack in packs_of(entry)

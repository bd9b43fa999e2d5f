"""Names of the objects in the bucket, and the objects that hold only names: history and gc lists. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from manifest_sync import canonical
from manifest_sync.errors import FormatError
from manifest_sync.model import PackRef

HEAD_KEY = "manifest.json"
HISTORY_BLOCK = 256
"""Snapshot ids in one history block."""
MAX_GC_LIST = 16 << 20
"""Most bytes of the JSON of a gc list."""

_SNAPSHOT = re.compile(r"[0-9a-f]{32}\Z")
_SNAPSHOT_KEY = re.compile(r"snapshots/([0-9]{10,18})-([0-9a-f]{32})\.json\.zst\Z")
_HISTORY = re.compile(r"history/(0|[1-9][0-9]{0,17})-[0-9a-f]{32}\.json\Z")
_COLLECTION = re.compile(r"gc/(0|[1-9][0-9]{0,17})-[0-9a-f]{32}\.json\.zst\Z")
_COLLECTABLE = re.compile(
    r"(?:snapshots/[0-9]{10,18}-[0-9a-f]{32}\.json\.zst"
    r"|pages/(?:0|[1-9][0-9]{0,17})-[0-9a-f]{32}/[0-9a-f]{64}\.json\.zst"
    r"|packs/(?:0|[1-9][0-9]{0,17})-[0-9a-f]{32}/[0-9a-f]{64}\.pack)\Z"
)


def new_session(fence: int, random: bytes) -> str:
    """A session's name, from the head's fence and 16 random bytes."""
    if fence < 0 or len(random) != 16:
        raise ValueError("a session needs a fence and 16 random bytes")
    return f"{fence}-{random.hex()}"


def snapshot_key(sequence: int, snapshot: str) -> str:
    """Key of the immutable copy of a head."""
    return f"snapshots/{sequence:010d}-{snapshot}.json.zst"


def page_key(session: str, page_id: str) -> str:
    """Key of a page."""
    return f"pages/{session}/{page_id}.json.zst"


def pack_key(session: str, pack_id: str) -> str:
    """Key of a pack."""
    return f"packs/{session}/{pack_id}.pack"


def pack_name(pack: PackRef) -> str:
    """What messages call a pack: its key, or the URL of an external one."""
    return pack.url or pack_key(pack.session, pack.id)


def history_key(number: int, last_snapshot: str) -> str:
    """Key of the history block whose newest id is ``last_snapshot``."""
    return f"history/{number}-{last_snapshot}.json"


def gc_key(fence: int, id_: str) -> str:
    """Key of the list of a collection that raised the fence to ``fence``; ``id_`` is 32 hex digits."""
    return f"gc/{fence}-{id_}.json.zst"


def history_number(key: str) -> int:
    """The number in a history block's key. Raises `FormatError` if it is not such a key."""
    found = _HISTORY.match(key)
    if not found:
        raise FormatError(f"{key[:200]!r} is not the key of a history block")
    return int(found[1])


def check_collection_key(key: str, fence: int) -> None:
    """Raises `FormatError` unless ``key`` names a gc list of this fence."""
    found = _COLLECTION.match(key)
    if not found or int(found[1]) != fence:
        raise FormatError(f"{key[:200]!r} is not the key of collection {fence}")


def collection_fence(key: str) -> int | None:
    """The fence of the collection whose list has this key; None when it is the key of no list."""
    found = _COLLECTION.match(key)
    return int(found[1]) if found else None


def parse_snapshot_key(key: str) -> tuple[int, str] | None:
    """Sequence and id of the snapshot whose copy has this key; None when it is another object's key."""
    found = _SNAPSHOT_KEY.match(key)
    return (int(found[1]), found[2]) if found else None


def is_collectable(key: str) -> bool:
    """Whether ``key`` is of a kind that a collection may delete: a snapshot, a page or a pack."""
    return _COLLECTABLE.match(key) is not None


def is_snapshot_id(text: str) -> bool:
    """Whether ``text`` is a snapshot's id: 32 lower-case hex digits."""
    return _SNAPSHOT.match(text) is not None


class _GcList(msgspec.Struct):
    fence: Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]
    keys: list[str]


class _History(msgspec.Struct):
    ids: Annotated[list[str], msgspec.Meta(min_length=HISTORY_BLOCK, max_length=HISTORY_BLOCK)]
    previous: str | None


_gc_decoder = msgspec.json.Decoder(_GcList)
_history_decoder = msgspec.json.Decoder(_History)


def encode_gc_list(fence: int, keys: Iterable[str]) -> bytes:
    """The stored form (zstd) of the list of what the collection that made the fence ``fence`` may delete.

    Raises ``ValueError`` for the key of an object that no collection deletes.
    """
    ordered = sorted(set(keys))
    for key in ordered:
        if not is_collectable(key):
            raise ValueError(f"{key!r} is nothing that a collection deletes")
    return canonical.compress_document(canonical.encode({"fence": fence, "keys": ordered}), checksum=True)


def parse_gc_list(body: bytes, fence: int | None = None) -> tuple[str, ...]:
    """The keys of a stored gc list, sorted. Raises `FormatError`, also when it is not that of ``fence``."""
    raw = canonical.decompress(body, MAX_GC_LIST)
    found = canonical.decode_canonical(raw, _gc_decoder, "gc list")
    if fence is not None and found.fence != fence:
        raise FormatError(f"gc list: it is of fence {found.fence} instead of {fence}")
    if not all(map(is_collectable, found.keys)):
        raise FormatError("gc list: it names objects that no collection deletes")
    if any(a >= b for a, b in itertools.pairwise(found.keys)):
        raise FormatError("gc list: its keys are not in order")
    return tuple(found.keys)


def encode_history(ids: Sequence[str], previous: str) -> bytes:
    """The JSON of a history block: `HISTORY_BLOCK` ids, oldest first, and the key of the block before.

    An empty ``previous`` means that this is the first. Raises ``ValueError`` for another number of ids.
    """
    if len(ids) != HISTORY_BLOCK:
        raise ValueError(f"a history block has {HISTORY_BLOCK} ids, not {len(ids)}")
    return canonical.encode({"ids": list(ids), "previous": previous or None})


def parse_history(raw: bytes, key: str = "") -> tuple[tuple[str, ...], str]:
    """The ids in a history block, oldest first, and the key of the block before ('' if it is the first).

    With ``key``, the block must be the one that belongs there; block numbers then fall, so that following
    them ends. Raises `FormatError`.
    """
    found = canonical.decode_canonical(raw, _history_decoder, key or "history block")
    if not all(map(is_snapshot_id, found.ids)):
        raise FormatError("history block: a snapshot id is not 32 hex digits")
    number = history_number(found.previous) + 1 if found.previous is not None else 0
    if key and key != history_key(number, found.ids[-1]):
        raise FormatError(f"{key}: the block does not belong under this key")
    return tuple(found.ids), found.previous or ""

"""Names of the objects in the bucket, and the lists of them that collections write. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from manifest_sync import canonical
from manifest_sync.errors import FormatError

HEAD_KEY = "manifest.json"
MAX_GC_LIST = 256 << 20
"""Most bytes of the JSON of a gc list."""

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


def session_fence(session: str) -> int:
    """The fence at which a session began."""
    return int(session.partition("-")[0])


def snapshot_key(sequence: int, snapshot: str) -> str:
    """Key of the immutable copy of a head."""
    return f"snapshots/{sequence:010d}-{snapshot}.json.zst"


def page_key(session: str, page_id: str) -> str:
    """Key of a page."""
    return f"pages/{session}/{page_id}.json.zst"


def pack_key(session: str, pack_id: str) -> str:
    """Key of a pack."""
    return f"packs/{session}/{pack_id}.pack"


def history_key(number: int, last_snapshot: str) -> str:
    """Key of the history block whose newest id is ``last_snapshot``."""
    return f"history/{number}-{last_snapshot}.json"


def gc_key(fence: int, id_: str) -> str:
    """Key of the list of a collection that raised the fence to ``fence``; ``id_`` is 32 hex digits."""
    return f"gc/{fence}-{id_}.json.zst"


def check_history_key(key: str) -> int:
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


def is_collectable(key: str) -> bool:
    """Whether ``key`` is of a kind that a collection may delete: a snapshot, a page or a pack."""
    return _COLLECTABLE.match(key) is not None


@dataclass(frozen=True, slots=True)
class GcList:
    """What the collection that raised the fence to ``fence`` was allowed to delete: keys, sorted."""

    fence: int
    keys: tuple[str, ...]


class _GcList(msgspec.Struct):
    fence: Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]
    keys: list[str]


_decoder = msgspec.json.Decoder(_GcList)


def encode_gc(fence: int, keys: Sequence[str]) -> bytes:
    """The canonical JSON of a gc list, not yet compressed. Raises ``ValueError`` for a key of another kind."""
    for key in keys:
        if not is_collectable(key):
            raise ValueError(f"{key!r} is nothing that a collection deletes")
    return canonical.encode({"fence": fence, "keys": sorted(set(keys))})


def parse_gc(raw: bytes, key: str) -> GcList:
    """The gc list stored (compressed) under ``key``, from its JSON. Raises `FormatError`."""
    found = canonical.decode_canonical(raw, _decoder, key)
    check_collection_key(key, found.fence)
    if not all(map(is_collectable, found.keys)):
        raise FormatError(f"{key}: it names objects that no collection deletes")
    if any(a >= b for a, b in zip(found.keys, found.keys[1:], strict=False)):
        raise FormatError(f"{key}: its keys are not in order")
    return GcList(found.fence, tuple(found.keys))

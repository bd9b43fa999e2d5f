"""The manifest: the one object that changes, and says what the bucket holds now. Pure.

The head is JSON for people: one top-level field or page a line. Unknown fields are kept and written
back; an unknown name in ``features_read`` refuses reading, in ``features_write`` writing. See docs/format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec

from manifest_sync import canonical
from manifest_sync.chunker import ChunkParams
from manifest_sync.errors import FormatError, UnknownFeature
from manifest_sync.keys import (
    HEAD_KEY,
    HISTORY_BLOCK,
    MAX_GC_LIST,
    check_collection_key,
    encode_gc_list,
    encode_history,
    gc_key,
    history_key,
    history_number,
    is_collectable,
    is_snapshot_id,
    new_session,
    pack_key,
    page_key,
    parse_gc_list,
    parse_history,
    snapshot_key,
)
from manifest_sync.model import MAX_MESSAGE, MAX_PATH, Path, display
from manifest_sync.pack import CHUNK_SMALL
from manifest_sync.pages import PageRef, check_path, is_object_id, is_session, max_raw

__all__ = [
    "CHUNK_SMALL",
    "HEAD_KEY",
    "HISTORY_BLOCK",
    "MAX_COLLECTIONS",
    "MAX_GC_LIST",
    "MAX_HEAD",
    "Manifest",
    "PageRef",
    "Pin",
    "encode_gc_list",
    "encode_history",
    "encode_manifest",
    "first_manifest",
    "gc_key",
    "history_key",
    "history_number",
    "is_collectable",
    "is_snapshot_id",
    "new_session",
    "pack_key",
    "page_key",
    "parse_gc_list",
    "parse_history",
    "parse_manifest",
    "snapshot_key",
]

FORMAT = 1
MAX_HEAD = 8 << 20
"""Most bytes of a head that a reader accepts: some 40,000 pages, thirty million files."""
MAX_COUNTER = 10**15
"""Largest sequence and fence: their keys then have a bounded number of digits."""
MAX_PAGE_BYTES = 1 << 42
"""More than the files of one page can have; sums over a head then fit into 63 bits."""
MAX_COLLECTIONS = 16
_CHECKSUM = "checksum"
"""The field, and the feature: who does not know the field would keep that of another head."""
KNOWN_FEATURES: frozenset[str] = frozenset({_CHECKSUM})
"""Names in ``features_read`` and ``features_write`` that this version understands."""


_Count = Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]
_Counter = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNTER)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_PathText = str | dict[str, str]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Pin:
    """A snapshot that is kept until it is unpinned, and the name someone gave it."""

    sequence: int
    snapshot: str
    name: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of the whole repository. Field by field what docs/format.md says.

    ``files`` and ``bytes`` are the sums over the pages; ``stored_bytes`` is what was stored for them. An
    empty ``parent`` or ``history`` means there is none. ``ancestors`` are the ids since the last block,
    oldest first. ``features_write`` leaves out the checksum, ``extra`` holds unknown top-level fields.
    """

    repository: str
    snapshot: str
    time: str
    machine: str
    host: str
    writer: str
    sequence: int = 0
    parent: str = ""
    ancestors: tuple[str, ...] = ()
    history: str = ""
    oldest: int = 0
    pins: tuple[Pin, ...] = ()
    fence: int = 0
    collections: tuple[tuple[int, str], ...] = ()
    message: str = ""
    single_writer: bool = False
    chunking: ChunkParams = field(default_factory=ChunkParams)
    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    pages: tuple[PageRef, ...] = ()
    features_read: tuple[str, ...] = ()
    features_write: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    can_write: bool = True
    """False when this version could not publish a successor without losing something it does not know."""


class _Chunking(msgspec.Struct, forbid_unknown_fields=True):
    algorithm: _Text
    avg: _Count
    max: _Count
    min: _Count
    normalization: _Count
    seed: _Count
    small: _Count


class _Totals(msgspec.Struct):
    bytes: _Count
    files: _Count
    stored: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class _Head(msgspec.Struct):
    ancestors: list[_Text]
    chunking: _Chunking
    collections: list[tuple[_Counter, _Text]]
    features_read: list[_Text]
    features_write: list[_Text]
    fence: _Counter
    format: _Count
    hash: _Text
    history: _Text | None
    host: _Text
    machine: _Text
    message: Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE)]
    oldest: _Counter
    pages: list[tuple[_Text, _Count, _Count, _Count, _Count, _Count, _PathText, _PathText]]
    parent: _Text | None
    pins: list[tuple[_Counter, _Text, _Text]]
    repository: _Text
    sequence: _Counter
    sessions: list[_Text]
    single_writer: bool
    snapshot: _Text
    time: _Text
    totals: _Totals
    writer: _Text


class _Features(msgspec.Struct):
    """What is looked at before anything else: the rest may look different in a newer format."""

    format: _Count
    features_read: list[_Text]


_KNOWN = frozenset(_Head.__struct_fields__)
_KNOWN_TOTALS = frozenset(_Totals.__struct_fields__)


def first_manifest(
    *,
    repository: str,
    snapshot: str,
    time: str,
    machine: str,
    host: str,
    writer: str,
    single_writer: bool = False,
    message: str = "",
) -> Manifest:
    """The manifest of an empty repository, sequence 0, without parent."""
    return Manifest(
        repository=repository,
        snapshot=snapshot,
        time=time,
        machine=machine,
        host=host,
        writer=writer,
        single_writer=single_writer,
        message=message,
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The head's JSON, one deterministic form: a line for each top-level field and each page.

    Raises ``ValueError`` when the manifest may not be written by this version or is too large.
    """
    if not manifest.can_write:
        raise ValueError("this version cannot write this manifest without losing what it does not know")
    _check_totals(manifest, ValueError)
    sessions: dict[str, int] = {}
    rows = [_row(page, sessions.setdefault(page.session, len(sessions))) for page in manifest.pages]
    fields: dict[str, Any] = dict(manifest.extra) | {
        "ancestors": manifest.ancestors,
        "chunking": {name: getattr(manifest.chunking, name) for name in _Chunking.__struct_fields__},
        "collections": manifest.collections,
        "features_read": manifest.features_read,
        "features_write": sorted({*manifest.features_write, _CHECKSUM}),
        "fence": manifest.fence,
        "format": FORMAT,
        "hash": "blake3",
        "history": manifest.history or None,
        "host": manifest.host,
        "machine": manifest.machine,
        "message": manifest.message,
        "oldest": manifest.oldest,
        "pages": rows,
        "parent": manifest.parent or None,
        "pins": [[pin.sequence, pin.snapshot, pin.name] for pin in manifest.pins],
        "repository": manifest.repository,
        "sequence": manifest.sequence,
        "sessions": list(sessions),
        "single_writer": manifest.single_writer,
        "snapshot": manifest.snapshot,
        "time": manifest.time,
        "totals": {"bytes": manifest.bytes, "files": manifest.files, "stored": manifest.stored_bytes},
        "writer": manifest.writer,
    }
    fields[_CHECKSUM] = canonical.checksum(fields, _CHECKSUM)
    body = ",\n".join(
        f"  {canonical.encode(name).decode()}: {_lines(name, value)}"
        for name, value in sorted(fields.items())
    )
    raw = f"{{\n{body}\n}}\n".encode()
    if len(raw) > MAX_HEAD:
        raise ValueError(f"a head of {len(raw)} bytes; at most {MAX_HEAD} are allowed")
    return raw


def _lines(name: str, value: Any) -> str:
    """Canonical JSON of a field; lists that grow get a line for each item."""
    if name not in ("ancestors", "collections", "pages", "pins", "sessions") or not value:
        return canonical.encode(value).decode()
    return "[\n" + ",\n".join(f"    {canonical.encode(item).decode()}" for item in value) + "\n  ]"


def _row(page: PageRef, session: int) -> list[Any]:
    ends = [_path_value(page.first), _path_value(page.last)]
    return [page.id, session, page.files, page.bytes, page.raw, page.stored, *ends]


def _path_value(path: Path) -> str | dict[str, str]:
    text = canonical.to_text(path)
    return {"b64": canonical.to_base64(path)} if text is None else text


def parse_manifest(raw: bytes) -> Manifest:
    """A head or snapshot, everything about it checked.

    Raises `UnknownFeature` when it needs a newer version to be read, `FormatError` when it is damaged.
    """
    if len(raw) > MAX_HEAD:
        raise FormatError(f"the manifest has {len(raw)} bytes; at most {MAX_HEAD} are allowed")
    fields = canonical.decode_object(raw, "manifest")
    features = _convert(fields, _Features)
    unknown = sorted(set(features.features_read) - KNOWN_FEATURES)
    if features.format > FORMAT or unknown:
        needed = ", ".join(unknown) or f"format {features.format}"
        raise UnknownFeature(
            f"the repository needs what this version does not know: {needed[:200]}",
            "install a newer version of manifest-sync",
        )
    if _CHECKSUM in fields and fields[_CHECKSUM] != canonical.checksum(fields, _CHECKSUM):
        raise FormatError("manifest: it does not have its checksum: a part of it is wrong")
    head = _convert(fields, _Head)
    if features.format != FORMAT or head.hash != "blake3":
        raise FormatError(f"manifest: format {features.format} with hash {head.hash[:40]!r} is not known")
    _check_identity(head)
    pages = _pages(head)
    chunking = ChunkParams(**{name: getattr(head.chunking, name) for name in _Chunking.__struct_fields__})
    keeps_all = set(fields["totals"]) <= _KNOWN_TOTALS and not chunking.problem()
    manifest = Manifest(
        repository=head.repository,
        snapshot=head.snapshot,
        time=head.time,
        machine=head.machine,
        host=head.host,
        writer=head.writer,
        sequence=head.sequence,
        parent=head.parent or "",
        ancestors=tuple(head.ancestors),
        history=head.history or "",
        oldest=head.oldest,
        pins=tuple(Pin(*pin) for pin in head.pins),
        fence=head.fence,
        collections=tuple(head.collections),
        message=head.message,
        single_writer=head.single_writer,
        chunking=chunking,
        files=head.totals.files,
        bytes=head.totals.bytes,
        stored_bytes=head.totals.stored,
        pages=pages,
        features_read=tuple(head.features_read),
        features_write=tuple(name for name in head.features_write if name != _CHECKSUM),
        extra={name: value for name, value in fields.items() if name not in _KNOWN | {_CHECKSUM}},
        can_write=keeps_all and KNOWN_FEATURES.issuperset(head.features_write),
    )
    _check_totals(manifest, FormatError)
    return manifest


def _check_totals(manifest: Manifest, error: type[Exception]) -> None:
    sums = sum(page.files for page in manifest.pages), sum(page.bytes for page in manifest.pages)
    if (manifest.files, manifest.bytes) != sums:
        raise error("manifest: the totals are not the sums of the pages")


def _convert(fields: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(fields, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError(f"manifest: {error}") from None


def _check_identity(head: _Head) -> None:
    ids = [head.snapshot, *head.ancestors, *(pin[1] for pin in head.pins)]
    if not all(map(is_snapshot_id, ids if head.parent is None else [*ids, head.parent])):
        raise FormatError("manifest: a snapshot id is not 32 hex digits")
    if len(head.ancestors) > HISTORY_BLOCK or len(set(head.ancestors)) != len(head.ancestors):
        raise FormatError("manifest: the ancestors are out of bounds")
    if head.snapshot in head.ancestors or (head.ancestors and head.ancestors[-1] != head.parent):
        raise FormatError("manifest: the ancestors do not lead to the parent")
    if not head.repository or head.oldest > head.sequence:
        raise FormatError("manifest: the repository or the oldest snapshot is out of range")
    if head.history is not None:
        history_number(head.history)
    fences = [fence for fence, _ in head.collections]
    if len(fences) > MAX_COLLECTIONS or fences != sorted(set(fences)) or (fences and fences[-1] > head.fence):
        raise FormatError("manifest: the collections are not in order")
    for fence, key in head.collections:
        check_collection_key(key, fence)


def _pages(head: _Head) -> tuple[PageRef, ...]:
    if not all(map(is_session, head.sessions)) or len(set(head.sessions)) != len(head.sessions):
        raise FormatError("manifest: a session's name is wrong or there twice")
    pages: list[PageRef] = []
    previous = b""
    used: set[int] = set()
    for id_, session, files, size, raw, stored, first_value, last_value in head.pages:
        first, last = _path(first_value), _path(last_value)
        if first <= previous or last < first or (files == 1) != (first == last):
            raise FormatError(f"manifest: page {id_[:16]} at {display(first)[:200]!r} is not in order")
        previous = last
        good = is_object_id(id_) and session < len(head.sessions) and size <= MAX_PAGE_BYTES
        if not good or not 0 < files <= raw or not 0 < raw <= max_raw(files) or not 0 < stored <= raw + 1024:
            raise FormatError(f"manifest: page {id_[:16]} at {display(first)[:200]!r} is out of range")
        used.add(session)
        pages.append(PageRef(id_, head.sessions[session], first, last, files, size, raw, stored))
    if len(used) != len(head.sessions):
        raise FormatError("manifest: a session is not used")
    return tuple(pages)


def _path(value: str | dict[str, str]) -> Path:
    if isinstance(value, str):
        path = value.encode()
    elif set(value) == {"b64"} and len(value["b64"]) <= 2 * MAX_PATH:
        path = canonical.parse_base64(value["b64"], "manifest")
    else:
        raise FormatError("manifest: a page's path is neither text nor base64")
    reason = check_path(path)
    if reason:
        raise FormatError(f"manifest: path {display(path)[:200]!r} is not allowed: {reason}")
    return Path(path)

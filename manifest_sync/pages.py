"""Pages: runs of entries in path order, as canonical JSON named by its BLAKE3. Pure.

A page names the packs, frames and writers its entries use, each once and in the order of first use, so
that equal entries make equal pages. See docs/format.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from manifest_sync import canonical
from manifest_sync.errors import FormatError
from manifest_sync.model import (
    MAX_PATH,
    ChunkRef,
    Entry,
    EntryType,
    FrameRef,
    Hash,
    PackRef,
    Path,
    Writer,
    display,
)
from manifest_sync.pack import MAX_FRAME, MAX_PACK
from manifest_sync.pagecut import PageCutter, is_boundary
from manifest_sync.pathrules import check_path, is_plain_name

__all__ = [
    "MAX_CHUNKS",
    "MAX_PAGE_RAW",
    "TOO_LARGE",
    "PageCutter",
    "PageRef",
    "check_path",
    "encode_page",
    "is_boundary",
    "parse_page",
]

MAX_PAGE = 4 << 20
"""Most bytes of a page's JSON, unless the page holds a single entry."""
MAX_PAGE_RAW = 16 << 20
"""Most bytes of the JSON of a page with a single entry: what bounds the size of a file."""
MAX_CHUNKS = 50_000
"""Most chunks of a file that is sent, some 150 GB: each may need a frame and a pack of its own."""
TOO_LARGE = f"it is too large: a file can have {MAX_CHUNKS} chunks"
"""Why a larger one is passed over."""

_Unsigned = Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]
_Signed = Annotated[int, msgspec.Meta(ge=canonical.MIN_INT, le=canonical.MAX_INT)]
_Name = Annotated[str, msgspec.Meta(max_length=1024)]
_Mode = Annotated[int, msgspec.Meta(ge=0, le=0o777)]
_EMPTY_HASH = canonical.hash_bytes(b"")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_SESSION = re.compile(r"(0|[1-9][0-9]{0,17})-[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class PageRef:
    """One page as the manifest names it: ``files`` entries from path ``first`` to ``last``.

    ``bytes`` is the sum of their sizes; ``raw`` and ``stored`` are the page's own lengths before and after
    compression.
    """

    id: str
    session: str
    first: Path
    last: Path
    files: int
    bytes: int
    raw: int
    stored: int


# Fields in sorted order: what the typed encoder writes is then canonical.
class _Pack(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    etag: _Name = ""
    id: _Name = ""
    session: _Name = ""
    size: _Unsigned
    url: Annotated[str, msgspec.Meta(max_length=MAX_PATH)] = ""


class _Writer(msgspec.Struct, gc=False):
    host: _Name
    machine: _Name
    time: _Name


class _Entry(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    by: _Unsigned
    chunks: tuple[tuple[_Unsigned | str, ...], ...] = ()
    hash: str
    mode: _Mode
    mtime_ns: _Signed
    path: str = ""
    path_b64: str = ""
    size: _Unsigned
    target: str = ""
    target_b64: str = ""
    type: str = "file"


class _Page(msgspec.Struct, gc=False):
    entries: list[_Entry]
    frames: list[tuple[_Unsigned, _Unsigned, _Unsigned, _Unsigned]]
    packs: list[_Pack]
    writers: list[_Writer]


_decoder = msgspec.json.Decoder(_Page)


def is_session(text: str) -> bool:
    """Whether ``text`` is a session's name: its fence, ``-``, and 32 hex digits."""
    return _SESSION.match(text) is not None


def is_object_id(text: str) -> bool:
    """Whether ``text`` is the id of a page or a pack: 64 hex digits."""
    return _HEX.match(text) is not None


class _Tables:
    """Numbers packs, frames and writers in the order of their first use."""

    def __init__(self) -> None:
        self.packs: dict[PackRef, int] = {}
        self.frames: dict[FrameRef, int] = {}
        self.writers: dict[Writer, int] = {}
        self._frame: tuple[FrameRef | None, int] = (None, 0)
        self._writer: tuple[Writer | None, int] = (None, 0)

    def frame(self, frame: FrameRef) -> int:
        # Neighbours mostly share the very object: do not hash it again.
        if frame is not self._frame[0]:
            number = self.frames.get(frame)
            if number is None:
                self.packs.setdefault(frame.pack, len(self.packs))
                number = self.frames[frame] = len(self.frames)
            self._frame = (frame, number)
        return self._frame[1]

    def writer(self, writer: Writer) -> int:
        if writer is not self._writer[0]:
            self._writer = (writer, self.writers.setdefault(writer, len(self.writers)))
        return self._writer[1]


def encode_page(entries: Sequence[Entry]) -> tuple[str, bytes]:
    """The page of ``entries``: its id (hex) and its canonical JSON.

    The entries must be sorted, valid and not empty, which is `parse_page`'s to check of what others wrote;
    here a violation that would make the page unreadable raises ``ValueError``.
    """
    tables = _Tables()
    records: list[_Entry] = []
    previous = b""
    for entry in entries:
        if entry.path <= previous:
            raise ValueError(f"entries are not in order at {display(entry.path)}")
        previous = entry.path
        records.append(_record(entry, tables))
    page = _Page(
        records,
        [(tables.packs[f.pack], f.offset, f.stored, f.raw) for f in tables.frames],
        [_Pack(etag=p.etag, id=p.id, session=p.session, size=p.size, url=p.url) for p in tables.packs],
        [_Writer(w.host, w.machine, w.time) for w in tables.writers],
    )
    raw = canonical.encode_trusted(page)
    if not entries or len(raw) > max_raw(len(entries)):
        raise ValueError(f"a page of {len(entries)} entries and {len(raw)} bytes is out of bounds")
    return canonical.hash_bytes(raw).hex(), raw


def max_raw(files: int) -> int:
    """Most bytes that the JSON of a page with so many entries may have."""
    return MAX_PAGE_RAW if files == 1 else MAX_PAGE


def _record(entry: Entry, tables: _Tables) -> _Entry:
    reason = check_path(entry.path)
    if reason or not 0 <= entry.mode <= 0o777:
        raise ValueError(f"{display(entry.path)}: {reason or f'mode {entry.mode:o} is not nine bits'}")
    chunks: tuple[tuple[int | str, ...], ...]
    if len(entry.chunks) == 1:
        chunk = entry.chunks[0]
        chunks = ((tables.frame(chunk.frame), chunk.offset, chunk.length),)
    else:
        chunks = tuple((tables.frame(c.frame), c.offset, c.length, c.id.hex()) for c in entry.chunks)
    if sum(c.length for c in entry.chunks) != (entry.size if entry.type is EntryType.FILE else 0):
        raise ValueError(f"{display(entry.path)}: the chunks do not add up to the size")
    text = canonical.to_text(entry.path)
    record = _Entry(
        by=tables.writer(entry.writer),
        chunks=chunks,
        hash=entry.hash.hex(),
        mode=entry.mode,
        mtime_ns=entry.mtime_ns,
        path=text or "",
        size=entry.size,
    )
    if text is None:
        record.path_b64 = canonical.to_base64(entry.path)
    if entry.type is EntryType.SYMLINK:
        record.type = EntryType.SYMLINK.value
        target = canonical.to_text(entry.target)
        if target is None:
            record.target_b64 = canonical.to_base64(entry.target)
        else:
            record.target = target
    return record


def parse_page(raw: bytes, expect_id: str) -> list[Entry]:
    """The entries of a page, everything about them checked. Raises `FormatError`.

    ``expect_id`` is the id by which the manifest names the page.
    """
    what = f"page {expect_id[:16]}"
    if len(raw) > MAX_PAGE_RAW:
        raise FormatError(f"{what}: {len(raw)} bytes is too much")
    if canonical.hash_bytes(raw).hex() != expect_id:
        raise FormatError(f"{what}: its content does not have this id")
    page = canonical.decode_canonical(raw, _decoder, what)
    if not page.entries or len(raw) > max_raw(len(page.entries)):
        raise FormatError(f"{what}: {len(page.entries)} entries in {len(raw)} bytes")
    return _Reader(page, what).entries()


class _Reader:
    """Turns the decoded page into entries, checking as it goes."""

    def __init__(self, page: _Page, what: str) -> None:
        self._page = page
        self._what = what
        self._writers = [Writer(w.machine, w.host, w.time) for w in page.writers]
        self._frames = self._read_frames([self._read_pack(p) for p in page.packs])
        self._frames_used = 0

    def _fail(self, problem: str) -> FormatError:
        return FormatError(f"{self._what}: {problem}")

    def _read_pack(self, pack: _Pack) -> PackRef:
        if pack.url:
            good = bool(pack.etag) and not pack.session and not pack.id and pack.url.isprintable()
        else:
            good = is_session(pack.session) and is_object_id(pack.id) and not pack.etag
            good = good and pack.size <= MAX_PACK
        if not good:
            raise self._fail("a pack's record is out of range")
        return PackRef(pack.session, pack.id, pack.size, pack.url, pack.etag)

    def _read_frames(self, packs: list[PackRef]) -> list[FrameRef]:
        frames = []
        used = 0
        for number, offset, stored, raw in self._page.frames:
            if number > used or number >= len(packs):
                raise self._fail("packs are not numbered in the order of their use")
            used += number == used
            pack = packs[number]
            if not 0 < stored <= raw <= MAX_FRAME or offset + stored > pack.size:
                raise self._fail("a frame is out of range")
            frames.append(FrameRef(pack, offset, stored, raw))
        if used != len(packs) or len(set(packs)) != used or len(set(frames)) != len(frames):
            raise self._fail("a pack or frame is unused or named twice")
        return frames

    def entries(self) -> list[Entry]:
        """All entries in order."""
        found: list[Entry] = []
        folders: set[bytes] = set()
        folder, previous = b"", b""
        writers, writers_used = self._writers, 0
        for record in self._page.entries:
            path = self._path(record)
            if path <= previous:
                raise self._fail(f"{display(path)} is not in order")
            previous = path
            parent, _, name = path.rpartition(b"/")
            if parent != folder or not is_plain_name(name) or len(path) > MAX_PATH or path[:1] == b"/":
                reason = check_path(path)
                if reason:
                    raise self._fail(f"path {display(path)[:200]!r} is not allowed: {reason}")
                folder = parent
                while parent and parent not in folders:
                    folders.add(parent)
                    parent = parent.rpartition(b"/")[0]
            if record.by > writers_used or record.by >= len(writers):
                raise self._fail("writers are not numbered in the order of their use")
            writers_used += record.by == writers_used
            found.append(self._entry(record, Path(path), writers[record.by]))
        if writers_used != len(writers) or self._frames_used != len(self._frames):
            raise self._fail("a writer or frame is not used")
        if len(set(writers)) != len(writers):
            raise self._fail("a writer is named twice")
        if any(entry.path in folders for entry in found):
            raise self._fail("a path is the folder of another")
        return found

    def _path(self, record: _Entry) -> bytes:
        if record.path and not record.path_b64:
            return record.path.encode()
        if record.path:
            raise self._fail("an entry has two paths")
        return canonical.parse_base64(record.path_b64, self._what)

    def _entry(self, record: _Entry, path: Path, writer: Writer) -> Entry:
        digest = canonical.parse_hash(record.hash, self._what)
        chunks: tuple[ChunkRef, ...] = ()
        target = b""
        kind = EntryType.FILE
        if record.type == "file":
            if record.target or record.target_b64:
                raise self._fail(f"{display(path)}: a file has no target")
            chunks = self._chunks(record, path, digest)
        elif record.type == "symlink":
            kind = EntryType.SYMLINK
            target = self._target(record, path, digest)
        else:
            raise self._fail(f"{display(path)}: type {record.type[:40]!r} is not known")
        return Entry(path, kind, record.size, record.mtime_ns, record.mode, digest, writer, chunks, target)

    def _chunks(self, record: _Entry, path: Path, digest: Hash) -> tuple[ChunkRef, ...]:
        total = 0
        alone = len(record.chunks) == 1
        chunks = []
        for item in record.chunks:
            if len(item) != (3 if alone else 4):
                raise self._fail(f"{display(path)}: a chunk's record has the wrong length")
            number, offset, length = item[0], item[1], item[2]
            if type(number) is not int or type(offset) is not int or type(length) is not int:
                raise self._fail(f"{display(path)}: a chunk's record is not made of numbers")
            if number > self._frames_used or number >= len(self._frames):
                raise self._fail("frames are not numbered in the order of their use")
            self._frames_used += number == self._frames_used
            frame = self._frames[number]
            if length == 0 or offset + length > frame.raw:
                raise self._fail(f"{display(path)}: a chunk is out of range")
            total += length
            id_ = digest if alone else canonical.parse_hash(str(item[3]), self._what)
            chunks.append(ChunkRef(id_, frame, offset, length))
        if total != record.size or (not chunks and digest != _EMPTY_HASH):
            raise self._fail(f"{display(path)}: the chunks do not make up the file")
        return tuple(chunks)

    def _target(self, record: _Entry, path: Path, digest: Hash) -> bytes:
        if bool(record.target) == bool(record.target_b64):
            raise self._fail(f"{display(path)}: a symlink has one target")
        target = record.target.encode()
        if not target:
            target = canonical.parse_base64(record.target_b64, self._what)
        if len(target) > MAX_PATH or b"\x00" in target or record.chunks or record.size != len(target):
            raise self._fail(f"{display(path)}: the target is out of range")
        if canonical.hash_bytes(target) != digest:
            raise self._fail(f"{display(path)}: the target does not have its hash")
        return target

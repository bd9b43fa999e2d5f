"""Reading what is to be adopted: a file here that is the object by its ETag, else the object itself.

Either way the whole content goes by, is hashed and cut into chunks: an ETag only says where to read it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from manifest_sync.canonical import hash_bytes, new_hasher
from manifest_sync.chunker import cut
from manifest_sync.errors import FormatError
from manifest_sync.etags import PartsMd5, part_sizes
from manifest_sync.externals import split_url
from manifest_sync.index.adopted import Outsider
from manifest_sync.model import (
    ChunkRef,
    Entry,
    EntryType,
    FrameRef,
    Hash,
    PackRef,
    Path,
    Stat,
    State,
    Writer,
    file_state,
)
from manifest_sync.pages import MAX_CHUNKS, TOO_LARGE
from manifest_sync.stores.base import NotFound, PreconditionFailed, Readable
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Unreadable, Vanished, is_regular

PART = 8 << 20
"""Bytes of one request; each job holds about two of them."""
_MODE = 0o644
_FLUSH_FILES = 256
_FLUSH_BYTES = 256 << 20
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Content:
    """A content that went by: its hash, and id and length of each chunk."""

    digest: Hash
    chunks: tuple[tuple[Hash, int], ...]


EMPTY = Content(hash_bytes(b""), ())


def read_content(read: Callable[[int], bytes], size: int, also: Sequence[PartsMd5] = ()) -> Content | None:
    """Hash and cut what ``read`` gives; None if that is not ``size`` bytes, or has too many chunks."""
    hasher, total = new_hasher(), 0
    chunks: list[tuple[Hash, int]] = []
    for chunk in cut(read, size):
        if len(chunks) == MAX_CHUNKS:
            return None
        for form in also:
            form.update(chunk)
        total += len(chunk)
        if len(chunk) < size:
            hasher.update(chunk)
        chunks.append((hash_bytes(chunk), len(chunk)))
    if total != size:
        return None
    digest = chunks[0][0] if len(chunks) == 1 else Hash(hasher.digest())
    return Content(digest, tuple(chunks))


def make_entry(path: Path, pack: PackRef, content: Content, mtime_ns: int, writer: Writer) -> Entry:
    """The entry of an object: each chunk is a raw frame of it."""
    chunks = []
    offset = 0
    for id_, length in content.chunks:
        chunks.append(ChunkRef(id_, FrameRef(pack, offset, length, length), 0, length))
        offset += length
    return Entry(path, EntryType.FILE, pack.size, mtime_ns, _MODE, content.digest, writer, tuple(chunks))


@dataclass(frozen=True, slots=True)
class Hashed:
    """A file here whose content was read: what the stat cache may learn."""

    path: Path
    stat: Stat
    state: State


def match_here(ws: Workspace, found: Outsider) -> tuple[Content | None, Hashed | None]:
    """The content of the file here, if it has the object's ETag; and what is known of it now."""
    row = ws.index.row(found.path)
    hashed = None
    if row is None or row.stat is None or row.stat.size != found.size or not is_regular(row.stat):
        return None, None
    for parts in part_sizes(found.etag, found.size):
        forms = [PartsMd5(part) for part in parts]
        try:
            with ws.worktree.open_read(found.path) as reader:
                content = read_content(reader.read, found.size, forms)
                if content is None or reader.stat.size != found.size or not reader.unchanged():
                    return None, None
        except (Vanished, Unreadable):
            return None, None
        hashed = Hashed(found.path, reader.stat, file_state(content.digest, reader.stat))
        if any(form.matches(found.etag) for form in forms):
            return content, hashed
    return None, hashed


@dataclass(frozen=True, slots=True)
class Streamed:
    """What became of one object: its entry, or why there is none. ``retry``: list it anew and try again."""

    found: Outsider
    entry: Entry | None
    problem: str = ""
    retry: bool = False


class _Body:
    """The bytes of one object in order, a part a request."""

    def __init__(self, place: Readable, key: str, found: Outsider, count: Callable[[int], None]) -> None:
        self._place = place
        self._key = key
        self._found = found
        self._count = count
        self._offset = 0
        self._part = memoryview(b"")
        self.mtime_ns: int | None = None

    def read(self, length: int) -> bytes:
        """Up to ``length`` bytes, ``b""`` at the end."""
        if not self._part:
            wanted = min(PART, self._found.size - self._offset)
            if not wanted:
                return b""
            part = self._place.get_part(self._key, self._offset, wanted, etag=self._found.etag)
            if not self._offset:
                self.mtime_ns = part.mtime_ns
            self._part = memoryview(part.data)
            self._offset += wanted
            self._count(wanted)
        data, self._part = bytes(self._part[:length]), self._part[length:]
        return data


class Streamer:
    """Reads objects, several at once, in no particular order.

    Args:
        place: where they lie.
        flush: is given what has been read, some hundred files or megabytes at a time; also before an error.
    """

    def __init__(self, ws: Workspace, place: Readable, flush: Callable[[list[Streamed]], None]) -> None:
        self._ws = ws
        self._place = place
        self._flush = flush
        self._writer = ws.writer()
        self._lock = threading.Lock()
        self._came = 0
        self.bytes = 0
        """Bytes that came so far."""

    def run(self, wanted: Iterator[Outsider]) -> None:
        """Read all of them.

        Raises:
            StoreUnavailable, AccessDenied: the store failed; what was read before has been handed over.
        """
        done: list[Streamed] = []
        waiting: set[Future[Streamed]] = set()
        with ThreadPoolExecutor(self._ws.jobs, thread_name_prefix="adopt") as pool:
            try:
                for found in wanted:
                    waiting.add(pool.submit(self._stream, found))
                    while len(waiting) >= 2 * self._ws.jobs:
                        waiting = self._take(waiting, done)
                while waiting:
                    waiting = self._take(waiting, done)
            finally:
                # After a failure: what the others have read all the same need not be read again.
                under_way = [future for future in waiting if not future.cancel()]
                done += [f.result() for f in wait(under_way).done if f.exception() is None]
                self._flush(done)
                with self._lock:
                    self.bytes += self._came

    def _take(self, waiting: set[Future[Streamed]], done: list[Streamed]) -> set[Future[Streamed]]:
        ready, left = wait(waiting, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        with self._lock:
            came, self._came = self._came, 0
        self.bytes += came
        self._ws.progress.advance("transfer", files=len(ready), bytes_=came)
        failure: BaseException | None = None
        for future in ready:
            if (error := future.exception()) is not None:
                failure = error
            else:
                done.append(future.result())
        if failure is not None:
            waiting -= ready
            raise failure
        if len(done) >= _FLUSH_FILES or sum(item.found.size for item in done) >= _FLUSH_BYTES:
            self._flush(done)
            done.clear()
        return left

    def _note(self, count: int) -> None:
        with self._lock:
            self._came += count

    def _stream(self, found: Outsider) -> Streamed:
        body = _Body(self._place, split_url(found.url)[1], found, self._note)
        try:
            content = read_content(body.read, found.size)
        except NotFound:
            return Streamed(found, None, "it was deleted while it was adopted", retry=True)
        except (PreconditionFailed, FormatError):
            return Streamed(found, None, "it kept changing while it was adopted", retry=True)
        if content is None:
            return Streamed(found, None, TOO_LARGE)
        return Streamed(found, self.entry(found, content, body.mtime_ns))

    def entry(self, found: Outsider, content: Content, mtime_ns: int | None = None) -> Entry:
        """The entry of an object that was read, here or there."""
        # A folder lists no ETags; what would be one there is the hash of the content.
        pack = PackRef("", "", found.size, found.url, found.etag or content.digest.hex())
        when = found.modified if mtime_ns is None else mtime_ns
        return make_entry(found.path, pack, content, when, self._writer)

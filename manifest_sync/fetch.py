"""Getting file contents: which byte ranges of which packs, side by side, and every chunk verified."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from manifest_sync import manifest as fmt
from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import Damaged, FormatError, UnknownFeature
from manifest_sync.model import ChunkRef, Entry, FrameRef, PackRef, Path, display
from manifest_sync.pack import decode_frame
from manifest_sync.stores.base import NotFound, Store

MAX_GAP = 256 * 1024
"""Unwanted bytes between two frames that are fetched along rather than paid for with a request."""
MAX_RANGE = 16 * 1024 * 1024
"""Most stored bytes of one request: with the number of jobs what bounds the memory of a pull."""

IN_ORDER = 32 * 1024 * 1024
"""Plain bytes of one file that are held to be handed out in order."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Verified plain bytes of one file: ``entry`` at ``offset``."""

    entry: Entry
    offset: int
    data: bytes


class MissingContent(Exception):
    """A pack that an entry names is not there, or does not hold what it should.

    The caller reads the head again: if it has changed, a collection may have moved the content; if not,
    the bucket is damaged.
    """

    def __init__(self, path: Path, key: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.key = key
        self.reason = reason

    def as_damage(self, location: str) -> Damaged:
        """The error for a head that has not changed meanwhile."""
        return Damaged(
            f"{display(self.path)}: {self.key} at {location} is damaged: {self.reason}",
            "the other files are not affected; a machine that has the file can push it again",
        )


@dataclass(slots=True)
class _Range:
    """One request: consecutive frames of one pack and what is wanted from each."""

    pack: PackRef
    offset: int
    end: int
    wants: list[tuple[FrameRef, list[tuple[Entry, int, int]]]] = field(default_factory=list)
    """Per frame: entry, number of its chunk, and the chunk's offset in the file."""


def plan_ranges(entries: Sequence[Entry]) -> list[_Range]:
    """Coalesced byte ranges that cover every chunk of ``entries``, in the order they are first needed."""
    frames: dict[FrameRef, list[tuple[Entry, int, int]]] = {}
    order: dict[PackRef, None] = {}
    for entry in entries:
        position = 0
        for number, chunk in enumerate(entry.chunks):
            frames.setdefault(chunk.frame, []).append((entry, number, position))
            order.setdefault(chunk.frame.pack)
            position += chunk.length
    by_pack: dict[PackRef, list[FrameRef]] = {pack: [] for pack in order}
    for frame in frames:
        by_pack[frame.pack].append(frame)
    ranges: list[_Range] = []
    for pack, members in by_pack.items():
        current: _Range | None = None
        for frame in sorted(members, key=lambda f: f.offset):
            end = frame.offset + frame.stored
            if current is None or frame.offset - current.end > MAX_GAP or end - current.offset > MAX_RANGE:
                current = _Range(pack, frame.offset, end)
                ranges.append(current)
            current.end = max(current.end, end)
            current.wants.append((frame, frames[frame]))
    return ranges


def _load(store: Store, wanted: _Range) -> bytes:
    """The stored bytes of one range; asked for twice when they are said not to be there."""
    try:
        return _load_once(store, wanted)
    except MissingContent:
        return _load_once(store, wanted)


def _load_once(store: Store, wanted: _Range) -> bytes:
    first = wanted.wants[0][1][0][0]
    if wanted.pack.is_external:
        raise UnknownFeature(
            f"{display(first.path)} lies in an external object, which this version cannot read",
            "upgrade manifest-sync",
        )
    key = fmt.pack_key(wanted.pack.session, wanted.pack.id)
    if wanted.end > wanted.pack.size:
        raise MissingContent(first.path, key, "a frame lies outside the pack")
    try:
        return store.get_range(key, wanted.offset, wanted.end - wanted.offset)
    except NotFound:
        raise MissingContent(first.path, key, "it is missing") from None
    except FormatError as error:
        raise MissingContent(first.path, key, error.message) from None


def _verified(store: Store, wanted: _Range, body: bytes) -> Iterator[Piece]:
    """The verified pieces of one range; read once more when one is wrong, for what was damaged on its way."""
    right = 0
    try:
        for piece in _decode(wanted, body):
            yield piece
            right += 1
    except MissingContent:
        yield from islice(_decode(wanted, _load(store, wanted)), right, None)


def _decode(wanted: _Range, body: bytes) -> Iterator[Piece]:
    """The verified pieces of one range, a frame at a time: what compresses well must not fill the memory."""
    key = fmt.pack_key(wanted.pack.session, wanted.pack.id)
    for frame, wants in wanted.wants:
        start = frame.offset - wanted.offset
        try:
            plain = decode_frame(body[start : start + frame.stored], frame.raw)
        except FormatError as error:
            raise MissingContent(wants[0][0].path, key, error.message) from None
        for entry, number, position in wants:
            chunk = entry.chunks[number]
            data = plain[chunk.offset : chunk.offset + chunk.length]
            if len(data) != chunk.length or hash_bytes(data) != chunk.id:
                raise MissingContent(entry.path, key, "a chunk does not match its hash")
            yield Piece(entry, position, data)


def fetch(store: Store, entries: Sequence[Entry], *, jobs: int) -> Iterator[Piece]:
    """Every chunk of ``entries``, verified (P17), with at most ``jobs`` requests ahead of the caller.

    Raises:
        MissingContent: a pack is missing or does not hold what the entries say.
    """
    ranges = deque(plan_ranges(entries))
    with ThreadPoolExecutor(jobs, thread_name_prefix="fetch") as pool:
        ahead: deque[tuple[_Range, Future[bytes]]] = deque()
        try:
            while ranges or ahead:
                while ranges and len(ahead) < jobs:
                    ahead.append((ranges[0], pool.submit(_load, store, ranges.popleft())))
                wanted, future = ahead.popleft()
                yield from _verified(store, wanted, future.result())
        finally:
            for _, future in ahead:
                future.cancel()


def fetch_in_order(store: Store, entry: Entry, *, jobs: int) -> Iterator[bytes]:
    """One file's content from its beginning, verified (P17), about `IN_ORDER` bytes held at a time.

    Raises:
        MissingContent: a pack is missing or does not hold what the entry says; what came before was right.
    """
    window: list[ChunkRef] = []
    held = 0
    for chunk in entry.chunks:
        if window and held + chunk.length > IN_ORDER:
            yield from _fetch_window(store, entry, window, jobs)
            window, held = [], 0
        window.append(chunk)
        held += chunk.length
    yield from _fetch_window(store, entry, window, jobs)


def _fetch_window(store: Store, entry: Entry, window: Sequence[ChunkRef], jobs: int) -> Iterator[bytes]:
    # The chunks of a file may lie in several packs, and `fetch` goes pack by pack.
    pieces = fetch(store, [replace(entry, chunks=tuple(window))], jobs=jobs)
    yield from (piece.data for piece in sorted(pieces, key=lambda piece: piece.offset))

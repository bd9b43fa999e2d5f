"""Getting file contents: which byte ranges of which packs, side by side, and every chunk verified."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from msgspec import structs

from manifest_sync import manifest as fmt
from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import Damaged, FormatError
from manifest_sync.keys import pack_name
from manifest_sync.model import ChunkRef, Entry, FrameRef, PackRef, Path, display
from manifest_sync.outside import CHANGED, LostOutside, Outside
from manifest_sync.pack import decode_frame
from manifest_sync.stores.base import NotFound, Store

MAX_GAP = 256 * 1024
"""Unwanted bytes between two frames that are fetched along rather than paid for with a request."""
MAX_RANGE = 16 * 1024 * 1024
"""Most stored bytes of one request: with the number of jobs what bounds the memory of a pull."""

MISSING = "it is missing"

IN_ORDER = 32 * 1024 * 1024
"""Plain bytes of one file that are held to be handed out in order."""


BIG = 64 * 1024
"""From so many bytes on what is stored as it is is hashed in the thread that loaded it, and not copied."""

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Piece:
    """Verified plain bytes of one file: ``entry`` at ``offset``."""

    entry: Entry
    offset: int
    data: Bytes


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What one request brought: the stored bytes, or why they cannot be had, and the chunks in them that
    were found to match their hashes."""

    body: bytes | str
    proven: frozenset[ChunkRef]


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
        hint = "the other files are not affected; a machine that has the file can push it again"
        if "://" in self.key:
            return Damaged(f"{display(self.path)}: {self.key}: {self.reason}", hint)
        return Damaged(f"{display(self.path)}: {self.key} at {location} is damaged: {self.reason}", hint)


Hurt = dict[Path, MissingContent]
"""What could not be had, by path."""


def damaged_files(hurt: Hurt) -> list[tuple[Path, str]]:
    """What a report says of it: paths in order, each with the object and what is wrong with it."""
    return [(path, f"{error.key}: {error.reason}") for path, error in sorted(hurt.items())]


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


def fetch(store: Store, entries: Sequence[Entry], *, jobs: int, hurt: Hurt | None = None) -> Iterator[Piece]:
    """Every chunk of ``entries``, verified (P17), with at most ``jobs`` requests ahead of the caller.

    Args:
        hurt: gets what cannot be had; the rest still comes, and of the hurt entries some pieces may.

    Raises:
        MissingContent: without ``hurt``: a pack is missing or does not hold what the entries say.
    """
    return _Fetch(store, jobs, hurt).run(entries)


class _Fetch:
    """One `fetch`. Whatever is not there, or not what it should be, is asked for twice: an answer may be
    wrong, and bytes may be damaged on their way."""

    def __init__(self, store: Store, jobs: int, hurt: Hurt | None) -> None:
        self._store = store
        self._outside = Outside(store)
        self._jobs = jobs
        self._hurt = hurt

    def run(self, entries: Sequence[Entry]) -> Iterator[Piece]:
        """The pieces, in the order of their ranges."""
        ranges = deque(plan_ranges(entries))
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="fetch") as pool:
            ahead: deque[tuple[_Range, Future[_Loaded]]] = deque()
            try:
                while ranges or ahead:
                    while ranges and len(ahead) < self._jobs:
                        ahead.append((ranges[0], pool.submit(self._load_and_prove, ranges.popleft())))
                    wanted, future = ahead.popleft()
                    yield from self._take(wanted, future.result())
            finally:
                for _, future in ahead:
                    future.cancel()

    def _load_and_prove(self, wanted: _Range) -> _Loaded:
        """The stored bytes of one range, and which big chunks of it are right. Hashing those gives up the
        interpreter's lock, and the caller's thread has the writing to do."""
        body = self._load(wanted)
        proven = set[ChunkRef]()
        if not isinstance(body, str):
            for frame, wants in wanted.wants:
                if frame.stored != frame.raw or frame.raw < BIG:
                    continue
                plain = _part(body, frame.offset - wanted.offset, frame.stored)
                for chunk in {entry.chunks[number] for entry, number, _ in wants}:
                    if chunk.length >= BIG and _cut(plain, chunk) is not None:
                        proven.add(chunk)
        return _Loaded(body, frozenset(proven))

    def _load(self, wanted: _Range) -> bytes | str:
        """The stored bytes of one range, or why they cannot be had."""
        if wanted.end > wanted.pack.size:
            return "a frame lies outside the pack"
        body = self._load_once(wanted)
        return self._load_once(wanted) if isinstance(body, str) else body

    def _load_once(self, wanted: _Range) -> bytes | str:
        pack, length = wanted.pack, wanted.end - wanted.offset
        try:
            if pack.is_external:
                return self._outside.read(pack, wanted.offset, length)
            key = fmt.pack_key(pack.session, pack.id)
            return self._store.get_range(key, wanted.offset, length)
        except LostOutside as lost:
            return str(lost)
        except NotFound:
            return MISSING
        except FormatError as error:
            return error.message

    def _take(self, wanted: _Range, loaded: _Loaded) -> Iterator[Piece]:
        """The verified pieces of one range, a frame at a time: what compresses well must not fill the
        memory."""
        pack, body = wanted.pack, loaded.body
        cut_off = isinstance(body, str) and body != MISSING and len(wanted.wants) > 1
        cut_off = cut_off and not pack.is_external
        key = pack_name(pack)
        for frame, wants in wanted.wants:
            alone = _Range(pack, frame.offset, frame.offset + frame.stored, [(frame, wants)])
            start = frame.offset - wanted.offset
            stored = body if isinstance(body, str) else _part(body, start, frame.stored)
            if cut_off and self._hurt is not None:
                # The pack may end too soon, and only for some of the frames.
                stored = self._load(alone)
            plain, problem = _decode(stored, frame)
            may_ask, proven = not isinstance(stored, str), loaded.proven
            for entry, number, position in wants:
                chunk = entry.chunks[number]
                data = _cut(plain, chunk, is_proven=chunk in proven)
                if data is None and may_ask:
                    # Another answer, of which nothing is proven.
                    (plain, problem), proven = _decode(self._load(alone), frame), frozenset()
                    data, may_ask = _cut(plain, chunk), False
                if data is None:
                    wrong = CHANGED if pack.is_external else "a chunk does not match its hash"
                    self._fail(entry, key, problem or wrong)
                else:
                    yield Piece(entry, position, data)

    def _fail(self, entry: Entry, key: str, reason: str) -> None:
        error = MissingContent(entry.path, key, reason)
        if self._hurt is None:
            raise error
        self._hurt.setdefault(entry.path, error)


def _part(body: bytes, start: int, length: int) -> Bytes:
    """Some bytes of a range; big ones are not copied."""
    return memoryview(body)[start : start + length] if length >= BIG else body[start : start + length]


def _decode(stored: Bytes | str, frame: FrameRef) -> tuple[Bytes, str]:
    """The plain bytes of a frame, or none and what is wrong."""
    if isinstance(stored, str):
        return b"", stored
    try:
        return decode_frame(stored, frame.raw), ""
    except FormatError as error:
        return b"", error.message


def _cut(plain: Bytes, chunk: ChunkRef, *, is_proven: bool = False) -> Bytes | None:
    """A chunk out of its frame, None when it does not match its hash; ``is_proven``: it is known to."""
    data = plain[chunk.offset : chunk.offset + chunk.length]
    return data if len(data) == chunk.length and (is_proven or hash_bytes(data) == chunk.id) else None


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
    pieces = fetch(store, [structs.replace(entry, chunks=tuple(window))], jobs=jobs)
    yield from (bytes(piece.data) for piece in sorted(pieces, key=lambda piece: piece.offset))

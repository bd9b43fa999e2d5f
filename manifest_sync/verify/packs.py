"""Looking at packs: by a listing, or by reading every byte, side by side and within bounded memory."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from manifest_sync import manifest as fmt
from manifest_sync.errors import FormatError
from manifest_sync.model import ChunkRef, PackRef
from manifest_sync.pack import FOOTER_LENGTH, MAX_PACK, Trailer, trailer_span
from manifest_sync.report import Progress
from manifest_sync.stores.base import NotFound, Store
from manifest_sync.verify.packcheck import check_pack, place, places
from manifest_sync.verify.survey import MISSING, twice
from manifest_sync.verify.wholefiles import WholeFile, WholeFiles

MAX_AHEAD = 128 << 20
"""Bytes of packs that are held at once, unless one alone is larger."""
_FIRST_COMPACTION = 1 << 12


class PackUse:
    """One pack, the pages that need it, and where they say its chunks lie."""

    __slots__ = ("_limit", "number", "pages", "places", "ref")

    def __init__(self, ref: PackRef, number: int) -> None:
        self.ref = ref
        self.number = number
        self.pages = array("I")
        """Numbers of the pages that need it, ascending."""
        self.places = array("q")
        """Hashes of chunk places; kept small, since many versions of a page name the same."""
        self._limit = _FIRST_COMPACTION

    @property
    def key(self) -> str:
        """The pack's key in the bucket; the URL of an external one."""
        return self.ref.url or fmt.pack_key(self.ref.session, self.ref.id)

    def add_page(self, page: int) -> None:
        """A page needs it."""
        if not self.pages or self.pages[-1] != page:
            self.pages.append(page)

    def add_chunk(self, chunk: ChunkRef) -> None:
        """A page says that this chunk lies in it."""
        self.places.append(hash(place(chunk)))
        if len(self.places) >= self._limit:
            self.places = array("q", set(self.places))
            self._limit = 2 * len(self.places) + _FIRST_COMPACTION


@dataclass(frozen=True, slots=True)
class PackRead:
    """One pack after it was looked at: what is wrong with it ('' if nothing), and whether its tables do
    not know a place that a page names."""

    use: PackUse
    what: str = ""
    disagrees: bool = False


class PackReader:
    """Looks at packs.

    Args:
        store: the bucket.
        jobs: how many requests may be under way at once.
        progress: told of the bytes.
    """

    def __init__(self, store: Store, jobs: int, progress: Progress) -> None:
        self._store = store
        self._jobs = jobs
        self._progress = progress
        self.bytes = 0
        """Read so far by `read_all`."""

    def list_all(
        self, packs: Sequence[PackUse], suspects: frozenset[str] = frozenset()
    ) -> Iterator[PackRead]:
        """Every pack that is not there with its size. A listing is no evidence: each is asked for itself.

        Args:
            suspects: keys of packs that are read whole.
        """
        expected = {use.key: use for use in packs}
        fine: set[str] = set()
        for item in self._store.list("packs/"):
            use = expected.get(item.key)
            if use is not None and item.size == use.ref.size:
                fine.add(item.key)
        unlisted = [use for use in packs if use.key not in fine and use.key not in suspects]
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="pack") as pool:
            yield from (read for read in pool.map(self._probe, unlisted) if read.what)
        for use in packs:
            if use.key in suspects and (what := self._what(use)):
                yield PackRead(use, what)

    def _probe(self, use: PackUse) -> PackRead:
        """Whether a pack is there after all and ends where it should, by its last bytes."""
        size = use.ref.size
        try:
            twice(lambda: self._check_footer(use))
        except NotFound:
            return PackRead(use, MISSING)
        except FormatError as error:
            return PackRead(use, self._what(use) or error.message)
        try:
            self._store.get_range(use.key, size, 1)
        except (NotFound, FormatError):
            return PackRead(use)
        return PackRead(use, self._what(use))

    def _check_footer(self, use: PackUse) -> None:
        size = use.ref.size
        footer = self._store.get_range(use.key, max(size - FOOTER_LENGTH, 0), min(size, FOOTER_LENGTH))
        trailer_span(footer, size)

    def _what(self, use: PackUse) -> str:
        try:
            twice(lambda: self._load_whole(use))
        except NotFound:
            return MISSING
        except FormatError as error:
            return error.message
        return ""

    def read_all(self, packs: Sequence[PackUse], files: WholeFiles) -> Iterator[PackRead]:
        """Every pack in order, read and checked byte by byte; ``files`` gets those that are whole."""
        ahead: deque[tuple[PackUse, Future[tuple[PackRead, bytes]]]] = deque()
        pending = deque(packs)
        held = 0
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="pack") as pool:
            try:
                while pending or ahead:
                    while pending and len(ahead) < self._jobs:
                        if ahead and held + pending[0].ref.size > MAX_AHEAD:
                            break
                        use = pending.popleft()
                        held += use.ref.size
                        ahead.append((use, pool.submit(self._read, use)))
                    use, future = ahead.popleft()
                    read, body = future.result()
                    del future
                    if read.what:
                        files.skip(use.number)
                    else:
                        files.feed(use.number, body)
                    held -= use.ref.size
                    self.bytes += len(body)
                    self._progress.advance("transfer", files=1, bytes_=len(body))
                    del body
                    yield read
            finally:
                for _, future in ahead:
                    future.cancel()

    def _read(self, use: PackUse) -> tuple[PackRead, bytes]:
        try:
            body, trailer = twice(lambda: self._load_whole(use))
        except NotFound:
            return PackRead(use, MISSING), b""
        except FormatError as error:
            return PackRead(use, error.message), b""
        known = set(map(hash, places(trailer)))
        return PackRead(use, disagrees=not known.issuperset(use.places)), body

    def _load_whole(self, use: PackUse) -> tuple[bytes, Trailer]:
        """The bytes of a pack, checked, and its tables."""
        found = self._store.get(use.key, max_bytes=MAX_PACK)
        assert found is not None
        return found.body, check_pack(use.ref.id, use.ref.size, found.body)

    def finish(self, files: WholeFiles, packs: Sequence[PackUse], damaged: set[int]) -> None:
        """Read what is left of the files whose chunks do not lie in the order of the packs."""
        for file in files.iter_late():
            if self._take_rest(file, packs, damaged):
                files.settle(file)

    def _take_rest(self, file: WholeFile, packs: Sequence[PackUse], damaged: set[int]) -> bool:
        while not file.is_done:
            number, start, stored, *_ = file.next
            if number in damaged:
                return False
            try:
                file.take(self._store.get_range(packs[number].key, start, stored))
            except (NotFound, FormatError):
                return False
        return True

    def load(self, use: PackUse) -> bytes:
        """What there is of a damaged pack, as far as it reaches."""
        try:
            found = self._store.get(use.key, max_bytes=MAX_PACK)
            assert found is not None
            return found.body
        except NotFound:
            return b""
        except FormatError:
            pass  # It is longer than any pack; its beginning may be good.
        try:
            return self._store.get_range(use.key, 0, use.ref.size)
        except (NotFound, FormatError):
            return b""

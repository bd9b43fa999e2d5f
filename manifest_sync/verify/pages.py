"""Reading the pages that a verify looks at: from this machine's cache, or from the bucket, and going on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from manifest_sync.errors import FormatError
from manifest_sync.model import Entry
from manifest_sync.page_reader import PageCache, parse_listed
from manifest_sync.pages import MAX_PAGE_RAW, PageRef
from manifest_sync.stores.base import NotFound, Store
from manifest_sync.verify.survey import MISSING, PageUse, twice


@dataclass(frozen=True, slots=True)
class PageRead:
    """One page: its entries as far as they can be had, and what is wrong with the object in the bucket.

    ``what`` is empty when nothing is, or when the bucket was not asked. ``cached``: this machine has it.
    """

    use: PageUse
    entries: list[Entry] | None
    what: str = ""
    cached: bool = False


class LenientPages:
    """Reads pages in order, some requests ahead. Nothing is written to the cache.

    Args:
        store: the bucket.
        cache: this machine's page bodies; asked from the caller's thread only.
        jobs: how many requests may be under way at once.
    """

    def __init__(self, store: Store, cache: PageCache, jobs: int) -> None:
        self._store = store
        self._cache = cache
        self._jobs = jobs

    def read(self, uses: Iterable[PageUse], ask: Callable[[PageUse], bool]) -> Iterator[PageRead]:
        """Every page in turn; from the bucket those that ``ask`` is true of, and those not cached here.

        Raises:
            StoreUnavailable, AccessDenied: the store failed.
        """
        waiting: deque[tuple[PageUse, Future[list[Entry] | str] | None]] = deque()
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="page") as pool:
            try:
                for use in uses:
                    wanted = ask(use) or self._cache.load_page_body(use.ref.id) is None
                    waiting.append((use, pool.submit(self._fetch, use) if wanted else None))
                    if len(waiting) > 2 * self._jobs:
                        yield self._take(*waiting.popleft())
                while waiting:
                    yield self._take(*waiting.popleft())
            finally:
                for _, future in waiting:
                    if future is not None:
                        future.cancel()

    def _take(self, use: PageUse, future: Future[list[Entry] | str] | None) -> PageRead:
        found = None if future is None else future.result()
        if isinstance(found, list):
            return PageRead(use, found)
        cached = self.cached(use.ref)
        if cached is None and found is None:
            # What is cached here is damaged itself.
            found = self._fetch(use)
            if isinstance(found, list):
                return PageRead(use, found)
        return PageRead(use, cached, found or "", cached is not None)

    def cached(self, ref: PageRef) -> list[Entry] | None:
        """The entries of a page as this machine keeps it, None when it does not."""
        body = self._cache.load_page_body(ref.id)
        try:
            return None if body is None else parse_listed(ref, body)
        except FormatError:
            return None

    def _load(self, use: PageUse) -> list[Entry]:
        found = self._store.get(use.key, max_bytes=MAX_PAGE_RAW)
        assert found is not None
        return parse_listed(use.ref, found.body)

    def _fetch(self, use: PageUse) -> list[Entry] | str:
        """The entries, or what is wrong with the object."""
        try:
            return twice(lambda: self._load(use))
        except NotFound:
            return MISSING
        except FormatError as error:
            return error.message

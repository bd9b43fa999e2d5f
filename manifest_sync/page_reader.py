"""Reading the pages of a repository, from the cache of this machine or from the bucket."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from manifest_sync.canonical import decompress
from manifest_sync.errors import Damaged, FormatError, IndexDamaged
from manifest_sync.keys import page_key
from manifest_sync.model import Entry
from manifest_sync.pages import PageRef, parse_page
from manifest_sync.stores.base import NotFound, Store

MAX_AHEAD = 32 << 20
"""Plain bytes of the pages that are fetched ahead, unless it is a single one."""
MAX_LOST = 1000
"""Lost pages that are passed over; where more are lost, asking for each would only take time."""


class PageCache(Protocol):
    """Where page bodies (compressed, as stored) are kept on this machine."""

    def load_page_body(self, page_id: str) -> bytes | None:
        """The body, or None."""

    def save_page_bodies(self, pages: Iterable[tuple[PageRef, bytes]]) -> None:
        """Keep bodies, all at once; their places in the head are not looked at."""


class PageReader:
    """The pages of one repository; `manifest_sync.repository.Repository` adds the head and publishing."""

    def __init__(self, store: Store, cache: PageCache, *, jobs: int = 16) -> None:
        self.store = store
        self._cache = cache
        self._jobs = jobs
        # Parsing takes turns anyway; this way one page's values are in the memory, not those of many.
        self._parsing = threading.Lock()

    def load_page(self, ref: PageRef) -> list[Entry]:
        """The entries of a page, from the cache or the bucket; checked against its id.

        Raises:
            Damaged: the bucket does not hold it, or holds something else under its name.
        """
        body = self._cache.load_page_body(ref.id)
        return self._entries(ref, body) if body is not None else parse_listed(ref, self.fetch_anew(ref))

    def load_if_there(self, ref: PageRef) -> list[Entry] | None:
        """As `load_page`; None of a page that is lost."""
        try:
            return self.load_page(ref)
        except IndexDamaged:
            raise
        except Damaged:
            return None

    def fetch_anew(self, ref: PageRef) -> bytes:
        """The stored bytes of a page from the bucket, whatever is cached; checked against its id, and kept.

        Raises:
            Damaged: the bucket does not hold it, or holds something else under its name.
        """
        body = self._fetch_page(ref)
        self._cache.save_page_bodies([(ref, body)])
        return body

    def load_pages(
        self, refs: Sequence[PageRef], lost: dict[PageRef, str] | None = None
    ) -> Iterator[tuple[PageRef, list[Entry]]]:
        """Several pages in order; those not cached are fetched ahead, side by side, and kept.

        Args:
            lost: gets the pages that cannot be had, and why; the others still come.

        Raises:
            Damaged: the bucket does not hold one of them, or with ``lost`` more than `MAX_LOST`.
        """
        for ref, body, is_fetched in self._page_bodies(refs, self._fetch_page, lost):
            if is_fetched:
                self._cache.save_page_bodies([(ref, body)])
            try:
                entries = self._entries(ref, body)
            except IndexDamaged:
                raise
            except Damaged as error:
                if lost is None or len(lost) >= MAX_LOST:
                    raise
                lost[ref] = error.message
            else:
                yield ref, entries

    def _entries(self, ref: PageRef, body: bytes) -> list[Entry]:
        """The entries of a page, fetched anew if ``body``, as it is cached, is damaged."""
        try:
            return parse_listed(ref, body)
        except FormatError:
            return parse_listed(ref, self.fetch_anew(ref))

    def iter_page_bodies(self, refs: Sequence[PageRef]) -> Iterator[tuple[PageRef, bytes]]:
        """The stored bytes of pages in order, unchecked, fetched ahead where not cached, and not kept.

        Raises:
            Damaged: the bucket does not hold one of them.
        """
        for ref, body, _ in self._page_bodies(refs, self._get_page):
            yield ref, body

    def _page_bodies(
        self,
        refs: Sequence[PageRef],
        get: Callable[[PageRef], bytes],
        lost: dict[PageRef, str] | None = None,
    ) -> Iterator[tuple[PageRef, bytes, bool]]:
        """Page, body, and whether ``get`` brought it; only this thread asks the cache."""
        ahead: deque[tuple[PageRef, bytes | Future[bytes]]] = deque()
        waiting = 0

        def take() -> Iterator[tuple[PageRef, bytes, bool]]:
            ref, body = ahead.popleft()
            try:
                found = (ref, body, False) if isinstance(body, bytes) else (ref, body.result(), True)
            except Damaged as error:
                if lost is None or len(lost) >= MAX_LOST:
                    raise
                lost[ref] = error.message
            else:
                yield found

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="page") as pool:
            for ref in refs:
                while ahead and (len(ahead) > 2 * self._jobs or waiting + ref.raw > MAX_AHEAD):
                    waiting -= ahead[0][0].raw
                    yield from take()
                cached = self._cache.load_page_body(ref.id)
                ahead.append((ref, pool.submit(get, ref) if cached is None else cached))
                waiting += ref.raw
            while ahead:
                yield from take()

    def _fetch_page(self, ref: PageRef) -> bytes:
        """The body, checked; read once more when it is not right, for what was damaged on its way."""
        try:
            return self._checked_page(ref)
        except Damaged:
            return self._checked_page(ref)

    def _checked_page(self, ref: PageRef) -> bytes:
        body = self._get_page(ref)
        try:
            with self._parsing:
                parse_listed(ref, body)
        except FormatError as error:
            key = page_key(ref.session, ref.id)
            raise FormatError(
                f"{key} at {self.store.location} is damaged: {error.message}",
                "`manifest-sync verify` names the files that are affected",
            ) from None
        return body

    def _get_page(self, ref: PageRef) -> bytes:
        key = page_key(ref.session, ref.id)
        try:
            # What does not compress is stored a little longer than it is.
            found = self.store.get(key, max_bytes=ref.raw + 1024)
        except NotFound:
            raise Damaged(
                f"{key} is missing from {self.store.location}; it lists {ref.files} files",
                "a machine that has the page cached can still pull and push",
            ) from None
        assert found is not None
        return found.body


def parse_listed(ref: PageRef, body: bytes) -> list[Entry]:
    """A page's entries, which must also be what the head says of the page, or pages could overlap."""
    raw = decompress(body, ref.raw)
    entries = parse_page(raw, ref.id)
    listed = (ref.first, ref.last, ref.files, ref.bytes, ref.raw)
    if (entries[0].path, entries[-1].path, len(entries), sum(e.size for e in entries), len(raw)) != listed:
        raise FormatError(f"page {ref.id} is not what the head says of it")
    return entries

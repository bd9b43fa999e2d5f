"""Looking back: the log, and the files of one snapshot. Nothing here changes anything, in any place.

Everything is read through one head. An object that is not there is damage, unless a newer head says that
its snapshot was collected meanwhile.
"""

from __future__ import annotations

import difflib
import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from manifest_sync.difference import Difference, compare_entries, different_pages
from manifest_sync.errors import Contended, Damaged, StoreUnavailable, UsageError
from manifest_sync.fetch import MissingContent, fetch_in_order
from manifest_sync.index.index import Index
from manifest_sync.manifest import Manifest
from manifest_sync.model import Entry, EntryType, Path, display
from manifest_sync.observe import iter_entries, touches
from manifest_sync.pages import PageRef
from manifest_sync.repository import Head, Repository
from manifest_sync.scope import Scope
from manifest_sync.snapshots import Link, Snapshots, missing
from manifest_sync.times import parse_rfc3339

EVERYTHING = Scope.everything()
_KEPT_PAGES = 64


class PagesSeen:
    """A page cache that reads this machine's index and keeps what is new in memory, the last pages only.

    Nothing is written, so that a look back neither needs the lock nor waits for who holds it.
    """

    def __init__(self, index: Index) -> None:
        self._index: Index | None = index
        self._recent: dict[str, bytes] = {}

    def load_page_body(self, page_id: str) -> bytes | None:
        """See `page_reader.PageCache`."""
        body = self._recent.get(page_id)
        if body is None and self._index is not None:
            try:
                body = self._index.load_page_body(page_id)
            except Contended:  # another run is writing: do without
                self._index = None
        return body

    def save_page_bodies(self, pages: Iterable[tuple[PageRef, bytes]]) -> None:
        """See `page_reader.PageCache`."""
        self._recent.update((ref.id, body) for ref, body in pages)
        while len(self._recent) > _KEPT_PAGES:
            del self._recent[next(iter(self._recent))]


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One snapshot as ``log`` shows it. Of one that cannot be read only the first two fields are known."""

    sequence: int
    id: str
    time: datetime | None = None
    host: str = ""
    machine: str = ""
    message: str = ""
    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    files_change: int | None = None
    """Against the parent's; None where that is not kept or not readable."""
    bytes_change: int | None = None
    is_collection: bool = False
    """Published by ``gc``: its fence is above the parent's."""
    has_older: bool = False
    pins: tuple[str, ...] = ()
    problem: str = ""
    """Why it cannot be read; empty when it can."""
    hint: str = ""


@dataclass(slots=True)
class History:
    """What one head leads back to.

    Args:
        jobs: requests under way at once.
        now: the present, in the zone in which times are meant.
    """

    repository: Repository
    head: Head
    jobs: int
    now: datetime
    snapshots: Snapshots = field(init=False)
    _fresh: Head | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.snapshots = Snapshots(self.repository, self.head)

    def at(self, text: str) -> Manifest:
        """The snapshot that ``text`` means (see `Snapshots.find`), the head when it is empty.

        Raises:
            UsageError: nothing or more than one is meant.
            Damaged: it is missing or unreadable.
        """
        if not text:
            return self.head.manifest
        try:
            return self.snapshots.find(text, self.now)
        except Damaged:
            if self._now_head().etag == self.head.etag:
                raise
            return Snapshots(self.repository, self._now_head()).find(text, self.now)

    def log(self, count: int | None = None, scope: Scope = EVERYTHING) -> Iterator[LogRecord]:
        """The newest ``count`` snapshots (None: all), newest first, and one more is read to compare with.

        With a scope only those in which something there is not as in the one before; of the oldest that is
        kept nothing is known before it, so it counts if it has something there.

        A snapshot that cannot be read is told as such and does not hide the others.
        """
        links = self.snapshots.iter_links()
        if count is not None and scope.is_everything:
            links = itertools.islice(links, count + 1)
        shown = 0
        newer: tuple[Link, Manifest | Damaged] | None = None
        try:
            for pair in self._iter_loaded(links):
                if not self._is_kept(*pair):
                    continue
                if newer is not None and (found := self._shown(newer[1], pair[1], scope)) is not None:
                    yield self._record(newer[0], found, pair[1], has_older=True)
                    shown += 1
                    if shown == count:
                        return
                newer = pair
        except Damaged as lost:
            # A history block: what lies behind it cannot even be named.
            if newer is not None:
                yield self._record(*newer, None, has_older=True)
                yield LogRecord(newer[0].sequence - 1, "", problem=lost.message, hint=lost.hint)
            return
        if newer is not None and (found := self._shown(newer[1], None, scope)) is not None:
            yield self._record(newer[0], found, None, has_older=False)

    def _shown(
        self, found: Manifest | Damaged, older: Manifest | Damaged | None, scope: Scope
    ) -> Manifest | Damaged | None:
        """What to show of a snapshot; None when nothing in the scope changed with it."""
        if scope.is_everything or isinstance(found, Damaged) or isinstance(older, Damaged):
            return found
        try:
            differences = self.differences(() if older is None else older.pages, found.pages, scope)
            return found if next(differences, None) is not None else None
        except Damaged as damage:
            return damage

    def differences(
        self, before: Sequence[PageRef], after: Sequence[PageRef], scope: Scope
    ) -> Iterator[Difference]:
        """What the pages of one snapshot list otherwise than those of another, in path order.

        Raises:
            Damaged: while iterating; a page that is needed is missing or unreadable.
        """
        olds, news = (iter_entries(self.repository, pages, scope) for pages in different_pages(before, after))
        return compare_entries(olds, news)

    def _iter_loaded(self, links: Iterable[Link]) -> Iterator[tuple[Link, Manifest | Damaged]]:
        """Each with its manifest, or with what is wrong with it; fetched ahead, side by side, none kept."""
        ahead: deque[tuple[Link, Future[Manifest | Damaged]]] = deque()
        lost: Damaged | None = None
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="snapshot") as pool:
            try:
                waiting = iter(links)
                while True:
                    try:
                        while len(ahead) <= self.jobs and (link := next(waiting, None)) is not None:
                            ahead.append((link, pool.submit(self._load, link)))
                    except Damaged as damage:  # what was named before it still comes
                        lost, waiting = damage, iter(())
                    if not ahead:
                        break
                    first, future = ahead.popleft()
                    yield first, future.result()
            finally:
                for _, future in ahead:
                    future.cancel()
        if lost is not None:
            raise lost

    def _load(self, link: Link) -> Manifest | Damaged:
        if link.id == self.head.manifest.snapshot:
            return self.head.manifest
        try:
            found = self.repository.load_snapshot(link.sequence, link.id) if link.stored else None
        except Damaged as damage:
            return damage
        return missing(self.repository, link.sequence, link.id) if found is None else found

    def _is_kept(self, link: Link, outcome: Manifest | Damaged) -> bool:
        """False for what a collection took away since the head was read; only what is not there is asked."""
        if isinstance(outcome, Manifest):
            return True
        return self._keeps(link.sequence, link.id)

    def _keeps(self, sequence: int, id_: str) -> bool:
        """Whether the head as it is now still keeps a snapshot."""
        fresh = self._now_head().manifest
        return sequence >= fresh.oldest or any(pin.snapshot == id_ for pin in fresh.pins)

    def _now_head(self) -> Head:
        """The head as it is now: read once more, and only when something was not there."""
        if self._fresh is None:
            self._fresh = self.repository.load_head(self.head)
        return self._fresh

    def _record(
        self, link: Link, found: Manifest | Damaged, older: Manifest | Damaged | None, *, has_older: bool
    ) -> LogRecord:
        pins = tuple(pin.name for pin in self.head.manifest.pins if pin.snapshot == link.id)
        if isinstance(found, Damaged):
            return LogRecord(
                link.sequence, link.id, has_older=has_older, pins=pins, problem=found.message, hint=found.hint
            )
        parent = older if isinstance(older, Manifest) and older.snapshot == found.parent else None
        return LogRecord(
            sequence=found.sequence,
            id=found.snapshot,
            time=parse_rfc3339(found.time),
            host=found.host,
            machine=found.machine,
            message=found.message,
            files=found.files,
            bytes=found.bytes,
            stored_bytes=found.stored_bytes,
            files_change=None if parent is None else found.files - parent.files,
            bytes_change=None if parent is None else found.bytes - parent.bytes,
            is_collection=parent is not None and found.fence > parent.fence,
            has_older=has_older,
            pins=pins,
        )

    def ls(self, snapshot: Manifest, scope: Scope) -> Iterator[Entry]:
        """The entries of a snapshot in ``scope``, in path order.

        Raises:
            Damaged: a page is missing or unreadable; what the others list has come first.
        """
        lost: dict[PageRef, str] = {}
        with self.explained(snapshot):
            yield from iter_entries(self.repository, snapshot.pages, scope, lost)
            if lost:
                ref, what = min(lost.items(), key=lambda item: item[0].first)
                more = f" (and {len(lost) - 1} pages more)" if len(lost) > 1 else ""
                raise Damaged(
                    f"the list is not whole: {ref.files} files from {display(ref.first)} on: {what}{more}",
                    "`manifest-sync verify` names the damage and what repairs it",
                )

    def read(self, snapshot: Manifest, path: Path) -> Iterator[bytes]:
        """The content of one file from its beginning, every byte verified; of a symlink its target,
        as a line.

        Raises:
            ManifestSyncError: there is no such file; says what is there.
            Damaged: the page or the content is missing or unreadable.
        """
        with self.explained(snapshot):
            entry = self._entry(snapshot, path)
            if entry is None:
                raise self.not_there(snapshot, path)
            if entry.type is EntryType.SYMLINK:
                yield entry.target + b"\n"
                return
            try:
                yield from fetch_in_order(self.repository.store, entry, jobs=self.jobs)
            except MissingContent as missing_content:
                raise missing_content.as_damage(self.repository.store.location) from None

    @contextmanager
    def explained(self, *used: Manifest) -> Iterator[None]:
        """What is damaged may only have been collected since the head was read: say which it is."""
        try:
            yield
        except Damaged as damage:
            for manifest in used:
                if not self._keeps(manifest.sequence, manifest.snapshot):
                    raise StoreUnavailable(
                        f"sequence {manifest.sequence} was collected by another machine while it was read",
                        "run the same command again; `manifest-sync log` lists what is kept",
                    ) from damage
            raise

    def _entry(self, snapshot: Manifest, path: bytes) -> Entry | None:
        """The entry of a path, None when there is none."""
        number = bisect_left(snapshot.pages, path, key=lambda page: page.last)
        if number == len(snapshot.pages) or snapshot.pages[number].first > path:
            return None
        entries = self.repository.load_page(snapshot.pages[number])
        place = bisect_left(entries, path, key=lambda entry: entry.path)
        return entries[place] if place < len(entries) and entries[place].path == path else None

    def _names_around(self, snapshot: Manifest, folder: bytes, path: bytes) -> list[bytes]:
        """Names directly in ``folder``: those in the page where ``path`` would stand, else in another one."""
        prefix = folder + b"/" if folder else b""
        regions = [(prefix, folder + b"0")]
        pages = [page for page in snapshot.pages if not folder or touches(page, regions)]
        place = bisect_left(pages, path, key=lambda page: page.last)
        names: dict[bytes, None] = {}
        for page in (*pages[place : place + 1], *pages[:1], *pages[1:2]):
            for entry in () if names else self.repository.load_page(page):
                if entry.path.startswith(prefix):
                    names.setdefault(entry.path[len(prefix) :].partition(b"/")[0])
        return list(names)

    def not_there(self, snapshot: Manifest, path: bytes) -> UsageError:
        """Why ``path`` is no file there, and what is nearest to it."""
        place = f"in sequence {snapshot.sequence}"
        if not path or self._names_around(snapshot, path, path):
            named = display(Path(path)) or "the root"
            return UsageError(
                f"{named} is a folder {place}, not a file", f"`manifest-sync ls {named}` lists what is in it"
            )
        folder, _, name = path.rpartition(b"/")
        while folder and not (names := self._names_around(snapshot, folder, path)):
            if self._entry(snapshot, folder) is not None:
                return UsageError(
                    f"{display(Path(path))} is not {place}", f"{display(Path(folder))} is a file there"
                )
            folder, _, name = folder.rpartition(b"/")
        names = self._names_around(snapshot, folder, path)
        close = difflib.get_close_matches(display(Path(name)), [display(Path(n)) for n in names], 1)
        prefix = display(Path(folder + b"/")) if folder else ""
        hint = (
            f"the nearest folder there is {prefix.rstrip('/') or 'the root'}"
            if names
            else "that snapshot is empty"
        )
        if close:
            hint = f"did you mean {prefix}{close[0]}?"
        return UsageError(f"{display(Path(path))} is not {place}", hint)

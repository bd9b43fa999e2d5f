"""Adopt: objects that other tools put into a bucket under plain names become entries, where they lie.

list → compare with the head → read what is new (here, if the file is here) → list again: did it hold still? →
publish. Nothing is written outside the repository, then or later.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import structs

from manifest_sync import observe, statcache
from manifest_sync.adopt.judge import NEEDS_READING, Verdict, judge
from manifest_sync.adopt.past import learn_past
from manifest_sync.adopt.read import EMPTY, Hashed, Streamed, Streamer, match_here
from manifest_sync.adopt.report import AdoptReport
from manifest_sync.adopt.source import Source
from manifest_sync.chunker import DEFAULT
from manifest_sync.diff import clashes
from manifest_sync.errors import ManifestSyncError
from manifest_sync.externals import MAX_URL, is_etag, is_own, object_url, packs_of
from manifest_sync.index import records
from manifest_sync.index.adopted import Outsider
from manifest_sync.index.index import Row
from manifest_sync.landing import settle
from manifest_sync.model import UNREAD, Entry, Path, display, file_state
from manifest_sync.pages import MAX_CHUNKS, TOO_LARGE
from manifest_sync.pathrules import check_path
from manifest_sync.publishing import Publishing
from manifest_sync.races import until_published
from manifest_sync.repository import Head, Raced
from manifest_sync.scope import Scope
from manifest_sync.statcache import trust
from manifest_sync.stores.base import Listed
from manifest_sync.upload import drop_collected
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Changing, Unreadable, Vanished, is_regular

MAX_ROUNDS = 3
"""How often what has changed meanwhile is listed and read anew."""
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class AdoptOptions:
    """One adoption, as asked for."""

    scope: Scope
    dry_run: bool = False
    message: str = ""


def adopt(ws: Workspace, source: Source, options: AdoptOptions) -> AdoptReport:
    """Take over what lies at ``source``.

    Raises:
        ManifestSyncError: nothing is there.
        Contended: other machines published first, too often.
        StoreUnavailable, AccessDenied: the store failed; what was read is remembered.
    """
    return _Adoption(ws, source, options).run()


class _Adoption:
    def __init__(self, ws: Workspace, source: Source, options: AdoptOptions) -> None:
        self._ws = ws
        self._source = source
        self._scope = options.scope
        self._options = options
        self._report = AdoptReport(source.url, options.dry_run)
        self._place = ws.repository.store.beside(source.place)
        self._listing = 0
        self._refused: dict[Path, str] = {}
        self._unread: dict[Path, str] = {}
        self._hopeless: dict[Path, str] = {}
        self._hashed: list[Hashed] = []
        self._matched: list[Entry] = []
        self._writer = ws.writer()
        self._known: dict[str, bool] = {}
        self._clock = 0

    def run(self) -> AdoptReport:
        """List, read, and publish."""
        ws, report = self._ws, self._report
        observe.check_root(ws)
        settle(ws)
        head = observe.load_head(ws)
        observed = statcache.scan(ws, self._scope)
        self._clock = observed.clock
        for _ in range(1 if self._options.dry_run else MAX_ROUNDS):
            self._list()
            self._learn(head)
            if not self._read(head):
                break
        if self._options.dry_run:
            self._plan(head)
        else:
            head = until_published(ws, head, self._publish, "run it again: what was read is kept")
        if not report.snapshot:
            report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
        report.skipped = sorted({**self._refused, **self._hopeless, **self._unread}.items())
        return report

    # --- listing

    def _list(self) -> None:
        report, index = self._report, self._ws.index
        report.listed = report.excluded = 0
        self._refused = {}
        self._listing = index.begin_listing()
        index.note_listed(self._listing, self._iter_found())
        if not report.listed:
            raise ManifestSyncError(
                f"there is no object at {self._source.url}",
                "check the URL: it names the folder that is to become the root, such as s3://bucket/prefix",
            )

    def _iter_found(self) -> Iterator[Outsider]:
        """The objects that are ours to take, under their paths."""
        source, report, ws = self._source, self._report, self._ws
        for only in self._scope.only or (Path(b""),):
            for item in self._place.list(source.prefix + only.decode("utf-8", "surrogateescape")):
                name = item.key.removeprefix(source.prefix)
                if item.key.endswith("/") and not item.size:
                    continue  # the marker of a folder
                if source.own is not None and item.key.startswith(source.own):
                    within = item.key.removeprefix(source.own)
                    if is_own(within):
                        continue
                path = Path(name.encode("utf-8", "surrogateescape"))
                report.listed += 1
                url = object_url(source.place, item.key)
                reason = check_path(path) or _problem(item, url)
                if reason:
                    self._refused[path] = reason
                elif not self._scope.contains(path) or not ws.ownership.file_is_ours(path):
                    report.excluded += 1
                else:
                    modified = int(item.modified * 1e9)
                    yield Outsider(path, url, item.etag, item.size, modified)

    # --- comparing

    def _compared(self, head: Head) -> Iterator[tuple[Outsider, Entry | None, Entry | None, Verdict]]:
        """Each object with its entry, what the head has at its path, and what becomes of it."""
        entries = self._iter_head(head)
        current = next(entries, None)
        for found in self._ws.index.iter_listed(self._listing):
            while current is not None and current.path < found.path:
                current = next(entries, None)
            there = current if current is not None and current.path == found.path else None
            entry = None if found.entry is None else records.parse_entry(found.path, found.entry)
            published = bool(found.snapshot) and self._was_published(found.snapshot, head)
            yield found, entry, there, judge(found, entry, there, published=published)

    def _iter_head(self, head: Head) -> Iterator[Entry]:
        regions = observe.scope_regions(self._scope)
        pages = [page for page in head.manifest.pages if observe.touches(page, regions)]
        for _, entries in self._ws.repository.load_pages(pages):
            yield from entries

    def _was_published(self, snapshot: str, head: Head) -> bool:
        if snapshot not in self._known:
            self._known[snapshot] = self._ws.repository.is_ancestor(snapshot, head)
        return self._known[snapshot]

    def _learn(self, head: Head) -> None:
        """If others adopted from here before, find out what they did with what seems to be new."""
        before = offered = False
        for found, _, there, verdict in self._compared(head):
            before = before or bool(there and packs_of(there))
            offered = offered or (not found.snapshot and verdict in (Verdict.NEW, Verdict.CONFLICT))
            if before and offered:
                learn_past(self._ws, head, self._listing)
                return

    # --- reading

    def _read(self, head: Head) -> int:
        """Read what has to be read; how many objects were."""
        self._unread = {}
        streamer = Streamer(self._ws, self._place, self._keep)
        files, size = self._ws.index.count_unread(self._listing)
        self._ws.progress.begin("transfer", files=files, bytes_=size)
        count = 0

        def elsewhere() -> Iterator[Outsider]:
            nonlocal count
            for found, entry, _, verdict in self._compared(head):
                if entry is None and verdict in NEEDS_READING and found.path not in self._hopeless:
                    count += 1
                    if not self._match(streamer, found):
                        yield found

        try:
            if self._options.dry_run:
                for found in elsewhere():
                    self._report.to_read += 1
                    self._report.to_read_bytes += found.size
            else:
                streamer.run(elsewhere())
        finally:
            self._keep_matched()
            self._report.bytes += streamer.bytes
        self._ws.progress.end("transfer")
        return count

    def _match(self, streamer: Streamer, found: Outsider) -> bool:
        """Whether the object need not be fetched: it is empty, or it is a file here."""
        if not found.size:
            self._matched.append(streamer.entry(found, EMPTY))
            return True
        content, hashed = match_here(self._ws, found)
        if hashed is not None:
            self._hashed.append(hashed)
        if content is not None and hashed is not None:
            self._ws.progress.advance("transfer", files=1, bytes_=found.size)
            self._matched.append(streamer.entry(found, content, hashed.stat.mtime_ns))
        if len(self._matched) + len(self._hashed) >= _BATCH:
            self._keep_matched()
        return content is not None

    def _keep_matched(self) -> None:
        """Write down what was read here: the stat cache is right about it too."""
        ws = self._ws
        with ws.index.transaction():
            ws.index.put_local(
                (h.path, h.stat, h.state, trust(ws, h.stat, self._clock)) for h in self._hashed
            )
            ws.index.put_read((entry.path, records.encode_entry(entry)) for entry in self._matched)
        self._hashed, self._matched = [], []

    def _keep(self, done: list[Streamed]) -> None:
        """Write down what was read elsewhere: a killed adopt need not read it again."""
        read = [item.entry for item in done if item.entry is not None]
        self._ws.index.put_read((entry.path, records.encode_entry(entry)) for entry in read)
        self._report.read += len(read)
        for item in done:
            if item.entry is None:
                (self._unread if item.retry else self._hopeless)[item.found.path] = item.problem

    # --- publishing

    def _publish(self, head: Head) -> Head | Raced:
        ws = self._ws
        ws.index.plan_reset()
        drop_collected(ws, head)
        self._plan(head)
        if not ws.index.has_planned():
            return head
        message = self._options.message or f"adopt {display(os.fsencode(self._source.url))}"
        commit = ws.commit(ws.new_session(head.manifest.fence), message)
        outcome = Publishing(ws, head, self._scope).publish(
            commit, lambda manifest: ws.index.note_adopting(self._listing, manifest.snapshot)
        )
        if isinstance(outcome, Head):
            self._report.snapshot, self._report.sequence = commit.snapshot, head.manifest.sequence + 1
        return outcome

    def _plan(self, head: Head) -> None:
        """Decide about each object, and without a dry run put what is adopted into the plan."""
        report = self._report
        report.new = report.changed = report.unchanged = report.superseded = 0
        report.matched = report.differing = report.adopted_bytes = 0
        report.conflicts, report.paths = [], []
        blocked = clashes(self._present(head))
        planned: list[_Planned] = []
        for found, entry, _, verdict in self._compared(head):
            if verdict is Verdict.UNCHANGED:
                report.unchanged += 1
            elif verdict is Verdict.SUPERSEDED:
                report.superseded += 1
            elif verdict is Verdict.CONFLICT or found.path in blocked:
                report.conflicts.append(found.path)
            elif entry is not None or self._options.dry_run:
                report.new += verdict is Verdict.NEW
                report.changed += verdict is Verdict.CHANGED
                report.adopted_bytes += found.size
                if self._options.dry_run:
                    report.paths.append(found.path)
                if entry is not None:
                    planned.append(self._look(entry))
            elif found.path not in self._unread:
                self._unread[found.path] = "another machine changed what the bucket has of it; adopt it again"
            if len(planned) >= _BATCH:
                self._put(planned, head)
                planned = []
        self._put(planned, head)

    def _present(self, head: Head) -> Iterator[Path]:
        """The paths that there would be, in order."""
        coming = (
            found.path
            for found, _, _, verdict in self._compared(head)
            if verdict in (Verdict.NEW, Verdict.CHANGED)
        )
        previous = None
        for path in heapq.merge((entry.path for entry in self._iter_head(head)), coming):
            if path != previous:
                yield path
            previous = path

    def _look(self, entry: Entry) -> _Planned:
        """The entry to be published; with time and permissions of the file here, if that has the content."""
        ws, report = self._ws, self._report
        row = ws.index.row(entry.path)
        if row is None or row.stat is None or not row.local or not is_regular(row.stat):
            row = self._hash(entry, row)
        entry = structs.replace(entry, writer=self._writer)
        if row is None or row.stat is None or row.local is None:
            return _Planned(entry, agreed=False)
        if row.local[1:] != entry.hash:
            report.differing += 1
            return _Planned(entry, agreed=False)
        report.matched += 1
        stat = row.stat
        return _Planned(structs.replace(entry, mtime_ns=stat.mtime_ns, mode=stat.mode & 0o777), agreed=True)

    def _hash(self, entry: Entry, row: Row | None) -> Row | None:
        """The row of a file that was not hashed yet, hashed if it may be the object."""
        if row is None or row.stat is None or row.local != UNREAD or row.stat.size != entry.size:
            return row
        try:
            digest, stat = self._ws.worktree.hash_file(entry.path)
        except (Changing, Vanished, Unreadable):
            return row
        state = file_state(digest, stat)
        self._ws.index.put_local([(entry.path, stat, state, trust(self._ws, stat, self._clock))])
        return row._replace(stat=stat, local=state)

    def _put(self, planned: list[_Planned], head: Head) -> None:
        if self._options.dry_run:
            return
        for agreed in (True, False):
            self._ws.index.put_pending(
                (
                    (p.entry.path, p.entry.state, records.encode_entry(p.entry), head.manifest.fence)
                    for p in planned
                    if p.agreed is agreed
                ),
                becomes_base=agreed,
            )


@dataclass(frozen=True, slots=True)
class _Planned:
    """An entry to be published; ``agreed``: the file here is the same."""

    entry: Entry
    agreed: bool


def _problem(item: Listed, url: str) -> str:
    """Why an object cannot be adopted whatever its path is, or ''."""
    if item.size > MAX_CHUNKS * DEFAULT.max:
        return TOO_LARGE
    if len(url) > MAX_URL:
        return "its URL is too long for a page"
    if item.etag and (not is_etag(item.etag) or item.etag.startswith("W/")):
        return "the store gives it no ETag that it can be asked for by"
    return ""

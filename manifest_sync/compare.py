"""Diff: between two snapshots, and between a snapshot and the tree here. Only the stat cache is written.

Only what can differ is opened: of two snapshots the pages that are not the same in both; against the tree
the rows that differ from the head, and all rows only where the snapshot's pages are not the head's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from manifest_sync import observe, statcache
from manifest_sync.difference import (
    Difference,
    Range,
    different_pages,
    spans_of,
    split_ranges,
    version_here,
    version_of,
)
from manifest_sync.errors import Damaged
from manifest_sync.history import History
from manifest_sync.index.index import NOWHERE, Row
from manifest_sync.landing import settle
from manifest_sync.manifest import Manifest
from manifest_sync.model import SPECIAL, UNREAD, Entry, Path, Stat, State, file_state
from manifest_sync.pages import PageRef
from manifest_sync.races import load_reflected_head
from manifest_sync.scope import Scope
from manifest_sync.statcache import Observed
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Changing, Unreadable, Vanished

_HASH_BATCH = 1000


@dataclass(slots=True)
class Comparison:
    """What is compared, and an iterator over what differs, in path order."""

    before: Manifest
    after: Manifest | None
    """None: the tree here."""
    differences: Iterator[Difference]
    skipped: dict[Path, str]
    """What could not be seen or read here, and why: it is in neither list. Complete at the end."""


def between(history: History, before: Manifest, after: Manifest, scope: Scope) -> Comparison:
    """What one snapshot has otherwise than another.

    Raises:
        Damaged: while iterating; a page that is needed is missing or unreadable.
    """

    def differences() -> Iterator[Difference]:
        with history.explained(before, after):
            yield from history.differences(before.pages, after.pages, scope)

    return Comparison(before, after, differences(), {})


def with_tree(ws: Workspace, text: str, scope: Scope) -> Comparison:
    """What the tree has otherwise than a snapshot, as far as the paths are the bucket's.

    Args:
        text: what the snapshot is called (see `Snapshots.find`); empty for the head.

    Raises:
        UsageError: no snapshot is meant.
        Damaged: the snapshot, or while iterating a page, is missing or unreadable.
    """
    observe.check_root(ws)
    settle(ws)
    head, lost = load_reflected_head(ws, scope)
    if lost:
        # What is not known cannot be compared.
        raise Damaged(next(iter(lost.reasons.values())), "`manifest-sync verify` says what repairs it")
    history = History(ws.repository, head, ws.jobs, ws.now())
    manifest = history.at(text)
    observed = statcache.scan(ws, scope)
    if manifest.snapshot == head.manifest.snapshot:
        observe.note_nowhere(ws, scope)
    look = _Look(ws, head.manifest, manifest, scope, observed)

    def differences() -> Iterator[Difference]:
        with history.explained(manifest):
            yield from look.differences()

    return Comparison(manifest, None, differences(), observed.skipped)


class _Look:
    """A snapshot beside a tree that was just scanned; the index knows what the head holds."""

    def __init__(
        self, ws: Workspace, head: Manifest, snapshot: Manifest, scope: Scope, observed: Observed
    ) -> None:
        self._ws = ws
        self._head = head
        self._snapshot = snapshot
        self._scope = scope
        self._observed = observed
        self._page: tuple[PageRef, list[Entry]] | None = None
        self._hashed: list[tuple[Path, Stat | None, State | None, int]] = []

    def differences(self) -> Iterator[Difference]:
        """In path order."""
        spans = spans_of(
            page for pages in different_pages(self._snapshot.pages, self._head.pages) for page in pages
        )
        self._ws.progress.begin("hash")
        for piece, is_other in split_ranges(self._scope.ranges(), spans):
            for row, entry in self._all_pairs(piece) if is_other else self._drifted_pairs(piece):
                found = self._compare(row, entry)
                if found is not None:
                    yield found
        self._ws.index.put_local(self._hashed)
        self._ws.progress.end("hash")

    def _drifted_pairs(self, piece: Range) -> Iterator[tuple[Row, Entry | None]]:
        """Where the snapshot says what the head says: only rows that differ from the head."""
        for row in self._ws.index.iter_drift([piece]):
            if not self._is_looked_at(row.path):
                continue
            known = row if row.remote is None else self._known(row)
            if known is not None and known.local != known.remote:
                yield known, None if known.remote is None else self._entry(known.path)

    def _all_pairs(self, piece: Range) -> Iterator[tuple[Row, Entry | None]]:
        """Where the snapshot may say something else: every row here beside every entry there."""
        dropped = frozenset(self._ws.index.iter_dropped([piece]))
        rows = (row for row in self._ws.index.iter_rows([piece]) if row.local is not None)
        row = next(rows, None)
        pages = [page for page in self._snapshot.pages if observe.touches(page, [piece])]
        for _, entries in self._ws.repository.load_pages(pages):
            for entry in entries:
                if not piece[0] <= entry.path < piece[1]:
                    continue
                while row is not None and row.path < entry.path:
                    yield row, None
                    row = next(rows, None)
                if row is not None and row.path == entry.path:
                    yield row, entry
                    row = next(rows, None)
                elif entry.path not in dropped:
                    yield Row(entry.path, *NOWHERE), entry
        while row is not None:
            yield row, None
            row = next(rows, None)

    def _compare(self, row: Row, entry: Entry | None) -> Difference | None:
        if not self._is_looked_at(row.path):
            return None
        known = row if entry is None else self._known(row)
        if known is None:
            return None
        row = known
        if row.local == (entry.state if entry is not None else None):
            return None
        if row.local == SPECIAL and entry is None:
            return None
        return Difference(
            row.path,
            None if entry is None else version_of(entry),
            None if row.local is None else version_here(row.local, row.stat),
        )

    def _known(self, row: Row) -> Row | None:
        """The row with its content known; None when it cannot be read."""
        if row.local != UNREAD:
            return row
        try:
            digest, stat = self._ws.worktree.hash_file(row.path)
        except Vanished:
            return row._replace(stat=None, local=None)
        except (Changing, Unreadable) as error:
            self._observed.skipped[row.path] = error.reason
            return None
        self._ws.progress.advance("hash", files=1, bytes_=stat.size)
        state = file_state(digest, stat)
        self._hashed.append((row.path, stat, state, statcache.trust(self._ws, stat, self._observed.clock)))
        if len(self._hashed) >= _HASH_BATCH:
            self._ws.index.put_local(self._hashed)
            self._hashed = []
        return row._replace(stat=stat, local=state)

    def _is_looked_at(self, path: Path) -> bool:
        return (
            self._scope.contains(path)
            and not self._observed.is_hidden(path)
            and self._ws.ownership.file_is_ours(path)
        )

    def _entry(self, path: Path) -> Entry | None:
        """The snapshot's entry of a path; paths are asked in order, so a page is opened once."""
        if self._page is None or not self._page[0].first <= path <= self._page[0].last:
            number = bisect_left(self._snapshot.pages, path, key=lambda page: page.last)
            page = self._snapshot.pages[number]
            self._page = page, self._ws.repository.load_page(page)
        entries = self._page[1]
        return entries[bisect_left(entries, path, key=lambda entry: entry.path)]

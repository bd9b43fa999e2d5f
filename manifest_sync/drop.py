"""Drop: free the disk of files that the bucket holds, without that looking like a deletion.

scan → only what is in sync → its packs and pages are there → mark → take away → forget the content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manifest_sync import manifest as fmt
from manifest_sync import observe, statcache
from manifest_sync.diff import Case, classify
from manifest_sync.errors import UsageError
from manifest_sync.index.index import Row
from manifest_sync.landing import Landing, settle
from manifest_sync.model import Entry, Path, display
from manifest_sync.outside import Outside
from manifest_sync.races import load_reflected_head
from manifest_sync.report import RunReport
from manifest_sync.repository import Head
from manifest_sync.scope import Scope
from manifest_sync.trash import iter_runs
from manifest_sync.workspace import Workspace

_BATCH = 4096


def drop(ws: Workspace, paths: Sequence[Path], *, dry_run: bool = False) -> RunReport:
    """Remove local copies at or below ``paths`` that are the same in the bucket.

    What differs from the bucket stays and is counted in ``left``; what the bucket lacks although its head
    names it stays and is reported as damage.

    Raises:
        UsageError: no path, or nothing is at one of them.
    """
    if not paths:
        raise UsageError("drop needs a path", "name the folders or files whose local copies may go")
    scope = Scope(tuple(paths))
    report = RunReport("drop", "", dry_run)
    observe.check_root(ws)
    settle(ws)
    head, lost = load_reflected_head(ws, scope)
    observed = statcache.scan(ws, scope)
    observed.lost = lost
    statcache.hash_unread(ws, scope, observed)
    observe.agree(ws, scope, observed)
    for row in observe.iter_rows(ws, scope, observed):
        if row.local is not None:
            case = classify(row.local, row.base, row.remote)
            report.left[case.value] = report.left.get(case.value, 0) + 1
    if not dry_run:
        _finish_earlier(ws)
    there = _Presence(ws)
    landing = Landing(ws, "drop " + " ".join(display(path) for path in paths))
    with landing:
        batch: list[tuple[Row, Entry]] = []
        for row, entry in _candidates(ws, head, scope):
            missing = there.missing(entry)
            if missing:
                report.damaged.append((row.path, missing))
                continue
            batch.append((row, entry))
            if len(batch) >= _BATCH:
                _take_away(ws, landing, batch, report)
                batch = []
        _take_away(ws, landing, batch, report)
    if not landing.kept:
        _check_found(ws, paths, report)
    report.conflicts = sorted(landing.changed)
    report.skipped = sorted({**observed.skipped, **landing.skipped}.items())
    report.run = landing.run
    report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
    return report


def _finish_earlier(ws: Workspace) -> None:
    """Free what a drop that was killed had moved to the trash, as far as the head holds it."""
    for run in iter_runs(ws):
        if run.header.command.startswith("drop "):
            for kept in run.files:
                if not kept.is_sole:
                    ws.worktree.trash().discard(run.header.run, kept.number)


def _candidates(ws: Workspace, head: Head, scope: Scope) -> Iterator[tuple[Row, Entry]]:
    """Rows that are in sync and here, with their entries, in path order."""
    regions = scope.ranges()
    pages = [page for page in head.manifest.pages if observe.touches(page, regions)]
    rows = (row for row in ws.index.iter_rows(regions) if row.local is not None)
    row = next(rows, None)
    for _, entries in ws.repository.load_pages(pages):
        for entry in entries:
            while row is not None and row.path < entry.path:
                row = next(rows, None)
            if row is not None and row.path == entry.path:
                if classify(row.local, row.base, row.remote) is Case.IN_SYNC and row.local == entry.state:
                    yield row, entry
                row = next(rows, None)


def _take_away(ws: Workspace, landing: Landing, batch: list[tuple[Row, Entry]], report: RunReport) -> None:
    """Free the disk of a batch, and count what of it is gone; with a dry run, what would be."""
    kept: set[Path] = set()
    if batch and not report.dry_run:
        before = landing.steps
        landing.remove([row for row, _ in batch], lambda row: row.base, is_drop=True)
        # Moved first and removed then: what changed at the last moment has been put back.
        trash = ws.worktree.trash()
        for number in range(before, landing.steps):
            trash.discard(landing.run, number)
        kept = {*landing.changed, *landing.skipped}
        ws.index.undrop(kept)
    gone = [entry.size for row, entry in batch if row.path not in kept]
    report.deleted += len(gone)
    report.bytes += sum(gone)


def _check_found(ws: Workspace, paths: Sequence[Path], report: RunReport) -> None:
    if report.deleted or report.left or report.damaged:
        return
    for path in paths:
        if not ws.index.count_dropped(Scope((path,)).ranges()) and ws.worktree.lstat(path) is None:
            raise UsageError(f"{display(path)}: nothing is there", "paths are relative to the root")


class _Presence:
    """Whether the packs that entries need are in the bucket with the right size, one listing a session."""

    def __init__(self, ws: Workspace) -> None:
        self._store = ws.repository.store
        self._outside = Outside(self._store)
        self._sessions: dict[str, dict[str, int]] = {}

    def missing(self, entry: Entry) -> str:
        """Why an entry cannot be relied on, or ''."""
        for chunk in entry.chunks:
            pack = chunk.frame.pack
            if pack.is_external:
                if what := self._outside.fault(pack):
                    return f"{pack.url}: {what}"
                continue
            if pack.session not in self._sessions:
                listed = self._store.list(f"packs/{pack.session}/")
                self._sessions[pack.session] = {item.key: item.size for item in listed}
            key = fmt.pack_key(pack.session, pack.id)
            size = self._sessions[pack.session].get(key)
            if size != pack.size:
                return f"{key} is missing from the bucket" if size is None else f"{key} has the wrong size"
        return ""

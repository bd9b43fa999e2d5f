"""Bringing the index up to date with both sides, before anything is decided.

First `landing.settle` what an interrupted run left in the journal, and `load_head`. Then `reflect` the head's
pages into the index and `statcache.scan` the worktree: push and pull scan first, because after a lost race
they reflect another head beside the same scan; the other commands reflect first. Then
`statcache.hash_unread`, which needs both, and `iter_rows` gives what differs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from manifest_sync.errors import Damaged, FormatError, ManifestSyncError, WrongRepository
from manifest_sync.index.index import Row
from manifest_sync.lostpages import LostPages
from manifest_sync.model import SPECIAL, UNREAD, Entry, Path, display
from manifest_sync.pages import PageRef
from manifest_sync.report import NOTHING_THERE
from manifest_sync.repository import Head, Repository, parse_head
from manifest_sync.rootcheck import check_same_root
from manifest_sync.scope import Scope
from manifest_sync.statcache import Observed, folders_above
from manifest_sync.stores.base import Object
from manifest_sync.workspace import Workspace

OUTDATED_RUN = "outdated_run"
"""Index note: the bases in the records of this run and of those before it are of a head that was lost."""
JOURNAL = "journal"
"""Index note: run and number of the first step that may have been taken and is not recorded yet."""
_NOTES = 5
"""So many paths that are nowhere are named."""


def cached_head(ws: Workspace) -> Head | None:
    """The head as this machine saw it last, from the index.

    Raises:
        Damaged: the index holds something else in its place.
    """
    body, etag = ws.index.get_meta("head"), ws.index.get_meta("head_etag")
    if body is None or etag is None:
        return None
    try:
        return parse_head(Object(body.encode(), etag))
    except FormatError as error:
        raise ws.index.damage(f"the head it keeps is none: {error.message}") from error


def save_head(ws: Workspace, head: Head) -> None:
    """Keep a head for the next conditional GET and for the rollback check."""
    manifest = head.manifest
    ws.index.set_meta("head", head.body.decode())
    ws.index.set_meta("head_etag", head.etag)
    ws.index.set_meta("repository", manifest.repository)
    ws.index.set_meta("snapshot", manifest.snapshot)


def load_head(ws: Workspace) -> Head:
    """The head of the bucket, checked to descend from the one seen last, and the push journal settled."""
    cached = cached_head(ws)
    head = ws.repository.load_head(cached)
    goes_back = False
    if cached is None or head.etag != cached.etag:
        known, seen = ws.index.get_meta("repository"), ws.index.get_meta("snapshot")
        try:
            ws.repository.check_descends(head, repository=known, snapshot=seen)
        except WrongRepository:
            raise
        except Damaged:
            # Rolled back, or too little of the history is left to tell.
            if not ws.accept_rollback:
                raise
            goes_back = True
    attempt = ws.index.get_meta("attempt")
    with ws.index.transaction():
        if attempt is not None:
            if ws.repository.is_ancestor(attempt, head):
                ws.index.publish_planned()
            ws.index.set_meta("attempt", None)
        if goes_back:
            _go_back(ws, head)
        save_head(ws, head)
    return head


def _go_back(ws: Workspace, head: Head) -> None:
    """Go on with a head that does not descend from the one seen last.

    What was agreed with the heads in between proves nothing about this one: a base that is not what this
    head says is forgotten, so that nothing here is overwritten or deleted for it (P11). What was uploaded
    for them may be gone, and the fences noted with it are of a history that the bucket has left.
    """
    if ws.index.get_meta(JOURNAL) is not None:
        raise ManifestSyncError(
            "a run was interrupted here; what it did has to be settled before the older head is accepted",
            "run `manifest-sync status --accept-rollback` first",
        )
    ws.index.clear_pending()
    ws.index.clear_sent()
    runs = ws.worktree.trash().runs() if ws.worktree.exists() else []
    if runs:
        ws.index.set_meta(OUTDATED_RUN, runs[0].run)
    lost = reflect(ws, head, Scope.everything())
    ws.index.forget_base(where_remote_differs=not lost)


def reflect(ws: Workspace, head: Head, scope: Scope) -> LostPages:
    """Bring the ``remote`` column up to ``head`` wherever ``scope`` reaches.

    Pages that are reflected but no longer in the head are taken back first; what they covered is then
    read again even outside the scope, so that no row is left with a state of no page.

    Returns:
        The pages that cannot be read: what they list stays unknown, which is not the same as absent. If
        there is another head by now, they may just have been collected.
    """
    live = {page.id: page for page in head.manifest.pages}
    reflected = {page_id: (first, last) for page_id, first, last in ws.index.reflected_ranges()}
    stale = [(page_id, *span) for page_id, span in reflected.items() if page_id not in live]
    missing = [page for page in head.manifest.pages if page.id not in reflected]
    if not stale and not missing:
        return LostPages()
    regions = [
        *scope_regions(scope),
        *((first, last + b"\x00") for _, first, last in stale),
    ]
    wanted = [page for page in missing if touches(page, regions)]
    lost: dict[PageRef, str] = {}
    with ws.index.transaction():
        for page_id, first, last in stale:
            ws.index.unreflect_page(page_id, first, last)
        for page, entries in ws.repository.load_pages(wanted, lost):
            ws.index.reflect_page(page.id, [(entry.path, entry.state) for entry in entries])
            ws.index.save_chunk_hints(page.id, [chunk.id for entry in entries for chunk in entry.chunks])
        ws.index.drop_pages(set(live))
        if not lost:
            ws.index.forget_gone_drops()
    return LostPages(lost)


def scope_regions(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The scope's byte ranges, and each folder on the way to it as a single path.

    A file in the bucket where this machine has a folder (case 13) is seen only if that path is looked at.
    """
    return sorted([*scope.ranges(), *((path, path + b"\x00") for path in _above(scope))])


def _above(scope: Scope) -> list[Path]:
    """The folders on the way to the scope, in the order of their bytes."""
    return sorted({folder for path in scope.only for folder in folders_above(path)})


def touches(page: PageRef, regions: list[tuple[bytes, bytes]]) -> bool:
    """Whether a page can hold a path of one of the half-open ``regions``."""
    return any(low <= page.last and page.first < high for low, high in regions)


def iter_entries(
    repository: Repository, pages: Iterable[PageRef], scope: Scope, lost: dict[PageRef, str] | None = None
) -> Iterator[Entry]:
    """The entries of those pages that lie in the scope, in path order; no other page is opened.

    Args:
        lost: gets the pages that cannot be read; without it the first one stops the listing.

    Raises:
        Damaged: a page cannot be read, or with ``lost`` too many cannot.
    """
    regions = scope.ranges()
    wanted = [page for page in pages if touches(page, regions)]
    for _, entries in repository.load_pages(wanted, lost):
        yield from (entry for entry in entries if scope.contains(entry.path))


def agree(ws: Workspace, scope: Scope, observed: Observed) -> None:
    """Record as base what is the same on both sides (cases 8 and 12), as far as both are known.

    What this run did not look into is in no case: the index may remember a file there that is long gone.
    """
    ranges = observed.lost.known(scope.ranges())
    if not scope.exclude and not observed.skipped:
        ws.index.agree(ranges)
        return
    ws.index.set_base(
        (row.path, row.remote)
        for row in ws.index.iter_drift(ranges)
        if row.local == row.remote
        and row.local not in (UNREAD, SPECIAL)
        and _is_planned(ws, scope, observed, row.path)
    )


def iter_rows(ws: Workspace, scope: Scope, observed: Observed) -> Iterator[Row]:
    """The rows that differ, in path order: in scope, ours, and seen."""
    for row in ws.index.iter_drift(scope.ranges()):
        if _is_planned(ws, scope, observed, row.path):
            yield row


def iter_outside(ws: Workspace, scope: Scope, observed: Observed, command: str) -> Iterator[Path]:
    """Paths that no plan of this run touches, yet that stand on the side it writes, in path order.

    A planned path must not become a folder of one of them, or the other way round (case 13). Two such
    paths that were both scanned always differ between the sides, so the rows that differ are enough there;
    what lies above the scope was not scanned and is looked up.
    """

    def above() -> Iterator[Path]:
        for path in _above(scope):
            row = ws.index.row(path)
            if row is None or (row.base is None and row.remote is None and row.local == SPECIAL):
                # A symlink or fifo that nobody expects a file at: as in a wider scope, what cannot be brought
                # past it is skipped, with the reason.
                continue
            if (row.remote if command == "push" else row.local) is not None:
                yield path

    def left_out() -> Iterator[Path]:
        for row in ws.index.iter_drift(scope.ranges(), "there" if command == "push" else "here"):
            if not _is_planned(ws, scope, observed, row.path):
                yield row.path

    # What was dropped here stands in the bucket all the same.
    dropped = ws.index.iter_dropped(scope.ranges()) if command == "push" else iter(())
    yield from heapq.merge(above(), left_out(), dropped)


def _is_planned(ws: Workspace, scope: Scope, observed: Observed, path: Path) -> bool:
    return scope.contains(path) and not observed.is_hidden(path) and ws.ownership.file_is_ours(path)


def note_nowhere(ws: Workspace, scope: Scope) -> None:
    """Say which paths of ``--only`` have nothing at them, neither here nor in the bucket as it is known by
    now: else a typing error would look like a run with nothing to do."""
    found = [path for path in scope.only if is_nowhere(ws, path)]
    for path in found[:_NOTES]:
        ws.progress.note(f"{display(path)}: {NOTHING_THERE}")
    if len(found) > _NOTES:
        ws.progress.note(f"and nothing at {len(found) - _NOTES} more of the paths asked for")


def is_nowhere(ws: Workspace, path: Path) -> bool:
    """Whether nothing is at a path, neither here nor in the bucket as it is known by now."""
    if ws.index.has_rows(Scope((path,)).ranges()):
        return False
    try:
        return ws.worktree.lstat(path) is None
    except ManifestSyncError:
        return False


def check_root(ws: Workspace) -> None:
    """Refuse to go on when the root is gone but was known, or is another folder than the one that was: what
    is not there is no evidence of a deletion.

    Raises:
        ManifestSyncError: it is missing.
        IndexDamaged: see `rootcheck.check_same_root`.
    """
    if not ws.worktree.exists() and ws.index.has_base():
        raise ManifestSyncError(
            f"the root folder {ws.worktree.root} is missing, but this machine synced files in it; "
            "nothing was done",
            "mount or restore it; if it is gone for good, run `manifest-sync rebuild-index` and pull again",
        )
    check_same_root(ws)

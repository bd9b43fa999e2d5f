"""Bringing the index up to date with both sides, before anything is decided.

In this order: `landing.settle` what an interrupted run left in the journal, `load_head`, `reflect` the head's
pages into the index, `scan` the worktree, `hash_unread`. Then `iter_rows` gives what differs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from manifest_sync.canonical import hash_bytes
from manifest_sync.diff import needs_hash
from manifest_sync.errors import Damaged, ManifestSyncError, WrongRepository
from manifest_sync.index import Row
from manifest_sync.lostpages import LostPages
from manifest_sync.model import SPECIAL, UNREAD, EntryType, Path, Stat, State, file_state, make_state
from manifest_sync.pages import PageRef
from manifest_sync.repository import Head, parse_head
from manifest_sync.scope import Scope
from manifest_sync.stores.base import Object
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Changing, Listing, Unreadable, Vanished, is_folder, is_regular, is_symlink

_HASH_BATCH = 1000
OUTDATED_RUN = "outdated_run"
"""Index note: the bases in the records of this run and of those before it are of a head that was lost."""
JOURNAL = "journal"
"""Index note: run and number of the first step that may have been taken and is not recorded yet."""


@dataclass(slots=True)
class Observed:
    """What a look at the worktree found besides what went into the index."""

    clock: int
    """The filesystem's own time before anything was hashed, in nanoseconds (racy rule)."""
    unseen: list[Path] = field(default_factory=list)
    """Folders that could not be looked into: nothing in them counts as deleted (P12)."""
    skipped: dict[Path, str] = field(default_factory=dict)
    missed: list[Path] = field(default_factory=list)
    lost: LostPages = field(default_factory=LostPages)
    """Pages of the head that cannot be read."""

    def is_hidden(self, path: Path) -> bool:
        """Whether no case holds for this path in this run, because it could not be seen or read."""
        return (
            path in self.skipped
            or any(not folder or path == folder or path.startswith(folder + b"/") for folder in self.unseen)
            or (bool(self.lost) and self.lost.hides(path))
        )


def cached_head(ws: Workspace) -> Head | None:
    """The head as this machine saw it last, from the index."""
    body, etag = ws.index.get_meta("head"), ws.index.get_meta("head_etag")
    if body is None or etag is None:
        return None
    return parse_head(Object(body.encode(), etag))


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


def read_state(ws: Workspace, path: Path) -> State | None:
    """What is at a path now, read from the disk; UNREAD where it cannot be told. A folder is nothing."""
    stat = ws.worktree.lstat(path)
    if stat is None or is_folder(stat):
        return None
    try:
        if is_symlink(stat):
            return make_state(EntryType.SYMLINK, hash_bytes(ws.worktree.read_link(path)), executable=False)
        digest, stat = ws.worktree.hash_file(path)
    except (Changing, Vanished, Unreadable):
        return UNREAD
    return file_state(digest, stat)


def reflect(ws: Workspace, head: Head, scope: Scope | None) -> LostPages:
    """Bring the ``remote`` column up to ``head`` wherever ``scope`` reaches; None: where it was already.

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
        *(scope_regions(scope) if scope is not None else ()),
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


def agree(ws: Workspace, scope: Scope, observed: Observed) -> None:
    """Take as base what is the same on both sides, as far as both are known."""
    ws.index.agree(observed.lost.known(scope.ranges()))


def scope_regions(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The scope's byte ranges, and each folder on the way to it as a single path.

    A file in the bucket where this machine has a folder (case 13) is seen only if that path is looked at.
    """
    return sorted([*scope.ranges(), *((path, path + b"\x00") for path in _above(scope))])


def _above(scope: Scope) -> list[Path]:
    """The folders on the way to the scope, in the order of their bytes."""
    above: set[Path] = set()
    for path in scope.only:
        parts = path.split(b"/")
        above.update(Path(b"/".join(parts[:n])) for n in range(1, len(parts)))
    return sorted(above)


def touches(page: PageRef, regions: list[tuple[bytes, bytes]]) -> bool:
    """Whether a page can hold a path of one of the half-open ``regions``."""
    return any(low <= page.last and page.first < high for low, high in regions)


def scan(ws: Workspace, scope: Scope, *, checksum: bool = False, confirm: bool = False) -> Observed:
    """Bring the stat cache up to the worktree, one folder at a time.

    Args:
        checksum: trust no row and read every file again; what the stat cache had missed is listed.
        confirm: rows that this run's pull wrote are trusted now if their stat has not moved; the
            filesystem's clock must have ticked since.
    """
    observed = Observed(clock=ws.worktree.clock())
    unclean = ws.index.unclean_folders()
    ws.progress.begin("scan")
    listings = ws.worktree.scan(
        scope,
        ws.ownership,
        ws.index.folder,
        lambda folder: not checksum and folder not in unclean,
    )
    with ws.index.transaction():
        for listing in listings:
            ws.progress.advance("scan", files=listing.n_files, bytes_=listing.n_bytes)
            if listing.unseen:
                observed.unseen.append(listing.folder)
                observed.skipped[listing.folder] = listing.unseen
            elif not listing.unchanged:
                _apply(ws, listing, observed, checksum=checksum, confirm=confirm)
        for path in scope.only:
            if not observed.is_hidden(path) and ws.worktree.lstat(path) is None:
                _forget_folder(ws, path, observed)
                if not observed.is_hidden(path):
                    ws.index.forget_local([path])
    ws.progress.end("scan")
    return observed


def _apply(ws: Workspace, listing: Listing, observed: Observed, *, checksum: bool, confirm: bool) -> None:
    prefix = listing.folder + b"/" if listing.folder else b""
    rows = ws.index.rows_in(listing.folder)
    updates: list[tuple[Path, Stat | None, State | None, int]] = []
    for name, stat in listing.files:
        row = rows.pop(name, None)
        is_known = (
            row is not None
            and row.local is not None
            and row.stat is not None
            and ws.worktree.same_stat(row.stat, stat)
        )
        if not is_known:
            updates.append(_unknown(ws, Path(prefix + name), stat))
            continue
        assert row is not None
        if confirm and row.clean == 2 and _is_settled(ws, stat, observed.clock):
            updates.append((row.path, stat, row.local, 1))
        elif row.local == UNREAD or confirm:
            continue
        elif row.clean != 1:
            updates.append(_unknown(ws, row.path, stat))
        elif checksum and not is_symlink(stat):
            _recheck(ws, row, observed)
    for name in listing.special:
        row = rows.pop(name, None)
        if row is not None and (row.base is not None or row.remote is not None):
            updates.append((row.path, None, SPECIAL, 1))
    ws.index.put_local(updates)
    ws.index.forget_local([row.path for row in rows.values() if row.local is not None])
    if listing.complete:
        gone = ws.index.child_folders(listing.folder) - set(listing.all_folders)
        for name in gone:
            _forget_folder(ws, Path(prefix + name), observed)
        if any(observed.is_hidden(Path(prefix + name)) for name in gone):
            return  # the digest would make the next run skip this listing, and say nothing
        ws.index.set_folder(listing.folder, listing.digest, listing.mounted, listing.n_files, listing.n_bytes)


def _unknown(ws: Workspace, path: Path, stat: Stat) -> tuple[Path, Stat | None, State | None, int]:
    """The row of a file whose content is not known; the target of a symlink is read at once."""
    if is_symlink(stat):
        digest = hash_bytes(ws.worktree.read_link(path))
        return path, stat, make_state(EntryType.SYMLINK, digest, executable=False), 1
    return path, stat, UNREAD, 0


def _forget_folder(ws: Workspace, folder: Path, observed: Observed) -> None:
    """A folder is not there any more: what was in it is deleted, unless it may only be out of sight."""
    known = ws.index.folder(folder)
    found = ws.worktree.lstat(folder)
    reason = ""
    if known is not None and known[1]:
        reason = "the folder was on a disk of its own, which is not mounted now"
    elif found is not None and not is_regular(found):
        reason = "a symlink or a special file stands where a folder was"
    if reason:
        observed.unseen.append(folder)
        observed.skipped[folder] = reason
        return
    ws.index.forget_local_below(folder)
    ws.index.drop_folders_below(folder)


def _recheck(ws: Workspace, row: Row, observed: Observed) -> None:
    try:
        digest, stat = ws.worktree.hash_file(row.path)
    except (Changing, Vanished, Unreadable) as error:
        observed.skipped[row.path] = error.reason
        return
    state = file_state(digest, stat)
    if state != row.local:
        observed.missed.append(row.path)
        ws.index.put_local([(row.path, stat, state, trust(ws, stat, observed.clock))])


def _is_settled(ws: Workspace, stat: Stat, clock: int) -> bool:
    return not ws.worktree.trust_ctime or stat.ctime_ns < clock


def trust(ws: Workspace, stat: Stat, clock: int) -> int:
    """The racy rule: 1 when a file hashed after ``clock`` cannot change unnoticed any more, else 0.

    Both times come from the filesystem's own clock. A change after the hash gets a time that is not
    below ``clock``; so a file whose times are below it would look different (git's racy-git document).
    """
    newest = max(stat.mtime_ns, stat.ctime_ns) if ws.worktree.trust_ctime else stat.mtime_ns
    return int(newest < clock)


def hash_unread(ws: Workspace, scope: Scope, observed: Observed) -> None:
    """Hash the changed files whose case hangs on their content; the rest are read when they are sent."""
    batch: list[tuple[Path, Stat | None, State | None, int]] = []
    ws.progress.begin("hash")
    for row in ws.index.iter_drift(scope.ranges()):
        if not needs_hash(row.local, row.base, row.remote) or observed.is_hidden(row.path):
            continue
        if not scope.contains(row.path):
            continue
        try:
            digest, stat = ws.worktree.hash_file(row.path)
        except Vanished:
            batch.append((row.path, None, None, 0))
        except (Changing, Unreadable) as error:
            observed.skipped[row.path] = error.reason
        else:
            state = file_state(digest, stat)
            batch.append((row.path, stat, state, trust(ws, stat, observed.clock)))
            ws.progress.advance("hash", files=1, bytes_=stat.size)
        if len(batch) >= _HASH_BATCH:
            ws.index.put_local(batch)
            batch = []
    ws.index.put_local(batch)
    ws.progress.end("hash")


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
            if row is not None and (row.remote if command == "push" else row.local) is not None:
                yield path

    def left_out() -> Iterator[Path]:
        for row in ws.index.iter_drift(scope.ranges()):
            standing = row.remote if command == "push" else row.local
            if standing is not None and not _is_planned(ws, scope, observed, row.path):
                yield row.path

    # What was dropped here stands in the bucket all the same.
    dropped = ws.index.iter_dropped(scope.ranges()) if command == "push" else iter(())
    yield from heapq.merge(above(), left_out(), dropped)


def _is_planned(ws: Workspace, scope: Scope, observed: Observed, path: Path) -> bool:
    return scope.contains(path) and not observed.is_hidden(path) and ws.ownership.file_is_ours(path)


def check_root(ws: Workspace) -> None:
    """Refuse to go on when the root is gone but was known: its absence is no evidence of a deletion."""
    if not ws.worktree.exists() and ws.index.has_base():
        raise ManifestSyncError(
            f"the root folder {ws.worktree.root} is missing, but this machine synced files in it; "
            "nothing was done",
            "mount or restore it; if it is gone for good, run `manifest-sync rebuild-index` and pull again",
        )

"""Bringing the stat cache up to the worktree: what is here, and which files have to be read for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from manifest_sync.canonical import hash_bytes
from manifest_sync.index.index import Row
from manifest_sync.lostpages import LostPages
from manifest_sync.model import (
    MAX_PATH,
    SPECIAL,
    UNREAD,
    EntryType,
    Path,
    Stat,
    State,
    file_state,
    is_below,
    make_state,
)
from manifest_sync.rootcheck import check_still_same_root
from manifest_sync.scope import Scope
from manifest_sync.settle import Settle, is_line_file
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import (
    Changing,
    Listing,
    Reader,
    Unreadable,
    Vanished,
    is_folder,
    is_regular,
    is_symlink,
)

_HASH_BATCH = 1000


@dataclass(slots=True)
class Observed:
    """What a look at the worktree found besides what went into the index."""

    clock: int
    """The filesystem's own time before anything was hashed, in nanoseconds (racy rule)."""
    unseen: list[Path] = field(default_factory=list)
    """Folders that could not be looked into: nothing in them counts as deleted (P12)."""
    skipped: dict[Path, str] = field(default_factory=dict)
    restless: set[Path] = field(default_factory=set)
    """Changed files that do not hold still, where only such are sent."""
    missed: list[Path] = field(default_factory=list)
    lost: LostPages = field(default_factory=LostPages)
    """Pages of the head that cannot be read."""

    def is_hidden(self, path: Path) -> bool:
        """Whether no case holds for this path in this run, because it could not be seen or read."""
        return (
            path in self.skipped
            or path in self.restless
            or (bool(self.unseen) and any(is_below(path, folder) for folder in self.unseen))
            or (bool(self.lost) and self.lost.hides(path))
        )


def read_state(ws: Workspace, path: Path) -> State | None:
    """What is at a path now, read from the disk; UNREAD where it cannot be told. A folder is nothing."""
    stat = ws.worktree.lstat(path)
    if stat is None or is_folder(stat):
        return None
    try:
        if is_symlink(stat):
            return make_state(EntryType.SYMLINK, hash_bytes(ws.worktree.read_link(path)), executable=False)
        if not is_regular(stat):
            return SPECIAL
        digest, stat = ws.worktree.hash_file(path)
    except (Changing, Vanished, Unreadable):
        return UNREAD
    return file_state(digest, stat)


def scan(
    ws: Workspace,
    scope: Scope,
    *,
    checksum: bool = False,
    confirm: bool = False,
    reflected_but: LostPages | None = None,
) -> Observed:
    """Bring the stat cache up to the worktree, one folder at a time.

    Args:
        checksum: trust no row and read every file again; what the stat cache had missed is listed.
        confirm: rows that this run's pull wrote are trusted now if their stat has not moved; the
            filesystem's clock must have ticked since.
        reflected_but: the head is reflected but for these pages. A changed file that is known elsewhere
            is read at once, and becomes base where it is the same: its row is written once for all of it.
    """
    observed = Observed(clock=ws.worktree.clock(), lost=reflected_but or LostPages())
    unclean = ws.index.unclean_folders()
    ws.progress.begin("scan")
    listings = ws.worktree.scan(
        scope,
        ws.ownership,
        ws.index.folder,
        lambda folder: not checksum and folder not in unclean,
    )
    with ws.index.transaction():
        listed: set[Path] = set()
        for listing in listings:
            ws.progress.advance("scan", files=listing.n_files, bytes_=listing.n_bytes)
            if scope.only:
                _distrust_above_new(ws, listing.folder, listed)
            if listing.unseen:
                observed.unseen.append(listing.folder)
                observed.skipped[listing.folder] = listing.unseen
            elif not listing.unchanged:
                compare = reflected_but is not None
                _apply(ws, scope, listing, observed, checksum=checksum, confirm=confirm, compare=compare)
        _look_at_scope(ws, scope, observed)
        check_still_same_root(ws)
    ws.progress.end("scan")
    return observed


def _look_at_scope(ws: Workspace, scope: Scope, observed: Observed) -> None:
    """What the scope names, and the folders on the way to it: no listing may have shown that they are gone,
    or that a file is a folder now or a folder a file."""
    looked: set[Path] = set()
    for path in scope.only:
        for here in (*folders_above(path), path):
            if observed.is_hidden(here):
                break
            if here in looked:
                continue
            found = ws.worktree.lstat(here)
            if found is not None and is_folder(found):
                looked.add(here)
                ws.index.forget_local([here])
                continue
            if found is None or is_regular(found) or ws.index.folder(here) or ws.index.child_folders(here):
                _forget_folder(ws, here, observed)
            if found is None and not observed.is_hidden(here):
                ws.index.forget_local([here])
            break


def distrust_above(ws: Workspace, paths: Iterable[Path]) -> None:
    """Let the next scan compare the folders above, file by file.

    What came into being beside their listings may be all that tells them from how they were last compared: if
    it goes again, they must not look as if nothing had happened.
    """
    one_each = {path.rpartition(b"/")[0]: path for path in paths}
    for folder in {Path(b""), *chain.from_iterable(map(folders_above, one_each.values()))}:
        ws.index.distrust_folder(folder)


def _distrust_above_new(ws: Workspace, folder: Path, listed: set[Path]) -> None:
    """The same for a folder that only a part of the tree has shown, and no listing above it knows."""
    if folder and ws.index.folder(folder) is None and Path(folder.rpartition(b"/")[0]) not in listed:
        distrust_above(ws, (folder,))
    listed.add(folder)


def folders_above(path: Path) -> list[Path]:
    parts = path.split(b"/")
    return [Path(b"/".join(parts[:n])) for n in range(1, len(parts))]


def _apply(
    ws: Workspace,
    scope: Scope,
    listing: Listing,
    observed: Observed,
    *,
    checksum: bool,
    confirm: bool,
    compare: bool,
) -> None:
    prefix = listing.folder + b"/" if listing.folder else b""
    rows = ws.index.rows_in(listing.folder)
    updates: list[tuple[Path, Stat | None, State | None, int]] = []
    compared: list[tuple[Path, Stat, State | None, int, State | None]] = []
    for name, stat in listing.files:
        row = rows.pop(name, None)
        is_known = (
            row is not None
            and row.local is not None
            and row.stat is not None
            and ws.worktree.same_stat(row.stat, stat)
        )
        if not is_known:
            read = _compare(ws, scope, row, stat, observed) if compare and row is not None else None
            if read is not None:
                compared.append(read)
            else:
                updates.append(_unknown(ws, Path(prefix + name), stat, observed))
            continue
        assert row is not None
        if confirm and row.clean == 2 and _is_settled(ws, stat, observed.clock):
            updates.append((row.path, stat, row.local, 1))
        elif row.local == UNREAD or confirm:
            continue
        elif row.clean != 1:
            updates.append(_unknown(ws, row.path, stat, observed))
        elif checksum and not is_symlink(stat):
            _recheck(ws, row, observed)
    is_seen = all(stat is not None for _, stat, _, _ in updates)
    is_compared = listing.complete and not listing.too_long and is_seen
    for name in listing.special:
        # Kept although nothing is known of it elsewhere yet: the next listing of an unchanged folder does not
        # name it, and by then the bucket may hold a file there.
        row = rows.pop(name, None)
        if row is None or row.local != SPECIAL:
            updates.append((Path(prefix + name), None, SPECIAL, 1))
    too_long = f"its path has more than {MAX_PATH} bytes"
    observed.skipped.update((Path(prefix + name), too_long) for name in listing.too_long)
    ws.index.put_local(updates)
    ws.index.put_landed(compared)
    ws.index.forget_local([row.path for row in rows.values() if row.local is not None])
    missing = ws.index.child_folders(listing.folder) - set(listing.all_folders)
    files = dict(listing.files) if missing else {}
    for name in missing:
        gone = Path(prefix + name)
        # Where a file stands now nothing can be below, whether or not the scope would have looked there.
        if scope.enters(gone) or name in files:
            _forget_folder(ws, gone, observed)
        is_compared = is_compared and scope.enters(gone) and not observed.is_hidden(gone)
    # Without its digest the folder is not skipped next time: then its files are as they are noted, but what
    # was not compared, or is out of sight, has to be looked for again.
    digest = listing.digest if is_compared else b""
    ws.index.set_folder(listing.folder, digest, listing.mounted, listing.n_files, listing.n_bytes)


def _compare(
    ws: Workspace, scope: Scope, row: Row, stat: Stat, observed: Observed
) -> tuple[Path, Stat, State, int, State | None] | None:
    """The row of a changed file that is known elsewhere as well, read and compared; None where it cannot be,
    or is not to be: then it is left to `hash_unread`."""
    path = row.path
    if is_symlink(stat) or observed.is_hidden(path) or not scope.contains(path):
        return None
    try:
        digest, stat = ws.worktree.hash_file(path, stat)
    except (Changing, Vanished, Unreadable):
        return None
    ws.progress.advance("hash", files=1, bytes_=stat.size)
    state = file_state(digest, stat)
    return path, stat, state, trust(ws, stat, observed.clock), state if state == row.remote else row.base


def _unknown(
    ws: Workspace, path: Path, stat: Stat, observed: Observed
) -> tuple[Path, Stat | None, State | None, int]:
    """The row of a file whose content is not known; the target of a symlink is read at once. The row has no
    stat where the symlink is not there any more: what is has to be looked at again."""
    if not is_symlink(stat):
        return path, stat, UNREAD, 0
    try:
        digest = hash_bytes(ws.worktree.read_link(path))
    except Vanished:
        return path, None, None, 0
    except Unreadable as error:
        observed.skipped[path] = error.reason
        return path, None, UNREAD, 0
    return path, stat, make_state(EntryType.SYMLINK, digest, executable=False), 1


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


def note_restless(ws: Workspace, scope: Scope, settle: Settle, observed: Observed) -> None:
    """Find the changed files that do not hold still: this run leaves them alone, and reads none of them."""
    for row in ws.index.iter_drift(scope.ranges()):
        if row.stat is None or settle.is_at_rest(row.stat, observed.clock):
            continue
        if not scope.contains(row.path) or not ws.ownership.file_is_ours(row.path):
            continue
        if not (is_line_file(row.path) and _ends_with_a_line(ws, row.path)):
            observed.restless.add(row.path)


def _ends_with_a_line(ws: Workspace, path: Path) -> bool:
    try:
        with ws.worktree.open_read(path) as reader:
            return ends_with_a_line(reader)
    except (Vanished, Unreadable):
        return False


def ends_with_a_line(reader: Reader) -> bool:
    """Whether the last byte of a file, as long as it was when it was opened, is a newline."""
    return reader.stat.size > 0 and reader.read_at(reader.stat.size - 1, 1) == b"\n"


def hash_unread(ws: Workspace, scope: Scope, observed: Observed) -> None:
    """Hash the changed files whose case hangs on their content; the rest are read when they are sent."""
    batch: list[tuple[Path, Stat | None, State | None, int]] = []
    ws.progress.begin("hash")
    for row in ws.index.iter_drift(scope.ranges(), "unread"):
        if observed.is_hidden(row.path) or not scope.contains(row.path):
            continue
        try:
            digest, stat = ws.worktree.hash_file(row.path, row.stat)
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

"""Which folder the index is of: the base says what is gone or changed here, and of another folder that is no
evidence (P11, P12).

The index notes the inode number of the root. Not the device: its number may be another one after each mount.
"""

from __future__ import annotations

from collections.abc import Iterator

from manifest_sync.errors import IndexDamaged, ManifestSyncError
from manifest_sync.index.index import Index
from manifest_sync.model import Path, Stat, display
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Unreadable, Worktree

_NOTE = "root"


def check_same_root(ws: Workspace) -> None:
    """Refuse to go on when the root is not the folder that the index is of; a missing root is none.

    Whoever looks at the tree calls this first: a file that another folder lacks would be noted as gone. An
    index that has no note yet, or remembers nothing that could be missed, is of the folder that is there.

    Raises:
        IndexDamaged: as said.
    """
    inode = ws.worktree.inode()
    found = find_stranger(ws.worktree, ws.index)
    if found is not None:
        raise found
    _note(ws, inode)


def find_stranger(worktree: Worktree, index: Index) -> IndexDamaged | None:
    """The error to raise when the root is not the folder that the index is of; None when it is.

    A folder has another inode than it had if it is another one, and also if it was copied or restored. It
    counts as the same when all is there that may be missed: each file that was here and is in the base.
    """
    if not _is_another(worktree, index):
        return None
    missed = next(_iter_missed(worktree, index), None)
    if missed is None:
        return None
    return IndexDamaged(
        f"{worktree.root} is not the folder that this machine synced: {display(missed)} is not there as it "
        "was left. Another folder goes by that name now, its disk is not mounted, .manifest-sync comes from "
        "elsewhere, or not all was restored; nothing was done",
        "bring the right folder back; if this is the right one, run `manifest-sync rebuild-index`, which "
        "deletes and overwrites nothing",
    )


def _iter_missed(worktree: Worktree, index: Index) -> Iterator[Path]:
    """Files that a run would take for deleted or changed here since the last one, by size, mtime and mode."""
    for row in index.iter_rows(Scope.everything().ranges()):
        if row.base is None or row.local is None:
            continue
        try:
            stat = worktree.lstat(row.path)
        except (ManifestSyncError, Unreadable):
            stat = None
        if stat is None or (row.stat is not None and _looks(stat) != _looks(row.stat)):
            yield row.path


def _looks(stat: Stat) -> tuple[int, int, int]:
    return stat.size, stat.mtime_ns, stat.mode


def note_root(ws: Workspace) -> None:
    """Note which folder the index is of, where inodes tell folders apart."""
    _note(ws, ws.worktree.inode())


def _note(ws: Workspace, inode: int | None) -> None:
    if inode is not None and ws.worktree.trust_inode:
        ws.index.set_meta(_NOTE, str(inode))


def check_still_same_root(ws: Workspace) -> None:
    """Refuse what was seen of a root that was put in the place of the one that the run began with.

    Raises:
        ManifestSyncError: as said.
    """
    if _is_another(ws.worktree, ws.index):
        raise ManifestSyncError(
            f"another folder was put in the place of {ws.worktree.root} during this run; what is in it was "
            "not noted",
            "bring the right folder back and run the same command again; where folders get new inodes by "
            "themselves, set trust_inode = false",
        )


def _is_another(worktree: Worktree, index: Index) -> bool:
    if not worktree.trust_inode:
        return False
    noted, inode = index.get_meta(_NOTE), worktree.inode()
    return noted is not None and inode is not None and noted != str(inode)

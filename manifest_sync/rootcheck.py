"""Which folder the index is of: the base says what is gone or changed here, and of another folder that is no
evidence (P11, P12).

The index notes the inode number of the root. Not the device: its number may be another one after each mount.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    What a copy of the folder lacks, or has as it was before, loses its base: it was never deleted or changed.

    Raises:
        IndexDamaged: as said.
    """
    inode = ws.worktree.inode()
    if _is_another(ws.worktree, ws.index):
        survey = _survey(ws.worktree, ws.index)
        if survey.is_another:
            raise _refusal(ws.worktree, survey)
        if survey.strange:
            ws.index.set_base((path, None) for path in survey.strange)
            count = len(survey.strange)
            ws.progress.note(
                f"{ws.worktree.root} is a copy of the folder that was here: {count} of its files are missing "
                f"or older, {display(survey.strange[0])} for one; they do not count as deleted or changed"
            )
    _note(ws, inode)


def find_stranger(worktree: Worktree, index: Index) -> IndexDamaged | None:
    """The error to raise when the root is not the folder that the index is of; None when it is.

    A folder has another inode than it had if it is another one, and also if it was copied or restored. It
    counts as the same when at least half of the files that were here, and are in the base, are as they were.
    """
    if not _is_another(worktree, index):
        return None
    survey = _survey(worktree, index)
    return _refusal(worktree, survey) if survey.is_another else None


@dataclass(slots=True)
class _Survey:
    """How the files of the base are in a folder that has another inode."""

    same: int = 0
    edited: int = 0
    strange: list[Path] = field(default_factory=list)
    """What is missing, or is older than what was here: neither is what a person does with a file."""

    @property
    def is_another(self) -> bool:
        return self.same < self.edited + len(self.strange)


def _refusal(worktree: Worktree, survey: _Survey) -> IndexDamaged:
    others = survey.edited + len(survey.strange)
    example = f", {display(survey.strange[0])} for one" if survey.strange else ""
    return IndexDamaged(
        f"{worktree.root} is not the folder that this machine synced: {others} of {others + survey.same} "
        f"files are not there as they were left{example}. Another folder goes by that name now, its disk is "
        "not mounted, .manifest-sync comes from elsewhere, or little was restored; nothing was done",
        "bring the right folder back; if this is the right one, run `manifest-sync rebuild-index`, which "
        "deletes and overwrites nothing",
    )


def _survey(worktree: Worktree, index: Index) -> _Survey:
    found = _Survey()
    for row in index.iter_rows(Scope.everything().ranges()):
        if row.base is None or row.local is None:
            continue
        try:
            stat = worktree.lstat(row.path)
        except (ManifestSyncError, Unreadable):
            stat = None
        if stat is None or (row.stat is not None and stat.mtime_ns < row.stat.mtime_ns):
            found.strange.append(row.path)
        elif row.stat is not None and _looks(stat) != _looks(row.stat):
            found.edited += 1
        else:
            found.same += 1
    return found


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

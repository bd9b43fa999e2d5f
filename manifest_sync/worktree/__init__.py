"""The worktree: scanning, reading and replacing the user's files; nothing else in the package does."""

from manifest_sync.worktree.outcomes import Changing, TargetBlocked, TargetChanged, Unreadable, Vanished
from manifest_sync.worktree.read import Reader, is_folder, is_regular, is_symlink
from manifest_sync.worktree.scan import Listing
from manifest_sync.worktree.staging import Staged, Staging
from manifest_sync.worktree.traits import Traits, probe_filesystem
from manifest_sync.worktree.trash import RunWriter, Trash
from manifest_sync.worktree.worktree import Worktree

__all__ = [
    "Changing",
    "Listing",
    "Reader",
    "RunWriter",
    "Staged",
    "Staging",
    "TargetBlocked",
    "TargetChanged",
    "Traits",
    "Trash",
    "Unreadable",
    "Vanished",
    "Worktree",
    "is_folder",
    "is_regular",
    "is_symlink",
    "probe_filesystem",
]

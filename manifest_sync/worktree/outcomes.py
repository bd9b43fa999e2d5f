"""What can come of touching one file: control flow for the caller, never shown as a traceback."""

from __future__ import annotations

import errno
import os

from manifest_sync.errors import AccessDenied, ManifestSyncError
from manifest_sync.model import display

_REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "it is a symlink, or lies behind one",
    errno.EISDIR: "it is a folder",
    errno.ENXIO: "it is not a regular file",
    errno.EIO: "the disk could not read it",
    errno.ENAMETOOLONG: "its name is too long for this filesystem",
    errno.ENOTDIR: "a folder on the way to it is no folder any more",
    errno.ENOENT: "it vanished",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Outcome(Exception):
    """One path could not be dealt with; ``reason`` says why, in words that follow ``PATH:``."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(f"{display(path)}: {reason}")
        self.path = path
        self.reason = reason


class Changing(Outcome):
    """The file changed each time it was read."""


class Vanished(Outcome):
    """Nothing is there any more."""


class Unreadable(Outcome):
    """Something is there that cannot be read, or is no regular file."""


class TargetChanged(Outcome):
    """The path is no longer what the plan saw; it was left as it is."""


class TargetBlocked(Outcome):
    """Something is in the way that is never replaced: a folder, a file where a folder must be, a symlink."""


def reason_of(error: OSError) -> str:
    """A short reason in words for people."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()


def read_failure(path: bytes, error: OSError) -> Outcome:
    """`Vanished` or `Unreadable`, as an error from opening or reading says."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Vanished(path, reason_of(error))
    return Unreadable(path, reason_of(error))


def disk_failure(path: bytes, error: OSError) -> ManifestSyncError:
    """The error that ends a run because the disk refused; what was there is untouched."""
    where = display(path)
    if error.errno in _FULL:
        return ManifestSyncError(
            f"{where}: the disk is full; the file was left as it was",
            "free some space and run the same command again; it carries on where it stopped",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = "the filesystem is read-only" if error.errno == errno.EROFS else "permission denied"
        return AccessDenied(f"{where}: {reason}", "check the permissions of the file and of its folder")
    return ManifestSyncError(
        f"{where}: the disk refused: {(error.strerror or os.strerror(error.errno or 0)).lower()}",
        "check permissions and the disk, then run the same command again",
    )

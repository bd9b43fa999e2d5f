"""Replacing and removing files: look again, keep the old in the trash, rename the new over (P7, P8)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat as st
from collections.abc import Callable

from manifest_sync.errors import ManifestSyncError
from manifest_sync.model import STATE_FOLDER, Path, Stat
from manifest_sync.ownfiles import sync_folder
from manifest_sync.pathrules import check_path
from manifest_sync.worktree.folders import OPEN_FOLDER, Folders, split
from manifest_sync.worktree.outcomes import Outcome, TargetBlocked, TargetChanged, disk_failure, reason_of
from manifest_sync.worktree.read import look, to_stat
from manifest_sync.worktree.staging import Area
from manifest_sync.worktree.syscalls import rename_new

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.EACCES)
# About this one path, not about the disk: the run goes on without it.
_PATH_ERRORS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR)


class Replacer:
    """Writes into one tree; what was there goes to the trash of ``area``."""

    def __init__(
        self, folders: Folders, area: Area, same_stat: Callable[[Stat, Stat], bool], *, follow: bool
    ) -> None:
        self._folders = folders
        self._area = area
        self._follow = follow
        self._same_stat = same_stat
        self._mounts: dict[int, int] = {}

    def replace(
        self, source: str, path: Path, *, expected: Stat | None, keep_as: str, source_dir: int | None = None
    ) -> tuple[Stat, bool]:
        """Rename ``source`` over ``path`` if that still is what the plan saw.

        Args:
            source: a name in staging, or in the open folder ``source_dir``.
            keep_as: the name below the trash, ``RUN/NAME``, for what was there.

        Returns:
            The new stat, and whether anything was there and is in the trash now.

        Raises:
            TargetChanged, TargetBlocked: as the names say; what is at the path was not touched.
            ManifestSyncError: the disk is full or failed; what is at the path was not touched.
        """
        folder, name = self._split(path)
        origin = self._area.staging if source_dir is None else source_dir
        source_dir, source_name = origin, os.fsencode(source)
        try:
            parent = self._folders.make(folder)
            if expected is not None:
                self._check(parent, name, path, expected)
            if self._folders.device(folder) != self._area.device:
                source_dir, source_name = self._carry(folder, source_name, origin)
                parent = self._folders.open(folder)
            if expected is None:
                try:
                    rename_new(source_name, source_dir, name, parent)
                except FileExistsError:
                    self._check(parent, name, path, None)
                    rename_new(source_name, source_dir, name, parent)
            else:
                run, _, kept = keep_as.partition("/")
                self._link_to_trash(parent, name, path, run, os.fsencode(kept), expected)
                try:
                    os.rename(source_name, name, src_dir_fd=source_dir, dst_dir_fd=parent)
                except OSError:
                    os.unlink(kept, dir_fd=self._area.trash(run))
                    raise
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            return to_stat(found), expected is not None
        except (OSError, Outcome) as error:
            if source_dir != origin:
                _unlink_quietly(source_name, source_dir)
            if isinstance(error, Outcome):
                raise
            raise self._failure(path, error) from error

    def remove(self, path: Path, *, expected: Stat | None, keep_as: str) -> None:
        """Move a file to the trash if it still is what the plan saw; folders left empty go too.

        Args:
            keep_as: its name below the trash, ``RUN/NAME``.

        Raises:
            TargetChanged, TargetBlocked, ManifestSyncError: as for `replace`.
        """
        folder, name = self._split(path)
        try:
            parent = self._folders.open(folder)
            before = self._check(parent, name, path, expected)
            if before is None:
                raise TargetChanged(path, "nothing is there any more")
            run, _, kept = keep_as.partition("/")
            self._move_to_trash(parent, name, path, run, os.fsencode(kept), before)
        except (FileNotFoundError, NotADirectoryError):
            raise TargetChanged(path, "nothing is there any more") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise TargetChanged(path, "it lies behind a symlink now") from None
            raise self._failure(path, error) from error
        self._folders.prune(folder)

    @staticmethod
    def _split(path: Path) -> tuple[Path, bytes]:
        reason = check_path(path)
        if reason:
            raise TargetBlocked(path, reason)
        return split(path)

    def _check(self, parent: int, name: bytes, path: Path, expected: Stat | None) -> Stat | None:
        found = look(parent, name, follow=self._follow)
        if found is not None and st.S_ISDIR(found.mode):
            if expected is not None or not _remove_empty(name, parent):
                raise TargetBlocked(path, "a folder stands there")
            found = None
        if found is None or expected is None:
            if found is not expected:
                what = "something is there now" if expected is None else "nothing is there any more"
                raise TargetChanged(path, what)
        elif not self._same_stat(found, expected):
            raise TargetChanged(path, "it has changed since it was looked at")
        return found

    def _link_to_trash(
        self, parent: int, name: bytes, path: Path, run: str, kept: bytes, expected: Stat
    ) -> None:
        """A second name for the old content: the path itself is never without any."""
        trash = self._area.trash(run)
        before = os.stat(name, dir_fd=parent, follow_symlinks=False)
        try:
            os.link(name, kept, src_dir_fd=parent, dst_dir_fd=trash, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy_to_trash(parent, name, path, trash, kept, expected)
            return
        after = os.stat(kept, dir_fd=trash, follow_symlinks=False)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            os.unlink(kept, dir_fd=trash)
            raise TargetChanged(path, "it changed just now")

    def _move_to_trash(
        self, parent: int, name: bytes, path: Path, run: str, kept: bytes, before: Stat
    ) -> None:
        """Move what is there, whatever it is by now, and put it back if it is not what was looked at."""
        trash = self._area.trash(run)
        try:
            rename_new(name, parent, kept, trash)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_to_trash(parent, name, path, trash, kept, before)
            try:
                os.unlink(name, dir_fd=parent)
            except OSError:
                os.unlink(kept, dir_fd=trash)
                raise
            return
        after = look(trash, kept, follow=False)
        # A followed link was looked at through its target: only the link moves.
        if (
            after is not None
            and not (self._follow and st.S_ISLNK(after.mode))
            and (after.size, after.mtime_ns, after.inode, after.mode)
            != (before.size, before.mtime_ns, before.inode, before.mode)
        ):
            rename_new(kept, trash, name, parent)
            raise TargetChanged(path, "it changed just now")

    def _copy_to_trash(
        self, parent: int, name: bytes, path: Path, trash: int, kept: bytes, expected: Stat
    ) -> None:
        """For where neither a link nor a rename leads to the trash: copy what is there, then look again.

        To copy may take minutes, and so may what came before: a file that was carried to this filesystem.
        """
        staging, copied = self._area.staging, secrets.token_hex(8).encode()
        try:
            _copy(name, parent, copied, staging)
            # Under its name only once it is whole: what a kill leaves of it would be put back by an undo.
            rename_new(copied, staging, kept, trash)
        finally:
            _unlink_quietly(copied, staging)
        try:
            # The path may lie on another filesystem, which could reach the disk before this one.
            sync_folder(trash)
            self._check(parent, name, path, expected)
        except BaseException:
            _unlink_quietly(kept, trash)
            raise

    def _carry(self, folder: Path, source: bytes, origin: int) -> tuple[int, bytes]:
        """Copy a file of ours to the filesystem mounted at or above ``folder``, so that it can be renamed."""
        staging = self._mount_staging(folder)
        carried = secrets.token_hex(8).encode()
        try:
            _copy(source, origin, carried, staging)
        except OSError:
            _unlink_quietly(carried, staging)
            raise
        return staging, carried

    def _mount_staging(self, folder: Path) -> int:
        device = self._folders.device(folder)
        known = self._mounts.get(device)
        if known is not None:
            return known
        top = folder
        while top:
            above = split(top)[0]
            self._folders.open(above)
            if self._folders.device(above) != device:
                break
            top = above
        descriptor = make_own_folder(self._folders.open(top))
        try:
            _mkdir(b"staging", descriptor)
            staging = os.open(b"staging", OPEN_FOLDER, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        for name in os.listdir(staging):
            os.unlink(name, dir_fd=staging)
        self._mounts[device] = staging
        return staging

    def close(self) -> None:
        """Close the descriptors of mounted filesystems."""
        while self._mounts:
            os.close(self._mounts.popitem()[1])

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def _failure(path: Path, error: OSError) -> Outcome | ManifestSyncError:
        if isinstance(error, FileExistsError):
            return TargetChanged(path, "something is there now")
        if error.errno in _PATH_ERRORS:
            return TargetBlocked(path, reason_of(error))
        return disk_failure(path, error)


def make_own_folder(parent: int) -> int:
    """Open ``.manifest-sync`` in an open folder, made if need be, with a ``.gitignore`` of its own."""
    name = STATE_FOLDER.encode()
    _mkdir(name, parent)
    descriptor = os.open(name, OPEN_FOLDER, dir_fd=parent)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        ignore = os.open(".gitignore", flags, 0o666, dir_fd=descriptor)
    except FileExistsError:
        return descriptor
    except OSError:
        os.close(descriptor)
        raise
    try:
        os.write(ignore, b"*\n")
    finally:
        os.close(ignore)
    return descriptor


def _mkdir(name: bytes, parent: int) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return


def _remove_empty(name: bytes, parent: int) -> bool:
    """Whether a folder was empty, and is gone: as in git, it is nothing that would be kept."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        return False
    return True


def _copy(name: bytes, source_dir: int, target: bytes, target_dir: int) -> None:
    """Copy a file with its mtime and permissions, or a symlink, and bring it to the disk."""
    found = os.stat(name, dir_fd=source_dir, follow_symlinks=False)
    if st.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source_dir), target, dir_fd=target_dir)
    else:
        # O_NONBLOCK: a fifo that took the file's place must not hang the run.
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source_dir)
        with os.fdopen(source, "rb") as reader:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            copy = os.open(target, flags, 0o600, dir_fd=target_dir)
            with os.fdopen(copy, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                os.fchmod(copy, found.st_mode & 0o777)
                os.fsync(copy)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target_dir, follow_symlinks=False)


def _unlink_quietly(name: bytes, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return

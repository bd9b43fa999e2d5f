"""Writing to the worktree: stage, sync a batch at once, look again, link into the trash, rename."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from types import TracebackType
from typing import Self

from blake3 import blake3

from manifest_sync.errors import AccessDenied, ManifestSyncError
from manifest_sync.model import Hash, Path, Stat, display
from manifest_sync.pathrules import check_path
from manifest_sync.worktree.paths import Folders, TargetBlocked, TargetChanged, make_stat, split

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK)


class Staged:
    """One temporary file on the root's device, not yet anywhere the user looks."""

    __slots__ = ("_descriptor", "_folder", "name")

    def __init__(self, folder: str, name: str) -> None:
        self._folder = folder
        self.name = name
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)

    @property
    def path(self) -> str:
        """Where it lies."""
        return os.path.join(self._folder, self.name)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write bytes at an offset; a full disk is said with its path."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise as_error(error, self.path) from error

    def hash(self) -> Hash:
        """BLAKE3 of what was written."""
        hasher = blake3()
        offset = 0
        while block := os.pread(self._descriptor, 1 << 20, offset):
            hasher.update(block)
            offset += len(block)
        return Hash(hasher.digest())

    def close(self) -> None:
        """No more is written."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Staging:
    """A batch of temporary files; those that were not renamed are removed at the end."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: list[Staged] = []
        self._prefix = secrets.token_hex(6)

    def create(self) -> Staged:
        """A new empty temporary file."""
        try:
            staged = Staged(self._folder, f"{self._prefix}-{len(self._files)}")
        except OSError as error:
            raise as_error(error, self._folder) from error
        self._files.append(staged)
        return staged

    def sync(self) -> None:
        """Bring the whole batch to the disk with one call."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync_filesystem(descriptor)
        except OSError as error:
            raise as_error(error, self._folder) from error
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for staged in self._files:
            staged.close()
            try:
                os.unlink(staged.path)
            except FileNotFoundError:
                continue


def sync_filesystem(descriptor: int) -> None:
    """``syncfs`` of the filesystem that the descriptor lies on; where there is none, ``sync``."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        os.sync()
    elif function(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Replacer:
    """Replaces and removes files of one tree; what was there goes to the trash."""

    def __init__(self, folders: Folders, trash: str, *, trust_ctime: bool, trust_inode: bool) -> None:
        self._folders = folders
        self._trash = trash
        self._trust_ctime = trust_ctime
        self._trust_inode = trust_inode
        self._trash_run = ""
        self._trash_count = 0

    def same_stat(self, one: Stat, other: Stat) -> bool:
        """Whether two stats give no sign of a change."""
        return (
            one.size == other.size
            and one.mtime_ns == other.mtime_ns
            and one.mode == other.mode
            and (one.ctime_ns == other.ctime_ns or not self._trust_ctime)
            and (one.inode == other.inode or not self._trust_inode)
        )

    def replace(self, source: str, path: Path, *, expected: Stat | None, run: str) -> tuple[Stat, str | None]:
        """Rename ``source`` over ``path`` if it still is what the plan saw.

        Returns:
            The new stat, and the name in the trash of what was there (None: nothing was).

        Raises:
            TargetChanged: the path does not hold what ``expected`` says.
            TargetBlocked: a folder, file or symlink is in the way, or the path is not allowed.
        """
        problem = check_path(path)
        if problem:
            raise TargetBlocked(problem)
        folder, name = split(path)
        try:
            parent = self._folders.descriptor(folder, create=True)
            self._check(parent, name, path, expected)
            stored = None if expected is None else self._to_trash(parent, name, run)
            os.rename(source, name, dst_dir_fd=parent)
            return make_stat(os.stat(name, dir_fd=parent, follow_symlinks=False)), stored
        except IsADirectoryError:
            raise TargetBlocked(f"{display(path)} is a folder here") from None
        except OSError as error:
            raise as_error(error, display(path)) from error

    def remove(self, path: Path, *, expected: Stat | None, run: str) -> str:
        """Move a file to the trash if it still is what the plan saw, and drop folders it leaves empty."""
        folder, name = split(path)
        try:
            parent = self._folders.descriptor(folder)
            self._check(parent, name, path, expected)
            stored = self._to_trash(parent, name, run)
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            raise TargetChanged from None
        except OSError as error:
            raise as_error(error, display(path)) from error
        self._prune(folder)
        return stored

    def _check(self, parent: int, name: bytes, path: Path, expected: Stat | None) -> None:
        try:
            found = make_stat(os.stat(name, dir_fd=parent, follow_symlinks=False))
        except FileNotFoundError:
            found = None
        if found is not None and (found.mode & 0o170000) == 0o040000:
            raise TargetBlocked(f"{display(path)} is a folder here")
        if (found is None) != (expected is None):
            raise TargetChanged
        if found is not None and expected is not None and not self.same_stat(found, expected):
            raise TargetChanged

    def _to_trash(self, parent: int, name: bytes, run: str) -> str:
        folder = os.path.join(self._trash, run)
        if run != self._trash_run:
            os.makedirs(folder, exist_ok=True)
            self._trash_run, self._trash_count = run, 0
        stored = f"{run}/{self._trash_count}"
        self._trash_count += 1
        target = os.path.join(self._trash, stored)
        try:
            os.link(name, target, src_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy_to_trash(parent, name, target)
        return stored

    @staticmethod
    def _copy_to_trash(parent: int, name: bytes, target: str) -> None:
        """For filesystems without hard links."""
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        with os.fdopen(source, "rb") as reader, open(target, "xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())

    def _prune(self, folder: bytes) -> None:
        """Empty folders are not kept, as in git."""
        while folder:
            self._folders.forget(folder)
            parent, name = split(folder)
            try:
                os.rmdir(name, dir_fd=self._folders.descriptor(parent))
            except OSError:
                return
            folder = parent


def as_error(error: OSError, path: str) -> ManifestSyncError:
    """An operating system error in the user's words."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ManifestSyncError(
            f"{path}: {reason}; every file is whole, old or new",
            "free some space and run the same command again; it carries on where it stopped",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(f"{path}: {reason}", "check the permissions of the file and its folder")
    return ManifestSyncError(f"{path}: {reason}", "every file is whole, old or new; run the command again")

"""Reading files: through folders opened without following links, stat-ed before and after."""

from __future__ import annotations

import errno
import os
import stat as st
from types import TracebackType

from blake3 import blake3

from manifest_sync.model import Hash, Path, Stat
from manifest_sync.worktree.folders import Folders, is_allowed_name, split
from manifest_sync.worktree.outcomes import (
    Changing,
    TargetBlocked,
    Unreadable,
    Vanished,
    disk_failure,
    read_failure,
)

_BLOCK = 1 << 20
_TRIES = 3
# Without O_NONBLOCK, opening a fifo would wait for someone to write to it.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def to_stat(found: os.stat_result) -> Stat:
    """The part of ``lstat`` that is kept."""
    return Stat(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode)


def is_folder(stat: Stat) -> bool:
    """Whether the stat is that of a folder."""
    return st.S_ISDIR(stat.mode)


def is_regular(stat: Stat) -> bool:
    """Whether the stat is that of a regular file."""
    return st.S_ISREG(stat.mode)


def is_symlink(stat: Stat) -> bool:
    """Whether the stat is that of a symlink."""
    return st.S_ISLNK(stat.mode)


def same_stat(one: Stat, other: Stat, *, trust_ctime: bool, trust_inode: bool) -> bool:
    """Whether two stats give no sign of a change, as far as the filesystem is trusted."""
    return (
        one.size == other.size
        and one.mtime_ns == other.mtime_ns
        and one.mode == other.mode
        and (one.ctime_ns == other.ctime_ns or not trust_ctime)
        and (one.inode == other.inode or not trust_inode)
    )


def is_untouched(found: os.stat_result, stat: Stat) -> bool:
    """Whether size, mtime, ctime and inode are still those of ``stat``: then no read was torn."""
    return (
        found.st_size == stat.size
        and found.st_mtime_ns == stat.mtime_ns
        and found.st_ctime_ns == stat.ctime_ns
        and found.st_ino == stat.inode
    )


def read_some(descriptor: int, size: int) -> bytes:
    """The next ``size`` bytes; fewer only at the end of the file. Raises ``OSError``."""
    data = os.read(descriptor, size)
    if not data or len(data) == size:
        return data
    parts = [data]
    left = size - len(data)
    while left and (data := os.read(descriptor, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


class Reader:
    """One regular file, open for reading; a context manager that closes it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        if not st.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise Unreadable(path, "it is not a regular file")
        self.stat: Stat = to_stat(found)
        """The file as it was when it was opened."""

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer only at the end of the file.

        Raises:
            Unreadable: the disk failed.
        """
        try:
            return read_some(self._descriptor, size)
        except OSError as error:
            raise read_failure(self.path, error) from None

    def read_at(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer only at the end of the file.

        Raises:
            Unreadable: the disk failed.
        """
        parts = []
        try:
            while size and (data := os.pread(self._descriptor, size, offset)):
                parts.append(data)
                offset, size = offset + len(data), size - len(data)
        except OSError as error:
            raise read_failure(self.path, error) from None
        return b"".join(parts)

    def unchanged(self) -> bool:
        """Whether size, mtime, ctime and inode are still those of `stat`: what was read is not torn."""
        return is_untouched(os.fstat(self._descriptor), self.stat)

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def locate(folders: Folders, path: Path, *, check: bool = True) -> tuple[int, bytes]:
    """Descriptor of a path's folder, and its last name.

    Args:
        check: see `Folders.open`.

    Raises:
        Vanished: the folder is gone, or is no folder any more.
        Unreadable: it cannot be entered, or the path has a name that is never touched.
    """
    folder, name = split(path)
    if not is_allowed_name(name):
        raise Unreadable(path, "its name is reserved or impossible")
    try:
        return folders.open(folder, check=check), name
    except TargetBlocked as error:
        raise Unreadable(path, error.reason) from None
    except OSError as error:
        raise read_failure(path, error) from None


def open_read(folders: Folders, path: Path, *, follow: bool) -> Reader:
    """Open a regular file for reading.

    Raises:
        Vanished, Unreadable: as the names say; a symlink is unreadable unless ``follow``.
    """
    descriptor, name = locate(folders, path)
    try:
        return Reader(path, os.open(name, _OPEN if follow else _OPEN | os.O_NOFOLLOW, dir_fd=descriptor))
    except OSError as error:
        raise read_failure(path, error) from None


def read_unchanged(folders: Folders, path: Path, seen: Stat, *, follow: bool) -> bytes | None:
    """The whole content of a small file that still is the one ``seen`` there, by size, times and inode.

    The stat is compared after the read, so what was read is what was at the path when it was seen, wherever
    the folder that is kept open may have gone since; hence fewer calls than by `open_read`, which makes sure
    of the folder first and asks for the stat twice.

    Returns:
        None when it is another file by now, or cannot be read: then `open_read` finds out why.
    """
    try:
        folder, name = locate(folders, path, check=False)
        descriptor = os.open(name, _OPEN if follow else _OPEN | os.O_NOFOLLOW, dir_fd=folder)
        try:
            data = read_some(descriptor, seen.size + 1)
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, Vanished, Unreadable):
        return None
    return data if len(data) == seen.size and is_untouched(found, seen) else None


def hash_file(folders: Folders, path: Path, *, follow: bool, seen: Stat | None = None) -> tuple[Hash, Stat]:
    """BLAKE3 of a file's content and the stat that goes with it.

    Args:
        seen: what a scan saw there; with it a small file that is still the same costs fewer calls.

    Raises:
        Changing: it changed every time while it was read.
        Vanished, Unreadable: as the names say.
    """
    if seen is not None and seen.size <= _BLOCK:
        unchanged = read_unchanged(folders, path, seen, follow=follow)
        if unchanged is not None:
            return Hash(blake3(unchanged).digest()), seen
    for _ in range(_TRIES):
        with open_read(folders, path, follow=follow) as reader:
            if reader.stat.size <= _BLOCK:
                data = reader.read(reader.stat.size + 1)
                total, digest = len(data), blake3(data).digest()
            else:
                hasher, total = blake3(), 0
                # Never more than it had when it was opened: a file that only grows would not end.
                while total <= reader.stat.size and (data := reader.read(_BLOCK)):
                    hasher.update(data)
                    total += len(data)
                digest = hasher.digest()
            if total == reader.stat.size and reader.unchanged():
                return Hash(digest), reader.stat
    raise Changing(path, "it kept changing while it was read")


def read_link(folders: Folders, path: Path) -> bytes:
    """The target of a symlink.

    Raises:
        Vanished, Unreadable: nothing there, or no symlink.
    """
    descriptor, name = locate(folders, path)
    try:
        return os.readlink(name, dir_fd=descriptor)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Unreadable(path, "it is no symlink") from None
        raise read_failure(path, error) from None


def look(descriptor: int, name: bytes, *, follow: bool) -> Stat | None:
    """``lstat`` of a name in an open folder as a scan would see it, or None when nothing is there."""
    try:
        found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if follow and st.S_ISLNK(found.st_mode):
        try:
            target = os.stat(name, dir_fd=descriptor)
        except OSError:
            return to_stat(found)
        if st.S_ISREG(target.st_mode):
            found = target
    return to_stat(found)


def lstat(folders: Folders, path: Path, *, follow: bool) -> Stat | None:
    """What is at a path, as a scan would see it; None when nothing is, or a parent is no folder.

    Raises:
        Unreadable: the path has a name that is never touched.
        AccessDenied, ManifestSyncError: a folder on the way cannot be entered.
    """
    folder, name = split(path)
    try:
        if not is_allowed_name(name):
            raise Unreadable(path, "its name is reserved or impossible")
        return look(folders.open(folder), name, follow=follow)
    except TargetBlocked as error:
        raise Unreadable(path, error.reason) from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise disk_failure(path, error) from error

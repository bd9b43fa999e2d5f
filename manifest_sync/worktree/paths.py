"""Reaching a path below the root by folder descriptors, never through a symlink (P15)."""

from __future__ import annotations

import errno
import os
import stat as st
from collections import OrderedDict

from manifest_sync.model import Stat, display

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_OPEN = 64


class Changing(Exception):
    """A file did not hold still while it was read."""

    reason = "it kept changing while it was read"


class Vanished(Exception):
    """A file is not there any more."""

    reason = "it vanished while it was read"


class Unreadable(Exception):
    """A file cannot be read; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TargetChanged(Exception):
    """What is at the path is not what the plan saw; nothing was done."""


class TargetBlocked(Exception):
    """A folder, or a file where a folder is needed, is in the way; ``reason`` says what."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def make_stat(found: os.stat_result) -> Stat:
    """The part of ``lstat`` that is kept."""
    return Stat(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode)


def is_symlink(stat: Stat) -> bool:
    """Whether a stat is that of a symlink."""
    return st.S_ISLNK(stat.mode)


def is_folder(stat: Stat) -> bool:
    """Whether a stat is that of a folder."""
    return st.S_ISDIR(stat.mode)


def split(path: bytes) -> tuple[bytes, bytes]:
    """The folder of a path and its name in there."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


class Folders:
    """Open descriptors of folders below the root; a few are kept open, the least used one is closed.

    Each is reached from its parent's descriptor with ``O_NOFOLLOW``, so that no path leads outside.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def descriptor(self, folder: bytes, *, create: bool = False) -> int:
        """An open descriptor of ``folder``, valid until the next call.

        Raises:
            FileNotFoundError: it does not exist and ``create`` is false.
            TargetBlocked: a file or a symlink stands where a folder is needed.
        """
        known = self._open.get(folder)
        if known is not None:
            self._open.move_to_end(folder)
            return known
        if not folder:
            opened = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            parent, name = split(folder)
            opened = self._enter(self.descriptor(parent, create=create), name, folder, create=create)
        self._open[folder] = opened
        while len(self._open) > _MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return opened

    def _enter(self, parent: int, name: bytes, folder: bytes, *, create: bool) -> int:
        try:
            try:
                return os.open(name, FOLDER_FLAGS, dir_fd=parent)
            except FileNotFoundError:
                if not create:
                    raise
                os.mkdir(name, 0o777, dir_fd=parent)
                return os.open(name, FOLDER_FLAGS, dir_fd=parent)
        except (NotADirectoryError, FileExistsError):
            raise TargetBlocked(f"{display(folder)} is a file or a symlink here, not a folder") from None
        except OSError as error:
            if error.errno == errno.ELOOP:  # O_NOFOLLOW met a symlink
                raise TargetBlocked(f"{display(folder)} is a symlink here, not a folder") from None
            raise

    def forget(self, folder: bytes) -> None:
        """Close what is kept open at and below ``folder``; it may be about to go."""
        for path in [p for p in self._open if p == folder or p.startswith(folder + b"/") or not folder]:
            os.close(self._open.pop(path))

    def lstat(self, path: bytes) -> Stat | None:
        """The stat of a path without following links; None when there is nothing."""
        folder, name = split(path)
        try:
            found = os.stat(name or b".", dir_fd=self.descriptor(folder), follow_symlinks=False)
        except (FileNotFoundError, TargetBlocked, NotADirectoryError):
            return None
        return make_stat(found)

    def close(self) -> None:
        """Close all of them."""
        self.forget(b"")

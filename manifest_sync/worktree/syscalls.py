"""Two system calls that Python does not wrap: ``syncfs`` and a rename that never overwrites."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

_RENAME_NOREPLACE = 1
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_libc = ctypes.CDLL(None, use_errno=True)
_syncfs: Any = getattr(_libc, "syncfs", None)
_renameat2: Any = getattr(_libc, "renameat2", None)


def sync_filesystem(descriptor: int) -> None:
    """Bring the filesystem that the descriptor lies on to the disk; where that cannot be, all of them.

    Raises:
        OSError: the disk failed or is full.
    """
    if _syncfs is None:
        os.sync()
    elif _syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename_new(source: bytes, source_dir: int, target: bytes, target_dir: int) -> None:
    """Rename, but never over something that is there.

    Raises:
        FileExistsError: something is there. Where the filesystem cannot tell in one step, it is looked
            first, and what appears in between would be lost.
        OSError: as for ``rename``.
    """
    if _renameat2 is not None:
        if _renameat2(source_dir, source, target_dir, target, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number))
    try:
        os.stat(target, dir_fd=target_dir, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

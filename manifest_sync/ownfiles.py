"""The program's own small text files, such as the configuration that `init` writes; and syncing a folder."""

from __future__ import annotations

import contextlib
import errno
import os


def write_whole(path: str, content: str | bytes, *, private: bool = False) -> None:
    """Write a file that is never seen half: under a name beside it first, synced, then renamed.

    What a kill leaves under that other name (``PATH.new``) is written over by the next run.

    Args:
        private: nobody but its owner may read it, at any moment.

    Raises:
        OSError: with the path; nothing was changed.
    """
    temporary = f"{path}.new"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600 if private else 0o666)
        try:
            if private:
                os.fchmod(descriptor, 0o600)
            left = content.encode() if isinstance(content, str) else content
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror, path) from error


def sync_folder(descriptor: int) -> None:
    """Sync what was made, renamed or removed in an open folder. Raises ``OSError``."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems cannot sync a folder; the files in it are synced already.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise

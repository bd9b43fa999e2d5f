"""One run at a time on one machine: an OS lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from types import TracebackType
from typing import Self

from manifest_sync.errors import Contended, ManifestSyncError

_MAX_TEXT = 512


class LocalLock:
    """An exclusive ``flock`` on a file, held from ``acquire`` to ``release`` or the process's end.

    The file says in text who holds it, for the message only. It is never deleted and the lock never
    taken over: the kernel frees it when its holder dies, so a file that is left behind means nothing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor >= 0

    def acquire(self) -> None:
        """Take the lock at once or raise ``Contended`` naming the holder; holding it already is fine."""
        if self.held:
            return
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ManifestSyncError(
                f"cannot open the lock {self.path}: {error.strerror}",
                "check free space and permissions of its folder, then run the same command again",
            ) from error
        try:
            self._lock(descriptor)
            # For a message only, and on a full disk `trash empty` must still run.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}:
                raise ManifestSyncError(
                    f"cannot lock {self.path}: {error.strerror}", "the filesystem must support flock"
                ) from error
            holder = os.pread(descriptor, _MAX_TEXT, 0).decode("utf-8", "replace").strip()
            raise Contended(
                f"another run holds the lock {self.path}: {holder or 'holder unknown'}",
                "wait until it has finished; the lock ends with its process",
            ) from error

    def release(self) -> None:
        """Free the lock; without effect when it is not held."""
        if self.held:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

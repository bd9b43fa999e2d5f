"""A store in a plain folder: a disk, a network share. Every key is one file with exactly its bytes.

Files appear whole or not at all: a temporary file is written and synced, then renamed. What the store
keeps for itself (lock, temporary files) lies in ``.store`` inside the folder and is never listed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import AccessDenied, FormatError, ManifestSyncError, StoreUnavailable, UsageError
from manifest_sync.ownfiles import sync_folder
from manifest_sync.stores.base import (
    Listed,
    NotFound,
    Object,
    Part,
    PreconditionFailed,
    RequestCounter,
    check_size,
    not_beside,
    too_short,
)
from manifest_sync.stores.pace import Pace

OWN_FOLDER = ".store"
_ABANDONED_SECONDS = 24 * 3600
_PIECE = 1 << 20
"""Bytes that are moved at a time, so that a rate is kept evenly."""
_MISSING = {errno.ENOENT, errno.ENOTDIR}
_UNFIT = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class DirectoryStore:
    """Keeps the contract of `Store` in the folder ``path`` (absolute; made by the first write).

    With a ``pace`` it keeps to that rate: the folder may be a share on a network.
    """

    def __init__(self, path: str, pace: Pace | None = None) -> None:
        if not os.path.isabs(path):
            raise UsageError(f"the store's folder {path!r} is not absolute", "name it by its full path")
        self._root = os.path.normpath(path)
        self._pace = pace or Pace()
        self._count = RequestCounter()
        self._synced: set[str] = set()
        self._folders_lock = threading.Lock()

    @property
    def location(self) -> str:
        """See `Store`."""
        return f"file://{self._root}"

    @property
    def requests(self) -> Counter[str]:
        """See `Store`."""
        return self._count.counts

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        """See `Store`."""
        self._count.add("GET")
        path = self._path(key)
        with self._failures(key):
            found = _read(key, path, max_bytes)
        self._pace.take(len(found.body))
        return None if found.etag == unless_etag else found

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """See `Store`. With ``etag`` the whole object is read, because the ETag is a hash of it."""
        if length == 0:
            return b""
        self._count.add("GET")
        path = self._path(key)
        with self._failures(key), open(path, "rb", buffering=0, opener=_open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            if etag is not None and hash_bytes(file.read(size)).hex() != etag:
                raise PreconditionFailed(key)
            if offset + length > size:
                raise too_short(key, offset + length, size)
            parts = []
            while length:
                part = os.pread(file.fileno(), min(length, _PIECE), offset)
                if not part:
                    raise too_short(key, offset + length)
                self._pace.take(len(part))
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
            return b"".join(parts)

    def put(self, key: str, body: bytes) -> None:
        """See `Store`."""
        self._count.add("PUT")
        path = self._path(key)
        with self._failures(key, writing=True):
            temporary = self._write_temporary(body)
            with self._discarding(temporary), self._locked(fcntl.LOCK_SH):
                self._publish(temporary, path)

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        """See `Store`. Compares and renames under a lock file that all processes share."""
        self._count.add("PUT")
        path = self._path(key)
        with self._failures(key, writing=True):
            temporary = self._write_temporary(body)
            with self._discarding(temporary), self._locked(fcntl.LOCK_EX):
                if _etag_of(path) != etag:
                    raise PreconditionFailed(key)
                self._publish(temporary, path)
        return hash_bytes(body).hex()

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Store`. A file that vanishes while the folder is walked is left out."""
        self._count.add("LIST")
        if prefix:
            _check_key(prefix.rstrip("/"))
        with self._failures(prefix):
            waiting = [prefix.rpartition("/")[0]]
            while waiting:
                folder = waiting.pop()
                for name, item in self._scan(folder):
                    key = f"{folder}/{name}" if folder else name
                    if item.is_dir(follow_symlinks=False):
                        if key.startswith(prefix) or prefix.startswith(f"{key}/"):
                            waiting.append(key)
                    elif key.startswith(prefix) and item.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            found = item.stat(follow_symlinks=False)
                            yield Listed(key, found.st_size, "", found.st_mtime)

    def delete(self, key: str) -> None:
        """See `Store`. Folders that are left empty stay: removing them would race with writers."""
        self._count.add("DELETE")
        path = self._path(key)
        if not os.path.isdir(self._root):
            return
        with (
            self._failures(key),
            self._locked(fcntl.LOCK_SH),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            os.unlink(path)

    def beside(self, place: str) -> PlainFiles:
        """See `Store`."""
        if place != "file://":
            raise not_beside(self.location, place)
        return PlainFiles(self._count, self._pace)

    def close(self) -> None:
        """See `Store`."""

    def _path(self, key: str) -> str:
        _check_key(key)
        return os.path.join(self._root, key)

    def _scan(self, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            with os.scandir(os.path.join(self._root, folder)) as items:
                for item in items:
                    if folder or item.name != OWN_FOLDER:
                        yield item.name, item
        except (FileNotFoundError, NotADirectoryError):
            return

    def _write_temporary(self, body: bytes) -> str:
        """Write ``body`` to a new file and sync it; the file's path."""
        folder = os.path.join(self._root, OWN_FOLDER)
        self._make_folder(folder)
        path = os.path.join(folder, f"tmp-{secrets.token_hex(8)}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            view = memoryview(body)
            while view:
                written = os.write(descriptor, view[:_PIECE])
                self._pace.take(written)
                view = view[written:]
            _sync(descriptor)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return path

    def _publish(self, temporary: str, path: str) -> None:
        folder = os.path.dirname(path)
        self._make_folder(folder)
        os.rename(temporary, path)
        _sync_folder(folder)

    def _make_folder(self, folder: str) -> None:
        """Make ``folder`` and its parents, and make their names durable; once per store."""
        if folder in self._synced and os.path.isdir(folder):
            return
        with self._folders_lock:
            missing = []
            current = folder
            while not os.path.isdir(current):
                missing.append(current)
                current = os.path.dirname(current)
            for new in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(new)
                _sync_folder(os.path.dirname(new))
            if os.path.basename(folder) == OWN_FOLDER:
                _remove_abandoned(folder)
            self._synced.add(folder)

    @contextlib.contextmanager
    def _discarding(self, temporary: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the store's lock: exclusive to compare and swap, shared for all other changes.

        A lock belongs to one opening of the file, so that this keeps threads apart as well as processes.
        """
        folder = os.path.join(self._root, OWN_FOLDER)
        self._make_folder(folder)
        descriptor = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _failures(self, key: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._raise(key, error, writing)

    def _raise(self, key: str, error: OSError, writing: bool) -> NoReturn:
        if error.errno in _MISSING and not writing:
            raise NotFound(key) from None
        message = f"{self.location}: {key}: {error.strerror}"
        if error.errno in _DENIED:
            raise AccessDenied(message, "check the folder's owner and permissions") from error
        if error.errno in _UNFIT:
            raise ManifestSyncError(message, "this key cannot be kept in a folder") from error
        raise StoreUnavailable(message, "check the disk and its free space") from error


class PlainFiles:
    """The files of this machine, by their absolute paths without the leading ``/``; see `Readable`.

    Args:
        count: counts the requests.
        pace: the rate that is kept, with whoever else has it.
    """

    def __init__(self, count: RequestCounter, pace: Pace) -> None:
        self._files = DirectoryStore("/", pace)
        self._files._count = count

    def get_part(self, key: str, offset: int, length: int, *, etag: str) -> Part:  # noqa: ARG002
        """See `Readable`."""
        return Part(self._files.get_range(key, offset, length))

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Readable`. Symlinks are passed over."""
        return self._files.list(prefix)


def _open_regular(path: str, flags: int) -> int:
    """Open a file; anything else is no object, a fifo must not be waited for, and a device has no end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _check_key(key: str) -> None:
    """Refuse a key that could name anything but a file below the folder."""
    parts = key.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts) or parts[0] == OWN_FOLDER:
        raise FormatError(f"{key!r} cannot be a key of a store in a folder")


def _read(key: str, path: str, max_bytes: int) -> Object:
    with open(path, "rb", buffering=0, opener=_open_regular) as file:
        check_size(key, os.fstat(file.fileno()).st_size, max_bytes)
        body = file.read()
    check_size(key, len(body), max_bytes)
    return Object(body, hash_bytes(body).hex())


def _etag_of(path: str) -> str | None:
    try:
        with open(path, "rb", buffering=0, opener=_open_regular) as file:
            return hash_bytes(file.read()).hex()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _sync(descriptor: int) -> None:
    full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is None:
        os.fsync(descriptor)
    else:  # macOS: fsync alone leaves the bytes in the drive's own cache
        fcntl.fcntl(descriptor, full_sync)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_folder(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: str) -> None:
    """Remove temporary files whose writer was killed: older than a day, no write takes that long."""
    with os.scandir(folder) as items:
        for item in items:
            with contextlib.suppress(FileNotFoundError):
                if item.name.startswith("tmp-") and item.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                    os.unlink(item.path)

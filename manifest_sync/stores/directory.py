"""A plain directory as the bucket: the embedded default, and network mounts that keep POSIX's promises.

An object is a file. It is written beside its place, synced, and renamed, so that it is there whole or
not at all; conditional writes hold an OS lock, so that one of several processes wins.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import (
    AccessDenied,
    FormatError,
    ManifestSyncError,
    NoRepository,
    StoreUnavailable,
)
from manifest_sync.stores.base import Listed, NotFound, Object, PreconditionFailed

LOCK = ".lock"
_TEMPORARY = ".tmp-"


class DirectoryStore:
    """Objects as files below ``path``; the ETag is the BLAKE3 of the content."""

    def __init__(self, path: str) -> None:
        self.location = path
        self.requests: Counter[str] = Counter()
        self._path = path

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        """See `base.Store.get`."""
        self.requests["GET"] += 1
        with self._errors(key), open(self._file(key), "rb") as file:
            body = file.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise FormatError(f"{self.location}/{key}: larger than the {max_bytes} bytes it may have")
        etag = hash_bytes(body).hex()
        return None if etag == unless_etag else Object(body, etag)

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """See `base.Store.get_range`."""
        self.requests["GET"] += 1
        with self._errors(key), open(self._file(key), "rb") as file:
            if etag is not None and etag != hash_bytes(file.read()).hex():
                raise PreconditionFailed(key)
            file.seek(offset)
            body = file.read(length)
        if len(body) != length:
            raise StoreUnavailable(
                f"{self.location}/{key}: {len(body)} bytes at {offset} where {length} were asked for",
                "the object is shorter than it should be: the bucket is damaged, or being copied",
            )
        return body

    def put(self, key: str, body: bytes) -> None:
        """See `base.Store.put`."""
        self.requests["PUT"] += 1
        with self._errors(key):
            self._write(key, body)

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        """See `base.Store.put_if`."""
        self.requests["PUT"] += 1
        with self._errors(key), self._locked():
            try:
                with open(self._file(key), "rb") as file:
                    present: str | None = hash_bytes(file.read()).hex()
            except FileNotFoundError:
                present = None
            if present != etag:
                raise PreconditionFailed(key)
            self._write(key, body)
        return hash_bytes(body).hex()

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `base.Store.list`."""
        self.requests["LIST"] += 1
        start = os.path.join(self._path, os.path.dirname(prefix))
        for folder, _, names in os.walk(start, onerror=self._raise):
            for name in sorted(names):
                path = os.path.join(folder, name)
                key = os.path.relpath(path, self._path).replace(os.sep, "/")
                if name == LOCK or name.startswith(_TEMPORARY) or not key.startswith(prefix):
                    continue
                with self._errors(key):
                    found = os.stat(path)
                    with open(path, "rb") as file:
                        etag = hash_bytes(file.read()).hex()
                yield Listed(key, found.st_size, etag, found.st_mtime)

    def delete(self, key: str) -> None:
        """See `base.Store.delete`."""
        self.requests["DELETE"] += 1
        try:
            with self._errors(key):
                os.unlink(self._file(key))
        except NotFound:
            return

    def close(self) -> None:
        """Nothing is open."""

    def _file(self, key: str) -> str:
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts) or LOCK in parts:
            raise FormatError(f"{key!r} is no key of an object")
        return os.path.join(self._path, *parts)

    def _write(self, key: str, body: bytes) -> None:
        path = self._file(key)
        folder = os.path.dirname(path)
        if not os.path.isdir(self._path):
            raise NoRepository(
                f"{self._path} does not exist",
                "check the bucket in manifest-sync.toml; is the disk mounted?",
            )
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, _TEMPORARY + secrets.token_hex(8))
        try:
            with open(temporary, "xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass
            raise
        self._sync_folders(folder)

    def _sync_folders(self, folder: str) -> None:
        """A new name is on the disk only when its folder is, up to the bucket's own."""
        while True:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if os.path.samefile(folder, self._path):
                return
            folder = os.path.dirname(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # One descriptor a call: flock keeps threads of one process apart only that way.
        with open(os.path.join(self._path, LOCK), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _raise(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise StoreUnavailable(f"{error.filename}: {error.strerror}") from error

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if not os.path.isdir(self._path):
                raise NoRepository(
                    f"{self._path} does not exist",
                    "check the bucket in manifest-sync.toml; is the disk mounted?",
                ) from None
            raise NotFound(key) from error
        except NotADirectoryError as error:
            raise NotFound(key) from error
        except PermissionError as error:
            raise AccessDenied(
                f"{self.location}/{key}: {error.strerror}", "check the permissions of the bucket's folder"
            ) from error
        except OSError as error:
            hint = "free some space and run again" if error.errno == errno.ENOSPC else "try again"
            kind = ManifestSyncError if error.errno == errno.ENOSPC else StoreUnavailable
            raise kind(f"{self.location}/{key}: {error.strerror}", hint) from error

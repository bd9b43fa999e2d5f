"""Our own folders on the root's device, and batches of temporary files in one of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from types import TracebackType
from typing import Self

from blake3 import blake3

from manifest_sync.model import Hash
from manifest_sync.worktree.outcomes import disk_failure
from manifest_sync.worktree.syscalls import sync_filesystem

_BLOCK = 1 << 20
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Area:
    """``staging/`` and ``trash/`` below ``base``, held open by descriptor."""

    def __init__(self, base: str) -> None:
        self.staging_path = os.path.join(base, "staging")
        self.trash_path = os.path.join(base, "trash")
        os.makedirs(self.staging_path, exist_ok=True)
        os.makedirs(self.trash_path, exist_ok=True)
        self.staging = os.open(self.staging_path, _OPEN)
        self.device = os.fstat(self.staging).st_dev
        self._run = ""
        self._trash = -1

    def trash(self, run: str) -> int:
        """A descriptor of the trash folder of a run, valid until another run's is asked for."""
        if run != self._run:
            folder = os.path.join(self.trash_path, run)
            os.makedirs(folder, exist_ok=True)
            if self._trash >= 0:
                os.close(self._trash)
            self._trash = os.open(folder, _OPEN)
            self._run = run
        return self._trash

    def clean(self) -> None:
        """Remove what killed runs left in staging."""
        for entry in list(os.scandir(self.staging_path)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (self.staging, self._trash):
            if descriptor >= 0:
                os.close(descriptor)
        self.staging = self._trash = -1
        self._run = ""

    def __del__(self) -> None:
        if hasattr(self, "_trash"):
            self.close()


class Staged:
    """One temporary file on the root's device, not yet anywhere the user looks."""

    __slots__ = ("_area", "_descriptor", "_hashed", "_hasher", "name")

    def __init__(self, area: Area, name: str) -> None:
        self._area = area
        self.name = name
        self._hasher: blake3 | None = None
        self._hashed = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(name, flags, 0o600, dir_fd=area.staging)

    @property
    def path(self) -> str:
        """Where it lies, for messages."""
        return os.path.join(self._area.staging_path, self.name)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset.

        Raises:
            ManifestSyncError: the disk is full or failed.
        """
        try:
            written = os.pwrite(self._descriptor, data, offset)
            while written < len(data):
                written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise disk_failure(os.fsencode(self.path), error) from error

    def write_piece(self, offset: int, data: bytes | memoryview) -> None:
        """`write_at` of a file whose `hash` is asked for in the end, no byte of it written twice: pieces that
        come in order are hashed while they are at hand.

        Raises:
            ManifestSyncError: the disk is full or failed.
        """
        self.write_at(offset, data)
        if offset == self._hashed:
            self._hasher = self._hasher or blake3()
            self._hasher.update(data)
            self._hashed += len(data)

    def hash(self) -> Hash:
        """BLAKE3 of what was written; what was not hashed on the way is read back.

        Raises:
            ManifestSyncError: the disk failed.
        """
        hasher = self._hasher or blake3()
        try:
            while block := os.pread(self._descriptor, _BLOCK, self._hashed):
                hasher.update(block)
                self._hashed += len(block)
        except OSError as error:
            raise disk_failure(os.fsencode(self.path), error) from error
        return Hash(hasher.digest())

    def close(self) -> None:
        """No more is written; twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Staging:
    """A batch of temporary files; a context manager that removes those not renamed by then."""

    def __init__(self, area: Area) -> None:
        self._area = area
        self._files: list[Staged] = []
        self._prefix = secrets.token_hex(6)

    def create(self) -> Staged:
        """A new empty temporary file, open for writing.

        Raises:
            ManifestSyncError: the disk is full or failed.
        """
        try:
            staged = Staged(self._area, f"{self._prefix}-{len(self._files)}")
        except OSError as error:
            raise disk_failure(os.fsencode(self._area.staging_path), error) from error
        self._files.append(staged)
        return staged

    def sync(self) -> None:
        """Bring the whole batch to the disk with one call.

        Raises:
            ManifestSyncError: the disk is full or failed.
        """
        try:
            sync_filesystem(self._area.staging)
        except OSError as error:
            raise disk_failure(os.fsencode(self._area.staging_path), error) from error

    def discard(self) -> None:
        """Remove what was not renamed into place. What cannot be removed now, the next run removes."""
        for staged in self._files:
            staged.close()
        left: set[str] = set()
        with contextlib.suppress(OSError):
            left.update(os.listdir(self._area.staging))
        for name in left.intersection(staged.name for staged in self._files):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._area.staging)
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

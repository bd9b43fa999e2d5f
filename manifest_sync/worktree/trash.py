"""The trash: for each run a folder with its record and with what it took away (see `runrecord`).

Nothing here decides what may go: `discard` removes what its caller names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from manifest_sync.errors import FormatError, UsageError
from manifest_sync.model import Path
from manifest_sync.runrecord import RunHeader, Step, encode_header, encode_step, parse_header, parse_step
from manifest_sync.worktree.outcomes import disk_failure
from manifest_sync.worktree.staging import Area
from manifest_sync.worktree.syscalls import sync_filesystem

RECORD = "record"
_UNDONE = "undone"


class RunWriter:
    """The record of the run that is under way; a context manager that closes it."""

    def __init__(self, area: Area, command: str, time: str) -> None:
        # Numbered, so that their order does not hang on the clock; the lock of the local state is held.
        self.run = str(max((int(name) for name in _names(area)), default=0) + 1)
        self.steps = 0
        """How many steps were written down."""
        self._path = os.path.join(area.trash_path, self.run, RECORD)
        self._descriptor = -1
        self._size = 0
        try:
            os.mkdir(os.path.dirname(self._path))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            self._append(encode_header(RunHeader(self.run, command, time)))
        except OSError as error:
            self.close()
            raise disk_failure(os.fsencode(self._path), error) from error

    def note(self, steps: Iterable[Step]) -> int:
        """Write steps down, synced, before they are taken; the number of the first.

        Raises:
            ManifestSyncError: the disk is full or failed; nothing was taken.
        """
        lines = [encode_step(step) for step in steps]
        try:
            self._append(b"".join(lines))
            # The whole filesystem and not the file alone: the folder's own name must be there as well.
            sync_filesystem(self._descriptor)
        except OSError as error:
            raise disk_failure(os.fsencode(self._path), error) from error
        first = self.steps
        self.steps += len(lines)
        return first

    def slot(self, number: int) -> str:
        """Where in the trash the content belongs that the step ``number`` takes away."""
        return f"{self.run}/{number}"

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            # A line cut off must stay the last one: nothing may be written behind it.
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Close the record; twice is fine. A run that took no step leaves nothing behind."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if not self.steps:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
                os.rmdir(os.path.dirname(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Trash:
    """What all runs left in one area."""

    def __init__(self, area: Area, root: bytes) -> None:
        self._area = area
        self._root = root

    def runs(self) -> list[RunHeader]:
        """The runs with a readable record, newest first."""
        found = []
        for name in sorted(_names(self._area), key=int, reverse=True):
            with contextlib.suppress(FormatError, FileNotFoundError):
                found.append(self._header(name))
        return found

    def strays(self) -> list[str]:
        """Folders in the trash whose record is missing or unreadable; their content is kept."""
        readable = {header.run for header in self.runs()}
        return sorted(name for name in os.listdir(self._area.trash_path) if name not in readable)

    def steps(self, run: str, first: int = 0) -> Iterator[tuple[int, Step]]:
        """Number and step of a run, from ``first`` on. A last line that was cut off was never acted on.

        Raises:
            FormatError: the record is damaged.
            UsageError: there is no such run.
        """
        path = self._path(run, RECORD)
        try:
            with open(path, "rb") as file:
                parse_header(file.readline())
                for number, line in enumerate(file):
                    if number >= first and line.endswith(b"\n"):
                        yield number, parse_step(line)
        except FileNotFoundError:
            raise UsageError(
                f"there is no run {run!r} in the trash", "`manifest-sync trash list` names those there are"
            ) from None

    def stored(self, run: str) -> dict[int, int]:
        """Number and size in bytes of what a run took away and is still there."""
        found = {}
        with os.scandir(self._path(run)) as entries:
            for entry in entries:
                if _is_name(entry.name):
                    found[int(entry.name)] = entry.stat(follow_symlinks=False).st_size
        return found

    def content_path(self, run: str, number: int) -> str:
        """Where the content lies that a step took away."""
        return self._path(run, str(number))

    def shares(self, run: str, number: int, path: Path) -> bool:
        """Whether what a step would have taken away still is at its path as well: one file with two names."""
        try:
            kept = os.lstat(self.content_path(run, number))
            found = os.lstat(os.path.join(self._root, path))
        except OSError:
            return False
        return os.path.samestat(kept, found)

    def is_undone(self, run: str) -> bool:
        """Whether the run was taken back."""
        return os.path.exists(self._path(run, _UNDONE))

    def mark_undone(self, run: str) -> None:
        """Note that the run was taken back.

        Raises:
            ManifestSyncError: the disk is full or failed.
        """
        path = self._path(run, _UNDONE)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise disk_failure(os.fsencode(path), error) from error

    def discard(self, run: str, number: int) -> None:
        """Remove for good what a step took away; that it is gone already is fine.

        Raises:
            ManifestSyncError: the disk refused.
        """
        path = self._path(run, str(number))
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_failure(os.fsencode(path), error) from error

    def discard_run(self, run: str) -> None:
        """Remove a run that holds no content any more; with content in it this does nothing.

        Raises:
            ManifestSyncError: the disk refused.
        """
        if self.stored(run):
            return
        folder = self._path(run)
        try:
            for name in (_UNDONE, RECORD):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
        except OSError as error:
            raise disk_failure(os.fsencode(folder), error) from error

    def _header(self, name: str) -> RunHeader:
        with open(self._path(name, RECORD), "rb") as file:
            header = parse_header(file.readline())
        if header.run != name:
            raise FormatError(f"the record in {self._path(name)} is of another run")
        return header

    def _path(self, run: str, *rest: str) -> str:
        if not _is_name(run):
            raise UsageError(f"{run!r} is not the name of a run", "`manifest-sync trash list` names them")
        return os.path.join(self._area.trash_path, run, *rest)


def _is_name(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 18 and name == str(int(name))


def _names(area: Area) -> list[str]:
    return [name for name in os.listdir(area.trash_path) if _is_name(name)]

"""Finding the content of chunks on this machine: in the tree, and in what earlier runs moved to the trash.

Nothing is believed: whatever is read counts only if it has the chunk's hash.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import FormatError, ManifestSyncError
from manifest_sync.model import Hash, Path
from manifest_sync.worktree import Reader, Unreadable, Vanished, Worktree

MOST_PLACES = 16
"""Places of one chunk that are tried."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk is if the file is as an entry says: path, offset, and the hash of the whole file."""

    path: Path
    offset: int
    file: Hash


def add_place(places: dict[Hash, list[Place]], chunk_id: Hash, place: Place) -> None:
    """Note one more place of a chunk, up to `MOST_PLACES`."""
    known = places.setdefault(chunk_id, [])
    if place not in known and len(known) < MOST_PLACES:
        known.append(place)


class LocalChunks:
    """Reads chunks out of files; a context manager that closes the file read last."""

    def __init__(self, worktree: Worktree) -> None:
        self._worktree = worktree
        self._reader: Reader | None = None
        self._opened: Path | tuple[str, int] | None = None
        self._trashed: dict[Hash, tuple[str, int]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def read(self, chunk_id: Hash, length: int, places: list[Place]) -> bytes | None:
        """The bytes of a chunk; None when none of the places has them, and no trashed file either."""
        for place in places:
            data = self._read_at(place.path, place.offset, length)
            if data is not None and hash_bytes(data) == chunk_id:
                return data
        trashed = self._trash()
        for place in places:
            source = trashed.get(place.file)
            data = None if source is None else self._read_at(source, place.offset, length)
            if data is not None and hash_bytes(data) == chunk_id:
                return data
        return None

    def _read_at(self, source: Path | tuple[str, int], offset: int, length: int) -> bytes | None:
        try:
            if source != self._opened:
                self._close()
                self._opened = source
                worktree = self._worktree
                # Neighbouring chunks lie in one file; what cannot be opened is not tried again at once.
                if isinstance(source, tuple):
                    self._reader = worktree.open_trashed(*source)
                else:
                    self._reader = worktree.open_read(source)
            return None if self._reader is None else self._reader.read_at(offset, length)
        except (Vanished, Unreadable):
            return None

    def _trash(self) -> dict[Hash, tuple[str, int]]:
        """What lies in the trash, by the hash of its content."""
        if self._trashed is None:
            self._trashed = {}
            trash = self._worktree.trash() if self._worktree.exists() else None
            for header in trash.runs() if trash is not None else ():
                assert trash is not None
                with contextlib.suppress(FormatError, ManifestSyncError, OSError):
                    stored = trash.stored(header.run)
                    for number, step in trash.steps(header.run):
                        if number in stored and step.before is not None and len(step.before) > 1:
                            self._trashed.setdefault(Hash(step.before[1:]), (header.run, number))
        return self._trashed

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._opened = None

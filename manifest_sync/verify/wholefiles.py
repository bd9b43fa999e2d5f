"""Whether the chunks of a file make up its hash, found out while the packs go by. Knows no store.

A chunk's own hash is checked with its pack; that the right chunks are listed in the right order only the
file's hash tells. Packs come in the order in which pages first name them, which is the order of a file's
chunks except where something was found to be stored already.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from manifest_sync.canonical import new_hasher
from manifest_sync.model import Entry, Hash
from manifest_sync.pack import decode_frame

_FIELDS = 6


class WholeFile:
    """One content of several chunks, and how far it is hashed."""

    __slots__ = ("_hasher", "_places", "_position", "digest", "id", "pages")

    def __init__(self, id_: int, digest: Hash, places: array[int], pages: array[int]) -> None:
        self.id = id_
        self.digest = digest
        self.pages = pages
        """Numbers of pages that list it."""
        self._places = places
        self._position = 0
        self._hasher = new_hasher()

    @property
    def is_done(self) -> bool:
        """Whether every chunk was taken."""
        return self._position == len(self._places)

    @property
    def next(self) -> tuple[int, int, int, int, int, int]:
        """Of the chunk due: number of its pack; offset, stored and plain length of its frame; offset in
        the frame and length."""
        pack, start, stored, raw, offset, length = self._places[self._position : self._position + _FIELDS]
        return pack, start, stored, raw, offset, length

    def take(self, stored: bytes) -> None:
        """Take the chunk due out of its frame. Raises `FormatError` if the frame does not decode."""
        _, _, _, raw, offset, length = self.next
        self._hasher.update(memoryview(decode_frame(stored, raw))[offset : offset + length])
        self._position += _FIELDS

    @property
    def is_whole(self) -> bool:
        """Whether what was taken is the file."""
        return self._hasher.digest() == self.digest


class WholeFiles:
    """All contents of several chunks. Packs are numbered in the order in which they come."""

    def __init__(self) -> None:
        self._files: dict[int, WholeFile] = {}
        self._due: dict[int, list[WholeFile]] = {}
        self._late: list[WholeFile] = []
        self._passed = -1
        self.wrong: list[WholeFile] = []

    @staticmethod
    def identify(entry: Entry) -> int:
        """What tells contents, as listed, apart within one run."""
        return hash((entry.hash, entry.chunks))

    def add(self, entry: Entry, packs: list[int], page: int) -> None:
        """An entry with several chunks, the numbers of their packs, and the number of its page."""
        id_ = self.identify(entry)
        known = self._files.get(id_)
        if known is not None:
            known.pages.append(page)
            return
        places = array("Q")
        for number, chunk in zip(packs, entry.chunks, strict=True):
            frame = chunk.frame
            places.extend((number, frame.offset, frame.stored, frame.raw, chunk.offset, chunk.length))
        file = self._files[id_] = WholeFile(id_, entry.hash, places, array("I", [page]))
        self._due.setdefault(packs[0], []).append(file)

    def feed(self, number: int, body: bytes) -> None:
        """The next pack, which is whole."""
        self._passed = number
        for file in self._due.pop(number, ()):
            while not file.is_done and file.next[0] == number:
                _, start, stored, *_ = file.next
                file.take(body[start : start + stored])
            self._settle(file)

    def skip(self, number: int) -> None:
        """The next pack is damaged: what needs it cannot be whole, and is looked at no further."""
        self._passed = number
        self._due.pop(number, None)

    def _settle(self, file: WholeFile) -> None:
        if file.is_done:
            if not file.is_whole:
                self.wrong.append(file)
        elif file.next[0] > self._passed:
            self._due.setdefault(file.next[0], []).append(file)
        else:
            self._late.append(file)

    def iter_late(self) -> Iterator[WholeFile]:
        """At the end: the contents that need a pack which had gone by; take the rest, then `settle`."""
        yield from self._late

    def settle(self, file: WholeFile) -> None:
        """All of a late content was taken."""
        if not file.is_whole:
            self.wrong.append(file)

"""Where one page ends and the next begins: by content, so that adding files rewrites few pages. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from manifest_sync.model import ChunkRef, Entry, FrameRef, Writer

MAX_COST = 1 << 20
"""A page is cut before its entries' cost (see `PageCutter`) would exceed this."""
MIN_LENGTH = 250
"""A page ends after no path before it is so long (see `PageCutter`)."""
TARGET_LENGTH = 700
"""From this length on it ends after the next of many paths, below after one of few."""
MAX_LENGTH = 1400
"""A page that is so long ends after whatever path."""
BOUNDARY_MODULUS = 2000
EAGERNESS = 12
"""How many times likelier a path ends a page from `TARGET_LENGTH` on."""


def is_boundary(path: bytes, odds: int) -> bool:
    """Whether ``path`` is one of ``odds`` in 2,000: whatever its neighbours; it is at greater odds, too."""
    return int.from_bytes(blake3(path).digest(length=8), "big") % BOUNDARY_MODULUS < odds


_EXPENSIVE = bytes([*range(0x20), *b'"\\', *range(0x7F, 0x100)])


class PageCutter:
    """Cuts a stream of entries, in path order, into the runs that become pages.

    An entry counts for as many as it has chunks, at least 1; a run's length is the sum. A run ends after an
    entry that is a boundary: by no odds below `MIN_LENGTH`, then by as many as the entry counts for, from
    `TARGET_LENGTH` on by `EAGERNESS` times that, and at `MAX_LENGTH` by any. So pages are of much the same
    length, and cuts that a change has shifted meet the old ones again soon.

    A run also ends before an entry whose cost would bring it above `MAX_COST`. The cost is an estimate of
    JSON bytes that needs no encoding: 184 + the path's and the target's bytes, 5 more for each that is not
    printable ASCII or is a quote or a backslash; 104 for each of several chunks; 48 for a frame other than
    that of the chunk before, 176 and the length of URL and ETag more if its pack is another; 112 and the
    host's bytes for a writer other than that of the entry before.
    """

    def __init__(self) -> None:
        self._run: list[Entry] = []
        self._cost = 0
        self._length = 0
        self._closed = False
        self._frame: FrameRef | None = None
        self._writer: Writer | None = None

    @property
    def is_empty(self) -> bool:
        """Whether a page may start with the next entry: nothing is waiting."""
        return not self._run

    def push(self, entry: Entry) -> list[Entry] | None:
        """Add the next entry; the run that is finished by it, if any."""
        cost = self._entry_cost(entry)
        finished = None
        if self._closed or (self._run and self._cost + cost > MAX_COST):
            finished = self.flush()
            cost = self._entry_cost(entry)
        self._run.append(entry)
        self._cost += cost
        count = max(1, len(entry.chunks))
        self._length += count
        self._frame = entry.chunks[-1].frame if entry.chunks else self._frame
        self._writer = entry.writer
        if not self._ends_after(entry.path, count):
            return finished
        if finished is None:
            return self.flush()
        # Two runs end here, and one is returned at a time: the second comes with the next call.
        self._closed = True
        return finished

    def flush(self) -> list[Entry] | None:
        """The run that is left, if any: at the end, or where an unchanged page follows."""
        run, self._run = self._run, []
        self._cost, self._length, self._closed = 0, 0, False
        self._frame, self._writer = None, None
        return run or None

    def _ends_after(self, path: bytes, count: int) -> bool:
        if self._length < MIN_LENGTH:
            return False
        odds = count if self._length < TARGET_LENGTH else EAGERNESS * count
        return self._length >= MAX_LENGTH or is_boundary(path, odds)

    def _entry_cost(self, entry: Entry) -> int:
        text = entry.path + entry.target
        cost = 184 + len(text) + 5 * (len(text) - len(text.translate(None, _EXPENSIVE)))
        if len(entry.chunks) > 1:
            cost += 104 * len(entry.chunks)
        if entry.writer is not self._writer and entry.writer != self._writer:
            cost += 112 + len(entry.writer.host.encode())
        return cost + self._frames_cost(entry.chunks)

    def _frames_cost(self, chunks: Iterable[ChunkRef]) -> int:
        cost = 0
        previous = self._frame
        for chunk in chunks:
            frame = chunk.frame
            if frame is not previous and frame != previous:
                cost += 48
                if previous is None or frame.pack != previous.pack:
                    cost += 176 + len(frame.pack.url) + len(frame.pack.etag)
                previous = frame
        return cost

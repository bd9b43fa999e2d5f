"""Where one page ends and the next begins: by content, so that adding files rewrites few pages. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from manifest_sync.model import ChunkRef, Entry, FrameRef, Writer

PAGE_TARGET = 1 << 20
"""A page is cut before its entries' cost (see `PageCutter`) would exceed this."""
BOUNDARY_MODULUS = 2000


def is_boundary(path: bytes) -> bool:
    """Whether a page ends after ``path``: true for about one path in 2,000, whatever its neighbours."""
    return int.from_bytes(blake3(path).digest(length=8), "big") % BOUNDARY_MODULUS == 0


_EXPENSIVE = bytes([*range(0x20), *b'"\\', *range(0x7F, 0x100)])


class PageCutter:
    """Cuts a stream of entries, in path order, into the runs that become pages.

    A run ends after an entry whose path is a boundary, and before an entry whose cost would bring the run
    above `PAGE_TARGET`. The cost is an estimate of JSON bytes that needs no encoding:
    184 + the path's and the target's bytes, 5 more for each that is not printable ASCII or is a quote or
    a backslash; 104 for each of several chunks; 48 for a frame other than that of the chunk before, 176 and
    the length of URL and ETag more if its pack is another; 112 and the host's bytes for a writer other
    than that of the entry before.
    """

    def __init__(self) -> None:
        self._run: list[Entry] = []
        self._cost = 0
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
        if self._closed or (self._run and self._cost + cost > PAGE_TARGET):
            finished = self.flush()
            cost = self._entry_cost(entry)
        self._run.append(entry)
        self._cost += cost
        self._frame = entry.chunks[-1].frame if entry.chunks else self._frame
        self._writer = entry.writer
        if not is_boundary(entry.path):
            return finished
        if finished is None:
            return self.flush()
        # Two runs end here, and one is returned at a time: the second comes with the next call.
        self._closed = True
        return finished

    def flush(self) -> list[Entry] | None:
        """The run that is left, if any: at the end, or where an unchanged page follows."""
        run, self._run = self._run, []
        self._cost, self._closed, self._frame, self._writer = 0, False, None, None
        return run or None

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

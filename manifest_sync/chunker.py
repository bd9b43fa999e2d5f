"""Cutting a file's content into chunks. Pure: the bytes come from a function.

A file up to `ChunkParams.small` bytes is one chunk; a larger one is cut where its content says so (FastCDC,
2020), so that an insertion changes the chunks around it and no others. See docs/format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

ALGORITHM = "fastcdc-2020"
_SMALLEST, _LARGEST = 1 << 10, 16 << 20


@dataclass(frozen=True, slots=True)
class ChunkParams:
    """How files are cut, sizes in bytes; recorded in the manifest so that all machines cut alike.

    ``normalization`` and ``seed`` are those of FastCDC: the level of normalised chunking, and the
    variant of its gear table (0 = the one published).
    """

    algorithm: str = ALGORITHM
    small: int = 1 << 20
    min: int = 1 << 20
    avg: int = 2 << 20
    max: int = 8 << 20
    normalization: int = 1
    seed: int = 0

    def problem(self) -> str | None:
        """Why these parameters cannot be used, or None."""
        if self.algorithm != ALGORITHM:
            return f"chunking algorithm {self.algorithm!r} is not known"
        ordered = _SMALLEST <= self.min <= self.avg <= self.max <= _LARGEST
        # The limits of the algorithm's library on minimum and average.
        if not ordered or self.min > 1 << 20 or self.avg > 4 << 20 or not 0 <= self.small <= self.max:
            return "chunk sizes are out of range"
        if not 0 <= self.normalization <= 3 or not 0 <= self.seed < 1 << 63:
            return "chunking options are out of range"
        return None


DEFAULT = ChunkParams()


class _Limited:
    """At most ``size`` bytes of ``read``: a file that grows while it is read must not be followed forever."""

    def __init__(self, read: Callable[[int], bytes], size: int) -> None:
        self._read = read
        self._left = size

    def read(self, length: int) -> bytes:
        data = self._read(min(length, self._left)) if self._left else b""
        self._left -= len(data)
        return data


def cut(read: Callable[[int], bytes], size: int, params: ChunkParams = DEFAULT) -> Iterator[bytes]:
    """The chunks of a content of ``size`` bytes in order; none for an empty one.

    ``read(n)`` gives up to ``n`` bytes and ``b""`` at the end. Never more than ``size`` bytes are read;
    fewer are yielded if it ends early, which the caller sees from their sum. At most about two chunks of
    the maximum size are held in memory. Raises ``ValueError`` for unusable parameters.
    """
    problem = params.problem()
    if problem:
        raise ValueError(problem)
    source = _Limited(read, size)
    if size > params.small:
        from pyfastcdc import FastCDC  # noqa: PLC0415  (30 ms that a run without large files does not pay)

        cutter = FastCDC(
            params.avg,
            min_size=params.min,
            max_size=params.max,
            normalized_chunking=cast(Literal[0, 1, 2, 3], params.normalization),
            seed=params.seed,
        )
        # The library's view is valid only until the next chunk: copy.
        yield from (bytes(chunk.data) for chunk in cutter.cut_stream(source))
        return
    parts: list[bytes] = []
    while data := source.read(size):
        parts.append(data)
    if parts:
        yield b"".join(parts)

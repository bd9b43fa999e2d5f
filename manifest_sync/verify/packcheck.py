"""Whether the bytes of a pack are what they should be, as a whole and chunk by chunk. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import FormatError
from manifest_sync.model import ChunkRef, FrameRef, Hash
from manifest_sync.pack import Trailer, decode_frame, parse_trailer

ChunkPlace = tuple[int, int, int, int, int, Hash]
"""Where a chunk lies: offset, stored and plain length of its frame, offset in it, length, id."""


def check_pack(pack_id: str, size: int, body: bytes) -> Trailer:
    """Check everything about a pack: length, id, tables, every frame and every chunk.

    Raises:
        FormatError: whose message says what is wrong.
    """
    if len(body) != size:
        raise FormatError(f"it has {len(body)} bytes instead of {size}")
    if hash_bytes(body).hex() != pack_id:
        raise FormatError("its bytes do not have the hash that names it")
    trailer = parse_trailer(body)
    chunks = iter(trailer.chunks)
    chunk = next(chunks, None)
    for number, frame in enumerate(trailer.frames):
        plain = decode_frame(body[frame.offset : frame.offset + frame.stored], frame.raw)
        while chunk is not None and chunk.frame == number:
            if hash_bytes(plain[chunk.offset : chunk.offset + chunk.length]) != chunk.id:
                raise FormatError(f"a chunk in frame {number} does not match its hash")
            chunk = next(chunks, None)
    return trailer


def place(chunk: ChunkRef) -> ChunkPlace:
    """Where a page says that a chunk lies in its pack."""
    frame = chunk.frame
    return frame.offset, frame.stored, frame.raw, chunk.offset, chunk.length, chunk.id


def places(trailer: Trailer) -> Iterable[ChunkPlace]:
    """Where a pack says that its chunks lie."""
    for chunk in trailer.chunks:
        frame = trailer.frames[chunk.frame]
        yield frame.offset, frame.stored, frame.raw, chunk.offset, chunk.length, chunk.id


class FrameReader:
    """Plain bytes out of a pack that may be damaged; the frame used last is kept.

    Args:
        body: the pack's bytes, as far as there are any.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._frame: FrameRef | None = None
        self._plain = b""

    def read(self, chunk: ChunkRef) -> bytes | None:
        """The plain bytes of a chunk; None when they are not there or do not match its hash."""
        if chunk.frame != self._frame:
            frame = chunk.frame
            stored = self._body[frame.offset : frame.offset + frame.stored]
            try:
                self._plain = decode_frame(stored, frame.raw) if len(stored) == frame.stored else b""
            except FormatError:
                self._plain = b""
            self._frame = frame
        data = self._plain[chunk.offset : chunk.offset + chunk.length]
        return data if len(data) == chunk.length and hash_bytes(data) == chunk.id else None

"""Packs: many file contents in one immutable object that explains itself. Pure.

::

    frame 0 | frame 1 | … | table of frames | table of chunks | footer (56 bytes)

All numbers are big-endian. The id of a pack is the BLAKE3 of all its bytes. See docs/format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from manifest_sync.canonical import compress, decompress, hash_bytes
from manifest_sync.errors import FormatError
from manifest_sync.model import Hash

CHUNK_SMALL = 1 << 20
"""A file of up to this many bytes is one chunk."""
FRAME_TARGET = 128 << 10
"""A frame of small chunks is closed when it has reached this many plain bytes."""
PACK_TARGET = 16 << 20
"""A pack is closed when its frames have reached this many stored bytes."""
MAX_FRAME = 16 << 20
"""Most plain bytes of a frame that a reader accepts, and so of a chunk."""
MAX_PACK = 64 << 20
"""Most bytes of a pack of this repository; external packs may be larger."""

MAGIC = b"MSPACK"
VERSION = 1
_FRAME = struct.Struct(">QII")
_CHUNK = struct.Struct(">32sIII")
_FOOTER = struct.Struct(">IIQ32sH6s")
FOOTER_LENGTH = _FOOTER.size

_SAMPLE_FROM = 64 << 10
_SAMPLE = 4 << 10


Stored = TypeVar("Stored", bound=bytes | memoryview)


class PackFrame(NamedTuple):
    """``stored`` bytes at ``offset`` of the pack that decode to ``raw`` bytes."""

    offset: int
    stored: int
    raw: int


class PackChunk(NamedTuple):
    """``length`` bytes at ``offset`` of the decoded frame number ``frame``; ``id`` is their BLAKE3."""

    id: Hash
    frame: int
    offset: int
    length: int


class Trailer(NamedTuple):
    """What a pack says about itself."""

    frames: tuple[PackFrame, ...]
    chunks: tuple[PackChunk, ...]


def encode_frame(plain: bytes) -> bytes:
    """The stored form of a frame: one zstd frame, or ``plain`` itself where that saves less than 1/32.

    The result has the length of ``plain`` if and only if it is stored raw. Compressed bytes are decoded and
    compared before they are returned: a fault of memory must not be discovered at the next download.
    Raises ``ValueError`` if ``plain`` is empty or longer than `MAX_FRAME`.
    """
    if not 0 < len(plain) <= MAX_FRAME:
        raise ValueError(f"a frame holds 1 to {MAX_FRAME} bytes, not {len(plain)}")
    # Compressing noise costs five times more than finding out on a sample that it is noise.
    if len(plain) > _SAMPLE_FROM:
        middle = len(plain) // 2
        sample = plain[:_SAMPLE] + plain[middle : middle + _SAMPLE] + plain[-_SAMPLE:]
        if not _pays(compress(sample), sample):
            return plain
    stored = compress(plain)
    if not _pays(stored, plain):
        return plain
    if decompress(stored, len(plain)) != plain:
        raise ValueError("compressed data does not decode to what went in; the memory may be faulty")
    return stored


def _pays(stored: bytes, plain: bytes) -> bool:
    return len(stored) < len(plain) - len(plain) // 32


def decode_frame(stored: Stored, raw: int) -> Stored | bytes:
    """The ``raw`` plain bytes of a frame. Raises `FormatError` when they are not what was promised."""
    if not 0 < raw <= MAX_FRAME or len(stored) > raw:
        raise FormatError(f"frame of {len(stored)} stored and {raw} plain bytes is out of range")
    if len(stored) == raw:
        return stored
    plain = decompress(stored, raw)
    if len(plain) != raw:
        raise FormatError(f"frame decodes to {len(plain)} bytes instead of {raw}")
    return plain


class PackBuilder:
    """Collects frames; `finish` gives the pack."""

    def __init__(self) -> None:
        self.frames: list[PackFrame] = []
        self.size = 0
        """Stored bytes of the frames so far, without trailer and footer."""
        self._bodies: list[bytes] = []
        self._chunks: list[PackChunk] = []

    def add_frame(self, stored: bytes, raw: int, chunks: Sequence[tuple[Hash, int, int]]) -> int:
        """Append a frame with its chunks (id, offset in the frame, length) and return its number.

        The chunks must fill the frame from its start to its end in order, else ``ValueError``.
        """
        number = len(self.frames)
        end = 0
        for _, offset, length in chunks:
            if offset != end or length <= 0:
                raise ValueError("the chunks do not fill their frame in order")
            end += length
        if end != raw or not 0 < len(stored) <= raw <= MAX_FRAME:
            raise ValueError(f"frame of {len(stored)} stored, {raw} plain, {end} chunk bytes")
        self._chunks += [PackChunk(id_, number, offset, length) for id_, offset, length in chunks]
        self.frames.append(PackFrame(self.size, len(stored), raw))
        self._bodies.append(stored)
        self.size += len(stored)
        return number

    def finish(self) -> tuple[str, bytes]:
        """The pack's id (hex) and its bytes, once: the frames are let go of.

        Raises ``ValueError`` for an empty or too large pack.
        """
        if not self._bodies:
            raise ValueError("a pack has at least one frame")
        table = b"".join([_FRAME.pack(*f) for f in self.frames] + [_CHUNK.pack(*c) for c in self._chunks])
        footer = _FOOTER.pack(
            len(self.frames), len(self._chunks), self.size, hash_bytes(table), VERSION, MAGIC
        )
        body = b"".join([*self._bodies, table, footer])
        self._bodies.clear()
        if len(body) > MAX_PACK:
            raise ValueError(f"pack of {len(body)} bytes; at most {MAX_PACK} are allowed")
        return hash_bytes(body).hex(), body


def trailer_span(footer: bytes, pack_size: int) -> tuple[int, int]:
    """Offset and length of tables and footer together, from the last `FOOTER_LENGTH` bytes of a pack.

    Lets a reader that has only read the end of a pack ask for the rest of the trailer. Raises `FormatError`.
    """
    frames, chunks, start, _ = _parse_footer(footer)
    length = frames * _FRAME.size + chunks * _CHUNK.size + FOOTER_LENGTH
    if pack_size > MAX_PACK or start + length != pack_size:
        raise FormatError(f"pack of {pack_size} bytes does not match its footer")
    return start, length


def _parse_footer(footer: bytes) -> tuple[int, int, int, bytes]:
    if len(footer) < FOOTER_LENGTH:
        raise FormatError(f"a pack is longer than {len(footer)} bytes")
    frames, chunks, start, digest, version, magic = _FOOTER.unpack(footer[-FOOTER_LENGTH:])
    if magic != MAGIC:
        raise FormatError("not a pack: wrong magic")
    if version != VERSION:
        raise FormatError(f"pack version {version} is not known", "use a newer version of manifest-sync")
    return frames, chunks, start, digest


def parse_trailer(tail: bytes, pack_size: int | None = None) -> Trailer:
    """Frames and chunks of a pack, from the whole pack or at least its last bytes as `trailer_span` says.

    ``pack_size`` is the length of the whole pack, by default that of ``tail``. Frames follow one another
    without gaps, and so do the chunks in each frame. Raises `FormatError`.
    """
    size = len(tail) if pack_size is None else pack_size
    frame_count, chunk_count, start, digest = _parse_footer(tail)
    length = trailer_span(tail, size)[1]
    if length > len(tail):
        raise FormatError(f"the trailer has {length} bytes, only {len(tail)} are here")
    table = tail[len(tail) - length : len(tail) - FOOTER_LENGTH]
    if hash_bytes(table) != digest:
        raise FormatError("the trailer of the pack is damaged")
    split = frame_count * _FRAME.size
    frames = tuple(PackFrame(*fields) for fields in _FRAME.iter_unpack(table[:split]))
    chunks = tuple(
        PackChunk(Hash(id_), frame, offset, n) for id_, frame, offset, n in _CHUNK.iter_unpack(table[split:])
    )
    _check_frames(frames, start)
    _check_chunks(frames, chunks, chunk_count)
    return Trailer(frames, chunks)


def _check_frames(frames: tuple[PackFrame, ...], end: int) -> None:
    position = 0
    for number, frame in enumerate(frames):
        if frame.offset != position or not 0 < frame.stored <= frame.raw <= MAX_FRAME:
            raise FormatError(f"frame {number} of the pack is out of range")
        position += frame.stored
    if position != end or not frames:
        raise FormatError("the frames do not fill the pack")


def _check_chunks(frames: tuple[PackFrame, ...], chunks: tuple[PackChunk, ...], count: int) -> None:
    current, position = 0, 0
    for number, chunk in enumerate(chunks):
        if current < len(frames) and position == frames[current].raw:
            current, position = current + 1, 0
        if chunk.frame != current or chunk.offset != position or chunk.length == 0 or current >= len(frames):
            raise FormatError(f"chunk {number} of the pack is out of range")
        position += chunk.length
        if position > frames[current].raw:
            raise FormatError(f"chunk {number} of the pack ends after its frame")
    if count == 0 or current != len(frames) - 1 or position != frames[current].raw:
        raise FormatError("the chunks do not fill the frames of the pack")

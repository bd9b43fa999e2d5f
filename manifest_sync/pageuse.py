"""What a page uses of each pack, read from its tables alone: for collections, which read many pages. Pure.

A frame's plain bytes are divided into at most `MAX_CELLS` cells. A set of cells is one integer, a bit a
cell, so that the use of a frame by thousands of files in hundreds of pages is a few hundred bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from manifest_sync import canonical
from manifest_sync.errors import FormatError
from manifest_sync.model import FrameRef, PackRef

MAX_CELLS = 2048
WHOLE = -1
"""All cells of a frame, whatever their number."""

_Unsigned = Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]


class _Pack(msgspec.Struct, gc=False):
    size: _Unsigned
    etag: str = ""
    id: str = ""
    session: str = ""
    url: str = ""


class _Entry(msgspec.Struct, gc=False):
    chunks: tuple[tuple[_Unsigned | str, ...], ...] = ()


class _Page(msgspec.Struct, gc=False):
    entries: list[_Entry]
    frames: list[tuple[_Unsigned, _Unsigned, _Unsigned, _Unsigned]]
    packs: list[_Pack]


_decoder = msgspec.json.Decoder(_Page)


def parse_uses(raw: bytes, expect_id: str) -> dict[FrameRef, int]:
    """The frames that a page refers to, and the cells of each that its chunks cover.

    The page's id vouches for its content; only what is used here is checked besides.
    Raises `FormatError`.
    """
    what = f"page {expect_id[:16]}"
    if canonical.hash_bytes(raw).hex() != expect_id:
        raise FormatError(f"{what}: its content does not have this id")
    page = canonical.decode(raw, _decoder, what)
    try:
        packs = [PackRef(p.session, p.id, p.size, p.url, p.etag) for p in page.packs]
        frames = [FrameRef(packs[n], offset, stored, plain) for n, offset, stored, plain in page.frames]
        cells = [0] * len(frames)
        for number, offset, length in _iter_chunks(page):
            cells[number] |= _cover(frames[number].raw, offset, length)
    except (IndexError, TypeError, ValueError) as error:
        raise FormatError(f"{what}: its tables do not fit together: {error}") from None
    return dict(zip(frames, cells, strict=True))


def _iter_chunks(page: _Page) -> Iterator[tuple[int, int, int]]:
    for entry in page.entries:
        for number, offset, length, *_ in entry.chunks:
            if type(number) is not int or type(offset) is not int or type(length) is not int:
                raise TypeError("a chunk's record is not made of numbers")
            yield number, offset, length


def _cover(raw: int, offset: int, length: int) -> int:
    """The cells of a frame of ``raw`` plain bytes that a chunk touches."""
    if length <= 0 or offset + length > raw:
        raise ValueError("a chunk is out of range")
    if length == raw:
        return WHOLE
    cell = _cell_size(raw)
    first, last = offset // cell, (offset + length - 1) // cell
    return ((1 << (last - first + 1)) - 1) << first


def _cell_size(raw: int) -> int:
    return -(-raw // MAX_CELLS)


def live_bytes(frame: FrameRef, cells: int) -> int:
    """About how many of a frame's stored bytes hold the content of ``cells``."""
    if cells == WHOLE:
        return frame.stored
    count = -(-frame.raw // _cell_size(frame.raw))
    return -(-frame.stored * min(cells.bit_count(), count) // count)

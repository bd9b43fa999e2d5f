"""Making a lost or damaged pack anew, byte for byte: its hash is its name, so that success proves itself.

The layout comes from the pack's own tables if they are left, else from the pages that use it; the content
from what is good in the damaged pack, else from this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import FormatError
from manifest_sync.model import ChunkRef, Entry, Hash, PackRef, display
from manifest_sync.pack import PackBuilder, PackFrame, decode_frame, encode_frame, parse_trailer
from manifest_sync.repair.localchunks import LocalChunks, Place, add_place

_UNKNOWN = "the pages that are kept do not tell of all that was in it"


class CannotBuild(Exception):
    """A pack cannot be made here; the text says why, for people."""


class _Piece(NamedTuple):
    """A chunk in its frame."""

    offset: int
    length: int
    id: Hash


@dataclass(slots=True)
class Layout:
    """What is known of one pack: its frames and chunks by offset, and where the chunks' content may be."""

    ref: PackRef
    frames: dict[int, PackFrame] = field(default_factory=dict)
    pieces: dict[int, dict[int, _Piece]] = field(default_factory=dict)
    """By offset of the frame, by offset in it."""
    places: dict[Hash, list[Place]] = field(default_factory=dict)

    def add(self, entries: Iterable[Entry]) -> None:
        """Learn from the entries of a page."""
        for entry in entries:
            position = 0
            for chunk in entry.chunks:
                if chunk.frame.pack == self.ref:
                    self._add(chunk, Place(entry.path, position, entry.hash))
                position += chunk.length

    def _add(self, chunk: ChunkRef, place: Place) -> None:
        frame = chunk.frame
        self.frames.setdefault(frame.offset, PackFrame(frame.offset, frame.stored, frame.raw))
        pieces = self.pieces.setdefault(frame.offset, {})
        pieces.setdefault(chunk.offset, _Piece(chunk.offset, chunk.length, chunk.id))
        add_place(self.places, chunk.id, place)

    def learn_tables(self, body: bytes) -> bool:
        """Take the frames and chunks from the tables of a damaged pack; False if they are damaged too."""
        try:
            trailer = parse_trailer(body, self.ref.size)
        except FormatError:
            return False
        self.frames = {frame.offset: frame for frame in trailer.frames}
        self.pieces = {frame.offset: {} for frame in trailer.frames}
        for chunk in trailer.chunks:
            pieces = self.pieces[trailer.frames[chunk.frame].offset]
            pieces[chunk.offset] = _Piece(chunk.offset, chunk.length, chunk.id)
        return True


def build_pack(layout: Layout, body: bytes, local: LocalChunks) -> bytes:
    """The bytes of the pack.

    Args:
        body: what there is of it in the bucket.

    Raises:
        CannotBuild: not everything is known or here.
    """
    layout.learn_tables(body)
    # A frame of the damaged pack may be other bytes for the right content; then it is compressed again.
    for verbatim in (True, False):
        builder = PackBuilder()
        for offset, frame in sorted(layout.frames.items()):
            pieces = [piece for _, piece in sorted(layout.pieces[offset].items())]
            if offset != builder.size or sum(piece.length for piece in pieces) != frame.raw:
                raise CannotBuild(_UNKNOWN)
            stored = _good_frame(frame, pieces, body, verbatim=verbatim)
            stored = stored or _made_frame(frame, pieces, layout, local)
            try:
                builder.add_frame(stored, frame.raw, [(p.id, p.offset, p.length) for p in pieces])
            except ValueError as error:
                raise CannotBuild(f"the pages do not tell how it was made: {error}") from None
        if not builder.frames:
            raise CannotBuild("no page that is kept tells of its content")
        id_, made = builder.finish()
        if id_ == layout.ref.id:
            return made
    raise CannotBuild(_UNKNOWN)


def _good_frame(frame: PackFrame, pieces: list[_Piece], body: bytes, *, verbatim: bool) -> bytes | None:
    """The frame as it lies in the damaged pack, or compressed again, if its content is whole."""
    stored = body[frame.offset : frame.offset + frame.stored]
    if len(stored) != frame.stored:
        return None
    try:
        plain = decode_frame(stored, frame.raw)
    except FormatError:
        return None
    if any(hash_bytes(plain[p.offset : p.offset + p.length]) != p.id for p in pieces):
        return None
    again = stored if verbatim else encode_frame(plain)
    return again if len(again) == frame.stored else stored


def _made_frame(frame: PackFrame, pieces: list[_Piece], layout: Layout, local: LocalChunks) -> bytes:
    parts = []
    for piece in pieces:
        places = layout.places.get(piece.id, [])
        data = local.read(piece.id, piece.length, places)
        if data is None:
            what = display(places[0].path) if places else "a file that no kept snapshot lists any more"
            raise CannotBuild(f"the content of {what} is not here")
        parts.append(data)
    stored = encode_frame(b"".join(parts))
    if len(stored) != frame.stored:
        raise CannotBuild("this version of zstd compresses in another way than the one that wrote it")
    return stored

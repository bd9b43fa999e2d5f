"""How an entry is kept in the local index until it is published. Pure; never leaves this machine."""

from __future__ import annotations

from typing import Any

import msgspec

from manifest_sync.errors import Damaged
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, Hash, PackRef, Path, Writer


def encode_entry(entry: Entry) -> bytes:
    """The entry without its path, as compact MessagePack."""
    packs: dict[PackRef, int] = {}
    chunks = []
    for chunk in entry.chunks:
        frame = chunk.frame
        number = packs.setdefault(frame.pack, len(packs))
        chunks.append((chunk.id, number, frame.offset, frame.stored, frame.raw, chunk.offset, chunk.length))
    writer = entry.writer
    return msgspec.msgpack.encode(
        (
            entry.type.value,
            entry.size,
            entry.mtime_ns,
            entry.mode,
            entry.hash,
            entry.target,
            (writer.machine, writer.host, writer.time),
            [(pack.session, pack.id, pack.size, pack.url, pack.etag) for pack in packs],
            chunks,
        )
    )


def parse_entry(path: Path, data: bytes) -> Entry:
    """The entry that `encode_entry` kept.

    Raises:
        Damaged: the bytes are not such a record.
    """
    try:
        kind, size, mtime_ns, mode, digest, target, writer, packs, chunks = msgspec.msgpack.decode(data)
        refs = [PackRef(*pack) for pack in packs]
        return Entry(
            path=path,
            type=EntryType(kind),
            size=size,
            mtime_ns=mtime_ns,
            mode=mode,
            hash=Hash(digest),
            writer=Writer(*writer),
            chunks=tuple(_parse_chunk(chunk, refs) for chunk in chunks),
            target=target,
        )
    except (ValueError, TypeError, IndexError) as error:
        raise Damaged(
            f"the index holds a damaged record: {error}", "run `manifest-sync rebuild-index`"
        ) from None


def _parse_chunk(fields: list[Any], packs: list[PackRef]) -> ChunkRef:
    chunk_id, number, offset, stored, raw, within, length = fields
    return ChunkRef(Hash(chunk_id), FrameRef(packs[number], offset, stored, raw), within, length)


def encode_chunk(chunk: ChunkRef) -> bytes:
    """One chunk's place, as compact MessagePack."""
    frame, pack = chunk.frame, chunk.frame.pack
    return msgspec.msgpack.encode(
        (
            (pack.session, pack.id, pack.size, pack.url, pack.etag),
            (chunk.id, 0, frame.offset, frame.stored, frame.raw, chunk.offset, chunk.length),
        )
    )


def parse_chunk(data: bytes) -> ChunkRef:
    """The chunk that `encode_chunk` kept.

    Raises:
        Damaged: the bytes are not such a record.
    """
    try:
        pack, fields = msgspec.msgpack.decode(data)
        return _parse_chunk(fields, [PackRef(*pack)])
    except (ValueError, TypeError, IndexError) as error:
        raise Damaged(
            f"the index holds a damaged record: {error}", "run `manifest-sync rebuild-index`"
        ) from None

"""How an entry is kept in the local index until it is published. Pure; never leaves this machine.

A record begins with a checksum of itself and of the path it belongs to: what it says of places in packs goes
into the bucket as it is, where a flipped bit would hurt every machine.
"""

from __future__ import annotations

import msgspec

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import Damaged
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, Hash, PackRef, Path, Writer

_SUM = 8
_Pack = tuple[str, str, int, str, str]
_Chunk = tuple[bytes, int, int, int, int, int, int]
_Record = tuple[str, int, int, int, bytes, bytes, tuple[str, str, str], list[_Pack], list[_Chunk]]
_entry_decoder: msgspec.msgpack.Decoder[_Record] = msgspec.msgpack.Decoder(_Record)
_chunk_decoder: msgspec.msgpack.Decoder[tuple[_Pack, _Chunk]] = msgspec.msgpack.Decoder(tuple[_Pack, _Chunk])


def encode_entry(entry: Entry) -> bytes:
    """The entry without its path, as compact MessagePack."""
    packs: dict[PackRef, int] = {}
    chunks = []
    for chunk in entry.chunks:
        frame = chunk.frame
        number = packs.setdefault(frame.pack, len(packs))
        chunks.append((chunk.id, number, frame.offset, frame.stored, frame.raw, chunk.offset, chunk.length))
    writer = entry.writer
    record = (
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
    return _seal(msgspec.msgpack.encode(record), entry.path)


def parse_entry(path: Path, data: bytes) -> Entry:
    """The entry that `encode_entry` kept.

    Raises:
        Damaged: the bytes are not such a record, or not that of ``path``.
    """
    try:
        record = _entry_decoder.decode(_unseal(data, path))
        kind, size, mtime_ns, mode, digest, target, writer, packs, chunks = record
        refs = [PackRef(*pack) for pack in packs]
        return Entry(
            path=path,
            type=EntryType(kind),
            size=size,
            mtime_ns=mtime_ns,
            mode=mode,
            hash=Hash(digest),
            writer=Writer(*writer),
            chunks=tuple(_to_chunk(chunk, refs) for chunk in chunks),
            target=target,
        )
    except (ValueError, IndexError, TypeError) as error:
        raise _damaged(error) from None


def encode_chunk(chunk: ChunkRef) -> bytes:
    """One chunk's place, as compact MessagePack."""
    frame, pack = chunk.frame, chunk.frame.pack
    record = (
        (pack.session, pack.id, pack.size, pack.url, pack.etag),
        (chunk.id, 0, frame.offset, frame.stored, frame.raw, chunk.offset, chunk.length),
    )
    return _seal(msgspec.msgpack.encode(record), chunk.id)


def parse_chunk(chunk_id: Hash, data: bytes) -> ChunkRef:
    """The chunk that `encode_chunk` kept.

    Raises:
        Damaged: the bytes are not such a record, or not that of ``chunk_id``.
    """
    try:
        pack, chunk = _chunk_decoder.decode(_unseal(data, chunk_id))
        return _to_chunk(chunk, [PackRef(*pack)])
    except (ValueError, IndexError, TypeError) as error:
        raise _damaged(error) from None


def _to_chunk(fields: _Chunk, packs: list[PackRef]) -> ChunkRef:
    chunk_id, number, offset, stored, raw, within, length = fields
    return ChunkRef(Hash(chunk_id), FrameRef(packs[number], offset, stored, raw), within, length)


def _seal(record: bytes, key: bytes) -> bytes:
    return hash_bytes(key + record)[:_SUM] + record


def _unseal(data: bytes, key: bytes) -> bytes:
    record = data[_SUM:]
    if _seal(record, key) != data:
        raise ValueError("its checksum does not match")
    return record


def _damaged(error: Exception) -> Damaged:
    return Damaged(f"the index holds a damaged record: {error}", "run `manifest-sync rebuild-index`")

"""What a bucket holds, read by docs/format.md alone: nothing here imports the code under test (P1).

`read_bucket` follows everything that the head refers to, checks every hash on the way, and gives the
entries with the hashes of their whole contents. An ``AssertionError`` says what is not whole.
"""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as FsPath
from typing import Any

import zstandard
from blake3 import blake3

Fetch = Callable[[str], bytes]
"""The bytes of the object under a key; raises when there is none."""

_FOOTER = struct.Struct(">IIQ32sH6s")
_FRAME = struct.Struct(">QII")
_CHUNK = struct.Struct(">32sIII")


@dataclass(frozen=True)
class Stored:
    """One entry of the head: what a person would compare, without where its bytes lie."""

    type: str
    hash: str
    size: int
    mode: int
    mtime_ns: int
    target: bytes | None


@dataclass(frozen=True)
class Bucket:
    """The head and what it reaches."""

    snapshot: str
    sequence: int
    fence: int
    chain: tuple[str, ...]
    """Ids of the head and of its ancestors, newest first."""
    entries: dict[bytes, Stored]
    keys: frozenset[str] = field(repr=False)
    """Every object that the head reaches, itself included."""

    def hashes(self) -> set[str]:
        """Hashes of all contents and targets."""
        return {entry.hash for entry in self.entries.values()}


def folder_fetch(bucket: FsPath) -> Fetch:
    """Reads the objects of a directory bucket."""
    return lambda key: (bucket / key).read_bytes()


def read_bucket(fetch: Fetch, *, history: bool = True) -> Bucket:
    """Check everything that the head reaches.

    Args:
        fetch: reads an object.
        history: also check every snapshot from the oldest kept one on.
    """
    head = json.loads(fetch("manifest.json"))
    keys = {"manifest.json"}
    entries = _read_head(fetch, head, keys)
    chain = _chain(fetch, head, keys)
    if history:
        kept = chain[: head["sequence"] - head["oldest"] + 1]
        for sequence, snapshot in zip(range(head["sequence"], -1, -1), kept, strict=False):
            key = f"snapshots/{sequence:010d}-{snapshot}.json.zst"
            keys.add(key)
            copy = json.loads(_plain(fetch(key), key))
            assert (copy["sequence"], copy["snapshot"]) == (sequence, snapshot), f"{key} is another snapshot"
            if snapshot == head["snapshot"]:
                assert copy == head, f"{key} is no copy of the head"
            else:
                _read_head(fetch, copy, keys)
    return Bucket(head["snapshot"], head["sequence"], head["fence"], chain, entries, frozenset(keys))


def _chain(fetch: Fetch, head: dict[str, Any], keys: set[str]) -> tuple[str, ...]:
    chain = [head["snapshot"], *reversed(head["ancestors"])]
    block = head["history"]
    while block:
        keys.add(block)
        read = json.loads(fetch(block))
        chain += reversed(read["ids"])
        block = read["previous"]
    assert len(set(chain)) == len(chain), "a snapshot is in the chain twice"
    return tuple(chain)


def _read_head(fetch: Fetch, head: dict[str, Any], keys: set[str]) -> dict[bytes, Stored]:
    entries: dict[bytes, Stored] = {}
    frames: dict[tuple[str, int], bytes] = {}
    last = b""
    for page_id, session, files, size, raw, stored, first, final in head["pages"]:
        key = f"pages/{head['sessions'][session]}/{page_id}.json.zst"
        keys.add(key)
        body = fetch(key)
        plain = _plain(body, key)
        assert (len(plain), len(body)) == (raw, stored), f"{key} has another length than the head says"
        assert blake3(plain).hexdigest() == page_id, f"{key} is not what its name says"
        found = _read_page(fetch, json.loads(plain), keys, frames)
        assert (files, size) == (len(found), sum(entry.size for entry in found.values())), key
        assert list(found) == sorted(found), f"{key} is not in order"
        assert (min(found), max(found)) == (_bytes(first), _bytes(final)), key
        assert not entries or min(found) > last, f"{key} overlaps the page before"
        last = max(found)
        entries.update(found)
    for path in entries:
        parts = path.split(b"/")
        for n in range(1, len(parts)):
            assert b"/".join(parts[:n]) not in entries, f"{path!r} lies below a file"
    assert head["totals"]["files"] == len(entries)
    return entries


def _read_page(
    fetch: Fetch, page: dict[str, Any], keys: set[str], frames: dict[tuple[str, int], bytes]
) -> dict[bytes, Stored]:
    packs = [f"packs/{pack['session']}/{pack['id']}.pack" for pack in page["packs"]]
    for pack, key in zip(page["packs"], packs, strict=True):
        if key not in keys:
            _check_pack(fetch(key), key, pack)
            keys.add(key)
    found: dict[bytes, Stored] = {}
    for entry in page["entries"]:
        path = entry["path"].encode() if "path" in entry else base64.b64decode(entry["path_b64"])
        target = _target(entry)
        content = blake3(target if target is not None else b"")
        length = 0
        for number, offset, size, *chunk_id in entry.get("chunks", []):
            pack_number, start, stored, raw = page["frames"][number]
            at = (packs[pack_number], start)
            if at not in frames:
                body = fetch(packs[pack_number])[start : start + stored]
                frames[at] = body if stored == raw else _plain(body, packs[pack_number])
                assert len(frames[at]) == raw, packs[pack_number]
            chunk = frames[at][offset : offset + size]
            assert len(chunk) == size, f"a chunk of {path!r} lies outside its frame"
            assert blake3(chunk).hexdigest() == (chunk_id[0] if chunk_id else entry["hash"]), path
            content.update(chunk)
            length += size
        assert content.hexdigest() == entry["hash"], f"{path!r} does not have its hash"
        assert entry["size"] == (length if target is None else len(target)), path
        kind = entry.get("type", "file")
        assert path not in found, f"{path!r} is there twice"
        found[path] = Stored(kind, entry["hash"], entry["size"], entry["mode"], entry["mtime_ns"], target)
    return found


def _target(entry: dict[str, Any]) -> bytes | None:
    if entry.get("type") != "symlink":
        return None
    return base64.b64decode(entry["target_b64"]) if "target_b64" in entry else entry["target"].encode()


def _check_pack(body: bytes, key: str, named: dict[str, Any]) -> None:
    """A pack explains itself: its tables name every frame and chunk, and every chunk has its id."""
    assert blake3(body).hexdigest() == named["id"], f"{key} is not what its name says"
    assert len(body) == named["size"], f"{key} has another size than its page says"
    n_frames, n_chunks, at, digest, version, magic = _FOOTER.unpack(body[-_FOOTER.size :])
    tables = body[at : -_FOOTER.size]
    assert (version, magic) == (1, b"MSPACK"), key
    assert blake3(tables).digest() == digest, key
    frames = [_FRAME.unpack_from(tables, n * _FRAME.size) for n in range(n_frames)]
    plain = []
    for offset, stored, raw in frames:
        frame = body[offset : offset + stored]
        plain.append(frame if stored == raw else _plain(frame, key))
    for n in range(n_chunks):
        chunk_id, frame, offset, length = _CHUNK.unpack_from(tables, n_frames * _FRAME.size + n * _CHUNK.size)
        assert blake3(plain[frame][offset : offset + length]).digest() == chunk_id, f"chunk {n} of {key}"


def _plain(body: bytes, key: str) -> bytes:
    try:
        return zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as error:
        raise AssertionError(f"{key} is not whole: {error}") from error


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value["b64"])


def folder_objects(bucket: FsPath) -> dict[str, bytes]:
    """Every object of a directory bucket; what the store keeps for itself is none."""
    found = {}
    for folder, names, files in os.walk(bucket):
        names[:] = [name for name in names if os.path.join(folder, name) != str(bucket / ".store")]
        for name in files:
            full = FsPath(folder, name)
            found[str(full.relative_to(bucket))] = full.read_bytes()
    return found

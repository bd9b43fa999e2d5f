"""The bucket as a stranger reads it by docs/format.md, checked as it grows (P1).

Imports nothing from the package. A `RawBucket` remembers which objects it has read and found whole, so
that a check after every step costs only what is new: immutable objects are read once, and afterwards it
is enough that they are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import zstandard
from blake3 import blake3

HEAD = "manifest.json"


@dataclass(frozen=True)
class RawEntry:
    """One path of the head."""

    hash: str
    size: int
    mode: int
    mtime_ns: int
    writer: tuple[str, str] = field(default=("", ""), compare=False)
    """Host and time."""


@dataclass(frozen=True)
class RawHead:
    """The head and everything that it reaches."""

    snapshot: str
    sequence: int
    fence: int
    oldest: int
    pins: tuple[str, ...]
    chain: tuple[str, ...]
    """Ids of all snapshots, oldest first, the head last."""
    entries: dict[str, RawEntry]
    keys: frozenset[str]


class RawBucket:
    """Reads and checks a bucket again and again.

    Args:
        load: the bytes of an object; raises ``KeyError`` or ``FileNotFoundError`` when there is none.
        list_keys: all keys there are.
    """

    def __init__(self, load: Callable[[str], bytes], list_keys: Callable[[], Collection[str]]) -> None:
        self.load = load
        self.list_keys = list_keys
        self._pages: dict[str, tuple[dict[str, RawEntry], frozenset[str]]] = {}
        self._packs: dict[str, bytes] = {}
        self._heads: dict[bytes, RawHead] = {}
        self._snapshots: dict[str, RawHead] = {}

    def read(self) -> RawHead:
        """The head, and an ``AssertionError`` when something that it reaches is missing or not whole."""
        body = self.load(HEAD)
        head = self._heads.get(body)
        if head is None:
            head = self._heads[body] = self._read_head(body)
            self._snapshots[head.snapshot] = head
        there = set(self.list_keys())
        for known in self.kept(head):
            missing = known.keys - there
            assert not missing, f"snapshot {known.sequence} reaches what is not there: {sorted(missing)}"
        return head

    def kept(self, head: RawHead) -> list[RawHead]:
        """The head and the snapshots that are kept beside it."""
        found = []
        for sequence, snapshot in enumerate(head.chain):
            if sequence >= head.oldest or snapshot in head.pins:
                if snapshot not in self._snapshots:
                    key = f"snapshots/{sequence:010d}-{snapshot}.json.zst"
                    self._snapshots[snapshot] = self._read_head(_plain(self.load(key)))
                found.append(self._snapshots[snapshot])
        return found

    def _read_head(self, body: bytes) -> RawHead:
        head = json.loads(body)
        keys = {HEAD, f"snapshots/{head['sequence']:010d}-{head['snapshot']}.json.zst"}
        entries: dict[str, RawEntry] = {}
        for copy in list(keys - {HEAD}):
            assert _plain(self.load(copy)) == body, f"{copy} is no copy of the head"
        last = ""
        for page_id, session, files, size, raw, stored, first, final in head["pages"]:
            key = f"pages/{head['sessions'][session]}/{page_id}.json.zst"
            found, packs = self._page(key, page_id, raw, stored)
            assert files == len(found), key
            assert size == sum(entry.size for entry in found.values()), key
            assert (first, final) == (min(found), max(found)), key
            assert last < first, f"{key} overlaps the page before"
            last = final
            entries.update(found)
            keys |= {key, *packs}
        for path in entries:
            parts = path.split("/")
            inside = ["/".join(parts[:n]) for n in range(1, len(parts)) if "/".join(parts[:n]) in entries]
            assert not inside, f"{path} lies below the file {inside}"
        assert head["totals"]["files"] == len(entries)
        return RawHead(
            head["snapshot"],
            head["sequence"],
            head["fence"],
            head["oldest"],
            tuple(pin[1] for pin in head["pins"]),
            self._chain(head, keys),
            entries,
            frozenset(keys),
        )

    def _chain(self, head: dict[str, Any], keys: set[str]) -> tuple[str, ...]:
        chain = [*head["ancestors"], head["snapshot"]]
        block = head["history"]
        while block:
            keys.add(block)
            read = json.loads(self.load(block))
            chain = [*read["ids"], *chain]
            block = read["previous"]
        assert len(set(chain)) == len(chain), "a snapshot is in the chain twice"
        assert head["parent"] == (chain[-2] if len(chain) > 1 else None)
        return tuple(chain)

    def _page(
        self, key: str, page_id: str, raw: int, stored: int
    ) -> tuple[dict[str, RawEntry], frozenset[str]]:
        known = self._pages.get(key)
        if known is None:
            body = self.load(key)
            plain = _plain(body)
            assert (len(plain), len(body)) == (raw, stored), f"{key} has other lengths than the head says"
            assert blake3(plain).hexdigest() == page_id, f"{key} is not what its name says"
            page = json.loads(plain)
            packs = [f"packs/{pack['session']}/{pack['id']}.pack" for pack in page["packs"]]
            frames = [self._frame(packs[pack], *frame) for pack, *frame in page["frames"]]
            found = {}
            for record in page["entries"]:
                path = record["path"]
                assert "target" not in record, "the tests send no symlinks"
                _check_content(path, record, frames)
                by = page["writers"][record["by"]]
                writer = (by["host"], by["time"])
                found[path] = RawEntry(
                    record["hash"], record["size"], record["mode"], record["mtime_ns"], writer
                )
            assert list(found) == sorted(found), f"{key} is not in order"
            known = self._pages[key] = (found, frozenset(packs))
        return known

    def _frame(self, key: str, offset: int, stored: int, raw: int) -> bytes:
        body = self._packs.get(key)
        if body is None:
            body = self.load(key)
            name = key.rpartition("/")[2].removesuffix(".pack")
            assert blake3(body).hexdigest() == name, f"{key} is not what its name says"
            self._packs[key] = body
        part = body[offset : offset + stored]
        plain = part if stored == raw else zstandard.decompress(part, raw)
        assert len(plain) == raw, f"{key} at {offset} holds no frame"
        return plain


def _check_content(path: str, record: dict[str, Any], frames: list[bytes]) -> None:
    content = b""
    for frame, offset, length, *chunk in record.get("chunks", ()):
        piece = frames[frame][offset : offset + length]
        assert len(piece) == length, f"{path}: a chunk reaches beyond its frame"
        assert not chunk or blake3(piece).digest() == bytes.fromhex(chunk[0]), path
        content += piece
    assert len(content) == record["size"], path
    assert blake3(content).hexdigest() == record["hash"], f"{path} is not the content it was"


def _plain(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(body)

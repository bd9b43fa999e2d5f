"""Big files on their way here: read in large pieces, not copied, hashed once as chunks and once as a file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path as FsPath
from typing import Any, cast

import pytest
from blake3 import blake3

from manifest_sync.canonical import hash_bytes
from manifest_sync.fetch import BIG, Hurt, fetch
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, PackRef, Path, Writer
from manifest_sync.stores.base import Store
from manifest_sync.stores.patience import PIECE
from manifest_sync.stores.s3_bodies import read_body
from tests.worktree_helpers import Tree

WRITER = Writer("m", "h", "2026-01-01T00:00:00Z")


@dataclass
class Body:
    """An answer's body, and how much was asked of it at a time."""

    content: bytes
    slow_from: int = 1000
    """Number of the first read that takes a while."""
    asked: list[int] = field(default_factory=list)

    def read(self, size: int) -> bytes:
        self.asked.append(size)
        if len(self.asked) > self.slow_from:
            time.sleep(0.06)
        part, self.content = self.content[:size], self.content[size:]
        return part


@dataclass
class Answers:
    """A store that gives these for one range after the other."""

    bodies: list[bytes]

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        body = self.bodies.pop(0)
        assert len(body) == length
        return body


def two_chunks() -> tuple[bytes, Entry]:
    """A file of two big chunks in one frame, stored as it is."""
    content = os.urandom(2 * BIG)
    frame = FrameRef(PackRef("s", "0" * 64, len(content)), 0, len(content), len(content))
    halves = (content[:BIG], content[BIG:])
    chunks = tuple(ChunkRef(hash_bytes(part), frame, n * BIG, BIG) for n, part in enumerate(halves))
    entry = Entry(
        Path(b"f"), EntryType.FILE, len(content), 0, 0o644, hash_bytes(content), WRITER, chunks=chunks
    )
    return content, entry


def test_a_quick_body_is_read_in_large_pieces_and_a_slow_one_in_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = os.urandom(8 << 20)
    quick = Body(content)
    moved: list[int] = []
    assert read_body(cast("Any", quick), len(content) + 1, moved.append) == content
    assert quick.asked[0] == PIECE, "nothing is known yet of the connection"
    assert max(quick.asked) == 1 << 20
    assert len(quick.asked) < 20
    assert sum(moved) == len(content)

    monkeypatch.setattr("manifest_sync.stores.s3_bodies._AT_ONCE", 0.05)
    faltering = Body(content[: 9 * PIECE], slow_from=2)
    assert read_body(cast("Any", faltering), len(content), moved.append) == content[: 9 * PIECE]
    assert faltering.asked[:5] == [PIECE, 2 * PIECE, 4 * PIECE, PIECE, PIECE]


def test_a_big_chunk_is_proven_by_its_own_answer_only() -> None:
    """The first answer has the first chunk right, the second one the second: together they would do."""
    content, entry = two_chunks()
    wrong = bytes(BIG)
    for answers in (
        [content[:BIG] + wrong, wrong + content[BIG:]],
        [wrong + content[BIG:], content[:BIG] + wrong],
    ):
        hurt: Hurt = {}
        store = cast("Store", Answers(list(answers)))
        brought = {piece.offset: bytes(piece.data) for piece in fetch(store, [entry], jobs=1, hurt=hurt)}
        for offset, data in brought.items():
            assert data == content[offset : offset + BIG]
        assert set(hurt) == ({entry.path} if len(brought) < 2 else set())


def test_a_frame_whose_second_answer_is_right_arrives_whole() -> None:
    content, entry = two_chunks()
    store = cast("Store", Answers([bytes(BIG) + content[BIG:], content]))
    assert b"".join(bytes(piece.data) for piece in fetch(store, [entry], jobs=1)) == content


def test_what_is_written_in_order_is_not_read_back(tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(3_000_000)
    tree = Tree(tmp_path)
    read: list[int] = []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        data = os_pread(descriptor, size, offset)
        read.append(len(data))
        return data

    os_pread = os.pread
    monkeypatch.setattr("os.pread", pread)
    pieces = [(0, 1_000_000), (1_000_000, 1_500_000), (1_500_000, 3_000_000)]
    for order, read_back in (
        (pieces, 0),
        ([pieces[0], pieces[2], pieces[1]], 1_500_000),
        (pieces[::-1], 2_000_000),
    ):
        with tree.worktree.stage() as batch:
            staged = batch.create()
            read.clear()
            for start, end in order:
                staged.write_piece(start, content[start:end])
            assert staged.hash() == blake3(content).digest()
            assert sum(read) == read_back

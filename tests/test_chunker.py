"""Chunks are bounded, complete, and cut by content."""

from __future__ import annotations

import io

import pytest
from blake3 import blake3

from manifest_sync.chunker import DEFAULT, ChunkParams, cut

NOISE = blake3(b"chunker").digest(length=24 << 20)


def sizes(data: bytes) -> list[int]:
    return [len(chunk) for chunk in cut(io.BytesIO(data).read, len(data))]


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_small_files_are_one_chunk(size: int) -> None:
    assert sizes(NOISE[:size]) == ([size] if size else [])


def test_chunks_join_to_the_file_within_bounds() -> None:
    chunks = list(cut(io.BytesIO(NOISE).read, len(NOISE)))
    assert b"".join(chunks) == NOISE
    assert all(DEFAULT.min <= len(chunk) <= DEFAULT.max for chunk in chunks[:-1])


def test_an_insertion_changes_only_the_chunks_around_it() -> None:
    before = set(cut(io.BytesIO(NOISE).read, len(NOISE)))
    edited = NOISE[:100] + b"inserted" + NOISE[100:]
    after = set(cut(io.BytesIO(edited).read, len(edited)))
    assert len(after - before) <= 2


def test_never_reads_beyond_the_size_and_accepts_short_reads() -> None:
    stream = io.BytesIO(NOISE)
    chunks = list(cut(lambda n: stream.read(min(n, 70_001)), 3 << 20))
    assert b"".join(chunks) == NOISE[: 3 << 20]
    assert stream.tell() == 3 << 20
    assert b"".join(cut(io.BytesIO(b"short").read, 100)) == b"short"


def test_unusable_parameters_are_refused() -> None:
    for params in (ChunkParams(algorithm="rabin"), ChunkParams(min=0), ChunkParams(max=1 << 40)):
        with pytest.raises(ValueError, match="chunk"):
            list(cut(io.BytesIO(b"").read, 0, params))

"""A pack explains itself, and one that lies is refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest_sync import pack
from manifest_sync.canonical import compress, hash_bytes
from manifest_sync.errors import FormatError
from manifest_sync.pack import (
    FOOTER_LENGTH,
    FRAME_TARGET,
    PackBuilder,
    decode_frame,
    encode_frame,
    parse_trailer,
    trailer_span,
)

CONTENTS = st.lists(
    st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4), min_size=1, max_size=5
)


def build(frames: list[list[bytes]]) -> tuple[PackBuilder, str, bytes]:
    builder = PackBuilder()
    for contents in frames:
        chunks, offset = [], 0
        for data in contents:
            chunks.append((hash_bytes(data), offset, len(data)))
            offset += len(data)
        builder.add_frame(encode_frame(b"".join(contents)), offset, chunks)
    return builder, *builder.finish()


@given(CONTENTS)
def test_round_trip(frames: list[list[bytes]]) -> None:
    builder, pack_id, body = build(frames)
    assert pack_id == hash_bytes(body).hex()
    trailer = parse_trailer(body)
    assert [frame.offset for frame in trailer.frames] == [frame.offset for frame in builder.frames]
    plain = [decode_frame(body[f.offset : f.offset + f.stored], f.raw) for f in trailer.frames]
    found = [plain[c.frame][c.offset : c.offset + c.length] for c in trailer.chunks]
    assert found == [data for contents in frames for data in contents]
    assert [c.id for c in trailer.chunks] == [hash_bytes(data) for data in found]
    start, length = trailer_span(body[-FOOTER_LENGTH:], len(body))
    assert start + length == len(body)
    assert parse_trailer(body[start:], len(body)) == trailer


@given(CONTENTS, st.data())
def test_any_flipped_bit_of_the_trailer_is_seen(frames: list[list[bytes]], data: st.DataObject) -> None:
    _, _, body = build(frames)
    start, _ = trailer_span(body, len(body))
    at = data.draw(st.integers(start, len(body) - 1))
    broken = bytearray(body)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FormatError):
        parse_trailer(bytes(broken))


@given(st.binary(max_size=200))
def test_garbage_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_trailer(data)
    with pytest.raises(FormatError):
        parse_trailer(data + b"\x00\x01MSPACK")


def test_noise_is_stored_raw_and_text_is_not() -> None:
    noise = random.Random(1).randbytes(300_000)
    assert encode_frame(noise) == noise
    text = b"all the same " * 30_000
    stored = encode_frame(text)
    assert len(stored) < len(text) // 50
    assert decode_frame(stored, len(text)) == text


def test_to_try_whether_a_frame_compresses_costs_a_tenth_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def note(data: bytes) -> bytes:
        lengths.append(len(data))
        return compress(data)

    monkeypatch.setattr(pack, "compress", note)
    rows = random.Random(2)
    encode_frame(" ".join(str(rows.random()) for _ in range(7_000)).encode()[:FRAME_TARGET])
    assert lengths[-1] == FRAME_TARGET
    assert sum(lengths) <= 1.1 * FRAME_TARGET


def test_a_pack_is_made_once() -> None:
    builder, _, _ = build([[b"ab"]])
    with pytest.raises(ValueError, match="at least one frame"):
        builder.finish()


@pytest.mark.parametrize(("stored", "raw"), [(b"", 0), (b"abc", 2), (b"abc", 4), (b"a", 1 << 40)])
def test_lying_frames_are_refused(stored: bytes, raw: int) -> None:
    with pytest.raises(FormatError):
        decode_frame(stored, raw)


def test_builder_refuses_chunks_that_overlap_or_leave_gaps() -> None:
    digest = hash_bytes(b"ab")
    for chunks in ([(digest, 0, 1)], [(digest, 0, 2), (digest, 1, 1)], [(digest, 1, 1)], []):
        with pytest.raises(ValueError, match="frame"):
            PackBuilder().add_frame(b"ab", 2, chunks)

"""Canonical JSON is the same whichever library writes it, and nothing but it is accepted."""

from __future__ import annotations

import json
import re

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from manifest_sync import canonical
from manifest_sync.errors import FormatError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(canonical.MIN_INT, canonical.MAX_INT) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(VALUES)
def test_equals_the_standard_library(value: object) -> None:
    expected = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    assert canonical.encode(value) == expected


def test_every_escape_equals_the_standard_library() -> None:
    text = "".join(map(chr, [*range(0x3000), 0xFFFF, 0x1F600]))
    assert canonical.encode(text) == json.dumps(text, ensure_ascii=False).encode()


@pytest.mark.parametrize("value", [1.0, {1: 2}, b"x", 1 << 63, "\ud800", [{"a": [float("nan")]}]])
def test_what_has_no_canonical_form_is_a_bug(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical.encode(value)


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"a":1.0}', b'{"a":NaN}', b'{"a":1e999}', b'{"a":"\\ud800"}',
     b'{"a":"\xff"}', b'{"a":' * 100_000, b"[" * 1_000_000, b'{"a":' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}"],
    ids=range(13),
)  # fmt: skip
def test_hostile_json_is_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError):
        canonical.decode_object(raw, "x")


@pytest.mark.parametrize(
    ("item", "is_heavy"),
    [
        (b"[]", True),
        (b'{"":0}', True),
        (b'""', True),
        (b'"' + b"[{,:" * 1000 + b'"', False),
        (b'"' + rb"\\\"," * 1000 + b'"', False),
        (b'"' + b"a" * 200 + b'"', False),
    ],
)
def test_the_weight_of_a_document(item: bytes, is_heavy: bool) -> None:
    """P16: tiny values are refused before they fill the memory; what stands in a text weighs nothing."""
    raw = b'{"zzz":[' + b",".join([item] * ((7 << 20) // (len(item) + 1))) + b"]}"
    if is_heavy:
        with pytest.raises(FormatError, match="too many values"):
            canonical.decode_object(raw, "x")
    else:
        assert canonical.decode_object(raw, "x")


@given(VALUES, st.integers(1, 50))
def test_texts_are_left_out_of_the_weight(value: object, block: int) -> None:
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    texts = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canonical, "_BLOCK", block)
        structure = b"".join(canonical._iter_structure(raw))
    expected = texts.sub(b'""', raw)
    assert canonical._weight(structure) == canonical._weight(expected)


@given(st.binary(max_size=5000))
def test_compression_round_trip(data: bytes) -> None:
    assert canonical.decompress(canonical.compress(data), len(data)) == data


def test_bombs_and_garbage_are_format_errors() -> None:
    good = canonical.compress(b"x" * 1000)
    undeclared = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
    bomb = canonical.compress(bytes(100 << 20))
    for data, limit in [(good, 999), (good[:-1], 1000), (good + b"x", 1000), (good + good, 5000),
                        (undeclared, 5000), (bomb, 1 << 20), (b"", 10), (b"garbage!", 10)]:  # fmt: skip
        with pytest.raises(FormatError):
            canonical.decompress(data, limit)


@given(st.binary(max_size=300))
def test_decompress_raises_format_errors_only(data: bytes) -> None:
    with pytest.raises(FormatError):
        canonical.decompress(b"\x28\xb5\x2f\xfd" + data, 0)

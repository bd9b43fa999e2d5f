"""The head: what is written is read back, unknown fields survive, and a head that lies is refused."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest_sync import manifest as fmt
from manifest_sync.errors import FormatError, UnknownFeature
from tests import format_example

EXAMPLE = format_example.manifest()


def changed(**fields: Any) -> bytes:
    """A head with other fields, and without a checksum: what is in it is looked at nevertheless."""
    head = json.loads(fmt.encode_manifest(EXAMPLE))
    del head["checksum"]
    return json.dumps(head | fields).encode()


def test_round_trip_and_the_document() -> None:
    assert fmt.parse_manifest(fmt.encode_manifest(EXAMPLE)) == EXAMPLE
    path = os.path.join(os.path.dirname(__file__), "..", "docs", "format.md")
    with open(path, encoding="utf-8") as file:
        document = file.read()
    for section in format_example.sections():
        assert section.rstrip() in document


def test_unknown_fields_are_kept_and_unknown_features_refused() -> None:
    later = fmt.parse_manifest(changed(colour={"a": [1]}))
    assert later.can_write
    assert json.loads(fmt.encode_manifest(later))["colour"] == {"a": [1]}
    with pytest.raises(UnknownFeature):
        fmt.parse_manifest(changed(features_read=["new"]))
    with pytest.raises(UnknownFeature):
        fmt.parse_manifest(changed(format=2, pages="other"))
    read_only = fmt.parse_manifest(changed(features_write=["new"]))
    assert not read_only.can_write
    assert not fmt.parse_manifest(changed(totals={"bytes": 17, "files": 3, "stored": 1, "new": 1})).can_write
    with pytest.raises(ValueError, match="cannot write"):
        fmt.encode_manifest(read_only)


PAGE = json.loads(fmt.encode_manifest(EXAMPLE))["pages"][0]
HOSTILE: list[dict[str, Any]] = [
    {"format": 0},
    {"hash": "md5"},
    {"sequence": -1},
    {"sequence": 1.0},
    {"sequence": 1 << 64},
    {"snapshot": "../x"},
    {"parent": "x"},
    {"ancestors": ["20" * 16]},
    {"ancestors": ["20" * 16] * 2},
    {"history": "manifest.json"},
    {"oldest": 2},
    {"pins": [[1, "x", "y"]]},
    {"collections": [[1, "gc/1-" + "0" * 32 + ".json.zst"]]},
    {"fence": 1, "collections": [[1, "packs/x"]]},
    {"sessions": ["../.."]},
    {"sessions": []},
    {"sessions": [format_example.SESSION] * 2},
    {"pages": [PAGE, PAGE]},
    {"totals": {"bytes": 1, "files": 3, "stored": 1}},
    {"repository": ""},
    {"pages": None},
    {"chunking": {}},
    {"single_writer": 1},
    {"colour": 1.5},
    *(
        {"pages": [[*PAGE[:at], value, *PAGE[at + 1 :]]]}
        for at, value in [
            (0, "../x"),
            (1, 1),
            (1, -1),
            (2, 0),
            (2, 1),
            (3, -1),
            (4, 5 << 20),
            (4, 0),
            (5, 10_000),
            (6, "../x"),
            (6, "z"),
            (6, {"b64": "YQ=="}),
            (6, {"b64": "!"}),
            (6, {}),
            (7, ".git/x"),
            (7, 5),
        ]
    ),
]


@pytest.mark.parametrize("fields", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_heads(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        fmt.parse_manifest(changed(**fields))


def test_one_wrong_bit_is_seen() -> None:
    """In transit or at rest: a push would carry the damage on into the next head."""
    raw = fmt.encode_manifest(EXAMPLE)
    for at in range(8 * len(raw)):
        wrong = bytearray(raw)
        wrong[at // 8] ^= 1 << at % 8
        try:
            found = fmt.parse_manifest(bytes(wrong))
        except (FormatError, UnknownFeature):
            continue
        assert replace(found, extra={}) == EXAMPLE, "only the checksum's own name may be lost"


def test_a_head_without_a_checksum_is_read_and_gets_one() -> None:
    old = fmt.parse_manifest(changed(features_write=[]))
    assert old == EXAMPLE
    assert fmt.encode_manifest(old) == fmt.encode_manifest(EXAMPLE)


@given(st.data())
def test_fuzz(data: st.DataObject) -> None:
    raw = bytearray(fmt.encode_manifest(EXAMPLE))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError, UnknownFeature):
        fmt.parse_manifest(bytes(raw))


def test_totals_must_be_the_sums() -> None:
    with pytest.raises(ValueError, match="totals"):
        fmt.encode_manifest(replace(EXAMPLE, files=4))


def test_history_and_gc_lists_round_trip() -> None:
    ids = [f"{n:032x}" for n in range(256)]
    key = fmt.history_key(0, ids[-1])
    assert fmt.parse_history(fmt.encode_history(ids, ""), key) == (tuple(ids), "")
    second = fmt.encode_history(ids, key)
    assert fmt.parse_history(second, fmt.history_key(1, ids[-1]))[1] == key
    for wrong in (key, "history/x.json"):
        with pytest.raises(FormatError):
            fmt.parse_history(second, wrong)
    keys = [fmt.pack_key(format_example.SESSION, "ab" * 32), fmt.snapshot_key(7, ids[0])]
    assert fmt.parse_gc_list(fmt.encode_gc_list(3, keys), 3) == tuple(sorted(keys))
    with pytest.raises(FormatError):
        fmt.parse_gc_list(fmt.encode_gc_list(3, keys), 4)
    with pytest.raises(ValueError, match="nothing that a collection deletes"):
        fmt.encode_gc_list(3, [fmt.HEAD_KEY])

"""The record of a run: every step comes back as it was written; nothing else is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest_sync.errors import FormatError
from manifest_sync.model import SPECIAL, UNREAD, Path, State
from manifest_sync.pathrules import check_path
from manifest_sync.runrecord import (
    RunHeader,
    Step,
    encode_header,
    encode_step,
    parse_header,
    parse_step,
)

HASHES = st.binary(min_size=32, max_size=32)
STATES = st.none() | st.sampled_from([UNREAD, SPECIAL]) | st.builds(
    lambda kind, digest: State(kind + digest), st.sampled_from([b"f", b"x", b"l"]), HASHES
)  # fmt: skip
PATHS = st.binary(min_size=1, max_size=60).filter(lambda path: check_path(path) is None).map(Path)
A = State(b"f" + b"a" * 32)


@given(st.builds(Step, PATHS, STATES, STATES, STATES, STATES))
def test_a_step_comes_back(step: Step) -> None:
    line = encode_step(step)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1, "a newline in a path is escaped"
    assert parse_step(line) == step


def test_the_header_comes_back() -> None:
    header = RunHeader("7", "pull --copy", "2026-11-20T10:15:00Z")
    assert parse_header(encode_header(header)) == header


def test_equal_bases_are_written_short() -> None:
    line = encode_step(Step(Path(b"p"), A, A, None, None))
    assert line == b'["p","' + A.hex().encode() + b'",true,null,true]\n'


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]",
        b'["p",null,null,null]',
        b'["../p",null,null,null,null]',
        b'["",null,null,null,null]',
        b'[".manifest-sync/x",null,null,null,null]',
        b'[{"b64":"!"},null,null,null,null]',
        b'[{"x":"YQ=="},null,null,null,null]',
        b'["p","zz",null,null,null]',
        b'["p","66",null,null,null]',
        b'["p","' + b"66" * 34 + b'",null,null,null]',
        b'["p",null,false,null,null]',
        b'["p",true,null,null,null]',
        b'["p",null,null,null,1]',
        b'["' + b"p" * 40_000 + b'",null,null,null,null]',
        b"[" * 30_000,
        b'["\xff",null,null,null,null]',
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(FormatError):
        parse_step(line)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b'{"command":"pull","format":2,"run":"1","time":""}', b'{"run":"1"}', b"\xff\n"],
)
def test_a_header_of_another_kind_is_refused(line: bytes) -> None:
    with pytest.raises(FormatError):
        parse_header(line)

"""Pages: equal entries make equal pages, and a page that lies is refused with `FormatError` only."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import FormatError
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, PackRef, Path, Writer
from manifest_sync.pagecut import MAX_LENGTH, MIN_LENGTH
from manifest_sync.pages import PageCutter, check_path, encode_page, is_boundary, parse_page
from tests import format_example

SESSION = format_example.SESSION
WRITER = Writer("m", "h", "t")
NAMES = st.binary(min_size=1, max_size=40).filter(lambda path: check_path(path) is None)


def file(path: bytes, *, frame: int = 0, chunks: int = 1) -> Entry:
    ref = FrameRef(PackRef(SESSION, "ab" * 32, 5000), frame, 100, 200)
    digest = hash_bytes(path)
    pieces = tuple(
        ChunkRef(digest if chunks == 1 else hash_bytes(n.to_bytes(2, "big")), ref, n, 2)
        for n in range(chunks)
    )
    if not chunks:
        digest = hash_bytes(b"")
    return Entry(Path(path), EntryType.FILE, 2 * chunks, -5, 0o640, digest, WRITER, pieces)


@given(st.dictionaries(NAMES, st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=20))
def test_round_trip(paths: dict[bytes, tuple[int, int]]) -> None:
    # No path may be the folder of another: a suffix of its own keeps them apart.
    entries = [
        file(p + b"~", frame=f, chunks=n)
        for p, (f, n) in sorted(paths.items(), key=lambda i: i[0] + b"~")
        if check_path(p + b"~") is None and not any(q.startswith(p + b"~/") for q in paths)
    ]
    if not entries:
        return
    page_id, raw = encode_page(entries)
    assert parse_page(raw, page_id) == entries
    assert (
        raw == json.dumps(json.loads(raw), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    )


def change(*keys: Any, to: Any) -> bytes:
    """The example page with one value changed, or removed (``to`` is ...)."""
    page = json.loads(encode_page(format_example.entries())[1])
    at = page
    for key in keys[:-1]:
        at = at[key]
    if to is ...:
        del at[keys[-1]]
    elif isinstance(keys[-1], int) and keys[-1] == len(at):
        at.append(to)
    else:
        at[keys[-1]] = to
    return json.dumps(page, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


PATHS = [
    "",
    "..",
    "../x",
    "run/../../x",
    "/etc/passwd",
    "run/a\x00b",
    "run//a",
    "run/",
    "./a",
    ".git/config",
    ".GIT/hooks/x",
    "x/.Git",
    ".manifest-sync/index.sqlite",
    ".MANIFEST-SYNC",
    ".manifest-\u017fync/x",
    ".g\u200cit/x",
    ".gi\u200dt",
    "\ufeff.git",
    ".git ",
    ".git.",
    ".g\uff49t",
    "r" * 256,
    "/".join(["r" * 255] * 17),
    "r/" * 2048 + "r",
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_hostile_paths(path: str) -> None:
    assert check_path(path.encode()) is not None
    raw = change("entries", 0, "path", to=path)
    with pytest.raises(FormatError):
        parse_page(raw, hash_bytes(raw).hex())


@pytest.mark.parametrize(
    "path",
    [
        b"a\\..\\b",
        b"C:\\x",
        b"C:x",
        b"a\nb",
        b"\xff",
        b".gitignore",
        b"...",
        b"git",
        b".manifest-sync2",
        b"a" * 255,
    ],
)
def test_odd_paths_that_are_ordinary_bytes_here(path: bytes) -> None:
    assert check_path(path) is None
    page_id, raw = encode_page([file(path)])
    assert parse_page(raw, page_id)[0].path == path


HOSTILE: list[tuple[tuple[Any, ...], Any]] = [
    (("entries",), []),
    (("entries",), None),
    (("entries", 0, "size"), 7),
    (("entries", 0, "size"), -1),
    (("entries", 0, "size"), 6.0),
    (("entries", 0, "size"), 1 << 70),
    (("entries", 0, "size"), True),
    (("entries", 0, "mode"), 0o4755),
    (("entries", 0, "mtime_ns"), 1 << 63),
    (("entries", 0, "hash"), "AB" * 32),
    (("entries", 0, "hash"), "ab"),
    (("entries", 0, "by"), 1),
    (("entries", 0, "by"), ...),
    (("entries", 0, "chunks"), []),
    (("entries", 0, "chunks", 0), [0, 7, 6]),
    (("entries", 0, "chunks", 0), [1, 0, 6]),
    (("entries", 0, "chunks", 0), [0, 0]),
    (("entries", 0, "chunks", 0), ["0", 0, 6]),
    (("entries", 0, "chunks", 0), [0, 0, 6, "ab" * 32]),
    (("entries", 0, "chunks"), [[0, 0, 3], [0, 3, 3]]),
    (("entries", 0, "chunks"), [[0, 0, 0, "ab" * 32], [0, 0, 6, "ab" * 32]]),
    (("entries", 0, "type"), "device"),
    (("entries", 0, "target"), "x"),
    (("entries", 0, "path"), "run/b.sh"),
    (("entries", 0, "path"), "run/z"),
    (("entries", 0, "path"), "run"),
    (("entries", 0, "path_b64"), "cnVuL/8="),
    (("entries", 2, "path_b64"), "YQ=="),
    (("entries", 2, "path_b64"), "cnVuL/8"),
    (("entries", 2, "target"), ""),
    (("entries", 2, "target"), "b.txt"),
    (("entries", 2, "size"), 4),
    (("entries", 2, "chunks"), [[0, 0, 5]]),
    (("frames", 0), [0, 0, 13, 12]),
    (("frames", 0), [0, 165, 12, 12]),
    (("frames", 0), [1, 0, 12, 12]),
    (("frames", 0), [0, 0, 12, 1 << 40]),
    (("frames", 0), [0, 0, 0, 0]),
    (("frames", 1), [0, 0, 12, 12]),
    (("frames", 1), [0, 1, 11, 11]),
    (("packs", 0, "id"), "../x"),
    (("packs", 0, "session"), "../../x"),
    (("packs", 0, "size"), 1 << 40),
    (("packs", 0, "url"), "s3://other/x"),
    (("writers", 0, "host"), "h" * 2000),
    (("writers", 0), None),
    (("writers", 1), {"host": "", "machine": "", "time": ""}),
]


@pytest.mark.parametrize(("keys", "to"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_fields(keys: tuple[Any, ...], to: Any) -> None:
    raw = change(*keys, to=to)
    with pytest.raises(FormatError):
        parse_page(raw, hash_bytes(raw).hex())


def test_wrong_id_other_spelling_and_duplicate_keys() -> None:
    page_id, raw = encode_page(format_example.entries())
    twice = raw.replace(b'"size":6', b'"size":6,"size":6', 1)
    for body in (raw.replace(b":", b": ", 1), twice, b"[" * 100_000, raw + b" "):
        with pytest.raises(FormatError):
            parse_page(body, hash_bytes(body).hex())
    with pytest.raises(FormatError):
        parse_page(raw, "0" * 64)
    unknown = change("entries", 0, "xattrs", to={"a": 1})
    assert parse_page(unknown, hash_bytes(unknown).hex()) == parse_page(raw, page_id)


@given(st.data())
def test_fuzz(data: st.DataObject) -> None:
    raw = bytearray(encode_page(format_example.entries())[1])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        parse_page(bytes(raw), hash_bytes(bytes(raw)).hex())


def test_cutter_keeps_everything_in_order_and_in_bounds() -> None:
    entries = [file(b"%06d" % n + b"x" * (n % 200)) for n in range(12_000)]
    cutter = PageCutter()
    runs = [run for entry in entries if (run := cutter.push(entry))]
    while last := cutter.flush():
        runs.append(last)
    assert [entry for run in runs for entry in run] == entries
    assert cutter.is_empty
    assert all(len(encode_page(run)[1]) <= 1 << 20 for run in runs)
    assert not any(is_boundary(entry.path, 1) for run in runs for entry in run[MIN_LENGTH - 1 : -1])


def cut(entries: Iterable[Entry]) -> list[list[Entry]]:
    cutter = PageCutter()
    runs = [run for entry in entries if (run := cutter.push(entry))]
    while last := cutter.flush():
        runs.append(last)
    return runs


def test_pages_have_much_the_same_length() -> None:
    lengths = [len(run) for run in cut(file(b"exp/%07d.json" % n) for n in range(60_000))][:-1]
    assert min(lengths) >= MIN_LENGTH
    assert max(lengths) <= MAX_LENGTH
    assert 700 < sum(lengths) / len(lengths) < 850
    beside_a_random_file = sum(length**2 for length in lengths) / sum(lengths)
    assert beside_a_random_file < 900, "with an even chance at each path it would be twice the mean"


@pytest.mark.parametrize("chunks", [5, 60, 1200])
def test_a_file_counts_for_as_many_as_it_has_chunks(chunks: int) -> None:
    dice = random.Random(chunks)
    files = 40_000 // chunks
    runs = cut(file(b"exp/%07d.pt" % n, chunks=dice.randint(1, 2 * chunks)) for n in range(files))
    lengths = [sum(len(entry.chunks) for entry in run) for run in runs]
    last_ones = [len(run[-1].chunks) for run in runs]
    assert all(length >= MIN_LENGTH for length in lengths[:-1])
    assert all(length - last < MAX_LENGTH for length, last in zip(lengths, last_ones, strict=True))


def test_an_entry_that_is_a_page_of_its_own_ends_it() -> None:
    """Two runs end with one entry, before it for its cost and after it for its length."""
    small = [file(b"exp/%03d" % n) for n in range(200)]
    runs = cut([*small, file(b"exp/big", chunks=10_000), file(b"exp/next")])
    assert [len(run) for run in runs] == [200, 1, 1]

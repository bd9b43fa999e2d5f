"""P16: a reader that is given anything at all answers with what it means or with the documented error.

Valid samples are damaged as bytes and, where they are JSON, as trees whose ids and checksums are made right
again, so that the damage reaches the last check. What is accepted must have one meaning: written again it is
what was read. Each reader runs in this process; nothing may be written, memory and time are bounded.
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path as FsPath
from typing import Annotated, Any

import msgspec
import pytest
from blake3 import blake3
from msgspec import structs

from manifest_sync import canonical, keys, manifest, runrecord
from manifest_sync.canonical import compress, compress_document, decompress, hash_bytes
from manifest_sync.config import parse_config, parse_size
from manifest_sync.errors import Damaged, FormatError, UnknownFeature, UsageError
from manifest_sync.index import records
from manifest_sync.location import Environment, parse_dotenv, parse_location
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, PackRef, Path, State
from manifest_sync.pack import PackBuilder, decode_frame, encode_frame, parse_trailer
from manifest_sync.pages import encode_page, parse_page
from manifest_sync.pageuse import parse_uses
from manifest_sync.pathrules import check_path
from manifest_sync.scope import parse_scope
from manifest_sync.times import parse_age, parse_rfc3339, parse_when, rfc3339
from tests import forge, format_example
from tests.conftest import Soak
from tests.mangle import Mangler

CPU_SECONDS = 5.0
"""For one sample; the slowest takes some milliseconds."""
MAX_GROWTH = 192 << 20
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Reader:
    """One reader under test.

    ``read`` gets a damaged sample and raises one of ``errors`` or returns. ``trees`` are samples of decoded
    JSON; ``seal`` makes of a damaged tree the bytes that ``read`` gets.
    """

    name: str
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    samples: tuple[bytes, ...] = ()
    trees: tuple[Any, ...] = ()
    seal: Callable[[Any], bytes] = forge.canonical


def _entries() -> list[Entry]:
    """What the example has, and a file of several chunks in two packs, one of them external."""
    made = format_example.entries()
    one = PackRef(format_example.SESSION, "0" * 64, 5000)
    other = PackRef("", "", 1 << 40, "s3://plain/object", '"etag"')
    chunks = tuple(
        ChunkRef(hash_bytes(b"%d" % n), FrameRef(pack, offset, stored, raw), 0, 100)
        for n, (pack, offset, stored, raw) in enumerate(
            [(one, 0, 90, 100), (one, 90, 100, 100), (other, 1 << 39, 100, 100)]
        )
    )
    big = Entry(Path(b"run/big"), EntryType.FILE, 300, -1, 0o600, hash_bytes(b"big"), made[0].writer, chunks)
    empty = structs.replace(made[0], path=Path(b"run/empty"), size=0, hash=hash_bytes(b""), chunks=())
    return sorted([*made, big, empty], key=lambda entry: entry.path)


def _pack() -> bytes:
    builder = PackBuilder()
    for size in (12, 3000, 1):
        plain = bytes(range(256)) * 12
        ids = [(hash_bytes(b"1"), 0, size // 2), (hash_bytes(b"2"), size // 2, size - size // 2)]
        plain = plain[:size]
        builder.add_frame(encode_frame(plain), size, [chunk for chunk in ids if chunk[2]])
    return builder.finish()[1]


# --- readers -------------------------------------------------------------------------------------------


class _Listing(msgspec.Struct):
    fence: Annotated[int, msgspec.Meta(ge=0, le=canonical.MAX_INT)]
    keys: list[str]


def read_page(raw: bytes) -> None:
    """Through both readers of a page; the fuller one also has to write what it read."""
    id_ = hash_bytes(raw).hex()
    entries = parse_page(raw, id_)
    for entry in entries:
        assert check_path(entry.path) is None
        assert 0 <= entry.mode <= 0o777
        assert all(0 < chunk.length <= chunk.frame.raw for chunk in entry.chunks)
        assert sum(chunk.length for chunk in entry.chunks) == (entry.size if not entry.target else 0)
        # What a page holds is what the index has to keep.
        assert records.parse_entry(entry.path, records.encode_entry(entry)) == entry
    assert [entry.path for entry in entries] == sorted({entry.path for entry in entries})
    if _known(json.loads(raw)):
        assert encode_page(entries) == (id_, raw)
    parse_uses(raw, id_)


def _known(page: dict[str, Any]) -> bool:
    """Whether a page has no keys but those of this version, which are all that are written again."""
    entry = {"by", "chunks", "hash", "mode", "mtime_ns", "path", "path_b64", "size", "type"}
    entry |= {"target", "target_b64"}
    return (
        set(page) == {"entries", "frames", "packs", "writers"}
        and all(set(e) <= entry for e in page["entries"])
        and all(set(p) <= {"etag", "id", "session", "size", "url"} for p in page["packs"])
        and all(set(w) == {"host", "machine", "time"} for w in page["writers"])
        # A value that is written where it would be left out.
        and not any(v in ("", []) for e in page["entries"] for v in e.values())
        and not any(e.get("type") == "file" for e in page["entries"])
        and not any(v == "" for p in page["packs"] for v in p.values())
    )


def read_uses(raw: bytes) -> None:
    for frame, cells in parse_uses(raw, hash_bytes(raw).hex()).items():
        assert cells >= -1
        assert cells.bit_length() <= 2048, frame


def read_stored(body: bytes) -> None:
    assert len(decompress(body, 1 << 20)) <= 1 << 20


def read_manifest(raw: bytes) -> None:
    found = manifest.parse_manifest(raw)
    assert all(one.last < other.first for one, other in zip(found.pages, found.pages[1:], strict=False))
    if found.can_write:
        again = manifest.parse_manifest(manifest.encode_manifest(found))
        assert again == found


def read_trailer(data: bytes) -> None:
    trailer = parse_trailer(data)
    assert sum(frame.stored for frame in trailer.frames) < len(data)
    assert sum(frame.raw for frame in trailer.frames) == sum(chunk.length for chunk in trailer.chunks)


def read_frame(data: bytes) -> None:
    plain = decode_frame(data, 3000)
    assert len(plain) == 3000


def read_history(raw: bytes) -> None:
    ids, previous = keys.parse_history(raw)
    assert keys.encode_history(ids, previous) == raw or len(json.loads(raw)) != 2
    number = keys.history_number(previous) + 1 if previous else 0
    assert keys.parse_history(raw, keys.history_key(number, ids[-1])) == (ids, previous)


def read_history_as_named(raw: bytes) -> None:
    keys.parse_history(raw, HISTORY_KEY)


def read_gc_list(body: bytes) -> None:
    found = keys.parse_gc_list(body)
    assert all(key.startswith(("snapshots/", "pages/", "packs/")) and ".." not in key for key in found)
    assert list(found) == sorted(set(found))


def read_object(raw: bytes) -> None:
    value = canonical.decode_object(raw, "x")
    assert canonical.decode_object(canonical.encode(value), "x") == value


def read_canonical(raw: bytes) -> None:
    found = canonical.decode_canonical(raw, msgspec.json.Decoder(_Listing), "x")
    if set(json.loads(raw)) == {"fence", "keys"}:
        assert canonical.encode({"fence": found.fence, "keys": found.keys}) == raw


def read_entry(data: bytes) -> None:
    entry = records.parse_entry(RECORD.path, data)
    assert records.encode_entry(entry) == data


def read_sealed_entry(data: bytes) -> None:
    """With the checksum made right: what it holds is at least of the right types."""
    entry = records.parse_entry(RECORD.path, hash_bytes(RECORD.path + data[8:])[:8] + data[8:])
    assert len(entry.state) >= 1
    assert entry.size + entry.mtime_ns + entry.mode + len(entry.target) >= -(2**70)


def read_chunk(data: bytes) -> None:
    place = RECORD.chunks[0]
    assert records.parse_chunk(place.id, data) == place


def read_run_header(line: bytes) -> None:
    header = runrecord.parse_header(line)
    assert runrecord.parse_header(runrecord.encode_header(header)) == header


def read_step(line: bytes) -> None:
    step = runrecord.parse_step(line)
    assert check_path(step.path) is None
    assert runrecord.parse_step(runrecord.encode_step(step)) == step


def read_config(data: bytes) -> None:
    config = parse_config(data.decode("utf-8", "replace"), "/project/manifest-sync.toml")
    assert os.path.normpath(os.path.join("/project", config.root)).startswith("/project")
    assert config.trash_age >= timedelta(0)
    assert config.trash_bytes >= 0


def read_sizes(data: bytes) -> None:
    assert parse_size(data.decode("utf-8", "replace")) >= 0


def read_dotenv(data: bytes) -> None:
    for name, value in parse_dotenv(data.decode("utf-8", "replace")).items():
        assert isinstance(name + value, str)


def read_location(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    conf = "[r2]\ntype = s3\nprovider = Cloudflare\naccess_key_id = k\nsecret_access_key = s\nendpoint = https://x\n"
    parse_location(text, base="/project", environment=Environment({}, conf, "rclone.conf"))


def read_rclone(data: bytes) -> None:
    environment = Environment({}, data.decode("utf-8", "replace"), "rclone.conf")
    parse_location("r2:bucket/prefix", base="/project", environment=environment)


def read_scope(data: bytes) -> None:
    for path in parse_scope([os.fsdecode(data)], "experiments"):
        parts = path.split(b"/")
        assert path == b"" or not {b"", b".", b".."} & set(parts)


def read_times(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    moment = parse_rfc3339(text)
    if moment is not None:
        assert parse_rfc3339(rfc3339(moment)) == moment.replace(microsecond=0)
    when = parse_when(text, NOW)
    assert when is None or when.tzinfo is not None
    assert parse_age(text) >= timedelta(0)


# --- samples -------------------------------------------------------------------------------------------

RECORD = next(entry for entry in _entries() if len(entry.chunks) > 1)
PAGE = encode_page(_entries())[1]
HEAD = manifest.encode_manifest(
    replace(
        format_example.manifest(),
        pins=(manifest.Pin(0, "1" * 32, "the first"),),
        fence=2,
        collections=((1, f"gc/1-{'a' * 32}.json.zst"), (2, f"gc/2-{'b' * 32}.json.zst")),
        history=f"history/0-{'c' * 32}.json",
        extra={"later": {"x": [1, "y"]}},
    )
)
IDS = [f"{n:032x}" for n in range(256)]
HISTORY = keys.encode_history(IDS, f"history/4-{'9' * 32}.json")
HISTORY_KEY = keys.history_key(5, IDS[-1])
GC_LIST = forge.canonical(
    {
        "fence": 3,
        "keys": [
            f"packs/0-{'0' * 32}/{'1' * 64}.pack",
            f"pages/12-{'0' * 32}/{'1' * 64}.json.zst",
            f"snapshots/0000000012-{'0' * 32}.json.zst",
        ],
    }
)
PACK = _pack()
STEP = runrecord.encode_step(
    runrecord.Step(Path(b"exp/a.json"), State(b"f" + b"1" * 32), None, State(b"o"), State(b"x" + b"2" * 32))
)
STEP_B64 = runrecord.encode_step(runrecord.Step(Path(b"\xff"), None, State(b""), None, None))
HEADER = runrecord.encode_header(runrecord.RunHeader("12", "pull --copy", "2026-11-20T10:15:00Z"))
CONFIG = b"""\
bucket = "s3://bucket/experiments"
endpoint_url = "https://account.r2.cloudflarestorage.com"
region = "auto"
root = "experiments"
[ownership]
git_tracked = true
rules = ["git *.py", "neither **/activations/", "bucket keep.py"]
[groups]
loras = ["**/finetune/", "**/[lL]ora/"]
[defaults]
push = "new"
pull = "copy"
symlinks = "skip"
trust_ctime = true
trust_inode = false
[trash]
max_age = "30d"
max_size = "10GiB"
"""
RCLONE = b"""\
[r2]
type = s3
provider = Cloudflare
access_key_id = key
secret_access_key = secret
endpoint = https://account.r2.cloudflarestorage.com
region = auto
# a comment
[alias]
type = alias
remote = r2:bucket
"""


def seal_pack(data: bytes) -> bytes:
    """The pack with the checksum of its tables made right, if there are any."""
    if len(data) < 56:
        return data
    start = struct.unpack(">Q", data[-48:-40])[0]
    digest = blake3(data[start:-56]).digest()
    return data[:-40] + digest + data[-8:]


def read_sealed_trailer(data: bytes) -> None:
    read_trailer(seal_pack(data))


JSON_ERRORS = (FormatError, UnknownFeature)
READERS = [
    Reader("page", read_page, (FormatError,), (PAGE,), (json.loads(PAGE),)),
    Reader("page uses", read_uses, (FormatError,), (PAGE,), (json.loads(PAGE),)),
    Reader("zstd", read_stored, (FormatError,), (compress(PAGE), forge.bomb(9000, declared=9000))),
    Reader("manifest", read_manifest, JSON_ERRORS, (HEAD,), (json.loads(HEAD),)),
    Reader("pack trailer", read_trailer, (FormatError,), (PACK,)),
    Reader("sealed pack trailer", read_sealed_trailer, (FormatError,), (PACK, format_example.pack()[1])),
    Reader("frame", read_frame, (FormatError,), (compress(bytes(3000)), forge.bomb(3000, declared=3000))),
    Reader("history block", read_history, (FormatError,), (HISTORY,), (json.loads(HISTORY),)),
    Reader("named history block", read_history_as_named, (FormatError,), (HISTORY,), (json.loads(HISTORY),)),
    Reader(
        "gc list",
        read_gc_list,
        (FormatError,),
        (compress(GC_LIST), compress_document(GC_LIST, checksum=True)),
        (json.loads(GC_LIST),),
        lambda tree: compress(forge.canonical(tree)),
    ),
    Reader("JSON object", read_object, (FormatError,), (HEAD, GC_LIST), (json.loads(HEAD),)),
    Reader("canonical JSON", read_canonical, (FormatError,), (GC_LIST,), (json.loads(GC_LIST),)),
    Reader("record of an entry", read_entry, (Damaged,), (records.encode_entry(RECORD),)),
    Reader("sealed record of an entry", read_sealed_entry, (Damaged,), (records.encode_entry(RECORD),)),
    Reader("record of a chunk", read_chunk, (Damaged,), (records.encode_chunk(RECORD.chunks[0]),)),
    Reader("header of a run", read_run_header, (FormatError,), (HEADER,), (json.loads(HEADER),)),
    Reader(
        "step of a run", read_step, (FormatError,), (STEP, STEP_B64), (json.loads(STEP), json.loads(STEP_B64))
    ),
    Reader("configuration", read_config, (UsageError,), (CONFIG,)),
    Reader("size", read_sizes, (UsageError,), (b"10GiB", b"1.5 TB", b"500MB", b"0")),
    Reader("dotenv", read_dotenv, (), (b'R2_ACCESS_KEY_ID="a\\"b" # x\nexport B=\'c d\'\nC=d#e\n',)),
    Reader(
        "location",
        read_location,
        (UsageError,),
        (
            b"s3://bucket/prefix",
            b"file:///dir/x%20y",
            b"r2:bucket/prefix",
            b"~/dir",
            b"memory://x",
            b"../bucket",
        ),
    ),
    Reader("rclone configuration", read_rclone, (UsageError,), (RCLONE,)),
    Reader(
        "names of --only", read_scope, (UsageError,), (b"experiments/aria_rl/", b"./a//b/", b"a\xff/b", b".")
    ),
    Reader(
        "times",
        read_times,
        (UsageError,),
        (
            b"2 days ago",
            b"2026-11-20",
            b"2026-11-20T10:00:00Z",
            b"36h",
            b"yesterday",
            b"2026-11-20 10:00+02:00",
        ),
    ),
]


CHECKSUMMED = {"record of an entry", "record of a chunk"}


@pytest.mark.soak
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name.replace(" ", "-"))
def test_any_bytes(reader: Reader, soak: Soak, tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mangle = Mangler(soak.dice(reader.name))
    before = _peak()
    accepted = 0
    slowest = 0.0
    for number in range(soak.count(2000, 1_000_000)):
        is_tree = reader.trees and number % 2
        data = reader.seal(mangle.json(reader.trees)) if is_tree else mangle.raw(reader.samples)
        started = time.process_time()
        try:
            reader.read(data)
            accepted += 1
        except reader.errors:
            continue
        except BaseException as error:
            raise AssertionError(f"{reader.name}, sample {number}: {data[:3000]!r}") from error
        finally:
            slowest = max(slowest, time.process_time() - started)
    assert slowest < CPU_SECONDS
    assert _peak() - before < MAX_GROWTH
    assert list(tmp_path.iterdir()) == []
    # Damage that is always noticed at once would not test what comes later.
    assert accepted or reader.name in CHECKSUMMED, "no damaged sample was ever accepted"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name.replace(" ", "-"))
def test_the_samples_are_valid(reader: Reader) -> None:
    for sample in reader.samples:
        if reader.read is not read_times or sample == b"36h":
            reader.read(sample)
    for tree in reader.trees:
        reader.read(reader.seal(tree))


def test_the_samples_are_damaged_in_many_ways() -> None:
    mangle = Mangler(random.Random(1))
    assert len({mangle.raw((PAGE,)) for _ in range(500)}) > 490
    trees = [forge.canonical(mangle.json((json.loads(HEAD),))) for _ in range(500)]
    assert len(set(trees)) > 400
    assert any(_is_damaged_only_in(tree, "fence") for tree in trees)


def _is_damaged_only_in(raw: bytes, field: str) -> bool:
    whole, found = json.loads(HEAD), json.loads(raw)
    if not isinstance(found, dict) or found.get(field) == whole[field]:
        return False
    return {**found, field: None} == {**whole, field: None}


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)

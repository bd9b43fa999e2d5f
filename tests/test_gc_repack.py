"""Packs that are mostly dead are written anew, and every file stays what it was."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import Damaged
from manifest_sync.manifest import Manifest
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, PackRef, Writer
from manifest_sync.model import Path as FilePath
from manifest_sync.pages import encode_page
from manifest_sync.pageuse import WHOLE, live_bytes, parse_uses
from manifest_sync.stores import open_store
from tests.bucket_check import examine, folder, garbage, head_files, keys, parse_json
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine
from tests.paused_store import PausedStore
from tests.test_gc import collect, contents

pytestmark = pytest.mark.usefixtures("hurried")


class Place:
    """A bucket whose one pack is mostly dead, and two machines that both know it from before."""

    def __init__(self, folder: Path) -> None:
        self.bucket = folder / "bucket"
        self.gpu = Machine(folder / "gpu", str(self.bucket))
        self.laptop = Machine(folder / "laptop", str(self.bucket))
        for number in range(40):
            self.gpu.write(f"exp/{number:02}.bin", os.urandom(40_000))
        self.gpu.write("exp/empty", b"")
        self.gpu.push()
        self.laptop.pull()
        self.pack = next(key for key in keys(self.bucket) if key.startswith("packs/"))

    def thin_out(self, left: int) -> None:
        """Delete all files but ``left`` of them, spread over the pack, and push that."""
        for number in range(40):
            if number % (40 // left):
                (self.gpu.root / f"exp/{number:02}.bin").unlink()
        self.gpu.push("full", max_delete="100%")

    def open(self, kind: Any = FaultyStore) -> Any:
        return kind(open_store(self.gpu.project().location()))

    def size(self) -> int:
        packs = [key for key in keys(self.bucket) if key.startswith("packs/")]
        return sum((self.bucket / key).stat().st_size for key in packs)


@pytest.fixture
def place(fast_path: Path) -> Place:
    return Place(fast_path)


def test_a_mostly_dead_pack_is_written_anew(place: Place) -> None:
    place.thin_out(8)
    files = head_files(folder(place.bucket))
    before = place.size()
    report = collect(place.gpu)
    assert (report.repacked, report.more) == (1, False)
    assert 8 * 40_000 < report.repacked_live < 8 * 40_000 + 10_000
    assert report.repacked_dead == pytest.approx(32 * 40_000, rel=0.01)
    assert place.size() < before / 4
    assert not (place.bucket / place.pack).exists()
    assert head_files(folder(place.bucket)) == files == contents(place.gpu)
    assert garbage(place.bucket) == set()
    manifest = parse_json((place.bucket / "manifest.json").read_bytes())
    assert manifest["totals"]["stored"] == place.size()
    # Nothing has changed for the machine that did it, and it knows so.
    assert place.gpu.push("full").requests == {"GET": 1}
    assert not place.gpu.status().has_drift
    assert collect(place.gpu).repacked == 0


def test_a_machine_with_an_older_index_goes_on(place: Place) -> None:
    """Its cached pages name the pack that has gone."""
    place.thin_out(8)
    collect(place.gpu)
    (place.laptop.root / "exp/00.bin").unlink()
    assert place.laptop.pull("full", restore_deleted=True, max_delete="100%").exit_code == 0
    assert contents(place.laptop) == contents(place.gpu)
    # It finds content at its new place, and sends what has gone.
    place.laptop.write("exp/copy.bin", contents(place.gpu)[b"exp/00.bin"])
    place.laptop.write("exp/again.bin", os.urandom(100))
    assert place.laptop.push().stored_bytes < 1000
    place.gpu.pull()
    assert head_files(folder(place.bucket)) == contents(place.gpu) == contents(place.laptop)


def test_a_pack_of_which_half_is_used_stays(place: Place) -> None:
    place.thin_out(20)
    report = collect(place.gpu)
    assert report.repacked == 0
    assert (place.bucket / place.pack).exists()


def test_use_by_an_older_snapshot_counts(place: Place) -> None:
    """Dead is what no retained snapshot uses; and the old pack goes with the last one that names it."""
    place.thin_out(8)
    assert collect(place.gpu, keep_last=2).repacked == 0
    assert collect(place.gpu).repacked == 1
    place = Place(place.bucket.parent / "pinned")
    place.gpu.project().pin("1", "full")
    place.thin_out(8)
    assert collect(place.gpu).repacked == 0
    place.gpu.project().unpin("full")
    assert collect(place.gpu).repacked == 1


def test_the_old_pack_stays_while_a_retained_snapshot_names_it(place: Place) -> None:
    place.thin_out(8)
    for number in range(3):
        place.gpu.write("exp/00.bin", f"{number}")
        place.gpu.push("copy")
    report = collect(place.gpu, keep_last=3)
    assert report.repacked == 1
    assert (place.bucket / place.pack).exists()
    assert examine(folder(place.bucket)).problems == []
    assert garbage(place.bucket) == set()
    assert collect(place.gpu, keep_last=3).repacked == 0
    collect(place.gpu)
    assert not (place.bucket / place.pack).exists()
    assert head_files(folder(place.bucket)) == contents(place.gpu)


def test_a_repack_costs_no_history(place: Place) -> None:
    """It counts in the place of the snapshot that it was published upon."""
    for number in range(3):
        place.gpu.write("exp/00.bin", f"{number}")
        place.gpu.push("copy")
    place.thin_out(8)
    place.gpu.write("exp/05.bin", "one more")
    place.gpu.push("copy")
    told = place.gpu.project().gc(keep_last=2, min_age=timedelta(0))
    done = collect(place.gpu, keep_last=2)
    assert done.repacked == told.repacked == 1
    assert done.dropped == told.dropped
    kept = [manifest["sequence"] for manifest in examine(folder(place.bucket)).kept]
    assert kept == [8, 7, 6, 5]


def test_no_repack(place: Place) -> None:
    place.thin_out(8)
    report = collect(place.gpu, repack=False)
    assert (report.repacked, report.sequence) == (0, 3)
    assert (place.bucket / place.pack).exists()


def test_a_dry_run_says_what_would_be_written_anew(place: Place) -> None:
    place.thin_out(8)
    before = keys(place.bucket)
    report = place.gpu.project().gc(keep_last=1)
    assert report.repacked == 1
    assert report.repacked_dead == pytest.approx(32 * 40_000, rel=0.01)
    assert keys(place.bucket) == before


def test_tiny_files_are_no_waste(fast_path: Path) -> None:
    """A pack whose tables are longer than its contents is not taken for a dead one."""
    gpu = Machine(fast_path / "gpu", str(fast_path / "bucket"))
    for number in range(50):
        gpu.write(f"exp/{number}", f"{number}")
    gpu.push()
    report = collect(gpu)
    assert (report.repacked, report.sequence) == (0, 2)


def test_of_a_frame_only_what_is_used_counts(fast_path: Path) -> None:
    """Small files share a frame: one that is left keeps the frame, but not its waste."""
    gpu = Machine(fast_path / "gpu", str(fast_path / "bucket"))
    for number in range(60):
        gpu.write(f"exp/{number:02}", os.urandom(2000))
    gpu.push()
    for number in range(60):
        if number % 6:
            gpu.write(f"exp/{number:02}", os.urandom(2000))
    gpu.push("copy")
    report = collect(gpu)
    assert report.repacked == 1
    assert report.repacked_live < 30_000
    assert head_files(folder(fast_path / "bucket")) == contents(gpu)
    assert garbage(fast_path / "bucket") == set()


def test_of_a_big_file_only_what_lies_in_the_pack_is_moved(fast_path: Path) -> None:
    """Its other chunks stay where they are."""
    bucket = fast_path / "bucket"
    gpu = Machine(fast_path / "gpu", str(bucket))
    dice = random.Random(1)
    first, second, rest = (dice.randbytes(mib << 20) for mib in (6, 17, 25))
    gpu.write("exp/big.bin", first + second + rest)
    gpu.push()
    packs = {key for key in keys(bucket) if key.startswith("packs/")}
    assert len(packs) == 3
    gpu.write("exp/big.bin", first + dice.randbytes(17 << 20) + rest)
    gpu.push("copy")
    report = collect(gpu)
    assert report.repacked >= 1
    assert report.repacked_live < 8 << 20
    assert head_files(folder(bucket)) == contents(gpu)
    assert garbage(bucket) == set()
    assert len(packs & keys(bucket)) == 2


def test_a_repack_that_dies_is_carried_on(fast_path: Path) -> None:
    """At any request; what has arrived is not sent twice."""
    count = Place(fast_path / "count")
    count.thin_out(8)
    with count.open() as store:
        count.gpu.store = store
        collect(count.gpu)
    for number in range(len(store.calls)):
        place = Place(fast_path / f"at{number}")
        place.thin_out(8)
        uploaded: list[str] = []
        with place.open(PausedStore) as paused:

            def die(paused: PausedStore = paused, uploaded: list[str] = uploaded) -> None:
                uploaded += packs_put(paused.calls[:-1])
                raise Crash

            paused.pause_at(number, die)
            place.gpu.store = paused
            with pytest.raises(Crash):
                collect(place.gpu)
        place.gpu.store = None
        with place.open() as store:
            place.gpu.store = store
            collect(place.gpu)
        assert len(uploaded) + len(packs_put(store.calls)) == 1
        assert head_files(folder(place.bucket)) == contents(place.gpu)
        assert place.size() < 9 * 40_000
        assert garbage(place.bucket) == set()


def packs_put(calls: list[tuple[str, str]]) -> list[str]:
    return [key for method, key in calls if method == "put" and key.startswith("packs/")]


@pytest.mark.parametrize("others_repack", [True, False])
def test_a_repack_beside_pushes_and_collections(fast_path: Path, others_repack: bool) -> None:
    """Stalled at any request; the others change what it moves, delete it, and collect what it uploaded."""
    count = Place(fast_path / "count")
    count.thin_out(8)
    with count.open() as store:
        count.gpu.store = store
        collect(count.gpu)
    for number in range(len(store.calls)):
        place = Place(fast_path / f"at{number}")
        place.thin_out(8)

        def others(place: Place = place) -> None:
            place.laptop.pull("full", max_delete="100%")
            place.laptop.write("exp/05.bin", "changed on the laptop")
            place.laptop.write("exp/00.bin", "changed on the laptop")
            (place.laptop.root / "exp/10.bin").unlink()
            place.laptop.push("full")
            collect(place.laptop, repack=others_repack)

        with place.open(PausedStore) as paused:
            paused.pause_at(number, others)
            place.gpu.store = paused
            collect(place.gpu)
        place.gpu.store = None
        assert head_files(folder(place.bucket)) == contents(place.laptop)
        place.gpu.pull("full")
        assert contents(place.gpu) == contents(place.laptop)
        assert not place.gpu.status().has_drift
        assert garbage(place.bucket) == set()


@pytest.mark.parametrize("hurt", ["missing", "flipped"])
def test_damage_is_not_carried_over(place: Place, hurt: str) -> None:
    place.thin_out(8)
    path = place.bucket / place.pack
    if hurt == "missing":
        path.unlink()
    else:
        body = bytearray(path.read_bytes())
        body[100] ^= 1
        path.write_bytes(body)
    before = keys(place.bucket)
    with pytest.raises(Damaged):
        collect(place.gpu)
    left = keys(place.bucket)
    assert {key for key in left if not key.startswith("packs/")} == {
        key for key in before if not key.startswith("packs/")
    }


def test_external_objects_are_neither_moved_nor_deleted(place: Place) -> None:
    """One that is mostly unused: a page names it by URL, and it lies elsewhere."""
    pack = PackRef("", "", 1000, "s3://elsewhere/plain.bin", "etag")
    content = b"x" * 10
    entry = Entry(
        FilePath(b"plain.bin"),
        EntryType.FILE,
        10,
        0,
        0o644,
        hash_bytes(content),
        Writer("m", "h", "2026-01-01T00:00:00Z"),
        (ChunkRef(hash_bytes(content), FrameRef(pack, 500, 10, 10), 0, 10),),
    )
    publish_entry(place.gpu, entry)
    place.thin_out(8)
    report = collect(place.gpu)
    assert report.repacked == 1
    with place.gpu.project().workspace(()) as ws:
        head = ws.repository.load_head()
        entries = [found for _, page in ws.repository.load_pages(head.manifest.pages) for found in page]
    assert entry in entries


def publish_entry(machine: Machine, entry: Entry) -> Manifest:
    """Publish one entry as it is."""
    from manifest_sync.manifest import new_session  # noqa: PLC0415
    from manifest_sync.repository import Commit, Head  # noqa: PLC0415

    with machine.project().workspace(()) as ws:
        head = ws.repository.load_head()
        commit = Commit(ws.new_id(), new_session(0, os.urandom(16)), ws.timestamp(), ws.machine, "h", "", "1")
        done = ws.repository.publish(head, [(entry.path, entry)], commit)
        assert isinstance(done, Head)
        return done.manifest


def entry_at(path: bytes, frame: FrameRef, offset: int, length: int) -> Entry:
    digest = hash_bytes(path)
    chunk = ChunkRef(digest, frame, offset, length)
    writer = Writer("m", "h", "t")
    return Entry(FilePath(path), EntryType.FILE, length, 0, 0o644, digest, writer, (chunk,))


def test_the_use_of_frames_is_read_from_a_page() -> None:
    pack = PackRef(f"0-{'a' * 32}", "b" * 64, 1 << 20)
    whole, shared = FrameRef(pack, 0, 100, 1000), FrameRef(pack, 100, 50_000, 128_000)
    entries = [
        entry_at(b"a", whole, 0, 1000),
        entry_at(b"b", shared, 0, 32_000),
        entry_at(b"c", shared, 96_000, 32_000),
        entry_at(b"d", shared, 96_000, 32_000),
    ]
    page_id, raw = encode_page(entries)
    uses = parse_uses(raw, page_id)
    assert list(uses) == [whole, shared]
    assert uses[whole] == WHOLE
    assert live_bytes(whole, uses[whole]) == 100
    assert live_bytes(shared, uses[shared]) == pytest.approx(25_000, abs=100)
    with pytest.raises(Damaged, match="this id"):
        parse_uses(raw, "0" * 64)
    broken = raw.replace(b"[[1,96000,32000]]", b"[[1,97000,32000]]")
    with pytest.raises(Damaged, match="out of range"):
        parse_uses(broken, hash_bytes(broken).hex())
    broken = raw.replace(b"[[1,96000,32000]]", b"[[9,96000,32000]]")
    with pytest.raises(Damaged, match="do not fit"):
        parse_uses(broken, hash_bytes(broken).hex())

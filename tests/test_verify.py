"""Verify: each kind of damage to each kind of object is found, and named with whom it hurts; and no other."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from manifest_sync import manifest as fmt
from manifest_sync.canonical import decompress
from manifest_sync.errors import ManifestSyncError, RolledBack, StoreUnavailable
from manifest_sync.manifest import Pin
from manifest_sync.model import Entry, FrameRef, PackRef
from manifest_sync.repository import Commit
from manifest_sync.stores.base import Listed, NotFound, Object
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.stores.memory import MemoryStore
from manifest_sync.stores.s3 import S3Store
from manifest_sync.verify import packs as verify_packs
from manifest_sync.verify.damage import Damage, VerifyReport, make_ranges, show_ranges
from tests.conftest import Soak
from tests.damage import HARMS, Bucket, clone
from tests.faulty_store import FaultyStore
from tests.machines import Machine
from tests.servers import S3Server

MIB = 1 << 20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
KINDS = ("snapshots/", "pages/", "packs/", "gc/", "manifest.json")


class World:
    """One bucket with some history, and the machine that made it."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.folder = folder
        self.bucket = Bucket.at(folder)

    def verify(self, **options: bool) -> VerifyReport:
        return self.machine.project().verify(**options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Some snapshots, a pin of one that is older than what is kept, a gc list, a file of several chunks."""
    folder = tmp_path_factory.mktemp("made")
    machine = Machine(folder / "gpu", str(folder / "bucket"))
    world = World(machine, folder / "bucket")
    machine.write("exp0/pinned.json", '{"pinned": true}')
    machine.push()
    pinned = world.bucket.head().manifest
    for number in range(30):
        machine.write(f"exp1/{number:02}.json", json.dumps({"number": number, "text": "x" * number * 50}))
    machine.write("exp1/big.bin", os.urandom(5 * MIB))
    (machine.root / "exp0/pinned.json").unlink()
    machine.push("full", max_delete="100%")
    machine.write("exp4/gone.json", "gone")
    machine.push()
    (machine.root / "exp4/gone.json").unlink()
    machine.push("full")
    machine.write("exp2/a.json", "a" * 100)
    machine.write("exp2/empty", "")
    machine.push()
    machine.write("exp1/00.json", '{"number": "changed"}')
    machine.push("copy")
    pin = Pin(pinned.sequence, pinned.snapshot, "paper")
    world.bucket.publish(lambda m: replace(m, pins=(pin,), oldest=pinned.sequence + 1))
    world.bucket.collect(fmt.pack_key("0-" + "1" * 32, "2" * 64))
    machine.write("exp3/last.json", "{}")
    machine.push()
    return world


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    shutil.copytree(made.folder, tmp_path / "bucket")
    return World(clone(made.machine, tmp_path / "gpu", tmp_path / "bucket"), tmp_path / "bucket")


def named(damage: Damage) -> set[tuple[int, bytes]]:
    """Sequence and path of everything that a damage is said to hurt."""
    return {
        (sequence, bytes(file.path))
        for file in damage.files
        for low, high in file.snapshots
        for sequence in range(low, high + 1)
    }


def all_named(report: VerifyReport) -> set[tuple[int, bytes]]:
    return set().union(*map(named, report.damaged))


@pytest.mark.parametrize("read_data", [False, True])
def test_a_whole_bucket_is_clean_and_stays_as_it_is(world: World, read_data: bool) -> None:
    before = world.bucket.listing()
    index = (world.machine.folder / ".manifest-sync/index.sqlite").read_bytes()
    report = world.verify(read_data=read_data)
    assert (report.damaged, report.unchecked, report.exit_code) == ([], [], 0)
    assert report.checked == {
        "snapshot": len(world.bucket.keys("snapshots/")) - 1,  # not the one that was never kept
        "page": len(world.bucket.keys("pages/")),
        "pack": len(world.bucket.keys("packs/")),
        "gc list": 1,
    }
    assert report.files == 34
    assert set(report.requests) <= {"GET", "LIST"}
    assert world.bucket.listing() == before
    assert (world.machine.folder / ".manifest-sync/index.sqlite").read_bytes() == index


def test_the_fast_look_lists_instead_of_reading(world: World) -> None:
    machine = Machine(world.folder.parent / "reader", str(world.folder))
    machine.pull()
    report = machine.project().verify()
    snapshots, pages = report.checked["snapshot"], report.checked["page"]
    cached = len(world.bucket.head().manifest.pages)
    assert report.requests["LIST"] == 3
    # The head, each snapshot, each gc list, and the pages that are not kept here; no pack.
    assert report.requests["GET"] == 1 + snapshots + 1 + pages - cached


@pytest.mark.parametrize("kind", ["pages/", "packs/"])
def test_the_fast_look_sees_what_has_another_size(world: World, kind: str) -> None:
    for key in world.bucket.keys(kind):
        body = world.bucket.body(key)
        for harmed in (body[:-1], body[:1], b"", body + b"\0"):
            world.bucket.store.put(key, harmed)
            assert [damage.key for damage in world.verify().damaged] == [key]
        world.bucket.store.put(key, body)
    assert world.verify().damaged == []


def test_a_pack_that_is_not_the_one_it_is_called_is_seen_though_no_file_is_hurt(world: World) -> None:
    """Some bits of a zstd frame can be flipped without a change of what it decodes to."""
    key = max(world.bucket.keys("packs/"), key=lambda key: world.bucket.body(key)[:4] == ZSTD_MAGIC)
    body = world.bucket.body(key)
    content = world.bucket.content()
    for position in range(4, 12):
        for bit in range(8):
            flipped = body[:position] + bytes([body[position] ^ 1 << bit]) + body[position + 1 :]
            world.bucket.store.put(key, flipped)
            if not world.bucket.hurt(content):
                report = world.verify(read_data=True)
                assert [(d.key, d.files, d.head) for d in report.damaged] == [(key, (), False)]
                return
    pytest.fail("no such bit was found")


@pytest.mark.parametrize("kind", ["snapshots/", "gc/"])
def test_a_copy_that_still_says_the_same_is_not_damaged(world: World, kind: str) -> None:
    """Bit 4 of a zstd frame's descriptor is ignored by every decoder (RFC 8878, 3.1.1.1.1.3)."""
    key = world.bucket.keys(kind)[-1]
    body = world.bucket.body(key)
    world.bucket.store.put(key, body[:4] + bytes([body[4] ^ 1 << 4]) + body[5:])
    assert world.verify(read_data=True).damaged == []
    world.bucket.store.put(key, body[:4] + bytes([body[4] ^ 1 << 2]) + body[5:])  # whether it has a checksum
    assert [damage.key for damage in world.verify(read_data=True).damaged] == [key]


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_harm_to_each_kind_of_object_is_found(world: World, kind: str, how: str) -> None:
    content = world.bucket.content()
    for number, key in enumerate(world.bucket.keys(kind)):
        body = world.bucket.body(key)
        world.bucket.harm(key, how, Random(f"{kind} {how} {number}"))
        report = world.verify(read_data=True)
        mine = [damage for damage in report.damaged if damage.key == key]
        if key.startswith("snapshots/0000000000"):
            assert not report.damaged  # the first of all, from before anything was kept
        else:
            assert len(mine) == 1, report.damaged
            assert len(report.damaged) == 1
            assert report.exit_code == 7
            assert mine[0].what
            assert mine[0].repair
            if kind == "packs/":
                assert named(mine[0]) >= world.bucket.hurt(content) & set(content)
            if kind == "pages/":
                lost = {place for place, (page, _) in content.items() if page == key}
                assert named(mine[0]) == lost or not mine[0].cached
                assert mine[0].count == len({path for _, path in lost} or {b"exp0/pinned.json"})
        world.bucket.store.put(key, body)
    assert world.verify(read_data=True).damaged == []


def test_the_hurt_files_of_a_pack_are_those_that_cannot_be_fetched(world: World, soak: Soak) -> None:
    """With a pack that is only partly bad, the files in its good frames are not hurt."""
    content = world.bucket.content()
    head = world.bucket.head().manifest.sequence
    dice = soak.dice("hurt files")
    partly = 0
    for _ in range(soak.count(30, 300)):
        key = dice.choice(world.bucket.keys("packs/"))
        body = world.bucket.body(key)
        world.bucket.harm(key, dice.choice(HARMS), dice)
        report = world.verify(read_data=True)
        truth = world.bucket.hurt(content)
        assert {place for place in all_named(report) if place[0] >= 2} == truth, key
        assert report.head_hurt == any(sequence == head for sequence, _ in truth)
        assert {file.path for d in report.damaged for file in d.files if file.head} == {
            path for sequence, path in truth if sequence == head
        }
        needing = {
            place for place, (_, e) in content.items() if any(c.frame.pack.id in key for c in e.chunks)
        }
        partly += 0 < len(truth) < len(needing)
        world.bucket.store.put(key, body)
    assert partly, "no harm was to only a part of a pack"


def test_the_snapshots_are_named_from_first_to_last(world: World) -> None:
    manifests = {m.sequence: m for m in world.bucket.manifests()}
    content = world.bucket.content()
    old = next(e for (s, p), (_, e) in content.items() if p == b"exp1/00.json" and s == 2)
    key = fmt.pack_key(old.chunks[0].frame.pack.session, old.chunks[0].frame.pack.id)
    world.bucket.store.delete(key)
    report = world.verify()
    files = {bytes(file.path): file for file in report.damaged[0].files}
    # Changed in sequence 6: the later snapshots have it elsewhere. Its neighbours lie there still.
    assert files[b"exp1/00.json"].snapshots == ((2, 5),)
    assert not files[b"exp1/00.json"].head
    assert files[b"exp1/01.json"].snapshots == ((2, max(manifests)),)
    assert files[b"exp1/01.json"].head
    assert report.damaged[0].snapshots == ((2, max(manifests)),)


def test_what_only_a_pin_needs_is_looked_at(world: World) -> None:
    pinned = world.bucket.head().manifest.pins[0]
    assert pinned.sequence < world.bucket.head().manifest.oldest
    key = fmt.snapshot_key(pinned.sequence, pinned.snapshot)
    manifest = fmt.parse_manifest(decompress(world.bucket.body(key), MIB))
    page = manifest.pages[0]
    page_key = fmt.page_key(page.session, page.id)
    world.bucket.store.delete(page_key)
    report = world.verify()
    assert [(d.key, d.snapshots, d.head) for d in report.damaged] == [(page_key, ((1, 1),), False)]
    world.bucket.store.delete(key)
    assert [d.key for d in world.verify().damaged] == [key]


def test_a_lost_page_is_described_as_far_as_anyone_knows(world: World) -> None:
    page = world.bucket.head().manifest.pages[0]
    key = fmt.page_key(page.session, page.id)
    world.bucket.store.delete(key)
    here = world.verify().damaged[0]
    assert (here.cached, len(here.files), here.head) == (True, page.files, True)
    stranger = Machine(world.folder.parent / "stranger", str(world.folder))
    report = stranger.project().verify()
    there = report.damaged[0]
    assert (there.cached, there.files, there.count) == (False, (), page.files)
    assert there.between == (page.first, page.last)
    assert [unchecked for unchecked, _ in report.unchecked] == [key]


def test_a_lost_snapshot_does_not_hide_those_before_it(world: World) -> None:
    content = world.bucket.content()
    lost = next(e for (s, p), (_, e) in content.items() if p == b"exp1/00.json" and s == 2)
    middle = world.bucket.keys("snapshots/0000000003", "snapshots/0000000004")
    for key in middle:
        world.bucket.store.delete(key)
    pack = fmt.pack_key(lost.chunks[0].frame.pack.session, lost.chunks[0].frame.pack.id)
    world.bucket.store.delete(pack)
    report = world.verify()
    assert {d.key for d in report.damaged} == {*middle, pack}
    assert (2, b"exp1/00.json") in all_named(report)


def test_a_flipped_bit_anywhere_in_a_snapshot_or_gc_list_is_seen(world: World) -> None:
    """They are not named by a hash: the checksum of their zstd frame has to show it."""
    pins = {pin.sequence for pin in world.bucket.head().manifest.pins}
    keys = [k for k in world.bucket.keys("snapshots/", "gc/") if int(k.split("/")[1][:10].split("-")[0])]
    dice = Random("flip")
    assert pins
    for key in keys:
        body = world.bucket.body(key)
        for position in dice.sample(range(len(body)), 12):
            flipped = bytearray(body)
            flipped[position] ^= 1 << dice.randrange(8)
            world.bucket.store.put(key, bytes(flipped))
            assert [d.key for d in world.verify().damaged] == [key] or _same_content(bytes(flipped), body), (
                position
            )
        world.bucket.store.put(key, body)


def _same_content(one: bytes, other: bytes) -> bool:
    """Some bits of a zstd frame pad it and mean nothing."""
    try:
        return decompress(one, MIB) == decompress(other, MIB)
    except ManifestSyncError:
        return False


def test_a_head_that_is_not_its_copy_is_damaged(world: World) -> None:
    body = fmt.encode_manifest(replace(world.bucket.head().manifest, message="not what was published"))
    world.bucket.store.put("manifest.json", body)
    report = world.verify()
    assert [(d.key, d.head) for d in report.damaged] == [("manifest.json", True)]
    assert "doctor" in report.damaged[0].repair


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_without_a_head_the_newest_snapshot_stands_in(world: World, how: str) -> None:
    sequence = world.bucket.head().manifest.sequence
    world.bucket.harm("manifest.json", how, Random(1))
    lost = world.bucket.keys("packs/")[0]
    world.bucket.store.delete(lost)
    report = world.verify()
    assert [d.key for d in report.damaged] == ["manifest.json", lost]
    assert report.sequence == sequence
    assert report.exit_code == 7


def test_history_blocks(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    machine.write("exp/a", "a")
    machine.push()
    on_disk = Bucket.at(tmp_path / "bucket")
    machine.store = MemoryStore()  # so many publishes would wait for the disk as often
    for key in on_disk.listing():
        machine.store.put(key, on_disk.body(key))
    bucket = Bucket(machine.store)
    bucket.publish(times=2 * fmt.HISTORY_BLOCK + 3)
    world = World(machine, tmp_path / "bucket")
    first, second = bucket.keys("history/")
    assert world.verify().checked["history block"] == 2
    assert world.verify().damaged == []
    bodies = {key: bucket.body(key) for key in (first, second)}
    for key in (first, second):
        for how in ("missing", "flipped"):
            bucket.harm(key, how, Random(f"{key[:9]} {how}"))
            report = world.verify()
            assert [d.key for d in report.damaged] == [key], how
            # The snapshots behind a lost block are found by the listing or by their children.
            assert report.checked["snapshot"] == 2 * fmt.HISTORY_BLOCK + 5
            bucket.store.put(key, bodies[key])
    lost = bucket.keys("snapshots/0000000100", "snapshots/0000000050")
    for key in [first, *lost]:
        bucket.store.delete(key)
    report = world.verify()
    assert {d.key for d in report.damaged} == {first, *lost}
    assert report.checked["snapshot"] == 2 * fmt.HISTORY_BLOCK + 5


class Lying(DirectoryStore):
    """A store whose listings are wrong, and whose objects are all there."""

    def __init__(self, path: str, lie: str) -> None:
        super().__init__(path)
        self.lie = lie

    def list(self, prefix: str) -> Iterator[Listed]:
        for number, item in enumerate(super().list(prefix)):
            if self.lie == "empty" or (self.lie == "short" and number % 2):
                continue
            yield replace(item, size=item.size + 1) if self.lie == "sizes" else item


@pytest.mark.parametrize("lie", ["empty", "short", "sizes"])
def test_a_wrong_listing_is_no_damage(world: World, lie: str) -> None:
    world.machine.store = Lying(str(world.folder), lie)
    assert world.verify().damaged == []


class Forgetful(DirectoryStore):
    """Says once of every object that it is not there, or gives it with a flipped bit."""

    def __init__(self, path: str, *, flips: bool) -> None:
        super().__init__(path)
        self.flips = flips
        self.asked: set[str] = set()

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        found = super().get(key, unless_etag=unless_etag, max_bytes=max_bytes)
        if found is None or key == "manifest.json" or key in self.asked:
            return found
        self.asked.add(key)
        if not self.flips:
            raise NotFound(key)
        return Object(found.body[:-1] + bytes([found.body[-1] ^ 1]), found.etag)


@pytest.mark.parametrize("flips", [False, True])
def test_one_wrong_answer_is_no_damage(world: World, flips: bool) -> None:
    world.machine.store = store = Forgetful(str(world.folder), flips=flips)
    assert world.verify(read_data=True).damaged == []
    assert {key.partition("/")[0] for key in store.asked} == {"snapshots", "pages", "packs", "gc"}


def test_a_listing_that_fails_is_an_error_and_no_damage(world: World) -> None:
    with FaultyStore(DirectoryStore(str(world.folder))) as store:
        store.add_fault("list", kind="before", key_prefix="packs/")
        world.machine.store = store
        with pytest.raises(StoreUnavailable):
            world.verify()


class Beside(DirectoryStore):
    """Something else happens to the bucket at a request that this run makes."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.at = ""
        self.happens: Callable[[], object] = lambda: None

    def _strike(self, key: str) -> None:
        if self.at and key.startswith(self.at):
            self.at = ""
            self.happens()

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        self._strike(key)
        return super().get(key, unless_etag=unless_etag, max_bytes=max_bytes)

    def list(self, prefix: str) -> Iterator[Listed]:
        self._strike(f"LIST {prefix}")
        return super().list(prefix)


def _collectable(world: World) -> list[str]:
    """What a collection that keeps only the head may delete."""
    kept = world.bucket.head().manifest
    content = world.bucket.content()
    needed = {fmt.snapshot_key(kept.sequence, kept.snapshot)}
    needed |= {page for (s, _), (page, _) in content.items() if s == kept.sequence}
    needed |= {
        fmt.pack_key(c.frame.pack.session, c.frame.pack.id)
        for (s, _), (_, e) in content.items()
        if s == kept.sequence
        for c in e.chunks
    }
    return [key for key in world.bucket.keys("snapshots/", "pages/", "packs/") if key not in needed]


BESIDE = [
    (False, ["LIST snapshots/", "LIST pages/", "LIST packs/", "snapshots/", "pages/", "gc/"]),
    (True, ["LIST snapshots/", "snapshots/", "pages/", "packs/", "gc/"]),
]


@pytest.mark.parametrize(("read_data", "at"), [(flag, at) for flag, points in BESIDE for at in points])
def test_a_collection_beside_it_is_no_damage(world: World, at: str, read_data: bool) -> None:
    doomed = _collectable(world)
    assert {key.split("/")[0] for key in doomed} == {"snapshots", "pages", "packs"}
    store = Beside(str(world.folder))
    store.at = at
    store.happens = lambda: world.bucket.collect(*doomed, oldest=world.bucket.head().manifest.sequence)
    world.bucket.publish(lambda m: replace(m, pins=()))
    world.machine.store = store
    report = world.verify(read_data=read_data)
    assert not store.at, "the collection never came"
    assert report.damaged == []
    assert report.exit_code == 0


def test_real_damage_beside_a_collection_is_still_named(world: World) -> None:
    doomed = _collectable(world)
    lost = next(key for key in world.bucket.keys("packs/") if key not in doomed)
    world.bucket.store.delete(lost)
    store = Beside(str(world.folder))
    store.at = "LIST packs/"
    store.happens = lambda: world.bucket.collect(*doomed, oldest=world.bucket.head().manifest.sequence)
    world.bucket.publish(lambda m: replace(m, pins=()))
    world.machine.store = store
    assert [d.key for d in world.verify().damaged] == [lost]


def test_more_collections_than_lists_are_kept_means_looking_again(world: World) -> None:
    doomed = _collectable(world)
    world.bucket.publish(lambda m: replace(m, pins=()))

    def collect_often() -> None:
        world.bucket.collect(*doomed, oldest=world.bucket.head().manifest.sequence)
        for _ in range(3):
            world.bucket.collect()
        world.bucket.publish(lambda m: replace(m, collections=m.collections[-2:]))

    store = Beside(str(world.folder))
    store.at, store.happens = "LIST pages/", collect_often
    world.machine.store = store
    report = world.verify()
    assert report.damaged == []
    assert report.sequence == world.bucket.head().manifest.sequence


def test_pushes_beside_it_are_no_damage(world: World) -> None:
    other = Machine(world.folder.parent / "other", str(world.folder))
    other.write("exp9/new", "new")
    store = Beside(str(world.folder))
    store.at = "LIST pages/"
    store.happens = other.push
    world.machine.store = store
    assert world.verify().damaged == []
    assert not store.at


def test_a_rolled_back_head_is_refused(world: World) -> None:
    sequence = world.bucket.head().manifest.sequence
    old = next(k for k in world.bucket.keys("snapshots/") if int(k[10:20]) == sequence - 1)
    world.bucket.store.put("manifest.json", decompress(world.bucket.body(old), MIB))
    with pytest.raises(RolledBack):
        world.verify()


def test_files_of_many_packs_are_hashed_as_a_whole(tmp_path: Path) -> None:
    """Chunks that are all good in themselves, in the wrong order: only the file's hash tells."""
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    machine.write("exp/huge.bin", os.urandom(40 * MIB))
    machine.push()
    # Stored already in parts, so that its chunks do not lie in the order of the packs.
    machine.write("exp/again.bin", (machine.root / "exp/huge.bin").read_bytes()[::1] + b"end" * 300_000)
    huge = (machine.root / "exp/huge.bin").read_bytes()
    machine.write("exp/0.bin", os.urandom(3 * MIB) + huge)
    machine.write("exp/late.bin", huge[20 * MIB :] + huge[: 20 * MIB])
    machine.push()
    world = World(machine, tmp_path / "bucket")
    report = world.verify(read_data=True)
    assert (report.damaged, report.checked["pack"] >= 4) == ([], True)
    late = world.bucket.content()[2, b"exp/late.bin"][1]
    first = world.bucket.content()[2, b"exp/huge.bin"][1].chunks[0].frame.pack
    packs = [chunk.frame.pack for chunk in late.chunks]
    assert packs.index(first) > 0  # a pack that goes by before the one that its first chunk lies in
    for path in (b"exp/0.bin", b"exp/late.bin"):
        _swap_chunks(world, path)
        report = world.verify(read_data=True)
        assert path in {bytes(f.path) for d in report.damaged for f in d.files if f.head}
        assert "make up" in report.damaged[0].what
    assert {bytes(f.path) for d in report.damaged for f in d.files} == {b"exp/0.bin", b"exp/late.bin"}


def _swap_chunks(world: World, path: bytes) -> None:
    """Publish an entry whose chunks are listed in the wrong order, as a faulty writer would."""
    head = world.bucket.head()
    page, entry = world.bucket.content()[head.manifest.sequence, path]
    assert page
    wrong = structs.replace(entry, chunks=(entry.chunks[1], entry.chunks[0], *entry.chunks[2:]))
    _publish_entry(world, wrong)


def _publish_entry(world: World, entry: Entry) -> None:
    head = world.bucket.head()
    commit = Commit(os.urandom(16).hex(), fmt.new_session(0, os.urandom(16)), "", "m", "faulty", "", "0.1.0")
    world.bucket.repository().publish(head, [(entry.path, entry)], commit)


def test_a_page_that_names_what_a_pack_does_not_hold(world: World) -> None:
    head = world.bucket.head().manifest.sequence
    content = world.bucket.content()
    one, other = content[head, b"exp1/05.json"][1], content[head, b"exp1/06.json"][1]
    _publish_entry(
        world, structs.replace(one, hash=other.hash, chunks=(structs.replace(one.chunks[0], id=other.hash),))
    )
    report = world.verify(read_data=True)
    assert [[bytes(f.path) for f in d.files] for d in report.damaged] == [[b"exp1/05.json"]]
    assert report.damaged[0].key.startswith("pages/")


def test_memory_stays_bounded_whatever_the_bucket_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    for number in range(7):
        machine.write(f"exp/{number}.bin", os.urandom(17 * MIB))
    machine.push()
    monkeypatch.setattr(verify_packs, "MAX_AHEAD", 20 * MIB)
    tracemalloc.start()
    try:
        report = machine.project().verify(read_data=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.exit_code == 0
    assert report.bytes > 110 * MIB
    assert peak < 60 * MIB


def test_what_cannot_be_read_is_said_and_not_called_damage(world: World) -> None:
    head = world.bucket.head().manifest.sequence
    entry = world.bucket.content()[head, b"exp1/05.json"][1]
    outside = PackRef("", "", 1000, "s3://elsewhere/object", "etag")
    chunk = entry.chunks[0]
    frame = FrameRef(outside, 0, chunk.length, chunk.length)
    _publish_entry(world, structs.replace(entry, chunks=(structs.replace(chunk, frame=frame, offset=0),)))
    for read_data in (False, True):
        report = world.verify(read_data=read_data)
        assert (report.damaged, [key for key, _ in report.unchecked]) == ([], ["s3://elsewhere/object"])
        assert report.exit_code == 3


def test_local_finds_content_that_changed_without_a_sign(world: World) -> None:
    machine = world.machine
    path = machine.root / "exp1/03.json"
    _settle(machine)
    body, stat = path.read_bytes(), path.stat()
    _write_in_place(path, b"X" + body[1:], stat)
    index = (machine.folder / ".manifest-sync/index.sqlite").read_bytes()
    for _ in range(2):  # it is not taken note of, so it is found again
        report = machine.project().verify(local=True)
        assert ([bytes(p) for p in report.missed], report.exit_code) == ([b"exp1/03.json"], 7)
        assert report.requests == {}
    assert (machine.folder / ".manifest-sync/index.sqlite").read_bytes() == index
    _write_in_place(path, body, stat)
    assert machine.project().verify(local=True).exit_code == 0


def _write_in_place(path: Path, body: bytes, stat: os.stat_result) -> None:
    with path.open("r+b") as file:
        file.write(body)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _settle(machine: Machine) -> None:
    """Make the index trust every file, ctime left aside: the only sign that a test cannot hide."""
    config = machine.folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace("[defaults]", "[defaults]\ntrust_ctime = false"))
    for path in machine.root.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**10))
    machine.project().push("copy")
    machine.project().status()


def test_the_command_tells_people_and_programs(world: World) -> None:
    machine = world.machine
    clean = machine.command("verify")
    assert (clean.stderr, clean.returncode) == ("", 0)
    assert clean.stdout.startswith("verify: clean; looked at ")
    lost = world.bucket.head().manifest.pages[0]
    key = fmt.page_key(lost.session, lost.id)
    world.bucket.store.delete(key)
    told = machine.command("verify")
    assert told.returncode == 7
    assert f"{key}: it is missing\n" in told.stdout
    assert f"and {lost.files - 10} more (-v lists all)" in told.stdout
    assert "repair: `manifest-sync push --repair` here" in told.stdout
    assert "the current state is hurt" in told.stdout
    found = json.loads(machine.command("verify", "--json").stdout)
    assert (found["command"], found["clean"], found["head_hurt"]) == ("verify", False, True)
    assert len(found["damaged"][0]["files"]) == lost.files > 10
    assert found["damaged"][0]["files"][0].keys() == {"path", "head", "snapshots", "host"}
    refused = machine.command("verify", "--local", "--read-data", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]) == (2, "usage_error")
    assert machine.command("verify", "--local").stdout.startswith("verify --local: clean; ")


def test_on_a_real_server(seaweed_http: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = seaweed_http.location(os.urandom(4).hex())
    for name, value in seaweed_http.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{location.bucket}/{location.prefix}"
    machine = Machine(tmp_path / "gpu", url, endpoint_url=seaweed_http.endpoint_url, env=dict(os.environ))
    for number in range(20):
        machine.write(f"exp/{number:02}", os.urandom(500))
    machine.push()
    machine.write("exp/00", "other")
    machine.push("copy")
    bucket = Bucket(S3Store(location))
    for read_data in (False, True):
        assert machine.project().verify(read_data=read_data).damaged == []
    content = bucket.content()
    dice = Random(5)
    for key in bucket.keys("packs/", "pages/", "snapshots/0000000001"):
        body = bucket.body(key)
        for how in ("missing", "flipped"):
            bucket.harm(key, how, dice)
            report = machine.project().verify(read_data=True)
            assert [d.key for d in report.damaged] == [key], how
            if key.startswith("packs/"):
                assert all_named(report) == bucket.hurt(content)
            bucket.store.put(key, body)
    assert machine.project().verify(read_data=True).exit_code == 0
    bucket.store.close()


def test_ranges() -> None:
    assert make_ranges([(5, 5), (1, 2), (3, 3), (9, 9), (4, 6)]) == ((1, 6), (9, 9))
    assert show_ranges(((1, 6), (9, 9))) == "1-6, 9"
    assert make_ranges([]) == ()

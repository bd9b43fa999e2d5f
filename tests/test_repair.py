"""`push --repair`: what was destroyed in the bucket comes back from a machine that has it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from manifest_sync import canonical
from manifest_sync import manifest as fmt
from manifest_sync.errors import Damaged
from manifest_sync.repair.repair import RepairReport
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.stores.memory import MemoryStore
from manifest_sync.stores.s3 import S3Store
from tests import bucket_check
from tests.conftest import Soak
from tests.damage import HARMS, Bucket, boundary_names, clone
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine
from tests.paused_store import PausedStore
from tests.servers import S3Server

MIB = 1 << 20
NO_AGE = timedelta(0)


class World:
    """A bucket that ``gpu`` made and ``laptop`` has pulled."""

    def __init__(self, gpu: Machine, laptop: Machine, folder: Path) -> None:
        self.gpu = gpu
        self.laptop = laptop
        self.folder = folder
        self.bucket = Bucket.at(folder)

    def repair(self, machine: Machine | None = None, **options: bool) -> RepairReport:
        return (machine or self.laptop).project().repair(**options)  # type: ignore[arg-type]

    def assert_whole(self) -> None:
        """By our own eyes and by those of someone who knows nothing of the code."""
        report = self.gpu.project().verify(read_data=True)
        assert (report.damaged, report.unchecked) == ([], [])
        assert bucket_check.examine(bucket_check.folder(self.folder)).problems == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, short_pages: None) -> World:
    """Some pages and packs, of which the head needs every one."""
    folder = tmp_path_factory.mktemp("made")
    gpu = Machine(folder / "gpu", str(folder / "bucket"))
    laptop = Machine(folder / "laptop", str(folder / "bucket"))
    dice = Random("made")
    for number in range(6):
        for name in [
            *islice(boundary_names(f"exp{number}/"), 1),
            *(f"exp{number}/{n:02}.json" for n in range(12)),
        ]:
            text = json.dumps(
                {"name": name, "text": "lorem ipsum " * dice.randrange(200), "r": dice.random()}
            )
            gpu.write(name, text)
        gpu.write(f"exp{number}/weights.bin", dice.randbytes(dice.randrange(200_000)))
        if number == 2:
            gpu.write("exp2/big.bin", dice.randbytes(4 * MIB) + b"text" * MIB)
        gpu.push()
    laptop.pull()
    # The past is let go of, so that every object there is can be had from a machine with the present.
    gpu.project().gc(keep_last=1, min_age=NO_AGE, apply=True)
    return World(gpu, laptop, folder / "bucket")


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    shutil.copytree(made.folder, tmp_path / "bucket")
    bucket = tmp_path / "bucket"
    gpu, laptop = clone(made.gpu, tmp_path / "gpu", bucket), clone(made.laptop, tmp_path / "laptop", bucket)
    return World(gpu, laptop, bucket)


def test_ten_objects_destroyed_at_random_come_back(made: World, tmp_path: Path, soak: Soak) -> None:
    dice = soak.dice("ten objects")
    for number in range(soak.count(6, 60)):
        folder = tmp_path / str(number)
        shutil.copytree(made.folder, folder / "bucket")
        bucket = folder / "bucket"
        world = World(
            clone(made.gpu, folder / "gpu", bucket), clone(made.laptop, folder / "laptop", bucket), bucket
        )
        before = world.bucket.listing()
        files = bucket_check.head_files(bucket_check.folder(bucket))
        victims = dice.sample([key for key in before if key != "manifest.json"], 10)
        for key in victims:
            world.bucket.harm(key, dice.choice(HARMS), dice)
        damaged = {d.key for d in world.laptop.project().verify(read_data=True).damaged}
        assert damaged <= set(victims)
        report = world.repair(read_data=True)
        assert (report.exit_code, report.left, report.moved) == (0, [], [])
        assert {key for key, _ in report.repaired} == damaged
        world.assert_whole()
        after = world.bucket.listing()
        kept = {key for key in before if key != "manifest.json" and not key.startswith("gc/")}
        # The same bytes as before but where zstd made others of the same content.
        assert {k for k in kept if after[k] != before[k]} <= {k for k in kept if k.startswith("snap")}
        assert bucket_check.head_files(bucket_check.folder(bucket)) == files
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["snapshots/", "pages/", "packs/", "gc/"])
def test_what_is_missing_is_found_without_reading_everything(world: World, kind: str) -> None:
    keys = world.bucket.keys(kind)
    assert keys
    for key in keys:
        world.bucket.store.delete(key)
    report = world.repair()
    assert {key for key, _ in report.repaired} == set(keys)
    assert report.exit_code == 0
    world.assert_whole()


def test_a_clean_bucket_is_left_alone(world: World) -> None:
    before = world.bucket.listing()
    report = world.repair(read_data=True)
    assert (report.found, report.exit_code, report.bytes) == (0, 0, 0)
    assert set(report.requests) <= {"GET", "LIST"}
    assert world.bucket.listing() == before


def test_a_dry_run_says_and_does_nothing(world: World) -> None:
    pack, page = world.bucket.keys("packs/")[0], world.bucket.keys("pages/")[0]
    world.bucket.store.delete(pack)
    world.bucket.store.delete(page)
    before = world.bucket.listing()
    report = world.repair(dry_run=True)
    assert {key for key, _ in report.repaired} == {pack, page}
    assert report.left == []
    assert world.bucket.listing() == before


def test_what_is_not_here_is_named_with_where_it_may_be(world: World) -> None:
    lost = b"exp3/04.json"
    pack = world.bucket.pack_of(lost)
    (world.laptop.root / lost.decode()).write_text("another content")
    files = bucket_check.head_files(bucket_check.folder(world.folder))
    world.bucket.store.delete(pack)
    report = world.repair()
    assert report.exit_code == 7
    assert [[bytes(f.path) for f in d.files if f.head] for d in report.left] == [[lost]]
    assert report.left[0].hosts == {world.bucket.entry(lost).writer.host: report.left[0].count}
    assert [reason for key, reason in report.tried if key == pack] == [
        "the content of exp3/04.json is not here"
    ]
    # The rest of that pack is in a new one, and no file has another content.
    assert len(report.moved) >= 13
    assert lost not in {bytes(path) for path in report.moved}
    found = bucket_check.examine(bucket_check.folder(world.folder))
    assert {path for path in files if found.files.get(path) != files[path]} == {lost}
    # The machine that still has it makes the pack anew: that repairs every snapshot at once.
    assert world.repair(world.gpu).exit_code == 0
    world.assert_whole()
    assert bucket_check.head_files(bucket_check.folder(world.folder)) == files


def test_other_machines_see_no_change_where_content_was_sent_anew(world: World) -> None:
    lost = b"exp3/04.json"
    world.bucket.store.delete(world.bucket.pack_of(lost))
    (world.laptop.root / lost.decode()).unlink()
    assert world.repair().moved
    assert not world.gpu.status().has_drift
    status = world.laptop.status()
    assert {case: [bytes(p) for p in paths] for case, paths in status.cases.items()} == {
        "deleted_here": [lost]
    }


def test_what_is_only_in_the_trash_counts(world: World) -> None:
    lost = b"exp3/04.json"
    pack = world.bucket.pack_of(lost)
    body = world.bucket.body(pack)
    world.gpu.write(lost.decode(), "newer")
    world.gpu.push("copy")
    world.laptop.pull("copy")
    assert world.laptop.read(lost.decode()) == "newer"
    world.bucket.store.delete(pack)
    report = world.repair()
    assert (report.exit_code, report.moved) == (0, [])
    assert world.bucket.body(pack) == body


def test_a_damaged_pack_gives_what_is_good_of_it(world: World) -> None:
    """Only the content of the frame that is bad has to be here."""
    path = b"exp2/big.bin"
    entry = world.bucket.entry(path)
    chunk = entry.chunks[-1]
    pack = fmt.pack_key(chunk.frame.pack.session, chunk.frame.pack.id)
    body = bytearray(world.bucket.body(pack))
    body[chunk.frame.offset + 5] ^= 1
    world.bucket.store.put(pack, bytes(body))
    for other in world.laptop.root.rglob("*"):
        if other.is_file() and other.name != "big.bin":
            other.unlink()
    report = world.repair(read_data=True)
    assert (report.exit_code, report.moved, [key for key, _ in report.repaired]) == (0, [], [pack])
    world.assert_whole()


def test_a_page_that_no_one_keeps_stays_named(world: World) -> None:
    stranger = Machine(world.folder.parent / "stranger", str(world.folder))
    page = world.bucket.head().manifest.pages[1]
    key = fmt.page_key(page.session, page.id)
    pack = world.bucket.pack_of(page.last)
    world.bucket.store.delete(key)
    other = next(k for k in world.bucket.keys("packs/") if k != pack)
    world.bucket.store.delete(other)
    report = world.repair(stranger)
    assert report.exit_code == 7
    assert {d.key for d in report.left} >= {key}
    assert dict(report.tried)[key] == "this machine does not keep a copy of it"
    assert world.repair().exit_code == 0
    world.assert_whole()


def test_another_compressor_means_new_packs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames cannot be made byte for byte: then the head's files are sent anew."""
    monkeypatch.setattr(canonical, "ZSTD_LEVEL", 9)
    monkeypatch.setattr(canonical, "_codecs", canonical._Codecs())
    pack = world.bucket.pack_of(b"exp4/01.json")
    world.bucket.store.delete(pack)
    report = world.repair()
    assert "zstd" in dict(report.tried)[pack]
    assert not any(damage.head for damage in report.left)
    assert report.exit_code == 3  # the snapshot before still names the lost pack
    found = bucket_check.examine(bucket_check.folder(world.folder))
    assert [p for p in found.problems if pack not in p] == []
    world.gpu.project().gc(keep_last=1, min_age=NO_AGE, apply=True)
    world.assert_whole()


def test_a_lost_history_block_is_made_from_a_snapshot(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    machine.write("exp/a", "a")
    machine.push()
    on_disk = Bucket.at(tmp_path / "bucket")
    machine.store = MemoryStore()
    for key in on_disk.listing():
        machine.store.put(key, on_disk.body(key))
    bucket = Bucket(machine.store)
    bucket.publish(times=2 * fmt.HISTORY_BLOCK + 3)
    keys = bucket.keys("history/")
    before = bucket.listing()
    for key in keys:
        bucket.store.delete(key)
    report = machine.project().repair()
    assert (report.exit_code, sorted(key for key, _ in report.repaired)) == (0, keys)
    assert bucket.listing() == before
    # Without the snapshot after its last id nothing tells of a block; the others still work.
    last = keys[0].removesuffix(".json")[-32:]
    sequence = next(int(k[10:20]) for k in bucket.keys("snapshots/") if last in k)
    bucket.store.delete(next(k for k in bucket.keys("snapshots/") if int(k[10:20]) == sequence + 1))
    bucket.store.delete(keys[0])
    report = machine.project().repair()
    assert dict(report.tried)[keys[0]] == "no snapshot that is kept lists its ids"
    assert report.exit_code == 3


def test_a_snapshot_that_this_machine_saw_last_comes_back(world: World) -> None:
    seen = world.laptop.status()
    key = fmt.snapshot_key(seen.sequence, seen.snapshot)
    body = world.bucket.body(key)
    world.gpu.write("exp9/new", "new")
    world.gpu.push()
    world.bucket.store.delete(key)
    assert world.repair(world.gpu).exit_code == 3
    assert world.repair().exit_code == 0
    assert world.bucket.body(key) == body
    world.assert_whole()


def test_a_key_that_a_collection_may_delete_is_not_written_again(world: World) -> None:
    """The head should reach no such thing; if it does, content goes to new keys."""
    path = b"exp3/04.json"
    pack = world.bucket.pack_of(path)
    world.bucket.collect(pack)
    report = world.repair()
    assert dict(report.tried)[pack] == "a collection was allowed to delete it"
    assert pack not in world.bucket.keys("packs/")
    assert path in {bytes(moved) for moved in report.moved}
    assert not any(damage.head for damage in report.left)


def test_an_unreadable_list_stands_in_no_ones_way(world: World) -> None:
    pack = world.bucket.pack_of(b"exp3/04.json")
    lists = world.bucket.keys("gc/")
    for key in [*lists, pack]:
        world.bucket.store.delete(key)
    report = world.repair()
    assert {key for key, _ in report.repaired} == {*lists, pack}
    # A push that relies on anything from before it takes all as gone, as it must.
    head = world.bucket.head()
    assert head.manifest.collections == ()
    assert world.bucket.repository().collected(head, 0) is None
    world.assert_whole()


def test_a_push_in_between_is_kept(world: World) -> None:
    """Another machine publishes between the look and the swap: the repair goes on top of it."""
    lost = b"exp3/04.json"
    (world.laptop.root / lost.decode()).unlink()
    world.bucket.store.delete(world.bucket.pack_of(lost))
    other = clone(world.gpu, world.folder.parent / "other", world.folder)
    other.write("exp9/new", "new")
    with PausedStore(DirectoryStore(str(world.folder))) as store:
        store.pause("put_if", "manifest.json", other.push)
        world.laptop.store = store
        report = world.laptop.project().repair()
    assert report.moved
    assert {bytes(f.path) for d in report.left for f in d.files if f.head} == {lost}
    assert world.bucket.entry(b"exp9/new").size == 3


def test_a_collection_in_between_takes_nothing_that_is_needed(world: World) -> None:
    """It may name the new packs, which no head reached yet: then they are sent again."""
    lost = b"exp3/04.json"
    (world.laptop.root / lost.decode()).unlink()
    world.bucket.store.delete(world.bucket.pack_of(lost))
    collected: list[str] = []

    def collect() -> None:
        head = world.bucket.head().manifest
        needed = set(bucket_check.examine(bucket_check.folder(world.folder), contents=False).reachable)
        collected.extend(k for k in world.bucket.keys("packs/") if k not in needed)
        world.bucket.collect(*collected, oldest=head.oldest)

    with PausedStore(DirectoryStore(str(world.folder))) as store:
        store.pause("put_if", "manifest.json", collect)
        world.laptop.store = store
        report = world.laptop.project().repair()
    assert collected
    assert report.found == 1  # nothing that was published was lost again
    assert report.moved
    assert {bytes(f.path) for d in report.left for f in d.files if f.head} == {lost}
    assert set(collected).isdisjoint(world.bucket.keys("packs/"))


def test_a_repair_that_dies_anywhere_is_carried_on(made: World, tmp_path: Path) -> None:
    """At every write: nothing is worse than before, and the next run comes to the same end."""

    def harm(world: World) -> None:
        (world.laptop.root / "exp3/04.json").unlink()
        world.bucket.store.delete(world.bucket.pack_of(b"exp3/04.json"))
        world.bucket.store.delete(world.bucket.pack_of(b"exp1/04.json"))
        # Not one that hides what else is lost from whoever counts the problems.
        head = world.bucket.head().manifest
        page = next(p for p in head.pages if p.first <= b"exp5/05.json" <= p.last)
        world.bucket.store.delete(fmt.page_key(page.session, page.id))
        world.bucket.store.delete(world.bucket.keys("gc/")[0])

    def start(name: str) -> tuple[World, FaultyStore]:
        folder = tmp_path / name
        shutil.copytree(made.folder, folder / "bucket")
        copy = World(made.gpu, clone(made.laptop, folder / "laptop", folder / "bucket"), folder / "bucket")
        harm(copy)
        store = FaultyStore(DirectoryStore(str(copy.folder)))
        copy.laptop.store = store
        return copy, store

    world, store = start("count")
    world.repair()
    writes = [(m, k) for m, k in store.calls if m in ("put", "put_if")]
    assert len(writes) >= 5
    good = bucket_check.examine(bucket_check.folder(world.folder)).files
    for number, (method, _) in enumerate(writes):
        earlier = sum(m == method for m, _ in writes[:number])
        world, store = start(str(number))
        before = set(bucket_check.examine(bucket_check.folder(world.folder)).problems)
        with store:
            store.add_fault(method, after=earlier, kind="crash")  # type: ignore[arg-type]
            with pytest.raises(Crash):
                world.repair()
        assert set(bucket_check.examine(bucket_check.folder(world.folder)).problems) <= before
        world.laptop.store = None
        report = world.repair()
        assert {bytes(f.path) for d in report.left for f in d.files if f.head} == {b"exp3/04.json"}
        assert bucket_check.examine(bucket_check.folder(world.folder)).files == good
        shutil.rmtree(world.folder.parent)


def test_nothing_is_published_upon_a_damaged_head(world: World) -> None:
    """It would bury what the head should say; its copy still tells."""
    (world.laptop.root / "exp3/04.json").unlink()
    lost, page = world.bucket.pack_of(b"exp3/04.json"), world.bucket.keys("pages/")[0]
    for key in (lost, page):
        world.bucket.store.delete(key)
    body = fmt.encode_manifest(replace(world.bucket.head().manifest, message="not what was published"))
    world.bucket.store.put("manifest.json", body)
    report = world.repair()
    assert world.bucket.body("manifest.json") == body
    assert {key for key, _ in report.repaired} == {page}
    assert "damaged itself" in dict(report.tried)["manifest.json"]
    assert report.exit_code == 7


def test_without_a_head_there_is_nothing_to_repair_upon(world: World) -> None:
    world.bucket.store.delete("manifest.json")
    with pytest.raises(Damaged) as caught:
        world.repair()
    assert "doctor" in caught.value.hint


def test_the_command(world: World) -> None:
    pack = world.bucket.pack_of(b"exp3/04.json")
    world.bucket.store.delete(pack)
    told = world.laptop.command("push", "--repair", "-n")
    assert told.stdout.startswith(f"1 would be repaired:\n  {pack}: written again as it was\n")
    told = world.laptop.command("push", "--repair")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"1 repaired:\n  {pack}: written again as it was\n")
    assert "push --repair: 1 damaged, 0 left; " in told.stdout
    told = world.laptop.command("push", "--repair")
    assert "nothing is missing; --read-data looks for damaged bytes too" in told.stdout
    world.bucket.store.delete(pack)
    (world.laptop.root / "exp3/04.json").unlink()
    found = world.laptop.command("push", "--repair", "--json")
    report = json.loads(found.stdout)
    assert (found.returncode, report["mode"], report["head_hurt"]) == (7, "repair", True)
    assert report["left"][0]["key"] == pack
    told = world.laptop.command("push", "--repair")
    assert "not repaired from here: the content of exp3/04.json is not here" in told.stdout
    for args in (["--copy"], ["--only", "exp1"], ["--checksum"], ["--resolve", "local", "exp1"]):
        refused = world.laptop.command("push", "--repair", *args)
        assert refused.returncode == 2, args
    assert world.laptop.command("push", "--read-data").returncode == 2


def test_on_a_real_server(seaweed_http: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = seaweed_http.location(os.urandom(4).hex())
    for name, value in seaweed_http.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{location.bucket}/{location.prefix}"
    machines = [
        Machine(tmp_path / name, url, endpoint_url=seaweed_http.endpoint_url, env=dict(os.environ))
        for name in ("gpu", "laptop")
    ]
    gpu, laptop = machines
    for name in [*islice(boundary_names("exp/"), 3), *(f"exp/{n:03}" for n in range(50))]:
        gpu.write(name, name * 100)
    gpu.push()
    laptop.pull()
    bucket = Bucket(S3Store(location))
    before = bucket.listing()
    dice = Random(7)
    victims = bucket.keys("pages/", "packs/", "snapshots/0000000001")
    for key in victims:
        bucket.harm(key, dice.choice(HARMS), dice)
    assert laptop.command("push", "--repair", "--read-data").returncode == 0
    assert gpu.command("verify", "--read-data").returncode == 0
    after = bucket.listing()
    assert {k for k in before if after[k] != before[k]} <= {k for k in victims if k.startswith("snap")}
    bucket.store.close()

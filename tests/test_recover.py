"""A lost or damaged head is written anew: the right one, above everything found, whole, or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manifest_sync import manifest as fmt
from manifest_sync.canonical import compress, decompress
from manifest_sync.cli.local_time import LocalZone, show_recorded
from manifest_sync.errors import (
    Contended,
    Damaged,
    NoRepository,
    Refused,
    RolledBack,
    StoreUnavailable,
    UnknownFeature,
    UsageError,
    WrongRepository,
)
from manifest_sync.manifest import Manifest
from manifest_sync.recover.lineage import Lineage
from manifest_sync.recover.recover import HeadRestore
from manifest_sync.repository import Commit, Head, Raced, Repository
from manifest_sync.snapshots import list_snapshots
from manifest_sync.stores import open_store
from manifest_sync.stores.base import Listed, Object, Store
from manifest_sync.stores.memory import MemoryStore
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine
from tests.servers import BUCKET, S3Server

MakeMachine = Callable[[str], Machine]


class NoCache:
    def load_page_body(self, page_id: str) -> bytes | None:
        return None

    def save_page_bodies(self, pages: object) -> None:
        return None


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeMachine:
    """Makes machines on one fresh bucket."""
    if request.param == "directory":
        return lambda name: Machine(tmp_path / name, str(tmp_path / "bucket"))
    server: S3Server = request.getfixturevalue("seaweed_http")
    env = {**server.environment(), "HOME": str(tmp_path)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    prefix = f"recover-{random.randrange(10**9)}"
    return lambda name: Machine(
        tmp_path / name, f"s3://{BUCKET}/{prefix}", endpoint_url=server.endpoint_url, env=env
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    return Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)


def store_of(machine: Machine) -> Store:
    return open_store(machine.project().location())


def repository_of(machine: Machine) -> Repository:
    return Repository(store_of(machine), NoCache())


def head_of(machine: Machine) -> Manifest:
    return repository_of(machine).load_head().manifest


def lose_head(machine: Machine, body: bytes | None = None) -> None:
    store = store_of(machine)
    if body is None:
        store.delete("manifest.json")
    else:
        store.put("manifest.json", body)


def restore(machine: Machine, choice: str = "", **options: Any) -> HeadRestore:
    return machine.project().restore_head(choice, **options)


def commit_and_push(machine: Machine, path: str, content: str) -> Manifest:
    machine.write(path, content)
    machine.push("copy")
    return head_of(machine)


def paths(machine: Machine) -> set[str]:
    return {os.fsdecode(entry.path) for entry in machine.project().ls()}


# ---- the ordinary case


@pytest.mark.parametrize(
    ("machine", "body"),
    [("directory", None), ("directory", b'{"format": 1, "snap'), ("seaweedfs", b'{"format": 1, "snap')],
    ids=["missing", "torn", "torn-seaweedfs"],
    indirect=["machine"],
)
def test_a_head_is_restored_and_everyone_goes_on(machine: MakeMachine, body: bytes | None) -> None:
    gpu, laptop = machine("gpu"), machine("laptop")
    commit_and_push(gpu, "exp/a", "a")
    last = commit_and_push(gpu, "exp/b", "b")
    laptop.pull()
    lose_head(gpu, body)
    for command in ("push", "pull", "status"):
        done = gpu.command(command)
        assert done.returncode in (7, 10)
        assert "doctor" in done.stderr
    told = gpu.command("doctor", "-q").stdout
    assert "the last is sequence 2" in told
    assert "--restore-head" in told
    done = gpu.command("doctor", "--restore-head")
    assert done.returncode == 0, done.stdout
    assert f"sequence {last.sequence + 2}" in done.stdout
    head = head_of(gpu)
    assert (head.parent, head.pages, head.files) == (last.snapshot, last.pages, 2)
    assert (head.sequence, head.fence, head.collections) == (last.sequence + 2, 1, ())
    assert head.ancestors == (*last.ancestors, last.snapshot)
    assert repository_of(gpu).load_snapshot(head.sequence, head.snapshot) == head
    # Both had seen exactly what was restored: neither notices, and neither moves a byte.
    assert gpu.push("full").new == 0
    assert laptop.pull("full").deleted == 0
    commit_and_push(laptop, "exp/c", "c")
    gpu.pull()
    assert gpu.tree() == laptop.tree()
    assert gpu.command("doctor", "-q").stdout == ""
    assert "fine" in gpu.command("doctor", "--restore-head").stderr


def test_a_head_that_is_fine_is_left_alone(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    before = Path(gpu.bucket, "manifest.json").read_bytes()
    for choice in ("", "0"):
        with pytest.raises(Refused, match="is fine"):
            restore(gpu, choice)
    assert Path(gpu.bucket, "manifest.json").read_bytes() == before
    assert gpu.command("doctor", "--restore-head").returncode == 6


def test_a_head_of_a_newer_version_is_not_damaged(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    head = Path(gpu.bucket, "manifest.json")
    head.write_text(head.read_text().replace('"features_read": []', '"features_read": ["shards"]'))
    with pytest.raises(UnknownFeature):
        restore(gpu)


def test_a_head_damaged_on_its_way_is_not_overwritten(pair: tuple[Machine, Machine]) -> None:
    """The first answer has a flipped byte, the second has not: that head is fine."""
    gpu, _ = pair
    inner = store_of(gpu)
    answers = iter([b"{torn"])

    class Flipping(FaultyStore):
        def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
            found = inner.get(key, unless_etag=unless_etag, max_bytes=max_bytes)
            torn = next(answers, None) if key == "manifest.json" else None
            return found if torn is None or found is None else Object(torn, found.etag)

    gpu.store = Flipping(inner)
    with pytest.raises(Refused):
        restore(gpu)
    heads = iter([b"{torn", b"{torn otherwise"])
    answers = heads
    with pytest.raises(StoreUnavailable, match="read twice"):
        restore(gpu)


def test_nothing_to_restore_from(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    shutil.rmtree(gpu.bucket)
    Path(gpu.bucket).mkdir()
    shutil.rmtree(gpu.folder / ".manifest-sync")
    with pytest.raises(NoRepository, match="neither"):
        restore(gpu)


def test_an_empty_repository(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    lose_head(gpu)
    report = restore(gpu)
    assert report.head is not None
    assert (report.head.sequence, report.head.files) == (2, 0)


def test_a_fresh_machine_can_do_it(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    lose_head(gpu)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "manifest-sync.toml").write_text((gpu.folder / "manifest-sync.toml").read_text())
    assert type(gpu.project()).find(str(fresh), env={}).restore_head().exit_code == 0
    assert gpu.pull().new == 0


def test_the_copy_of_the_last_head_is_lost_too(pair: tuple[Machine, Machine]) -> None:
    """A machine that has seen the last head has kept it: it brings the copy back as well."""
    gpu, laptop = pair
    laptop.pull()
    commit_and_push(gpu, "exp/a", "a")
    last = commit_and_push(gpu, "exp/b", "b")
    key = fmt.snapshot_key(last.sequence, last.snapshot)
    store_of(gpu).delete(key)
    lose_head(gpu)
    report = restore(gpu)
    assert (report.restored, report.exit_code) == (last, 0)
    assert repository_of(gpu).load_snapshot(last.sequence, last.snapshot) == last
    assert paths(gpu) == {"exp/a", "exp/b"}


# ---- which snapshot


def test_a_push_that_was_killed_before_its_swap_is_published(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    laptop.write("exp/b", "b")
    die_at_the_swap(laptop)
    lose_head(gpu)
    report = restore(gpu)
    assert report.restored is not None
    assert report.restored.files == 2
    assert paths(gpu) == {"exp/a", "exp/b"}
    # Its pusher finds its snapshot among the ancestors: pushed, once, and agreed on.
    assert laptop.push().new == 0
    assert not laptop.status().has_drift
    gpu.pull()
    gpu.write("exp/b", "changed")
    gpu.push("copy")
    assert laptop.pull("copy").conflicts == []
    assert laptop.read("exp/b") == "changed"


def die_at_the_swap(machine: Machine) -> None:
    faulty = FaultyStore(store_of(machine))
    faulty.add_fault("put_if", kind="crash")
    machine.store = faulty
    with faulty, pytest.raises(Crash):
        machine.push()
    machine.store = None


def fork(gpu: Machine, laptop: Machine) -> tuple[Manifest, Manifest]:
    """Two leaves of one parent: the laptop's push came first, the gpu's died at its swap."""
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    gpu.write("exp/gpu", "g")
    die_at_the_swap(gpu)
    head = commit_and_push(laptop, "exp/laptop", "l")
    repository = repository_of(gpu)
    others = [pair for pair in list_snapshots(repository) if pair[0] == 2 and pair[1] != head.snapshot]
    loser = repository.load_snapshot(*others[0])
    assert loser is not None
    return head, loser


def test_of_two_leaves_the_one_that_was_seen_is_taken(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    head, _ = fork(gpu, laptop)
    lose_head(gpu)
    report = restore(laptop)
    assert report.restored == head
    # The other push was not published: it is made again.
    assert gpu.push().new == 1
    assert paths(gpu) == {"exp/a", "exp/gpu", "exp/laptop"}


def test_of_two_leaves_a_person_chooses(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    head, loser = fork(gpu, laptop)
    lose_head(gpu)
    report = restore(gpu)
    assert report.head is None
    assert {leaf.snapshot for leaf in report.candidates} == {head.snapshot, loser.snapshot}
    assert report.exit_code == 6
    done = gpu.command("doctor", "--restore-head")
    assert done.returncode == 6
    for leaf in (head, loser):
        assert leaf.snapshot[:12] in done.stdout
        assert show_recorded(leaf.time, LocalZone()) in done.stdout
    assert "--restore-head SNAPSHOT" in done.stdout
    told = json.loads(gpu.command("doctor", "--restore-head", "--json").stdout)
    assert (told["head"], len(told["candidates"])) == (None, 2)
    assert not Path(gpu.bucket, "manifest.json").exists()
    with pytest.raises(UsageError, match="several"):
        restore(gpu, "2")
    assert gpu.command("doctor", "--restore-head", head.snapshot[:8]).returncode == 0
    assert paths(gpu) == {"exp/a", "exp/laptop"}


def test_a_lost_race_is_no_candidate(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    _, loser = fork(gpu, laptop)
    last = commit_and_push(laptop, "exp/more", "m")
    lose_head(gpu)
    report = restore(gpu)
    assert report.restored == last != loser


def test_an_unreadable_snapshot_that_may_be_the_last(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    first = commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    last = commit_and_push(gpu, "exp/b", "b")
    key = fmt.snapshot_key(last.sequence, last.snapshot)
    store_of(gpu).put(key, b"damaged")
    lose_head(gpu)
    report = restore(laptop)
    assert (report.head, report.doubtful) == (None, [(last.sequence, last.snapshot)])
    assert last.snapshot[:12] in laptop.command("doctor", "--restore-head").stdout
    # The machine that saw it has it still.
    assert restore(gpu).restored == last
    lose_head(gpu)
    report = restore(laptop, str(first.sequence))
    assert report.restored == first
    with pytest.raises(RolledBack):
        gpu.pull()


def test_an_unreadable_snapshot_further_down_does_not_matter(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    _, loser = fork(gpu, laptop)
    last = commit_and_push(laptop, "exp/more", "m")
    store_of(gpu).put(fmt.snapshot_key(loser.sequence, loser.snapshot), b"damaged")
    lose_head(gpu)
    assert restore(gpu).restored == last


def test_an_older_one_by_choice(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    commit_and_push(gpu, "exp/b", "b")
    lose_head(gpu)
    with pytest.raises(UsageError, match="names no snapshot"):
        restore(gpu, "nothing")
    report = restore(gpu, "1")
    assert report.goes_back
    assert report.head is not None
    assert report.head.sequence == 4
    assert paths(laptop) == {"exp/a"}


def test_a_restored_head_is_lost_again(pair: tuple[Machine, Machine]) -> None:
    """What was left behind on purpose does not come back."""
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    for number in range(3):
        commit_and_push(gpu, f"exp/{number}", "future")
    lose_head(gpu)
    report = restore(laptop, "1")
    lose_head(gpu)
    again = restore(laptop)
    assert again.restored == report.head
    last = commit_and_push(laptop, "exp/new", "n")
    lose_head(gpu)
    assert restore(laptop).restored == last


def test_a_head_put_back_by_hand_leaves_it_to_a_person(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    old = Path(gpu.bucket, "manifest.json").read_bytes()
    commit_and_push(gpu, "exp/b", "b")
    one = commit_and_push(gpu, "exp/c", "c")
    Path(gpu.bucket, "manifest.json").write_bytes(old)
    other = commit_and_push(laptop, "exp/d", "d")
    lose_head(gpu)
    report = restore(laptop)
    assert report.head is None
    assert {leaf.snapshot for leaf in report.candidates} == {one.snapshot, other.snapshot}
    other = commit_and_push_after(laptop, restore(laptop, other.snapshot))
    lose_head(gpu)
    assert restore(laptop).restored == other


def commit_and_push_after(machine: Machine, report: HeadRestore) -> Manifest:
    assert report.head is not None
    return commit_and_push(machine, "exp/after", str(report.head.sequence))


def test_another_repositorys_snapshots(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    other = Machine(tmp_path / "other", str(tmp_path / "bucket2"))
    commit_and_push(other, "exp/b", "b")
    shutil.rmtree(gpu.bucket)
    shutil.copytree(other.bucket, gpu.bucket)
    lose_head(gpu)
    for choice in ("", "1"):
        with pytest.raises(WrongRepository):
            restore(gpu, choice)


def test_the_first_snapshot_of_a_lost_init_is_no_candidate(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    foreign = fmt.first_manifest(
        repository="other", snapshot="ab" * 16, time="t", machine="m", host="h", writer="w"
    )
    store_of(gpu).put(fmt.snapshot_key(0, foreign.snapshot), compress(fmt.encode_manifest(foreign)))
    last = commit_and_push(gpu, "exp/a", "a")
    lose_head(gpu)
    shutil.rmtree(laptop.folder / ".manifest-sync")
    assert restore(laptop).restored == last


def test_the_first_snapshot_of_a_lost_init(pair: tuple[Machine, Machine]) -> None:
    """Two machines ran `init` at once: the first snapshot of the one that came second is still there."""
    gpu, _ = pair
    store = store_of(gpu)
    foreign = fmt.first_manifest(
        repository="other", snapshot="ab" * 16, time="t", machine="m", host="h", writer="w"
    )
    store.put(fmt.snapshot_key(0, foreign.snapshot), compress(fmt.encode_manifest(foreign)))
    gpu.pull()
    lose_head(gpu)
    assert restore(gpu).exit_code == 0
    lose_head(gpu)
    shutil.rmtree(gpu.folder / ".manifest-sync")
    with pytest.raises(UsageError, match="several"):
        restore(gpu, "0")


# ---- is all of it there


def test_what_is_gone_is_named_and_an_older_one_offered(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    first = commit_and_push(gpu, "exp/a", "a")
    commit_and_push(gpu, "exp/b", "b")
    store = store_of(gpu)
    packs = {item.key: item for item in store.list("packs/")}
    newest = max(packs, key=lambda key: packs[key].modified)
    store.delete(newest)
    lose_head(gpu)
    report = restore(gpu)
    assert (report.head, report.exit_code) == (None, 7)
    assert [(loss.key, loss.paths) for loss in report.losses] == [(newest, [b"exp/b"])]
    assert [found.snapshot for found in report.alternatives][:1] == [first.snapshot]
    done = gpu.command("doctor", "--restore-head")
    assert done.returncode == 7
    for word in (newest, "exp/b", first.snapshot[:12], "--accept-missing"):
        assert word in done.stdout
    assert not Path(gpu.bucket, "manifest.json").exists()
    report = restore(gpu, accept_missing=True)
    assert report.exit_code == 0
    assert [loss.key for loss in report.losses] == [newest]
    assert paths(gpu) == {"exp/a", "exp/b"}


def test_a_pack_of_the_wrong_size(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    store = store_of(gpu)
    key = next(item.key for item in store.list("packs/"))
    store.put(key, b"short")
    lose_head(gpu)
    assert ["instead of" in loss.what for loss in restore(gpu).losses] == [True]


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_page_that_is_gone(pair: tuple[Machine, Machine], damage: str) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    store = store_of(gpu)
    key = next(item.key for item in store.list("pages/"))
    if damage == "missing":
        store.delete(key)
    else:
        store.put(key, b"nothing of a page")
    lose_head(gpu)
    report = restore(gpu)
    assert [(loss.key, damage in loss.what, loss.files) for loss in report.losses] == [(key, True, 1)]
    assert [found.files for found in report.alternatives] == [0]


def test_a_listing_that_is_short_is_not_believed(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    lose_head(gpu)
    inner = store_of(gpu)

    class Short(FaultyStore):
        def list(self, prefix: str) -> Iterator[Listed]:
            return iter(()) if prefix in ("pages/", "packs/") else inner.list(prefix)

    gpu.store = Short(inner)
    assert restore(gpu).exit_code == 0


def collect(machine: Machine, keys: list[str], *, publish: bool = True) -> Manifest:
    """A collection as gc makes it, up to its swap; what it names it has not deleted yet."""
    repository = repository_of(machine)
    head = repository.load_head()
    fence = head.manifest.fence + 1
    key = fmt.gc_key(fence, f"{random.getrandbits(128):032x}")
    repository.store.put(key, fmt.encode_gc_list(fence, keys))

    def revise(manifest: Manifest) -> Manifest:
        return replace(manifest, fence=fence, collections=(*manifest.collections, (fence, key)))

    commit = Commit(f"{random.getrandbits(128):032x}", "", "2026-01-01T00:00:00Z", "m", "h", "gc", "0")
    if not publish:
        head = Head(head.manifest, "nothing has this ETag", b"")
    outcome = repository.publish(head, (), commit, revise=revise)
    assert isinstance(outcome, Head) is publish
    return outcome.manifest if isinstance(outcome, Head) else outcome.head.manifest


def objects(machine: Machine, *kinds: str) -> list[str]:
    return [item.key for kind in kinds for item in store_of(machine).list(kind)]


def test_what_a_collection_names_counts_as_gone(pair: tuple[Machine, Machine]) -> None:
    """A collection may still be deleting: that an object is there proves nothing."""
    gpu, laptop = pair
    old = commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    gpu.write("exp/a", "b")
    gpu.push("copy")
    doomed = [key for key in objects(gpu, "pages/", "packs/") if _uses(old, key)]
    last = collect(gpu, doomed)
    lose_head(gpu)
    report = restore(laptop, "1")
    assert {loss.key for loss in report.losses} >= {fmt.page_key(p.session, p.id) for p in old.pages}
    assert "may be deleted at any moment" in report.losses[0].what
    assert report.head is None
    # What the collection kept is whole.
    report = restore(laptop)
    assert (report.restored, report.losses) == (last, [])
    assert report.head is not None
    assert (report.head.fence, report.head.collections) == (2, last.collections)


def _uses(manifest: Manifest, key: str) -> bool:
    return any(page.session in key for page in manifest.pages)


def test_an_old_list_says_nothing_of_a_later_snapshot(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    collect(gpu, [])
    last = commit_and_push(gpu, "exp/b", "b")
    lose_head(gpu)
    report = restore(gpu)
    assert (report.restored, report.losses) == (last, [])


def test_a_collection_that_lost_its_race_named_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    collect(gpu, objects(gpu, "packs/"), publish=False)
    commit_and_push(gpu, "exp/b", "b")
    last = commit_and_push(gpu, "exp/c", "c")
    lose_head(gpu)
    report = restore(gpu)
    assert (report.restored, report.losses) == (last, [])
    assert report.head is not None
    assert report.head.fence == 2, "above that list all the same"


def test_a_list_of_a_collection_that_died_early(pair: tuple[Machine, Machine]) -> None:
    """It was never published, and the fence that it would have made was made by another collection."""
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    store_of(gpu).put(fmt.gc_key(1, "0" * 32), fmt.encode_gc_list(1, objects(gpu, "packs/", "pages/")))
    collect(gpu, [])
    last = commit_and_push(gpu, "exp/b", "b")
    lose_head(gpu)
    report = restore(gpu)
    assert (report.restored, report.losses) == (last, [])
    assert report.head is not None
    assert report.head.collections == last.collections


def test_a_list_that_no_snapshot_names_counts(pair: tuple[Machine, Machine]) -> None:
    """Whether its collection was published is not known: its snapshot may be lost."""
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    key = fmt.gc_key(7, "0" * 32)
    store_of(gpu).put(key, fmt.encode_gc_list(7, objects(gpu, "packs/")))
    lose_head(gpu)
    report = restore(gpu)
    assert [loss.what.startswith(f"named by {key}") for loss in report.losses] == [True]
    store_of(gpu).put(key, b"unreadable")
    report = restore(gpu)
    assert "cannot be read" in report.losses[0].what
    report = restore(gpu, accept_missing=True)
    assert report.head is not None
    assert report.head.fence == 8


def test_history_below_a_collection_stays_cut_off(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    for number in range(4):
        commit_and_push(gpu, f"exp/{number}", "x")
        if number == 2:
            laptop.pull()
    snapshots = sorted(objects(gpu, "snapshots/"))[:2]
    collect(gpu, snapshots)
    for key in snapshots:
        store_of(gpu).delete(key)
    lose_head(gpu)
    report = restore(laptop, "3")
    assert report.head is not None
    assert report.head.oldest == 2
    assert laptop.command("log").returncode in (0, 2)


def test_beside_real_collections(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    for number in range(4):
        commit_and_push(gpu, "exp/a", f"{number}" * 5000)
        if number == 1:
            laptop.pull()
    gc = ("gc", "--keep-last", "1", "--keep-within", "0s", "--min-age", "0s", "--apply")
    assert gpu.command(*gc).returncode == 0
    last = head_of(gpu)
    lose_head(gpu)
    # What the laptop saw last was collected: its own kept copy of that head is no way back.
    report = restore(laptop)
    assert (report.restored, report.losses) == (last, [])
    assert laptop.command("verify", "--read-data").returncode == 0
    for machine in pair:
        assert machine.command("log").returncode == 0
        assert machine.pull("copy").conflicts == []
    commit_and_push(laptop, "exp/b", "b")
    assert laptop.command(*gc).returncode == 0
    assert laptop.command("verify", "--read-data").returncode == 0
    assert gpu.command("doctor", "-q").returncode == 0
    gpu.pull()
    assert gpu.tree() == laptop.tree()


# ---- above everything


def test_a_push_under_way_sends_everything_again(pair: tuple[Machine, Machine]) -> None:
    """Its packs are uploaded and deleted by a collection of the lost head: the restored head knows nothing
    of that collection, so the push must not use them."""
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    laptop.write("exp/b", "b" * 1000)
    faulty = FaultyStore(store_of(laptop))
    faulty.add_fault("put", kind="crash", key_prefix="pages/")
    laptop.store = faulty
    with faulty, pytest.raises(Crash):
        laptop.push()
    laptop.store = None
    sent = [key for key in objects(gpu, "packs/") if not _uses(head_of(gpu), key)]
    assert len(sent) == 1
    last = collect(gpu, sent)
    for key in [*sent, fmt.snapshot_key(last.sequence, last.snapshot), last.collections[0][1]]:
        store_of(gpu).delete(key)
    lose_head(gpu)
    assert restore(gpu).exit_code == 0
    report = laptop.push()
    assert (report.new, report.stored_bytes > 0) == (1, True)
    gpu.pull()
    assert gpu.read("exp/b") == "b" * 1000


def test_the_fence_is_above_that_of_every_session(pair: tuple[Machine, Machine]) -> None:
    """All that is left of a collection may be the name under which a push had begun after it."""
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    store_of(gpu).put(fmt.pack_key(f"6-{'0' * 32}", "0" * 64), b"of a push that is under way")
    lose_head(gpu)
    report = restore(gpu)
    assert report.head is not None
    assert report.head.fence == 7


def test_a_push_that_waits_at_its_swap_does_not_get_through(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    laptop.write("exp/b", "b")
    inner = store_of(laptop)

    class Waiting(FaultyStore):
        def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
            if not done:
                done.append(True)
                lose_head(gpu)
                assert restore(gpu, "1").exit_code == 0
            return inner.put_if(key, body, etag=etag)

    done: list[bool] = []
    laptop.store = Waiting(inner)
    assert laptop.push().new == 1
    head = head_of(gpu)
    assert head.sequence == 5
    assert {page.session.partition("-")[0] for page in head.pages} == {"1"}
    gpu.pull()
    assert gpu.tree() == laptop.tree()


def test_two_restore_at_once(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    lose_head(gpu)
    inner = store_of(laptop)

    class Late(FaultyStore):
        """The other machine does all of it before this one writes anything."""

        def put(self, key: str, body: bytes) -> None:
            assert restore(gpu).exit_code == 0
            inner.put(key, body)

    laptop.store = Late(inner)
    with pytest.raises(Contended, match="another machine"):
        restore(laptop)
    laptop.store = None
    assert laptop.pull().new == 0


def test_two_restore_at_once_and_one_upon_the_other(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    commit_and_push(gpu, "exp/a", "a")
    laptop.pull()
    lose_head(gpu)
    inner = store_of(laptop)

    class Late(FaultyStore):
        """The other machine finds the snapshot of this one, which has not swapped yet."""

        def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
            assert restore(gpu).exit_code == 0
            return inner.put_if(key, body, etag=etag)

    laptop.store = Late(inner)
    report = restore(laptop)
    laptop.store = None
    assert report.head == head_of(gpu)
    assert report.head is not None
    assert report.head.sequence == 5
    assert laptop.pull().new == 0


@pytest.mark.parametrize("kind", ["before", "after_lost_reply"])
def test_an_answer_that_is_lost(pair: tuple[Machine, Machine], kind: Any) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    lose_head(gpu, b"damaged")
    faulty = FaultyStore(store_of(gpu))
    faulty.add_fault("put_if", kind=kind)
    gpu.store = faulty
    with faulty:
        report = restore(gpu)
    gpu.store = None
    assert head_of(gpu) == report.head


def test_a_restore_that_dies_at_any_call_is_done_again(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    last = commit_and_push(gpu, "exp/a", "a")
    lose_head(gpu)
    watched = FaultyStore(store_of(gpu))
    gpu.store = watched
    assert restore(gpu).exit_code == 0
    calls = [method for method, _ in watched.calls]
    for number, method in enumerate(calls):
        lose_head(gpu)
        restored = head_before(gpu)
        faulty = FaultyStore(store_of(gpu))
        faulty.add_fault(method, after=calls[:number].count(method), kind="crash")  # type: ignore[arg-type]
        gpu.store = faulty
        with faulty, pytest.raises(Crash):
            restore(gpu)
        gpu.store = None
        report = restore(gpu)
        assert report.head is not None
        assert report.head.pages == last.pages
        assert report.head.sequence >= restored + 2
        assert gpu.push("full").new == 0


def head_before(machine: Machine) -> int:
    return max(sequence for sequence, _ in list_snapshots(repository_of(machine)))


# ---- who can have been the head: every small history


class History:
    """The rules by which heads come about, played by an all-knowing hand: what was the head is known here."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.repository = Repository(MemoryStore(), NoCache())
        self.number = 0
        first = fmt.first_manifest(
            repository="r", snapshot=self.new_id(), time="t", machine="m", host="h", writer="w"
        )
        created = self.repository.create(first)
        assert created is not None
        self.head = created
        self.was_head = {first.snapshot}

    def new_id(self) -> str:
        self.number += 1
        return f"{self.dice.getrandbits(112):028x}{self.number:04x}"

    def push(self, expected: Head, *, dies: bool = False) -> None:
        """A push upon a head it has read, which may be an old one by now, or that dies before its swap."""
        commit = Commit(self.new_id(), "", "t", "m", "h", "", "w")
        etag = "dead" if dies else expected.etag
        outcome = self.repository.publish(replace(expected, etag=etag), (), commit)
        if isinstance(outcome, Head):
            self.head = outcome
            self.was_head.add(outcome.manifest.snapshot)
        else:
            assert isinstance(outcome, Raced)


@pytest.mark.soak
def test_the_last_head_is_always_among_the_candidates(soak: Any) -> None:
    from manifest_sync.recover.lineage import load_lineage  # noqa: PLC0415

    certain = 0
    for turn in range(soak.count(300, 20_000)):
        dice = soak.dice(turn)
        history = History(dice)
        seen = [history.head]
        for _ in range(dice.randrange(12)):
            history.push(dice.choice(seen[-2:]), dies=dice.random() < 0.3)
            seen.append(history.head)
        for manifest in seen[: dice.randrange(len(seen))]:
            # A collection has taken the copies of some old ones.
            if manifest.manifest.snapshot not in (
                history.head.manifest.snapshot,
                history.head.manifest.parent,
            ):
                history.repository.store.delete(
                    fmt.snapshot_key(manifest.manifest.sequence, manifest.manifest.snapshot)
                )
        lineage: Lineage = load_lineage(history.repository)
        found = [leaf.snapshot for leaf in lineage.candidates()]
        assert history.head.manifest.snapshot in found or all(
            # Or a push upon it was ready: then it is that one's parent.
            leaf.parent == history.head.manifest.snapshot
            for leaf in lineage.candidates()
        ), turn
        assert lineage.former_heads() <= history.was_head
        assert not {leaf.snapshot for leaf in lineage.lost_races()} & history.was_head, turn
        if len(found) == 1:
            certain += 1
            last = lineage.candidates()[0]
            assert history.head.manifest.snapshot in (last.snapshot, last.parent), turn
    assert certain > 50


def test_a_chain_longer_than_a_history_block(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    commit_and_push(gpu, "exp/a", "a")
    repository = repository_of(gpu)
    head = repository.load_head()
    for number in range(300):
        commit = Commit(f"{number:032x}", "", "2026-01-01T00:00:00Z", "m", "h", "", "0")
        outcome = repository.publish(head, (), commit)
        assert isinstance(outcome, Head)
        head = outcome
    gpu.pull()
    lose_head(gpu)
    gpu.store = watched = FaultyStore(store_of(gpu))
    report = restore(gpu)
    gpu.store = None
    assert report.restored == head.manifest
    assert report.head is not None
    assert repository.is_ancestor(f"{3:032x}", repository.load_head())
    reads = [key for method, key in watched.calls if method == "get"]
    assert len([key for key in reads if key.startswith("snapshots/")]) <= 1, "only leaves are read"
    # A history block that is lost as well leaves less to go by, and nothing wrong.
    store = store_of(gpu)
    store.delete(fmt.snapshot_key(report.head.sequence, report.head.snapshot))
    store.delete(next(iter(objects(gpu, "history/"))))
    lose_head(gpu)
    report = restore(gpu)
    assert report.head is None
    assert head.manifest.snapshot in {leaf.snapshot for leaf in report.candidates}
    assert restore(gpu, head.manifest.snapshot).exit_code == 0


def test_snapshots_are_read_back_as_they_were_written(pair: tuple[Machine, Machine]) -> None:
    """The copy that is made from a kept head has the bytes of the one that was lost."""
    gpu, _ = pair
    last = commit_and_push(gpu, "exp/a", "a")
    found = store_of(gpu).get(fmt.snapshot_key(last.sequence, last.snapshot), max_bytes=1 << 20)
    assert found is not None
    assert decompress(found.body, 1 << 20) == fmt.encode_manifest(last)
    assert (
        decompress(compress(fmt.encode_manifest(last)), 1 << 20)
        == Path(gpu.bucket, "manifest.json").read_bytes()
    )


def test_restore_head_goes_with_no_damaged_pages(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    assert gpu.command("doctor", "--accept-missing").returncode == 2
    with pytest.raises(Damaged):
        repository_of(gpu).load_page(fmt.PageRef("0" * 64, "0-" + "0" * 32, *2 * (b"a",), 1, 1, 100, 100))  # type: ignore[arg-type]

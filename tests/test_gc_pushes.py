"""Collections beside pushes that stall, die and go on (P1, P3, P4): what a list names is never used again."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from manifest_sync.errors import StoreUnavailable, UsageError
from manifest_sync.gc.gc import GcReport
from manifest_sync.stores import open_store
from manifest_sync.stores.base import Object
from tests.bucket_check import examine, folder, garbage, keys, parse_json
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine
from tests.paused_store import PausedStore
from tests.test_gc import collect, contents, leave_garbage, make_old

pytestmark = pytest.mark.usefixtures("hurried")

HOUR = timedelta(hours=1)


class Place:
    """A fresh bucket with two machines that hold the same two files, and a third that only collects."""

    def __init__(self, folder: Path) -> None:
        self.bucket = folder / "bucket"
        self.gpu = Machine(folder / "gpu", str(self.bucket))
        self.laptop = Machine(folder / "laptop", str(self.bucket))
        self.keeper = Machine(folder / "keeper", str(self.bucket))
        self.gpu.write("exp/old.bin", SHARED)
        self.gpu.write("exp/keep.json", "keep")
        self.gpu.push()
        self.laptop.pull()

    def open(self, kind: Callable[..., Any] = FaultyStore, *args: Any) -> Any:
        return kind(open_store(self.gpu.project().location()), *args)

    def collect(self, **options: Any) -> GcReport:
        return collect(self.keeper, **options)

    def head(self) -> dict[str, Any]:
        return parse_json((self.bucket / "manifest.json").read_bytes())

    def check(self, *machines: Machine) -> None:
        """Everything reachable is whole, and each of the machines' files is in the head."""
        found = examine(folder(self.bucket))
        assert found.problems == []
        for machine in machines:
            for path, content in contents(machine).items():
                assert found.files.get(path) == content, path

    def check_clean(self) -> None:
        """Another collection leaves nothing but what is reachable."""
        self.collect()
        assert garbage(self.bucket) == set()
        assert examine(folder(self.bucket)).problems == []


SHARED = os.urandom(50_000)


@pytest.fixture
def place(fast_path: Path) -> Place:
    return Place(fast_path)


def die_before_pages(place: Place, mode: str = "new") -> None:
    """Push from the GPU machine; its process dies when the packs are up and noted."""
    place.gpu.outwait()
    with place.open() as store:
        store.add_fault("put", kind="crash", key_prefix="pages/")
        place.gpu.store = store
        with pytest.raises(Crash):
            place.gpu.push(mode)
    place.gpu.store = None


def test_a_resumed_push_sends_nothing_twice_when_nothing_was_collected(place: Place) -> None:
    place.gpu.write("exp/new.bin", os.urandom(30_000))
    die_before_pages(place)
    place.laptop.write("exp/other.json", "other")
    place.laptop.push()
    report = place.gpu.push()
    assert (report.new, report.stored_bytes) == (1, 0)
    place.check(place.gpu, place.laptop)


def test_a_resumed_push_sends_again_what_was_collected(place: Place) -> None:
    place.gpu.write("exp/new.bin", os.urandom(30_000))
    die_before_pages(place)
    assert place.collect().freed["packs"][0] == 1
    report = place.gpu.push()
    assert (report.new, report.bytes) == (1, 30_000)
    place.check(place.gpu, place.laptop)
    place.check_clean()


def test_a_resumed_push_sends_again_what_may_be_collected_at_any_moment(place: Place) -> None:
    """The collection has swapped the head and not deleted yet: that the object exists proves nothing."""
    place.gpu.write("exp/new.bin", os.urandom(30_000))
    die_before_pages(place)
    with place.open() as store:
        store.add_fault("delete", kind="crash")
        place.keeper.store = store
        with pytest.raises(Crash):
            place.collect()
    place.keeper.store = None
    assert place.gpu.push().bytes == 30_000
    # The stalled collection wakes up and deletes what it had listed.
    number, key = place.head()["collections"][0]
    assert number == 1
    for doomed in listed(place.bucket, key):
        (place.bucket / doomed).unlink()
    place.check(place.gpu, place.laptop)


def listed(bucket: Path, key: str) -> list[str]:
    """The keys that a collection's list names."""
    from tests.bucket_check import unzip  # noqa: PLC0415

    names: list[str] = parse_json(unzip((bucket / key).read_bytes()))["keys"]
    return names


def test_a_copy_that_was_found_in_the_bucket_is_sent_again_when_its_original_was_collected(
    place: Place,
) -> None:
    """The copy has no object of its own: it points into the pack of the file that another machine deletes."""
    place.gpu.write("exp/copy.bin", SHARED)
    place.gpu.write("exp/new.bin", os.urandom(1000))
    die_before_pages(place)
    (place.laptop.root / "exp/old.bin").unlink()
    (place.laptop.root / "exp/keep.json").unlink()
    place.laptop.push("full", max_delete="100%")
    assert place.collect().freed["packs"][0] == 2
    (place.gpu.root / "exp/old.bin").unlink()
    (place.gpu.root / "exp/keep.json").unlink()
    assert place.gpu.push().bytes == 51_000
    place.check(place.gpu)
    place.check_clean()


def test_a_copy_is_found_only_in_what_the_head_reaches(place: Place) -> None:
    """The page that holds the original is cached here, but no longer in the head."""
    (place.laptop.root / "exp/old.bin").unlink()
    (place.laptop.root / "exp/keep.json").unlink()
    place.laptop.push("full", max_delete="100%")
    place.collect()
    place.gpu.write("exp/copy.bin", SHARED)
    assert place.gpu.push().bytes == 50_000
    place.check_clean()
    assert examine(folder(place.bucket)).files == {b"exp/copy.bin": SHARED}


def test_chunks_of_a_big_file_are_sent_again_when_they_were_collected(place: Place) -> None:
    place.gpu.write("exp/big.bin", os.urandom(40 << 20))
    with place.open() as store:
        store.add_fault("put", after=2, kind="crash", key_prefix="packs/")
        place.gpu.store = store
        with pytest.raises(Crash):
            place.gpu.push()
    place.gpu.store = None
    assert place.collect().freed["packs"][0] == 2
    assert place.gpu.push().stored_bytes > 40 << 20
    place.check(place.gpu)
    place.check_clean()


@pytest.mark.parametrize(("collections", "sent"), [(1, 0), (16, 0), (17, 30_000)])
def test_more_collections_than_the_head_remembers_count_as_all_gone(
    place: Place, collections: int, sent: int
) -> None:
    """None of the lists names what was uploaded; only when they are too many must it be sent again."""
    place.gpu.write("exp/new.bin", os.urandom(30_000))
    die_before_pages(place)
    for number in range(collections):
        key = leave_garbage(place.bucket, number)
        make_old(place.bucket, key)
        assert place.collect(min_age=HOUR).objects == 1
    assert len(place.head()["collections"]) == min(collections, 16)
    report = place.gpu.push()
    assert (report.new, report.bytes) == (1, sent)
    place.check(place.gpu, place.laptop)


@pytest.mark.parametrize("hurt", ["missing", "flipped", "unreachable", "another"])
def test_a_list_that_cannot_be_read_counts_as_all_gone(place: Place, hurt: str) -> None:
    place.gpu.write("exp/new.bin", os.urandom(30_000))
    die_before_pages(place)
    for number in range(2):
        make_old(place.bucket, leave_garbage(place.bucket, number))
        place.collect(min_age=HOUR)
    (_, other), (_, key) = place.head()["collections"]
    path = place.bucket / key
    if hurt == "missing":
        path.unlink()
    elif hurt == "flipped":
        body = bytearray(path.read_bytes())
        body[-2] ^= 1
        path.write_bytes(body)
    elif hurt == "another":
        path.write_bytes((place.bucket / other).read_bytes())
    else:
        place.gpu.store = place.open(Unreachable, key)
    assert place.gpu.push().bytes == 30_000
    place.check(place.gpu)


class Unreachable(FaultyStore):
    """Never gets one key."""

    def __init__(self, inner: Any, key: str) -> None:
        super().__init__(inner)
        self._key = key

    def get(self, key: str, **options: Any) -> Object | None:
        if key == self._key:
            raise StoreUnavailable(f"{key} cannot be had now")
        return super().get(key, **options)


def count_calls(fast_path: Path, run: Callable[[Place], object], who: str) -> int:
    place = Place(fast_path / "count")
    store = place.open(PausedStore)
    getattr(place, who).store = store
    run(place)
    return len(store.calls)


def change_and_push(place: Place) -> None:
    place.gpu.write("exp/new.bin", os.urandom(30_000))
    place.gpu.write("exp/copy.bin", SHARED)
    place.gpu.write("exp/keep.json", "kept, and changed")
    assert place.gpu.push("copy").exit_code == 0


def test_a_push_that_stalls_at_any_request_while_others_push_and_collect(fast_path: Path) -> None:
    calls = count_calls(fast_path, change_and_push, "gpu")
    assert calls >= 5
    for number in range(calls):
        place = Place(fast_path / f"at{number}")

        def others(place: Place = place) -> None:
            (place.laptop.root / "exp/old.bin").unlink()
            place.laptop.write("exp/laptop.json", "from the laptop")
            place.laptop.push("full")
            place.collect()

        with place.open(PausedStore) as store:
            store.pause_at(number, others)
            place.gpu.store = store
            change_and_push(place)
        (place.gpu.root / "exp/old.bin").unlink()
        place.check(place.gpu)
        assert examine(folder(place.bucket)).files[b"exp/laptop.json"] == b"from the laptop"
        place.check_clean()


def test_a_collection_that_stalls_at_any_request_while_others_push(fast_path: Path) -> None:
    """Among them a push that goes on where it died before the collection began."""

    def prepare(place: Place) -> None:
        place.gpu.write("exp/new.bin", os.urandom(30_000))
        place.gpu.write("exp/copy.bin", SHARED)
        die_before_pages(place)
        (place.laptop.root / "exp/old.bin").unlink()
        place.laptop.push("full")

    def run(place: Place) -> None:
        prepare(place)
        place.collect()

    calls = count_calls(fast_path, run, "keeper")
    assert calls >= 12
    for number in range(calls):
        place = Place(fast_path / f"at{number}")
        prepare(place)

        def others(place: Place = place) -> None:
            assert place.gpu.push().exit_code == 0
            place.laptop.write("exp/laptop.json", "from the laptop")
            place.laptop.push()

        with place.open(PausedStore) as store:
            store.pause_at(number, others)
            place.keeper.store = store
            place.collect()
        place.keeper.store = None
        place.check(place.laptop)
        found = examine(folder(place.bucket)).files
        assert found[b"exp/copy.bin"] == SHARED
        assert found[b"exp/new.bin"] == contents(place.gpu)[b"exp/new.bin"]
        place.check_clean()


def test_two_collections_at_once(fast_path: Path) -> None:
    def run(place: Place) -> None:
        place.gpu.write("exp/old.bin", os.urandom(100))
        place.gpu.push("copy")
        leave_garbage(place.bucket, 1)
        place.collect()

    calls = count_calls(fast_path, run, "keeper")
    for number in range(calls):
        place = Place(fast_path / f"at{number}")
        place.gpu.write("exp/old.bin", os.urandom(100))
        place.gpu.push("copy")
        leave_garbage(place.bucket, 1)
        with place.open(PausedStore) as store:
            store.pause_at(number, lambda place=place: collect(place.laptop))
            place.keeper.store = store
            place.collect()
        place.keeper.store = None
        assert garbage(place.bucket) == set()
        place.check(place.gpu)
        # The list of a collection that lost the race is not left behind.
        assert {key for key in keys(place.bucket) if key.startswith("gc/")} == {
            key for _, key in place.head()["collections"]
        }


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_lost_reply_to_the_collections_swap(place: Place, took_effect: bool) -> None:
    leave_garbage(place.bucket, 1)
    with place.open() as store:
        store.add_fault("put_if", kind="after_lost_reply" if took_effect else "before")
        place.keeper.store = store
        report = place.collect()
    assert report.objects == 2
    assert place.head()["fence"] == 1
    assert garbage(place.bucket) == set()
    place.check(place.gpu)


def test_pins_and_pushes_and_collections_race(place: Place) -> None:
    """A pin that is set while a collection stalls before its swap is seen by it."""
    for number in range(3):
        place.gpu.write("exp/old.bin", f"{number}")
        place.gpu.push("copy")
    with place.open(PausedStore) as store:
        store.pause("put_if", "", lambda: place.laptop.project().pin("2"))
        place.keeper.store = store
        place.collect()
    place.keeper.store = None
    place.check(place.gpu)
    kept = {key[10:21] for key in keys(place.bucket) if key.startswith("snapshots/")}
    assert "0000000002-" in kept
    assert "0000000003-" not in kept
    # The other way round: the snapshot goes while the pin is on its way.
    sequence = place.head()["sequence"]
    for number in range(2):
        place.gpu.write("exp/old.bin", f"{number}")
        place.gpu.push("copy")
    with place.open(PausedStore) as store:
        store.pause("put_if", "", place.collect)
        place.laptop.store = store
        with pytest.raises(UsageError, match="names no snapshot that is kept"):
            place.laptop.project().pin(str(sequence))
    place.check(place.gpu)


def test_an_accepted_rollback_forgets_what_was_uploaded(place: Place) -> None:
    """The fence seen when it was uploaded means nothing in another history of the bucket."""
    place.collect()
    old = (place.bucket / "manifest.json").read_bytes()
    for number in range(2):
        leave_garbage(place.bucket, number)
        place.collect()
    place.gpu.write("exp/new.bin", os.urandom(30_000))
    die_before_pages(place)
    (place.bucket / "manifest.json").write_bytes(old)
    # In the new history the fence comes to the same number with other lists.
    arguments = ["--apply", "--min-age", "0s", "--keep-last", "1", "--accept-rollback"]
    for number in range(2):
        leave_garbage(place.bucket, 10 + number)
        assert place.keeper.command("gc", *arguments).returncode == 0
    assert place.head()["fence"] == 3
    assert place.gpu.command("push", "--accept-rollback").returncode == 0
    place.check(place.gpu)


def test_a_fence_below_the_one_seen_before_proves_nothing(place: Place) -> None:
    place.collect()
    with place.gpu.project().workspace(()) as ws:
        head = ws.repository.load_head()
        assert head.manifest.fence == 1
        assert ws.repository.collected(head, 1) == frozenset()
        assert ws.repository.collected(head, 2) is None

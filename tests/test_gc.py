"""Collection: what is freed and what is kept (P1, P4)."""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from manifest_sync.errors import Contended, Damaged, StoreUnavailable, UsageError
from manifest_sync.gc.gc import GcReport
from manifest_sync.stores import open_store
from tests.bucket_check import examine, folder, garbage, head_files, keys
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine

ZERO = timedelta(0)


@pytest.fixture
def bucket(fast_path: Path) -> Path:
    return fast_path / "bucket"


@pytest.fixture
def gpu(fast_path: Path, bucket: Path) -> Machine:
    return Machine(fast_path / "gpu", str(bucket))


@pytest.fixture
def laptop(fast_path: Path, bucket: Path) -> Machine:
    return Machine(fast_path / "laptop", str(bucket))


def collect(machine: Machine, **options: Any) -> GcReport:
    """``gc --apply --min-age 0s --keep-last 1``, or as ``options`` say."""
    return machine.project().gc(**{"keep_last": 1, "min_age": ZERO, "apply": True, **options})


def contents(machine: Machine) -> dict[bytes, bytes]:
    """Path to content of a machine's tree."""
    return {os.fsencode(path): found[0] for path, found in machine.tree().items()}


def state(bucket: Path) -> dict[str, tuple[bytes, int]]:
    """Every object, byte by byte, and when it was written."""
    return {key: ((bucket / key).read_bytes(), (bucket / key).stat().st_mtime_ns) for key in keys(bucket)}


def push_five_times(machine: Machine) -> None:
    """Five snapshots, each with some new content in the place of old."""
    for number in range(5):
        machine.write("exp/same.json", "same" * 100)
        machine.write("exp/changes.json", f"{number}" * 100)
        machine.write(f"exp/{number}.bin", os.urandom(2000))
        machine.push("copy")


def make_old(bucket: Path, prefix: str = "", days: float = 2) -> None:
    for key in keys(bucket):
        if key.startswith(prefix):
            stat = (bucket / key).stat()
            os.utime(bucket / key, (stat.st_atime, stat.st_mtime - days * 86_400))


def test_a_dry_run_changes_nothing(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    before = state(bucket)
    report = gpu.project().gc(keep_last=1, min_age=ZERO)
    assert report.dry_run
    assert [link.sequence for link in report.dropped] == [4, 3, 2, 1, 0]
    assert report.freed["snapshots"][0] == 5
    assert report.freed["pages"][0] == 4
    assert state(bucket) == before
    assert set(report.requests) <= {"GET", "LIST"}
    done = collect(gpu)
    assert (done.freed, done.dropped, done.kept) == (report.freed, report.dropped, report.kept)


def test_what_is_left_is_what_is_reachable(gpu: Machine, laptop: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    laptop.pull()
    (gpu.root / "exp/3.bin").unlink()
    gpu.push("full")
    report = collect(gpu, repack=False)
    assert report.sequence == 7
    assert garbage(bucket) == set()
    found = examine(folder(bucket))
    assert found.problems == []
    assert found.files == contents(gpu)
    assert [manifest["sequence"] for manifest in found.kept] == [7, 6]
    assert len(found.chain) == 8
    assert found.kept[0]["fence"] == 1
    assert [fence for fence, _ in found.kept[0]["collections"]] == [1]
    # Both machines go on as if nothing had happened.
    assert gpu.push("full").requests == {"GET": 1}
    laptop.pull("full")
    assert contents(laptop) == contents(gpu)
    laptop.write("exp/new.json", "new")
    assert laptop.push().new == 1
    assert gpu.pull().new == 1
    assert head_files(folder(bucket)) == contents(gpu)


def test_nothing_to_delete_is_nothing_to_publish(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    first = collect(gpu)
    assert first.objects > 0
    before = state(bucket)
    again = collect(gpu)
    assert (again.objects, again.sequence) == (0, first.sequence)
    assert set(again.requests) == {"GET", "LIST"}
    assert state(bucket) == before


def test_collections_do_not_count_as_history(gpu: Machine, bucket: Path) -> None:
    """With ten collections after it, the last push but one is still the last but one."""
    push_five_times(gpu)
    for number in range(10):
        leave_garbage(bucket, number)
        assert collect(gpu, keep_last=2).freed["packs"][0] >= 1
    kept = examine(folder(bucket)).kept
    assert [manifest["sequence"] for manifest in kept] == list(range(15, 3, -1))
    assert garbage(bucket) == set()


def leave_garbage(bucket: Path, number: int) -> str:
    """An object such as a push leaves that was killed and never continued."""
    key = f"packs/0-{number:032x}/{number:064x}.pack"
    (bucket / key).parent.mkdir(parents=True)
    (bucket / key).write_bytes(b"garbage")
    return key


def test_the_default_keeps_a_month_of_history_and_a_day_of_leftovers(gpu: Machine, bucket: Path) -> None:
    for number in range(15):
        gpu.write("exp/a", f"{number}")
        gpu.push("copy")
    key = leave_garbage(bucket, 1)
    report = gpu.project().gc(apply=True)
    assert (report.objects, report.young, len(report.kept)) == (0, 1, 16)
    make_old(bucket, "packs/")
    report = gpu.project().gc(apply=True)
    assert (report.objects, report.young, len(report.kept)) == (1, 0, 16)
    assert not (bucket / key).exists()
    assert examine(folder(bucket)).problems == []


def test_keys_that_are_not_ours_are_never_touched(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    strange = ["snapshots/notes.txt", "pages/0-ab/x.json.zst", "packs/README", "other/file", "gc/mine.txt"]
    strange += [f"packs/0-{'a' * 32}/{'b' * 64}.pack.old", f"packs/0-{'a' * 32}/{'B' * 64}.pack"]
    for key in strange:
        (bucket / key).parent.mkdir(parents=True, exist_ok=True)
        (bucket / key).write_bytes(b"not ours")
    assert collect(gpu).objects > 0
    assert [key for key in strange if not (bucket / key).exists()] == []
    assert garbage(bucket) == {key for key in strange if not key.startswith(("other", "gc"))}


def test_pins_are_kept_until_they_are_unpinned(gpu: Machine, laptop: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    with_first = head_files(folder(bucket))
    pinned = gpu.project().pin("2", "before the change")
    assert pinned.changed
    collect(laptop)
    found = examine(folder(bucket))
    assert found.problems == []
    assert any(key.startswith("snapshots/0000000002-") for key in found.reachable)
    assert not any(key.startswith("snapshots/0000000003-") for key in keys(bucket))
    assert garbage(bucket) == set()
    # Pinned again under another name: the one pin is renamed.
    assert [pin.name for pin in laptop.project().pin("2", "other").pins] == ["other"]
    assert not laptop.project().pin("2", "other").changed
    gone = gpu.project().unpin("other")
    assert (gone.changed, gone.pins) == (True, ())
    collect(gpu)
    assert not any(key.startswith("snapshots/0000000002-") for key in keys(bucket))
    assert garbage(bucket) == set()
    assert head_files(folder(bucket)) == with_first


def test_what_cannot_be_pinned(gpu: Machine) -> None:
    push_five_times(gpu)
    project = gpu.project()
    project.pin("1", "first")
    with pytest.raises(UsageError, match="another snapshot is pinned"):
        project.pin("2", "first")
    other = next(iter(gpu.project().log())).id
    taken = ("7", "head", "yesterday", "1 hour ago", "36h", "2026-11-20", "a~1", other[:6].upper())
    for name in (*taken, " x", "a\nb"):
        with pytest.raises(UsageError, match="name of a pin"):
            project.pin("1", name)
    with pytest.raises(UsageError, match="names no snapshot"):
        project.pin("99")
    with pytest.raises(UsageError, match="names no pin"):
        project.unpin("second")
    project.unpin("first")
    collect(gpu)
    with pytest.raises(UsageError, match="names no snapshot"):
        project.pin("1")


def test_a_pin_below_the_oldest_can_be_unpinned_when_its_snapshot_is_damaged(
    gpu: Machine, bucket: Path
) -> None:
    push_five_times(gpu)
    gpu.project().pin("1")
    collect(gpu)
    next((bucket / "snapshots").glob("0000000001-*")).unlink()
    with pytest.raises(Damaged):
        collect(gpu)
    assert gpu.project().unpin("1").changed
    collect(gpu)
    assert garbage(bucket) == set()


@pytest.mark.parametrize("kind", ["snapshots", "pages", "packs"])
@pytest.mark.parametrize("hurt", ["missing", "cut"])
def test_what_cannot_be_read_stops_it(
    gpu: Machine, laptop: Machine, bucket: Path, kind: str, hurt: str
) -> None:
    """What only an old snapshot names, which is to be kept; once it need not be, it does no harm."""
    written: list[set[str]] = []
    for number in range(5):
        before = keys(bucket)
        gpu.write("exp/a", f"{number}" * 3000)
        gpu.push("copy")
        written.append(keys(bucket) - before)
    key = next(key for key in written[2] if key.startswith(kind))
    if hurt == "missing":
        (bucket / key).unlink()
    else:
        (bucket / key).write_bytes((bucket / key).read_bytes()[:-1])
    leave_garbage(bucket, 1)
    untouched = state(bucket)
    for rule in ({"keep_last": 4}, {"keep_last": None, "keep_within": timedelta(days=1)}):
        with pytest.raises(Damaged):
            collect(laptop, **rule)
        assert state(bucket) == untouched
    assert collect(laptop).dropped != ()
    assert garbage(bucket) == set()
    assert head_files(folder(bucket)) == contents(gpu)


def test_a_short_listing_stops_it(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    leave_garbage(bucket, 1)

    class Short(FaultyStore):
        def list(self, prefix: str) -> Any:
            return (item for item in super().list(prefix) if "0000000003" not in item.key)

    gpu.store = Short(open_store(gpu.project().location()))
    before = state(bucket)
    with pytest.raises(Damaged, match="missing"):
        collect(gpu, keep_last=99)
    assert state(bucket) == before


def test_a_list_that_is_too_long_is_worked_off_in_several_runs(gpu: Machine, bucket: Path) -> None:
    from manifest_sync.gc.gc import GcOptions, gc  # noqa: PLC0415
    from manifest_sync.gc.retention import Retention  # noqa: PLC0415

    push_five_times(gpu)
    runs = 0
    more = True
    while more:
        with gpu.project().workspace(()) as ws:
            options = GcOptions(Retention(1, None), ZERO, apply=True, repack=False, max_list=300)
            report = gc(ws, options)
        assert 0 < report.objects <= 6
        more = report.more
        runs += 1
        assert examine(folder(bucket)).problems == []
    assert runs > 2
    assert garbage(bucket) == set()
    assert head_files(folder(bucket)) == contents(gpu)


def test_a_rolled_back_bucket_is_not_collected(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    old = (bucket / "manifest.json").read_bytes()
    gpu.write("exp/last", "last")
    gpu.push()
    (bucket / "manifest.json").write_bytes(old)
    before = state(bucket)
    done = gpu.command("gc", "--apply", "--min-age", "0s", "--keep-last", "1")
    assert done.returncode == 7
    assert "--accept-rollback" in done.stderr
    assert state(bucket) == before


def test_a_tree_that_is_not_there_does_not_matter(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    files = contents(gpu)
    shutil.rmtree(gpu.root)
    assert collect(gpu).objects > 0
    assert head_files(folder(bucket)) == files
    assert not gpu.root.exists()


def test_a_held_lock_stops_a_collection_but_no_look(gpu: Machine) -> None:
    push_five_times(gpu)
    with gpu.project().workspace(()):
        assert gpu.project().gc(keep_last=1, min_age=ZERO).objects > 0
        with pytest.raises(Contended):
            collect(gpu)


def test_a_delete_that_fails_is_made_up_for(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    with FaultyStore(open_store(gpu.project().location())) as store:
        store.add_fault("delete", after=2, kind="before")
        gpu.store = store
        with pytest.raises(StoreUnavailable):
            collect(gpu)
    gpu.store = None
    assert garbage(bucket) != set()
    assert head_files(folder(bucket)) == contents(gpu)
    collect(gpu)
    assert garbage(bucket) == set()


def test_the_commands(gpu: Machine, bucket: Path) -> None:
    push_five_times(gpu)
    dry = gpu.command("gc", "--keep-last", "1", "--min-age", "0s")
    assert dry.returncode == 0
    assert "nothing was done, --apply does it" in dry.stdout
    assert "5 snapshots would go" in dry.stdout
    told = json.loads(gpu.command("gc", "--keep-last", "1", "--min-age", "0s", "--json").stdout)
    assert (told["command"], told["dry_run"]) == ("gc", True)
    assert told["objects"] == sum(kind["objects"] for kind in told["freed"].values()) > 0
    pinned = json.loads(gpu.command("pin", "2", "--name", "good", "--json").stdout)
    assert pinned["pin"]["name"] == "good"
    assert pinned["pins"] == [pinned["pin"]]
    real = json.loads(gpu.command("gc", "--apply", "--keep-last", "1", "--min-age", "0s", "--json").stdout)
    assert (real["dry_run"], real["dropped_snapshots"][0]["sequence"]) == (False, 5)
    assert real["requests"]["DELETE"] == real["objects"]
    assert "unpinned sequence 2" in gpu.command("unpin", "good").stdout
    assert garbage(bucket) != set()
    assert "snapshot" in gpu.command("gc", "--apply", "--keep-last", "1", "--min-age", "0s").stdout
    assert garbage(bucket) == set()
    for wrong in (["--min-age", "soon"], ["--keep-within", "1 month"], ["--keep-last", "0"]):
        assert gpu.command("gc", *wrong).returncode == 2
    assert gpu.command("unpin", "good").returncode == 2


def count_calls(gpu: Machine) -> int:
    store = FaultyStore(open_store(gpu.project().location()))
    gpu.store = store
    collect(gpu)
    gpu.store = None
    return len(store.calls)


def prepare(fast_path: Path, name: str) -> tuple[Machine, Path]:
    bucket = fast_path / name / "bucket"
    machine = Machine(fast_path / name / "gpu", str(bucket))
    for number in range(2):
        machine.write("exp/a.json", f"{number}" * 100)
        machine.push("copy")
    return machine, bucket


def test_a_collection_that_dies_at_any_request(fast_path: Path) -> None:
    calls = count_calls(prepare(fast_path, "count")[0])
    assert calls > 10
    for number in range(calls):
        gpu, bucket = prepare(fast_path, f"at{number}")
        store = Dying(open_store(gpu.project().location()), number)
        gpu.store = store
        with pytest.raises(Crash):
            collect(gpu)
        gpu.store = None
        assert head_files(folder(bucket)) == contents(gpu)
        gpu.write("exp/b.json", "b")
        assert gpu.push("copy").new == 1
        collect(gpu)
        assert garbage(bucket) == set()
        assert head_files(folder(bucket)) == contents(gpu)


class Dying(FaultyStore):
    """Dies at its call number ``at``, whatever it is."""

    def __init__(self, inner: Any, at: int) -> None:
        super().__init__(inner)
        self._at = at

    def _due(self, method: Any, key: str) -> Any:
        super()._due(method, key)
        if len(self.calls) > self._at:
            raise Crash(f"{method} {key}")

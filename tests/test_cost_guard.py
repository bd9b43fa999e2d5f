"""What each job may cost, without a clock: requests, objects and bytes, files opened, and memory.

These are the costs that decide the times on a network and on a large tree; a change that makes one of them
worse fails here on any machine, however slow or busy.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from examples.make_tree import make_tree
from manifest_sync.index.index import Index
from manifest_sync.model import Path as TreePath
from manifest_sync.model import Stat, State
from manifest_sync.report import RunReport, StatusReport
from manifest_sync.stores import open_store
from manifest_sync.stores.base import Object, Store
from tests.fault_proxy import FaultProxy
from tests.faulty_store import FaultyStore
from tests.machines import Machine
from tests.opened_files import OpenedFiles
from tests.servers import BUCKET, S3Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts opened files with inotify")

FILES = 3_000
PAGE = 700
LAUNCH = Path(__file__).parent.parent / "benchmarks" / "launch.py"


class Meter(FaultyStore):
    """Counts the bytes that go either way."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.sent = self.received = 0

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        found = super().get(key, unless_etag=unless_etag, max_bytes=max_bytes)
        self.received += 0 if found is None else len(found.body)
        return found

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        body = super().get_range(key, offset, length, etag=etag)
        self.received += len(body)
        return body

    def put(self, key: str, body: bytes) -> None:
        super().put(key, body)
        self.sent += len(body)

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        found = super().put_if(key, body, etag=etag)
        self.sent += len(body)
        return found


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    requests: Counter[str]
    keys: list[str]
    """Of the objects that were read or written, in order."""
    sent: int
    received: int
    bytes: int
    """Of the files that travelled."""
    opened: Counter[str]
    """How often each file of the tree was opened."""

    def kinds(self) -> Counter[str]:
        """How often objects of each kind (``packs``, ``pages``, ``manifest.json``, …) were asked for."""
        return Counter(key.split("/")[0] for key in self.keys)


def cost(machine: Machine, run: Callable[[], RunReport | StatusReport]) -> Cost:
    """Run something with counters on the bucket and on the files of the tree.

    First the filesystem's clock moves on, or what was written last would rightly be read again.
    """
    machine.outwait()
    inner = open_store(machine.project().location())
    meter = machine.store = Meter(inner)
    try:
        with OpenedFiles(machine.root) as opened:
            report = run()
    finally:
        machine.store = None
    counted = Counter({name: n for name, n in report.requests.items() if n})
    assert counted.total() == len(meter.calls), "the report counts every call"
    size = report.bytes if isinstance(report, RunReport) else 0
    keys = [key for _, key in meter.calls]
    return Cost(counted, keys, meter.sent, meter.received, size, Counter(opened.names))


def peak(machine: Machine, *args: str) -> int:
    """Bytes that one real command had in memory at most."""
    result = machine.folder / "cost.json"
    command = [sys.executable, "-m", "manifest_sync", *args, "-q"]
    subprocess.run([sys.executable, str(LAUNCH), str(result), *command], cwd=machine.folder, check=True)
    found = json.loads(result.read_text())
    assert found["exit"] == 0
    size: int = found["peak"]
    return size


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="manifest-sync-cost-") as path:
        yield Path(path)


@dataclass(frozen=True)
class Story:
    """The jobs of a small tree, one after the other, and what each took."""

    gpu: Machine
    laptop: Machine
    costs: dict[str, Cost]


@pytest.fixture(scope="module")
def story(folder: Path) -> Story:
    bucket = str(folder / "bucket")
    gpu, laptop, part = (Machine(folder / name, bucket) for name in ("gpu", "laptop", "part"))
    make_tree(str(gpu.root), FILES, 1)
    costs = {"first push": cost(gpu, gpu.push)}
    for mode in ("new", "copy", "full"):
        costs[f"no-op push --{mode}"] = cost(gpu, lambda mode=mode: gpu.push(mode))  # type: ignore[misc]
    costs["status"] = cost(gpu, gpu.status)
    costs["status --offline"] = cost(gpu, lambda: gpu.status(offline=True))
    costs["fresh pull"] = cost(laptop, laptop.pull)
    costs["push after a pull"] = cost(laptop, lambda: laptop.push("full"))
    costs["no-op pull"] = cost(laptop, lambda: laptop.pull("full"))
    costs["one experiment"] = cost(part, lambda: part.pull(only=["exp03"]))
    costs["rebuild-index"] = cost(part, lambda: part.project().rebuild_index())
    files = sorted(gpu.root.glob("exp*/inference/**/*.json"))
    overwrite(files[700])
    costs["one overwrite"] = cost(gpu, lambda: gpu.push("copy"))
    costs["pull of it"] = cost(laptop, lambda: laptop.pull("copy"))
    os.utime(files[700])
    costs["touched"] = cost(gpu, lambda: gpu.push("copy"))
    for path in files[:: len(files) // (FILES // 100)]:
        overwrite(path)
    costs["one percent"] = cost(gpu, lambda: gpu.push("copy"))
    return Story(gpu, laptop, costs)


def overwrite(path: Path) -> None:
    """Other bytes of the same number."""
    path.write_bytes(path.read_bytes()[::-1])


def test_a_first_push_is_packs_and_pages_not_files(story: Story) -> None:
    found = story.costs["first push"]
    assert set(found.requests) == {"GET", "PUT"}
    kinds = found.kinds()
    assert kinds == {"manifest.json": 2, "packs": 1, "pages": kinds["pages"], "snapshots": 1}
    assert kinds["pages"] <= FILES // PAGE + 2
    assert found.sent <= found.bytes * 0.57, "small files are compressed together"
    assert set(found.opened.values()) == {1}, "each file is read once"
    assert found.opened.total() == FILES


def test_a_first_push_writes_the_stat_of_each_file_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: Counter[bytes] = Counter()
    put_local = Index.put_local

    def count(self: Index, rows: Iterable[tuple[TreePath, Stat | None, State | None, int]]) -> None:
        kept = list(rows)
        written.update(row[0] for row in kept)
        put_local(self, kept)

    monkeypatch.setattr(Index, "put_local", count)
    gpu = Machine(folder / "gpu stats", str(folder / "stats"))
    make_tree(str(gpu.root), 300, 3)
    gpu.push()
    assert len(written) >= 300
    assert set(written.values()) == {1}, "what its content is needs two columns more, and not all again"


@pytest.mark.parametrize("job", ["no-op push --new", "no-op push --copy", "no-op push --full"])
def test_a_push_with_nothing_to_do_is_one_request_and_no_file(story: Story, job: str) -> None:
    found = story.costs[job]
    assert (found.requests, found.sent, found.received, found.opened) == ({"GET": 1}, 0, 0, {})


@pytest.mark.parametrize("job", ["push after a pull", "no-op pull", "status"])
def test_so_is_a_run_after_a_pull_and_a_status(story: Story, job: str) -> None:
    found = story.costs[job]
    assert (found.requests, found.sent, found.received, found.opened) == ({"GET": 1}, 0, 0, {})


def test_an_offline_status_is_not_even_that(story: Story) -> None:
    found = story.costs["status --offline"]
    assert (found.requests, found.opened) == ({}, {})


def test_one_overwrite_is_four_puts(story: Story) -> None:
    found = story.costs["one overwrite"]
    assert found.requests == {"GET": 1, "PUT": 4}
    assert found.kinds() == {"manifest.json": 2, "packs": 1, "pages": 1, "snapshots": 1}
    assert found.sent <= 70_000, "a page of entries, and little more"
    assert (len(found.opened), found.opened.total()) == (1, 2), "once for the plan, once for the pack"


def test_a_file_that_was_only_touched_is_read_and_not_sent(story: Story) -> None:
    found = story.costs["touched"]
    assert (found.requests, found.opened.total(), found.sent) == ({"GET": 1}, 1, 0)


def test_one_percent_changed_is_one_pack(story: Story) -> None:
    found = story.costs["one percent"]
    kinds = found.kinds()
    assert kinds == {"manifest.json": 2, "packs": 1, "pages": kinds["pages"], "snapshots": 1}
    assert kinds["pages"] <= FILES // PAGE + 2
    assert 25 <= len(found.opened) <= 35
    assert set(found.opened.values()) == {2}
    assert found.sent <= found.bytes + 70_000 * kinds["pages"]


def test_a_fresh_pull_reads_every_object_whole_and_once(story: Story) -> None:
    pull, push = story.costs["fresh pull"], story.costs["first push"]
    assert pull.requests == {"GET": pull.requests["GET"]}
    pages = push.kinds()["pages"]
    assert pull.kinds() == {"manifest.json": 1, "pages": pages, "packs": pull.kinds()["packs"]}
    assert pull.kinds()["packs"] <= push.kinds()["packs"] + pages, "long ranges, one more where a page ends"
    assert pull.received <= push.sent


def test_a_pull_of_one_change_reads_one_page_and_one_range(story: Story) -> None:
    found = story.costs["pull of it"]
    assert found.kinds() == {"manifest.json": 1, "pages": 1, "packs": 1}
    assert found.received <= 70_000
    assert not found.opened


def test_one_experiment_of_twelve_costs_its_share(story: Story) -> None:
    found, whole = story.costs["one experiment"], story.costs["fresh pull"]
    assert found.received <= whole.received / 8
    assert found.bytes < whole.bytes / 8
    kinds = found.kinds()
    assert kinds == {"manifest.json": 1, "pages": kinds["pages"], "packs": kinds["packs"]}
    assert kinds["pages"] <= 2
    assert kinds["packs"] <= 2


def test_rebuild_index_reads_each_file_once_and_no_pack(story: Story) -> None:
    found, push = story.costs["rebuild-index"], story.costs["first push"]
    assert found.kinds() == {"manifest.json": 1, "pages": push.kinds()["pages"]}
    assert found.opened.total() == len(found.opened) == FILES // 12


def test_a_push_with_nothing_to_do_holds_no_row_of_any_file(story: Story) -> None:
    story.gpu.push()
    tracemalloc.start()
    story.gpu.push()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most <= 100 * FILES, "bytes"


def test_a_push_with_nothing_to_do_does_little_for_each_file(story: Story) -> None:
    story.gpu.push()
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        story.gpu.push()
    finally:
        sys.setprofile(None)
    assert calls <= 15 * FILES, "a listing, and one digest of it: no row is looked at"


def test_a_command_with_nothing_to_do_is_small(story: Story) -> None:
    assert peak(story.gpu, "push") <= 60e6


def test_memory_does_not_follow_the_size_of_a_file(folder: Path) -> None:
    size = 128 << 20
    bucket = str(folder / "whole")
    gpu, laptop = Machine(folder / "gpu whole", bucket), Machine(folder / "laptop whole", bucket)
    gpu.write("a/model.pt", random.Random(1).randbytes(size))
    assert peak(gpu, "push", "-j", "1") <= 150e6
    assert peak(laptop, "pull", "-j", "1") <= 150e6
    assert os.path.getsize(laptop.root / "a/model.pt") == size
    for machine in (gpu, laptop):
        shutil.rmtree(machine.folder)
    shutil.rmtree(bucket)


def test_a_large_file_is_sent_around_what_changed_in_it(folder: Path) -> None:
    rng = random.Random(2)
    gpu = Machine(folder / "gpu large", str(folder / "large"))
    content = rng.randbytes(32 << 20)
    gpu.write("a/model.pt", content)
    lines = [json.dumps({"step": step, "loss": rng.random()}) + "\n" for step in range(120_000)]
    log = gpu.write("a/log.jsonl", "".join(lines))
    gpu.push()
    gpu.write("a/model.pt", content[: 16 << 20] + rng.randbytes(1 << 20) + content[16 << 20 :])
    inserted = cost(gpu, lambda: gpu.push("copy"))
    assert inserted.requests == {"GET": 1, "PUT": 4}
    assert inserted.sent <= 8 << 20
    with log.open("a") as file:
        file.writelines(lines[:100])
    appended = cost(gpu, lambda: gpu.push("copy"))
    assert appended.requests == {"GET": 1, "PUT": 4}
    assert appended.sent <= log.stat().st_size / 8
    assert set(appended.opened) == {"a/log.jsonl"}


def test_nothing_else_goes_over_the_wire(folder: Path, seaweed_http: S3Server) -> None:
    with FaultProxy(seaweed_http.endpoint_url) as proxy:
        bucket = f"s3://{BUCKET}/cost-guard"
        env = {**seaweed_http.r2_environment(), "R2_ENDPOINT": proxy.url}
        gpu = Machine(folder / "wire", bucket, env=env)
        gpu.write("a/one.json", "one")
        for expected in (["GET", "PUT", "PUT", "PUT", "PUT"], ["GET"]):
            proxy.clear()
            gpu.push()
            assert [method for method, _ in proxy.seen] == expected

"""``--bwlimit``: bytes are counted once, and a clock that a test moves tells the rate."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path as FsPath

import pytest
from click.testing import CliRunner

from manifest_sync.cli.main import main
from manifest_sync.errors import UsageError
from manifest_sync.stores import open_store
from manifest_sync.stores.base import Store
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.stores.pace import CREDIT_SECONDS, Pace, parse_rate
from manifest_sync.stores.s3_plain import PART, PlainFile, PlainS3
from tests.machines import Machine
from tests.servers import S3Server

RATE = 1 << 20


class Clock:
    """Goes on only when someone sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Counted(Pace):
    """Counts what it is asked for and lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.most = 0

    def take(self, count: int, alive: Callable[[], None] = lambda: None) -> None:
        self.bytes += count
        self.most = max(self.most, count)


def test_bytes_take_their_time_whoever_takes_them() -> None:
    clock = Clock()
    pace = Pace(RATE, clock=clock, sleep=clock.sleep)
    taken = 0
    while clock.now < 110.0:
        pace.take(16 * 1024)
        taken += 16 * 1024
    assert 10.0 * RATE <= taken <= (10.0 + CREDIT_SECONDS) * RATE + 16 * 1024


def test_a_pause_is_made_up_for_only_in_small_part() -> None:
    clock = Clock()
    pace = Pace(RATE, clock=clock, sleep=clock.sleep)
    pace.take(RATE)
    clock.now += 3600
    before = clock.now
    for _ in range(64):
        pace.take(RATE // 64)
    assert clock.now - before == pytest.approx(1.0 - CREDIT_SECONDS)


def test_a_long_wait_is_no_silence() -> None:
    clock = Clock()
    pace = Pace(RATE, clock=clock, sleep=clock.sleep)
    alive: list[float] = []
    pace.take(20 * RATE, lambda: alive.append(clock.now))
    assert len(alive) == len(clock.slept) >= 20
    assert max(clock.slept) <= 1.0
    Pace(0, clock=clock, sleep=clock.sleep).take(1 << 60)
    assert clock.now < 121.0


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10M", 10 << 20), ("1.5MiB/s", 3 << 19), ("512k", 512 << 10), ("0", 0), (" 2 GB ", 2 << 30),
     ("16384", 16384)],
)  # fmt: skip
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1", "1", "10k", "10M/h", "16383"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


def check_counts(store: Store, pace: Counted) -> None:
    body = os.urandom(3_000_001)
    store.put("a", body)
    assert (pace.bytes, pace.most <= 1 << 20) == (len(body), True)
    assert store.get_range("a", 1000, 2_000_000) == body[1000:2_001_000]
    assert pace.bytes == len(body) + 2_000_000
    found = store.get("a", max_bytes=1 << 22)
    assert found is not None
    assert pace.bytes == 2 * len(body) + 2_000_000
    store.put_if("b", body[:100_000], etag=None)
    assert pace.bytes == 2 * len(body) + 2_100_000
    scheme, _, rest = store.location.partition("://")
    bucket, _, folder = rest.partition("/")
    [listed] = store.list("b")
    store.beside(f"{scheme}://{bucket}").get_part(f"{folder}/b", 5, 70_000, etag=listed.etag)
    assert pace.bytes == 2 * len(body) + 2_170_000


def test_a_bucket_counts_each_byte_once(seaweed_http: S3Server, tmp_path: FsPath) -> None:
    pace = Counted()
    store = open_store(seaweed_http.location("pace"), pace=pace)
    check_counts(store, pace)
    store.close()
    size = PART + 1000
    (tmp_path / "file").write_bytes(bytes(size))
    pace = Counted()
    plain = PlainS3(seaweed_http.location("pace"), pace=pace)
    plain.put_file("big", PlainFile(str(tmp_path / "file"), size, 0))
    assert pace.bytes == size
    plain.close()


def test_a_folder_counts_each_byte_once(tmp_path: FsPath) -> None:
    pace = Counted()
    check_counts(DirectoryStore(str(tmp_path / "store"), pace), pace)


def test_the_option_reaches_the_store(tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    machine.write("a", os.urandom(2000))
    assert machine.command("--bwlimit", "slow", "push").returncode == 2
    found = machine.command("push", "--bwlimit", "100M", "--json")
    assert json.loads(found.stdout)["new"] == 1
    taken: dict[int, int] = {}

    def take(pace: Pace, count: int, *_: object) -> None:
        taken[pace._rate] = taken.get(pace._rate, 0) + count

    laptop = Machine(tmp_path / "laptop", str(tmp_path / "bucket"))
    monkeypatch.setattr(Pace, "take", take)
    monkeypatch.chdir(laptop.folder)
    result = CliRunner().invoke(main, ["pull", "--bwlimit", "3M"], catch_exceptions=False)
    assert result.output.startswith("pull: 1 new")
    assert list(taken) == [3 << 20]
    assert taken[3 << 20] > 2000

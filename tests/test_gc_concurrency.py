"""Eight machines push at once and are killed, beside collections that keep what they must (P1, P3, P4)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from manifest_sync.stores import open_store
from manifest_sync.stores.base import NotFound, Store
from tests.bucket_check import Found, Get, examine
from tests.conftest import Soak
from tests.machines import Machine
from tests.servers import BUCKET, S3Server

PUSHERS = 8
TURNS = 10
REPOSITORY = Path(__file__).parent.parent


@dataclass
class Place:
    """A fresh bucket on one kind of store."""

    folder: Path
    bucket: str
    endpoint_url: str
    env: dict[str, str]

    def machine(self, name: str) -> Machine:
        return Machine(self.folder / name, self.bucket, endpoint_url=self.endpoint_url, env=self.env)


MakePlace = Callable[[Path, int], Place]


@pytest.fixture(params=["directory", "seaweedfs"])
def make_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MakePlace:
    if request.param == "directory":
        return lambda folder, seed: Place(folder, str(folder / "bucket"), "", {})
    server: S3Server = request.getfixturevalue("seaweed_http")

    def make(folder: Path, seed: int) -> Place:
        env = {**server.environment(), "HOME": str(folder)}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        bucket = f"s3://{BUCKET}/concurrency-{seed}-{time.time_ns()}"
        return Place(folder, bucket, server.endpoint_url, env)

    return make


@pytest.mark.soak
def test_pushes_beside_collections_and_kills(make_place: MakePlace, fast_path: Path, soak: Soak) -> None:
    for seed in range(soak.seed, soak.seed + soak.count(1, 20)):
        place = make_place(fast_path / f"{seed}", seed)
        race(place, seed)


def race(place: Place, seed: int) -> None:
    pushers = [place.machine(f"pusher{number}") for number in range(PUSHERS)]
    keeper = place.machine("keeper")
    stop = place.folder / "stop"
    logs = [place.folder / f"log{number}" for number in range(PUSHERS + 1)]
    store = open_store(keeper.project().location())
    looks = 0
    with driver(place, "collect", keeper, seed, str(stop), logs[PUSHERS]) as collector:
        running = [
            start(place, "push", machine, f"{seed} {number}", str(TURNS), logs[number])
            for number, machine in enumerate(pushers)
        ]
        try:
            while any(process.poll() is None for process in running):
                look(store)
                looks += 1
                assert collector.poll() is None, logs[PUSHERS].read_text()
        finally:
            for process in running:
                end_all(process)
            stop.touch()
    told = [facts(log) for log in logs]
    assert [fact for log in told for fact in log if "failed" in fact] == []
    acknowledged = [[fact["acknowledged"] for fact in log] for log in told[:PUSHERS]]
    assert [len(log) for log in acknowledged] == [TURNS] * PUSHERS
    assert looks > 5
    # The race was one: pushes died, and there were collections that found something. How many get through
    # between so many pushes hangs on the machine.
    assert sum(fact["deaths"] for log in told[:PUSHERS] for fact in log) > PUSHERS
    assert sum(fact["collected"] for fact in told[PUSHERS]) > 0
    check(place, store, pushers, acknowledged)


def check(place: Place, store: Store, pushers: list[Machine], acknowledged: list[list[str]]) -> None:
    found = examine(getter(store))
    assert found.problems == []
    # P3: what was acknowledged is in the chain exactly once, each machine's pushes in their order.
    assert len(set(found.chain)) == len(found.chain)
    for log in acknowledged:
        places = [found.chain.index(snapshot) for snapshot in log]
        assert places == sorted(places, reverse=True)
    expected = {
        os.fsencode(path): content for machine in pushers for path, (content, *_) in machine.tree().items()
    }
    assert found.files == expected
    # Nothing but what is reachable is left once the last collection has run alone.
    keeper = place.machine("last")
    assert keeper.command("gc", "--apply", "--min-age", "0s", "--keep-last", "1").returncode == 0
    listed = {item.key for kind in ("snapshots", "pages", "packs") for item in store.list(f"{kind}/")}
    found = examine(getter(store))
    assert found.problems == []
    assert listed == {key for key in found.reachable if not key.startswith("history/")}
    verified = keeper.command("verify", "--read-data")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    reader = place.machine("reader")
    assert reader.command("pull").returncode == 0
    assert {os.fsencode(path): content for path, (content, *_) in reader.tree().items()} == expected


def look(store: Store) -> Found:
    """P1 at this instant: what the head reaches is there, as long as it is the head."""
    get = getter(store)
    while True:
        head = get("manifest.json")
        assert head is not None
        found = examine(with_head(get, head), contents=False)
        if not found.problems:
            return found
        assert get("manifest.json") != head, found.problems


def with_head(get: Get, head: bytes) -> Get:
    """The store as it is, but for the head, which stays."""
    return lambda key: head if key == "manifest.json" else get(key)


def getter(store: Store) -> Get:
    def get(key: str) -> bytes | None:
        try:
            found = store.get(key, max_bytes=1 << 30)
        except NotFound:
            return None
        assert found is not None
        return found.body

    return get


def facts(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def start(place: Place, command: str, machine: Machine, seed: object, end: str, log: Path) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.racing_processes", command, machine.folder, str(seed), end, log],
        cwd=REPOSITORY,
        env={**os.environ, **place.env},
        start_new_session=True,
    )


@contextmanager
def driver(
    place: Place, command: str, machine: Machine, seed: int, end: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    process = start(place, command, machine, seed, end, log)
    try:
        yield process
        process.wait(120)
    finally:
        end_all(process)


def end_all(process: Any) -> None:
    """Kill a driver and the child it may have."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""A reader sees one published head whole, never a mixture of two, and takes no lock (P2).

Two machines publish all the time, each push every one of its files; readers pull into empty folders and list.
Which snapshot a reader names says which round of either machine it must have, and nothing of any other.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path as FsPath

import pytest

from manifest_sync.project import Project
from manifest_sync.report import RunReport
from manifest_sync.scope import Scope
from manifest_sync.stores.directory import DirectoryStore
from tests.fault_world import Files, Place, files_of
from tests.faulty_store import FaultyStore
from tests.machines import Machine

PATHS = [f"exp{folder}/{name}" for folder in range(3) for name in "ab"]
MACHINES = ("gpu", "laptop")


@pytest.fixture(autouse=True)
def many_pages(monkeypatch: pytest.MonkeyPatch, short_pages: None, hurried: None) -> None:
    """A head of twelve files has several pages."""
    monkeypatch.setattr("manifest_sync.pagecut.BOUNDARY_MODULUS", 3)


def round_of(name: str, number: int) -> Files:
    """All files of a machine as it leaves them in a round."""
    return {f"{path}-{name}": f"{name} {path} {number} ".encode() * 20 for path in PATHS}


@dataclass
class Rounds:
    """What was published: the round of a machine by the snapshot of its push."""

    published: dict[str, tuple[str, int]] = field(default_factory=dict)

    def push(self, machine: Machine, name: str, number: int) -> None:
        for path, content in round_of(name, number).items():
            machine.write(path, content)
        report = machine.push("copy")
        assert report.exit_code == 0
        self.published[report.snapshot] = (name, number)

    def states(self, chain: list[str]) -> dict[str, Files]:
        """What each snapshot of the chain (newest first) holds."""
        found: dict[str, Files] = {}
        files: Files = {}
        for snapshot in reversed(chain):
            if snapshot in self.published:
                files = {**files, **round_of(*self.published[snapshot])}
            found[snapshot] = files
        return found


class Reader:
    """Reads again and again with an empty folder and an empty cache, and notes what it saw."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.name = name
        self.seen: list[tuple[str, Files]] = []

    def read(self) -> None:
        folder = self.place.folder / f"{self.name}-{len(self.seen)}"
        machine = Machine(folder, "../bucket")
        store = FaultyStore(DirectoryStore(str(self.place.bucket)))
        machine.store = store
        self.seen.append(pulled(machine) if len(self.seen) % 2 else listed(machine))
        assert {method for method, _ in store.calls} <= {"get", "get_range"}, "a reader writes nothing"


def pulled(machine: Machine) -> tuple[str, Files]:
    report = machine.pull("full")
    assert report.exit_code == 0
    return report.snapshot, files_of(machine.root)


def listed(machine: Machine) -> tuple[str, Files]:
    with machine.project().history() as history:
        snapshot = history.at("")
        return snapshot.snapshot, {
            os.fsdecode(entry.path): b"".join(history.read(snapshot, entry.path))
            for entry in history.ls(snapshot, Scope.everything())
        }


def test_readers_beside_pushers(fast_path: FsPath) -> None:
    place = Place(fast_path)
    rounds = Rounds()
    machines = {name: place.machine(name) for name in MACHINES}
    readers = [Reader(place, f"reader{number}") for number in range(2)]
    is_over = threading.Event()

    def publish(name: str) -> None:
        number = 0
        while not is_over.is_set():
            rounds.push(machines[name], name, number)
            number += 1

    def read(reader: Reader) -> None:
        try:
            while len(reader.seen) < 12:
                reader.read()
        finally:
            is_over.set()

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(publish, name) for name in MACHINES] + [pool.submit(read, one) for one in readers]
    for one in done:
        one.result()
    found = place.examine()
    assert found.problems == []
    states = rounds.states(found.chain)
    for reader in readers:
        for snapshot, files in reader.seen:
            assert files == states[snapshot]
    assert len({snapshot for reader in readers for snapshot, _ in reader.seen}) > 1


@pytest.mark.parametrize("mode", ["new", "full"])
def test_a_pull_whose_head_is_replaced_and_collected(fast_path: FsPath, mode: str) -> None:
    """At each of its requests all that it was about to read goes away: then it brings the newer head, also
    in place of what it had brought by then."""
    scene = Place(fast_path / "scene")
    gpu = scene.machine("gpu")
    for path, content in round_of("gpu", 0).items():
        gpu.write(path, content)
        first = gpu.push().snapshot  # each in a pack of its own
    scene.machine("reader")
    requests = quiet_requests(scene.copy(fast_path / "quiet"), mode)
    assert requests > len(PATHS)
    seen = set()
    for number in range(requests):
        place = scene.copy(fast_path / "place")
        rounds = Rounds({first: ("gpu", 0)})
        gpu, reader = place.machine("gpu"), place.machine("reader")

        def replace(rounds: Rounds = rounds, gpu: Machine = gpu) -> None:
            rounds.push(gpu, "gpu", 1)
            gpu.project().gc(keep_last=1, min_age=timedelta(0), apply=True)

        with FaultyStore(DirectoryStore(str(place.bucket))) as store:
            store.add_fault("any", after=number, kind="pass", meanwhile_before=replace)
            report = pull_alone(reader, store, mode)
        assert report.exit_code == 0
        wanted = rounds.states(place.examine().chain)[report.snapshot]
        files = files_of(reader.root)
        assert files == wanted
        assert report.left == {}
        seen.add(report.snapshot)
    assert len(seen) > 1


def quiet_requests(place: Place, mode: str) -> int:
    """How many requests the pull makes when nothing happens meanwhile."""
    with FaultyStore(DirectoryStore(str(place.bucket))) as store:
        pull_alone(place.machine("reader"), store, mode)
    return len(store.calls)


def pull_alone(machine: Machine, store: FaultyStore, mode: str) -> RunReport:
    """Pull with one request after the other."""
    return Project.find(str(machine.folder), env={}, store=store, jobs=1).pull(mode)

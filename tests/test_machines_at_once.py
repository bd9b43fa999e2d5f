"""Several machines, one bucket: races, lost replies, kills (P1, P3, P5, P6, P9), on real parts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path as FsPath
from typing import Any

import pytest

from manifest_sync.errors import Damaged, StoreUnavailable
from manifest_sync.stores import open_store
from manifest_sync.stores.base import Store, Unknown
from tests.machines import Machine
from tests.servers import BUCKET, S3Server

MakeMachine = Callable[[str], Machine]


@pytest.fixture(params=["directory", "seaweedfs", "seaweedfs-tls"])
def machine(request: pytest.FixtureRequest, tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch) -> MakeMachine:
    """Makes machines on one fresh bucket."""
    if request.param == "directory":
        return lambda name: Machine(tmp_path / name, str(tmp_path / "bucket"))
    fixture = "seaweed_tls" if request.param.endswith("tls") else "seaweed_http"
    server: S3Server = request.getfixturevalue(fixture)
    prefix = f"{request.node.name}-{random.randrange(10**9)}"
    env = {**server.environment(), "HOME": str(tmp_path)}
    # boto3 takes these from the process: the tests that call the library directly need them too.
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return lambda name: Machine(
        tmp_path / name, f"s3://{BUCKET}/{prefix}", endpoint_url=server.endpoint_url, env=env
    )


def paths(machine: Machine) -> set[str]:
    return {os.fsdecode(entry.path) for entry in machine.project().ls()}


def test_round_trip(machine: MakeMachine) -> None:
    gpu, laptop = machine("gpu"), machine("laptop")
    for number in range(300):
        gpu.write(f"exp{number % 3}/{number}.json", f"{number}" * 50)
    gpu.write("exp0/big.pt", os.urandom(9 << 20))
    first = gpu.push()
    assert first.requests == {"GET": 1, "PUT": 4}
    assert gpu.push().requests == {"GET": 1}
    gpu.write("exp1/1.json", "1" * 49 + "2")
    assert gpu.push("copy").requests == {"GET": 1, "PUT": 4}
    laptop.pull()
    assert laptop.tree() == gpu.tree()
    assert laptop.push("full").requests == {"GET": 1}


def test_two_machines_push_different_experiments_ten_times(machine: MakeMachine) -> None:
    machines = [machine("one"), machine("two")]
    failures: list[str] = []

    def work(which: int) -> None:
        for turn in range(10):
            machines[which].write(f"exp{which}/{turn}.json", f"{which} {turn}")
            done = machines[which].command("push")
            if done.returncode != 0:
                failures.append(done.stderr)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    third = machine("third")
    third.pull()
    expected = {f"exp{which}/{turn}.json": f"{which} {turn}" for which in range(2) for turn in range(10)}
    assert {path: third.read(path) for path in third.tree()} == expected
    head = third.project().pull().sequence
    assert head == 20


def test_two_machines_push_the_same_path(machine: MakeMachine) -> None:
    machines = [machine("one"), machine("two")]
    for which in range(2):
        machines[which].write("exp/a.json", f"from {which}")
        machines[which].write(f"exp/only{which}.json", "mine")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "manifest_sync", "push"],
            cwd=m.folder,
            env={**os.environ, **m.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for m in machines
    ]
    errors = [process.communicate()[1] for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 6], errors
    winner, loser = (0, 1) if codes[0] == 0 else (1, 0)
    assert machines[loser].read("exp/a.json") == f"from {loser}"
    assert paths(machines[0]) == {"exp/a.json", "exp/only0.json", "exp/only1.json"}
    third = machine("third")
    third.pull()
    assert third.read("exp/a.json") == f"from {winner}"


def test_a_killed_push_is_continued(machine: MakeMachine) -> None:
    """SIGKILL at several moments; at last everything is there, once, and little was sent twice."""
    gpu, laptop = machine("gpu"), machine("laptop")
    for number in range(6):
        gpu.write(f"exp/{number}.bin", os.urandom(12 << 20))
    for delay in (0.5, 0.8, 1.0, 1.2):
        process = subprocess.Popen(
            [sys.executable, "-m", "manifest_sync", "push"],
            cwd=gpu.folder,
            env={**os.environ, **gpu.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert laptop.status().skipped == []
    assert gpu.push().exit_code == 0
    assert gpu.push().new == 0
    assert not gpu.status().has_drift
    laptop.pull()
    assert laptop.tree() == gpu.tree()


class Faulty:
    """A store that does what ``plan`` says at its n-th write, and the real thing otherwise."""

    def __init__(self, store: Store, at: int, kind: str) -> None:
        self._store = store
        self._at = at
        self._kind = kind
        self._writes = 0
        self.fired = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _is_due(self) -> bool:
        self._writes += 1
        due = self._writes == self._at
        self.fired = self.fired or due
        return due

    def put(self, key: str, body: bytes) -> None:
        due = self._is_due()
        if due and self._kind == "die before":
            raise KeyboardInterrupt
        self._store.put(key, body)
        if due:
            raise KeyboardInterrupt

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        due = self._is_due()
        if due and self._kind == "die before":
            raise KeyboardInterrupt
        new = self._store.put_if(key, body, etag=etag)
        if due and self._kind == "lose the reply":
            raise Unknown(key, TimeoutError("the reply was lost"))
        if due:
            raise KeyboardInterrupt
        return new


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    return Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)


@pytest.mark.parametrize("kind", ["die before", "die after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_push_that_dies_at_a_write(pair: tuple[Machine, Machine], kind: str, at: int) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    gpu.push()
    laptop.pull()
    gpu.write("exp/a", "b")
    gpu.write("exp/new", "n")
    faulty = Faulty(open_store(gpu.project().location()), at, kind)
    gpu.store = faulty
    with pytest.raises(KeyboardInterrupt):
        gpu.push("copy")
    assert faulty.fired
    gpu.store = None
    is_published = at == 4 and kind == "die after"
    assert (laptop.pull("copy").changed == 1) is is_published
    assert gpu.push("copy").changed == (0 if is_published else 1)
    laptop.pull("copy")
    assert laptop.tree() == gpu.tree()
    assert not gpu.status().has_drift
    # The base was settled: what the other side now changes is no conflict here.
    laptop.write("exp/a", "c")
    laptop.push("copy")
    assert gpu.pull("copy").conflicts == []


def test_a_lost_reply_to_the_swap_is_found_to_have_succeeded(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    faulty = Faulty(open_store(gpu.project().location()), 4, "lose the reply")
    gpu.store = faulty
    report = gpu.push()
    assert faulty.fired
    assert (report.new, report.exit_code, report.sequence) == (1, 0, 1)
    gpu.store = None
    assert laptop.pull().new == 1


def test_a_journal_is_settled_after_others_went_on(pair: tuple[Machine, Machine]) -> None:
    """Killed right after the swap; before its next run another machine changed the same file."""
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    gpu.store = Faulty(open_store(gpu.project().location()), 4, "die after")
    with pytest.raises(KeyboardInterrupt):
        gpu.push()
    gpu.store = None
    laptop.pull()
    laptop.write("exp/a", "b")
    laptop.push("copy")
    report = gpu.pull("copy")
    assert report.conflicts == []
    assert gpu.read("exp/a") == "b"


def test_a_rolled_back_bucket_is_refused(pair: tuple[Machine, Machine], tmp_path: FsPath) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    gpu.push()
    old = (tmp_path / "bucket/manifest.json").read_bytes()
    gpu.write("exp/b", "b")
    gpu.push()
    (tmp_path / "bucket/manifest.json").write_bytes(old)
    done = gpu.command("pull", "--full")
    assert done.returncode == 7
    assert "--accept-rollback" in done.stderr
    assert (gpu.root / "exp/b").exists()
    assert laptop.command("pull").returncode == 0


def test_a_damaged_pack_is_never_written_to_the_tree(pair: tuple[Machine, Machine], tmp_path: FsPath) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", os.urandom(5000))
    gpu.push()
    pack = next((tmp_path / "bucket/packs").rglob("*.pack"))
    body = bytearray(pack.read_bytes())
    body[100] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(body)
    done = laptop.command("pull")
    assert done.returncode == 7
    assert "exp/a" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert laptop.tree() == {}


def test_a_flipped_byte_never_reaches_the_tree(pair: tuple[Machine, Machine], tmp_path: FsPath) -> None:
    """Content that is stored raw has nothing but its hash to tell it from other bytes (P17)."""
    gpu, laptop = pair
    gpu.write("exp/a", os.urandom(5000))
    gpu.push()
    pack = next((tmp_path / "bucket/packs").rglob("*.pack"))
    body = bytearray(pack.read_bytes())
    body[100] ^= 1
    pack.write_bytes(body)
    with contextlib.suppress(Damaged):
        assert laptop.pull().exit_code == 7
    assert laptop.tree() == {}


def test_a_store_that_stays_silent_about_the_swap(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    gpu.write("exp/a", "a")

    class Silent(Faulty):
        def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
            raise Unknown(key, TimeoutError("nothing was heard"))

    gpu.store = Silent(open_store(gpu.project().location()), 0, "")
    with pytest.raises(StoreUnavailable, match="unknown"):
        gpu.push()
    gpu.store = None
    again = gpu.push()
    assert again.new == 1
    assert again.stored_bytes == 0

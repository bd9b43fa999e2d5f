"""The real ``watch`` beside a process that trains, while the server goes away and comes back.

Every version that was ever published must be one that the writer called complete; at the end all is there.
The long half: ``pytest tests/test_watch_live.py --soak 1 --timeout 0`` goes on for five minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path as FsPath

import pytest
from blake3 import blake3

from tests import servers
from tests.conftest import Soak
from tests.machines import Machine

PATIENCE = 60
"""Seconds after which a process that is waited for counts as hung."""


def heed_interrupts() -> None:
    """A background job of a shell ignores SIGINT, and what it starts inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(machine: Machine, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "manifest_sync", "watch", *words],
        cwd=machine.folder,
        env={**os.environ, **machine.env, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509
    )


def until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.05)


def published(machine: Machine) -> dict[int, dict[str, str]]:
    """The hash of every file of every snapshot."""
    project = machine.project()
    return {
        record.sequence: {
            entry.path.decode(): entry.hash.hex() for entry in project.ls(at=str(record.sequence))
        }
        for record in project.log()
    }


@pytest.mark.soak
def test_everything_arrives_and_nothing_torn_is_published(
    tmp_path: FsPath, soak: Soak, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, outage = (300 * soak.factor, 40.0) if soak.factor else (14, 2.0)
    with servers.seaweedfs_with_outages(tmp_path, tls=False) as outages:
        for name, value in outages.server.environment().items():
            monkeypatch.setenv(name, value)
        machine = Machine(
            tmp_path / "gpu",
            f"s3://{servers.BUCKET}/watch",
            endpoint_url=outages.server.endpoint_url,
        )
        machine.write("before.json", "written while nobody watched")
        ledger = tmp_path / "ledger"
        watching = start(machine, "--json", "--interval", "1s", "--settle", "2s")
        training = subprocess.Popen(
            [sys.executable, "-m", "tests.training_run", machine.root, ledger, str(seconds), "0.25"]
        )
        rounds = 3 if soak.factor else 1
        for _ in range(rounds):
            time.sleep(seconds / rounds / 3)
            outages.stop()
            time.sleep(outage)
            outages.start()
        assert training.wait(seconds + PATIENCE) == 0
        watching.send_signal(signal.SIGTERM)
        out, err = watching.communicate(timeout=PATIENCE + outage)
        assert watching.returncode == 0, err
        snapshots = published(machine)
    assert "Traceback" not in err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["sequence"] for line in lines] == [number for number in sorted(snapshots) if number]
    assert len(lines) > 1, out
    complete: dict[str, set[str]] = {}
    for line in ledger.read_text().splitlines():
        path, digest = line.rsplit(" ", 1)
        complete.setdefault(path, set()).add(digest)
    before = blake3((machine.root / "before.json").read_bytes()).hexdigest()
    complete["before.json"] = {before}
    for sequence, files in snapshots.items():
        for path, digest in files.items():
            assert digest in complete[path], f"{path} in snapshot {sequence} is torn"
    last = snapshots[max(snapshots)]
    for path, (content, _, _) in machine.tree().items():
        assert last[path] == blake3(content).hexdigest(), f"{path} did not arrive"
    versions = len({(path, digest) for files in snapshots.values() for path, digest in files.items()})
    print(f"{len(lines)} snapshots, {len(last)} files, {versions} versions, all of them complete\n{err}")
    # The log travelled while it grew, not only when it was closed.
    assert len({files["run/log.jsonl"] for files in snapshots.values() if "run/log.jsonl" in files}) > 1


def test_a_second_signal_ends_it_at_once(tmp_path: FsPath) -> None:
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    machine.write("young.pt", "half a checkp")
    watching = start(machine, "--settle", "9m")
    assert watching.stderr is not None
    assert "watching" in watching.stderr.readline()
    # The lock is free in between; what is young is not sent, and the end would wait for it.
    watching.send_signal(signal.SIGTERM)
    time.sleep(1)
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 130
    assert "interrupted: the bucket holds a whole snapshot" in err
    assert machine.push("copy").new == 1


def test_text_lines_conflicts_and_a_clean_end(tmp_path: FsPath) -> None:
    bucket = str(tmp_path / "bucket")
    machine, other = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for one, text in ((machine, "mine"), (other, "theirs")):
        one.write("both.json", text, mtime_ns=10**18)
    other.push()
    watching = start(machine, "--settle", "1s", "--interval", "1s")
    assert watching.stderr is not None
    assert watching.stdout is not None
    told = [watching.stderr.readline() for _ in range(3)]
    assert "1 conflict, left as on each side" in told[1]
    assert "both.json" in told[2]
    machine.write("new.pt", "x")
    assert "1 new, 0 changed" in watching.stdout.readline()
    # Other commands run in between.
    until(lambda: machine.command("pull").returncode in (0, 6))
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=PATIENCE)
    assert (watching.returncode, err.count("conflict")) == (6, 0)


def test_options_that_do_not_fit_are_refused(tmp_path: FsPath) -> None:
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    for words in (("--new", "--copy"), ("--settle", "0s"), ("--interval", "soon")):
        found = machine.command("watch", *words)
        assert found.returncode == 2, words

"""What a report counts is what was done: of a plan that the user's own edits overtake, the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path as FsPath

import pytest

from manifest_sync.stores.directory import DirectoryStore
from tests.faulty_store import FaultyStore
from tests.machines import Machine


@pytest.fixture
def laptop(tmp_path: FsPath) -> Machine:
    """A machine on which every kind of change waits to be pulled."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for name in ("exp/gone", "exp/a", "exp/b", "sub/c"):
        gpu.write(name, f"old {name}")
    gpu.push()
    laptop.pull()
    for name in ("exp/a", "exp/b", "new/one", "new/two"):
        gpu.write(name, f"new {name}")
    (gpu.root / "exp/gone").unlink()
    gpu.write("sub/c", "theirs")
    gpu.push("full")
    laptop.write("sub/c", "mine")
    return laptop


def before_content(machine: Machine, act: Callable[[], object]) -> None:
    """Something that happens before the first pack is read, when the plan stands."""
    machine.store = FaultyStore(DirectoryStore(machine.bucket))
    machine.store.add_fault("get_range", key_prefix="packs/", kind="pass", meanwhile_before=act)


def counts(report: object) -> tuple[int, int, int]:
    return tuple(getattr(report, name) for name in ("new", "changed", "deleted"))


def test_a_pull_that_nothing_overtakes(laptop: Machine) -> None:
    assert counts(laptop.pull("full", max_delete="100%", resolve="both")) == (2, 3, 1)


def test_a_file_edited_meanwhile_is_not_counted(laptop: Machine) -> None:
    before_content(laptop, lambda: laptop.write("exp/a", "edited meanwhile"))
    report = laptop.pull("full", max_delete="100%", resolve="both")
    assert (counts(report), report.conflicts) == ((2, 2, 1), [b"exp/a"])


def test_a_file_that_is_blocked_meanwhile_is_not_counted(laptop: Machine) -> None:
    before_content(laptop, lambda: laptop.write("new", "a file where a folder must be"))
    report = laptop.pull("full", max_delete="100%", resolve="both")
    assert (counts(report), [path for path, _ in report.skipped]) == ((0, 3, 1), [b"new/one", b"new/two"])


def test_what_the_bucket_lost_is_not_counted(laptop: Machine, tmp_path: FsPath) -> None:
    shutil.rmtree(tmp_path / "bucket/packs")
    report = laptop.pull("full", max_delete="100%", resolve="both")
    assert (counts(report), len(report.damaged)) == ((0, 0, 1), 5)


def test_a_restore_counts_what_it_brought(laptop: Machine) -> None:
    shutil.rmtree(laptop.root / "exp")
    before_content(laptop, lambda: laptop.write("exp/b", "made meanwhile"))
    report = laptop.project().restore(("exp",), "1")
    assert (counts(report), report.conflicts) == ((2, 0, 0), [b"exp/b"])
    assert os.path.exists(laptop.root / "exp/gone")

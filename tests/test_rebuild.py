"""rebuild-index: the old index is there, whole, until the new one is (P5, P11)."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path as FsPath

import pytest

from manifest_sync.errors import NoRepository
from manifest_sync.index import Index
from tests.machines import Machine


@pytest.fixture
def machine(tmp_path: FsPath) -> Machine:
    made = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    for number in range(50):
        made.write(f"exp/{number}", str(number))
    made.push()
    return made


def index_of(machine: Machine) -> FsPath:
    return machine.folder / ".manifest-sync/index.sqlite"


def test_a_rebuild_that_fails_leaves_the_index_as_it_was(machine: Machine, tmp_path: FsPath) -> None:
    machine.project().drop(["exp/1"])
    (tmp_path / "bucket").rename(tmp_path / "elsewhere")
    before = index_of(machine).read_bytes()
    with pytest.raises(NoRepository):
        machine.project().rebuild_index()
    assert index_of(machine).read_bytes() == before
    assert sorted(os.listdir(index_of(machine).parent)) == sorted(
        [".gitignore", "index.mark", "index.sqlite", "lock", "machine", "staging", "trash"]
    )
    (tmp_path / "elsewhere").rename(tmp_path / "bucket")
    assert machine.status().dropped == [b"exp/1"]


def test_the_old_index_is_kept(machine: Machine) -> None:
    before = index_of(machine).read_bytes()
    for _ in range(2):
        assert machine.project().rebuild_index().unchanged == 50
        kept = FsPath(f"{index_of(machine)}.before-rebuild")
        assert kept.read_bytes() == before
        before = index_of(machine).read_bytes()
    assert not machine.status().has_drift


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_journal_of_the_old_index_is_not_played_into_the_new_one(
    machine: Machine, tmp_path: FsPath, is_damaged: bool
) -> None:
    path = index_of(machine)
    _leave_hot_journal(path, tmp_path)
    if is_damaged:
        path.write_bytes(b"not a database" * 1000)
    assert machine.project().rebuild_index().unchanged == 50
    assert not FsPath(f"{path}-journal").exists()
    for name in [str(path)] if is_damaged else [str(path), f"{path}.before-rebuild"]:
        with Index.open(name) as index:
            index.quick_check()
    assert not machine.status().has_drift
    assert machine.push("full").requests == {"GET": 1}


def _leave_hot_journal(path: FsPath, scratch: FsPath) -> None:
    """As a kill in a big transaction leaves it: pages overwritten, the old ones in the journal."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE paths SET base = NULL, remote = zeroblob(2000)")
    connection.execute("UPDATE pages SET body = zeroblob(200000)")
    for name in (path.name, f"{path.name}-journal"):
        shutil.copyfile(path.parent / name, scratch / name)
    connection.execute("ROLLBACK")
    connection.close()
    for name in (path.name, f"{path.name}-journal"):
        shutil.copyfile(scratch / name, path.parent / name)

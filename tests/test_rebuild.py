"""rebuild-index: the old index is there, whole, until the new one is (P5, P11)."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path as FsPath
from typing import Any

import pytest

from manifest_sync.errors import NoRepository
from manifest_sync.index.index import Index
from manifest_sync.model import Path
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


def test_each_row_is_written_twice_at_most(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bucket has, and what is here together with what both agree on."""
    written: Counter[bytes] = Counter()
    many = Index._many

    def counted(self: Index, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        kept = list(rows)
        if "paths" in sql:
            written.update(row[0] for row in kept)
        many(self, sql, kept)

    monkeypatch.setattr(Index, "_many", counted)
    # Agreed on row by row, so that this would be counted as well.
    monkeypatch.setattr(
        Index,
        "agree",
        lambda self, ranges: self.set_base((r.path, r.remote) for r in self.iter_drift(ranges)),
    )
    assert machine.project().rebuild_index().unchanged == 50
    assert written == dict.fromkeys((f"exp/{number}".encode() for number in range(50)), 2)


def test_only_what_is_the_same_becomes_base(machine: Machine) -> None:
    machine.write("exp/1", "X")
    machine.write("exp/new", "here alone")
    (machine.root / "exp/2").unlink()
    os.chmod(machine.root / "exp/3", 0o755)
    assert machine.project().rebuild_index().unchanged == 47
    with Index.open(str(index_of(machine)), read_only=True) as index:
        rows = {row.path: row for row in index.iter_rows([(b"", b"\xff")])}
    assert {path for path, row in rows.items() if row.base is None} == {
        b"exp/1",
        b"exp/new",
        b"exp/2",
        b"exp/3",
    }
    assert rows[Path(b"exp/1")].local not in (None, b"", rows[Path(b"exp/1")].remote)
    assert rows[Path(b"exp/new")].local == b"", "nobody has to know what is in it yet"
    assert all(row.base == row.local == row.remote for row in rows.values() if row.base is not None)


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

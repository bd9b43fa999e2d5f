"""Drop: freeing disk is never a deletion (P12)."""

from __future__ import annotations

import json
from pathlib import Path as FsPath

import pytest

from manifest_sync.errors import UsageError
from manifest_sync.stores.directory import DirectoryStore
from tests.faulty_store import FaultyStore
from tests.machines import Machine


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for name in ("exp1/a", "exp1/b", "exp2/c"):
        gpu.write(name, name, mtime_ns=10**18)
    gpu.push()
    laptop.pull()
    return gpu, laptop


def names(machine: Machine) -> set[bytes]:
    return {entry.path for entry in machine.project().ls()}


def test_a_dropped_folder_is_gone_here_and_nowhere_else(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    report = laptop.project().drop(["exp1"])
    assert (report.deleted, report.exit_code) == (2, 0)
    assert set(laptop.tree()) == {"exp2/c"}
    assert laptop.status().dropped == [b"exp1/a", b"exp1/b"]
    assert not laptop.status().has_drift
    assert not list((laptop.folder / ".manifest-sync/trash").glob("*/[0-9]*")), "the disk is free"
    for mode in ("new", "copy", "full"):
        pulled = laptop.pull(mode)
        assert (pulled.new, pulled.left) == (0, {"dropped": 2})
        assert laptop.push(mode).deleted == 0
    assert names(gpu) == {b"exp1/a", b"exp1/b", b"exp2/c"}
    assert laptop.push("full").requests == {"GET": 1}


def test_restore_brings_it_back(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.project().drop(["exp1"])
    assert laptop.project().restore(["exp1/a"]).new == 1
    assert laptop.status().dropped == [b"exp1/b"]
    laptop.project().restore(["exp1"])
    assert laptop.tree() == gpu.tree()
    assert not laptop.status().has_drift
    (laptop.root / "exp1/a").unlink()
    assert laptop.status().cases == {"deleted_here": [b"exp1/a"]}, "no longer dropped: a deletion is one"


def test_an_earlier_state_does_not_bring_it_back(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.project().drop(["exp1"])
    report = laptop.project().pull_at("1", "full")
    assert (report.new, report.left) == (0, {"dropped": 2})


def test_undo_brings_it_back_from_the_bucket(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.project().drop(["exp1", "exp2"])
    assert laptop.tree() == {}
    report = laptop.project().undo()
    assert (report.new, report.exit_code) == (3, 0)
    assert laptop.tree() == gpu.tree()
    assert (laptop.status().dropped, laptop.status().has_drift) == ([], False)


def test_what_is_not_in_the_bucket_stays(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.write("exp1/a", "edited")
    laptop.write("exp1/new", "new")
    report = laptop.project().drop(["exp1"])
    assert (report.deleted, report.left) == (1, {"changed_here": 1, "new_here": 1})
    assert set(laptop.tree()) == {"exp1/a", "exp1/new", "exp2/c"}


def test_what_changes_at_the_last_moment_stays_and_is_not_counted(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.outwait()
    laptop.status()
    laptop.store = FaultyStore(DirectoryStore(laptop.bucket))

    def meanwhile() -> None:
        laptop.write("exp1/a", "a longer one")
        (laptop.root / "exp2/c").unlink()

    laptop.store.add_fault("list", key_prefix="packs/", kind="pass", meanwhile_before=meanwhile)
    report = laptop.project().drop(["exp1", "exp2"])
    assert (report.conflicts, report.exit_code) == ([b"exp1/a", b"exp2/c"], 6)
    assert (report.deleted, report.bytes) == (1, len("exp1/b"))
    assert set(laptop.tree()) == {"exp1/a"}
    laptop.write("exp2/c", "exp2/c", mtime_ns=10**18)
    laptop.store.add_fault(
        "list", key_prefix="packs/", kind="pass", meanwhile_before=(laptop.root / "exp2/c").unlink
    )
    report = laptop.project().drop(["exp2/c"])
    assert (report.conflicts, report.deleted, report.bytes) == ([b"exp2/c"], 0, 0)


def test_what_the_bucket_lost_stays(pair: tuple[Machine, Machine], tmp_path: FsPath) -> None:
    _, laptop = pair
    for pack in (tmp_path / "bucket/packs").rglob("*.pack"):
        pack.unlink()
    report = laptop.project().drop(["exp1"])
    assert (report.deleted, report.exit_code) == (0, 7)
    assert [path for path, _ in report.damaged] == [b"exp1/a", b"exp1/b"]
    assert len(laptop.tree()) == 3
    assert laptop.status().dropped == []


def test_the_other_side_goes_on(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.project().drop(["exp1"])
    gpu.write("exp1/a", "changed there")
    (gpu.root / "exp1/b").unlink()
    gpu.push("full")
    assert laptop.pull("full").new == 0
    assert laptop.status().dropped == [b"exp1/a"]
    laptop.project().restore(["exp1"])
    assert laptop.read("exp1/a") == "changed there"
    assert not laptop.status().has_drift
    assert laptop.push("full").requests == {"GET": 1}


def test_a_new_file_at_a_dropped_path_is_a_change(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.project().drop(["exp1"])
    laptop.write("exp1/a", "made anew")
    assert laptop.status().cases == {"changed_here": [b"exp1/a"]}
    assert laptop.push("copy").changed == 1


def test_a_folder_where_a_dropped_file_was_is_a_clash(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.project().drop(["exp2/c"])
    laptop.write("exp2/c/inner", "x")
    assert laptop.push("copy").conflicts == [b"exp2/c/inner"]
    assert names(gpu) == {b"exp1/a", b"exp1/b", b"exp2/c"}


def test_an_index_made_anew_knows_no_drop_and_loses_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.project().drop(["exp1"])
    laptop.project().rebuild_index()
    assert laptop.push("full").deleted == 0
    assert laptop.status().cases == {"new_there": [b"exp1/a", b"exp1/b"]}
    assert len(names(gpu)) == 3


def test_a_symlink_to_a_copy_elsewhere_is_no_file_that_came_back(
    pair: tuple[Machine, Machine], tmp_path: FsPath
) -> None:
    gpu, laptop = pair
    laptop.project().drop(["exp2/c"])
    (tmp_path / "copy").write_text("elsewhere")
    (laptop.root / "exp2").mkdir(exist_ok=True)
    (laptop.root / "exp2/c").symlink_to(tmp_path / "copy")
    assert laptop.status().dropped == [b"exp2/c"]
    assert laptop.pull("full").exit_code == 0
    (laptop.root / "exp2/c").unlink()
    assert laptop.push("full").deleted == 0
    assert b"exp2/c" in names(gpu)
    # Deleted by another machine, it is dropped no more, whatever stands there.
    (laptop.root / "exp2/c").symlink_to(tmp_path / "copy")
    (gpu.root / "exp2/c").unlink()
    gpu.push("full")
    assert laptop.pull("full").exit_code == 0
    assert (laptop.status().dropped, laptop.status().has_drift) == ([], False)


def test_an_undo_that_cannot_bring_it_back_deletes_nothing(pair: tuple[Machine, Machine]) -> None:
    """With the mark gone with the index, a base of its own would make the absence look like a deletion."""
    _, laptop = pair
    laptop.project().drop(["exp1"])
    (laptop.folder / ".manifest-sync" / "index.sqlite").unlink()
    laptop.project().rebuild_index()
    laptop.write("exp1", "a file in the way")
    undone = laptop.project().undo()
    assert undone.exit_code in (3, 6)
    assert laptop.push("full").deleted == 0
    assert names(laptop) >= {b"exp1/a", b"exp1/b"}


def test_the_command(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    planned = laptop.command("drop", "-n", "exp1")
    assert planned.stdout.startswith("2 files would be dropped, 12 B")
    assert len(laptop.tree()) == 3
    assert laptop.command("drop", "exp1").stdout.startswith("2 files dropped, 12 B")
    assert "2 dropped here" in laptop.command("status").stdout
    assert json.loads(laptop.command("status", "--json").stdout)["dropped"] == ["exp1/a", "exp1/b"]
    assert "2 dropped: left as they are" in laptop.command("pull").stdout
    assert laptop.command("drop", "nowhere").returncode == 2
    assert laptop.command("drop", "exp1").returncode == 0, "dropping it again is fine"


def test_drop_needs_a_path(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    with pytest.raises(UsageError):
        laptop.project().drop([])

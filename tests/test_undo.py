"""Undo: what a pull, a restore or a drop did is taken back, from the trash, tree and base (P8)."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path as FsPath
from typing import Any

import pytest

from manifest_sync.errors import FormatError, ManifestSyncError
from manifest_sync.worktree import Worktree
from tests.machines import Machine


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    """Two machines in sync; then the first changes, deletes and adds something in the bucket."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for name in ("exp/a", "exp/b", "exp/sub/c", "keep"):
        gpu.write(name, f"old {name}", mtime_ns=10**18)
    (gpu.root / "keep").chmod(0o750)
    gpu.push()
    laptop.pull()
    gpu.write("exp/a", "new")
    shutil.rmtree(gpu.root / "exp/sub")
    gpu.write("exp/added", "added")
    gpu.push("full")
    return gpu, laptop


def trash_files(machine: Machine) -> int:
    return sum(len(run.files) for run in machine.project().trash())


def test_a_bad_pull_is_taken_back_in_tree_and_base(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    before = laptop.tree()
    cases = laptop.status().cases
    report = laptop.pull("full")
    assert (report.new, report.changed, report.deleted) == (1, 1, 1)
    assert laptop.tree() == gpu.tree()
    undone = laptop.project().undo()
    assert (undone.exit_code, undone.new, undone.deleted) == (0, 2, 1)
    assert undone.requests == {}, "an undo needs no network"
    assert laptop.tree() == before
    assert laptop.status().cases == cases
    again = laptop.pull("full")
    assert (again.new, again.changed, again.deleted) == (1, 1, 1)
    assert laptop.tree() == gpu.tree()


def test_what_could_not_be_copied_to_the_trash_is_never_put_back(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, laptop = pair

    def no_link(*args: object, **options: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def half(reader: Any, writer: Any, size: int) -> None:
        writer.write(reader.read(3))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_link)
        patch.setattr(shutil, "copyfileobj", half)
        with pytest.raises(ManifestSyncError, match="disk is full"):
            laptop.pull("full")
    failed = laptop.project().trash()[0]
    assert [kept.path for kept in failed.files if kept.path == b"exp/a"] == []
    assert laptop.read("exp/a") == "old exp/a"
    laptop.pull("full")
    laptop.project().undo(failed.header.run)
    assert laptop.read("exp/a") == "new"
    laptop.project().undo()
    assert laptop.read("exp/a") == "old exp/a"


def test_undo_goes_further_back_each_time_and_can_be_undone(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    start = laptop.tree()
    laptop.pull("copy")
    middle = laptop.tree()
    gpu.write("exp/b", "newer")
    gpu.push("copy")
    laptop.pull("copy")
    end = laptop.tree()
    first = laptop.project().undo()
    assert laptop.tree() == middle
    second = laptop.project().undo()
    assert laptop.tree() == start
    third = laptop.project().undo()
    assert laptop.tree() == {}
    with pytest.raises(ManifestSyncError, match="no run to undo"):
        laptop.project().undo()
    laptop.project().undo(third.run)
    assert laptop.tree() == start
    laptop.project().undo(second.run)
    assert laptop.tree() == middle
    laptop.project().undo(first.run)
    assert laptop.tree() == end
    laptop.project().undo()
    assert laptop.tree() == middle


def test_what_changed_since_is_left_alone(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.pull("full")
    laptop.write("exp/a", "my edit since")
    laptop.write("exp/added", "my edit too")
    laptop.write("exp/sub/c", "mine again")
    report = laptop.project().undo()
    assert report.conflicts == [b"exp/a", b"exp/added", b"exp/sub/c"]
    assert report.exit_code == 6
    assert laptop.read("exp/a") == "my edit since"
    assert laptop.read("exp/added") == "my edit too"
    assert laptop.read("exp/sub/c") == "mine again"
    assert trash_files(laptop) == 2, "what could not be put back is still there"
    told = laptop.command("undo").stdout
    assert "3 files, changed since that run and left as found:" in told
    assert "--resolve" not in told


def test_undoing_a_resolution_brings_the_conflict_back(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.write("exp/a", "mine")
    assert laptop.status().cases["edit_edit"] == [b"exp/a"]
    laptop.pull("new", resolve="local")
    assert "edit_edit" not in laptop.status().cases
    laptop.project().undo()
    assert laptop.status().cases["edit_edit"] == [b"exp/a"]
    laptop.pull("new", resolve="remote")
    assert laptop.read("exp/a") == "new"
    laptop.project().undo()
    assert laptop.read("exp/a") == "mine"
    assert laptop.status().cases["edit_edit"] == [b"exp/a"]


def test_an_undo_survives_the_loss_of_the_index(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    before = laptop.tree()
    laptop.pull("full")
    laptop.project().rebuild_index()
    laptop.project().undo()
    assert laptop.tree() == before


def test_a_symlink_and_a_mode_come_back(tmp_path: FsPath) -> None:
    bucket = str(tmp_path / "bucket")
    gpu = Machine(tmp_path / "gpu", bucket, defaults='symlinks = "keep"')
    laptop = Machine(tmp_path / "laptop", bucket, defaults='symlinks = "keep"')
    gpu.write("run.sh", "x").chmod(0o755)
    (gpu.root / "link").symlink_to("run.sh")
    gpu.push()
    laptop.pull()
    (gpu.root / "run.sh").chmod(0o644)
    (gpu.root / "link").unlink()
    (gpu.root / "link").symlink_to("elsewhere")
    gpu.push("copy")
    laptop.pull("copy")
    assert os.readlink(laptop.root / "link") == "elsewhere"
    laptop.project().undo()
    assert os.readlink(laptop.root / "link") == "run.sh"
    assert (laptop.root / "run.sh").stat().st_mode & 0o777 == 0o755


def test_what_was_agreed_on_beside_a_fifo_is_taken_back(pair: tuple[Machine, Machine]) -> None:
    """``--resolve both`` leaves even what is no file as it is, and agrees on the bucket's version."""
    _, laptop = pair
    (laptop.root / "exp/a").unlink()
    os.mkfifo(laptop.root / "exp/a")
    cases = laptop.status().cases
    assert cases["edit_edit"] == [b"exp/a"]
    laptop.pull("copy", resolve="both")
    assert "edit_edit" not in laptop.status().cases
    undone = laptop.project().undo()
    assert (undone.exit_code, undone.conflicts) == (0, [])
    assert laptop.status().cases == cases


def test_a_record_cut_off_in_its_last_line_is_read_up_to_there(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    report = laptop.pull("full")
    record = laptop.folder / ".manifest-sync/trash" / report.run / "record"
    record.write_bytes(record.read_bytes() + b'["exp/torn",nul')
    assert laptop.project().undo().exit_code == 0


def test_a_damaged_record_stops_the_undo_and_keeps_the_content(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    report = laptop.pull("full")
    record = laptop.folder / ".manifest-sync/trash" / report.run / "record"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(lines[0] + b"garbage\n" + b"".join(lines[2:]))
    tree = laptop.tree()
    with pytest.raises(FormatError, match="damaged"):
        laptop.project().undo()
    assert laptop.tree() == tree
    assert trash_files(laptop) == 2
    assert laptop.project().empty_trash().files == 0, "what has no name is no known copy"


def test_a_file_and_a_folder_that_changed_places(tmp_path: FsPath) -> None:
    gpu, laptop = (Machine(tmp_path / name, str(tmp_path / "bucket")) for name in ("gpu", "laptop"))
    for path in ("one", "two/in/it"):
        gpu.write(path, path, mtime_ns=10**18)
    gpu.push()
    laptop.pull()
    before = laptop.tree()
    shutil.rmtree(gpu.root / "two")
    (gpu.root / "one").unlink()
    for path in ("two", "one/in/it"):
        gpu.write(path, path, mtime_ns=10**18)
    gpu.push("full")
    assert laptop.pull("full", max_delete="100%").conflicts == []
    assert laptop.tree() == gpu.tree()
    report = laptop.project().undo()
    assert (report.conflicts, report.exit_code) == ([], 0)
    assert laptop.tree() == before


def test_the_command(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.write("exp/a", "mine")
    pulled = laptop.command("pull", "--full", "--resolve", "remote")
    assert "`manifest-sync undo` takes this run back" in pulled.stdout
    listed = laptop.command("trash", "list")
    assert "pull --full" in listed.stdout
    assert "* exp/a" in listed.stdout
    assert "exp/sub/c" in listed.stdout
    run = json.loads(laptop.command("trash", "list", "--json").stdout)["runs"][0]
    assert {file["path"]: file["sole"] for file in run["files"]} == {"exp/a": True, "exp/sub/c": True}
    done = laptop.command("undo")
    assert (done.returncode, done.stdout) == (
        0,
        "undone: 2 files put back, 1 taken away; the bucket is as it was\n",
    )
    assert laptop.read("exp/a") == "mine"
    for name in ("nonsense", "77"):
        missing = laptop.command("undo", name)
        assert (missing.returncode, missing.stderr.count("trash list")) == (2, 1)


def test_an_undo_that_puts_nothing_back_need_not_wait_for_the_clock(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of what was put in place it has to be known whether it still is what it was then."""
    _, laptop = pair
    assert laptop.pull().new == 1
    waits: list[Worktree] = []
    real = Worktree.tick

    def tick(worktree: Worktree) -> int:
        waits.append(worktree)
        return real(worktree)

    monkeypatch.setattr(Worktree, "tick", tick)
    assert laptop.project().undo().deleted == 1
    assert not waits
    assert laptop.status().cases["new_there"] == [b"exp/added"]
    laptop.pull("copy")
    waits.clear()
    assert laptop.project().undo().new == 1
    assert waits


@pytest.mark.parametrize(
    "story",
    [
        ("drop", "restore", "undo"),
        ("drop", "undo", "undo 2"),
        ("drop", "restore", "drop", "undo", "undo"),
        ("drop", "restore", "delete", "undo"),
    ],
    ids=" ".join,
)
def test_what_was_dropped_before_is_dropped_again_and_not_deleted(
    tmp_path: FsPath, story: tuple[str, ...]
) -> None:
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    gpu.write("exp/a", "one")
    gpu.write("keep", "two")
    gpu.push()
    runs: list[str] = []
    for act in story:
        verb, _, number = act.partition(" ")
        if verb == "delete":
            (gpu.root / "exp/a").unlink()
        elif verb == "undo":
            runs.append(gpu.project().undo(runs[int(number) - 1] if number else "").run)
        else:
            runs.append(getattr(gpu.project(), verb)(("exp",)).run)
    assert not (gpu.root / "exp/a").exists()
    status = gpu.status()
    assert (status.cases, status.dropped) == ({}, [b"exp/a"])
    assert gpu.push("full").deleted == 0
    assert gpu.project().restore(("exp",)).new == 1
    assert gpu.read("exp/a") == "one"


def test_what_was_dropped_and_is_gone_from_the_bucket_since_is_not_dropped_again(tmp_path: FsPath) -> None:
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    gpu.write("exp/a", "one")
    gpu.write("keep", "two")
    gpu.push()
    gpu.project().drop(("exp",))
    gpu.project().restore(("exp",))
    (gpu.root / "exp/a").unlink()
    assert gpu.push("full").deleted == 1
    gpu.project().undo()
    assert (gpu.pull().left, gpu.status().dropped, gpu.status().cases) == ({}, [], {})

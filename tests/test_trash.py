"""The trash: what is a sole copy, what goes by itself, and what only on demand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path as FsPath

import pytest

from manifest_sync.project import Project
from tests.machines import Machine


@pytest.fixture
def laptop(tmp_path: FsPath) -> Machine:
    """Has one file in the trash that the bucket holds, and one that it does not."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    gpu.write("renamed", "content that moves")
    gpu.write("both", "base")
    gpu.push()
    laptop.pull()
    (gpu.root / "renamed").rename(gpu.root / "moved")
    gpu.write("both", "theirs")
    gpu.push("full")
    laptop.write("both", "only here")
    laptop.pull("full", resolve="remote")
    return laptop


def kept(machine: Machine) -> dict[bytes, bool]:
    return {k.path: k.is_sole for run in machine.project().trash() for k in run.files}


def with_limits(machine: Machine, age: timedelta, size: int) -> Project:
    project = machine.project()
    project.config = replace(project.config, trash_age=age, trash_bytes=size)
    return project


def test_sole_copies_are_known_and_named_by_status(laptop: Machine) -> None:
    assert kept(laptop) == {b"renamed": False, b"both": True}
    status = laptop.status()
    assert (status.trash_files, status.trash_sole) == (2, [b"both"])
    assert status.trash_bytes == len("content that moves") + len("only here")


@pytest.mark.parametrize(("age", "size"), [(timedelta(0), 1 << 30), (timedelta(days=99), 0)])
def test_only_what_the_head_holds_goes_by_itself(laptop: Machine, age: timedelta, size: int) -> None:
    laptop.write("moved", "an edit, so that a pull has something to do")
    with_limits(laptop, age, size).pull("full")
    assert kept(laptop)[b"both"] is True
    assert b"renamed" not in kept(laptop)


def test_within_the_limits_all_stays(laptop: Machine) -> None:
    laptop.write("moved", "an edit")
    laptop.pull("full")
    assert kept(laptop) == {b"renamed": False, b"both": True, b"moved": True}


def test_emptying_spares_sole_copies_unless_told(laptop: Machine) -> None:
    report = laptop.project().empty_trash()
    assert (report.files, report.kept_sole) == (1, (b"both",))
    assert kept(laptop) == {b"both": True}
    done = laptop.command("trash", "empty", "--sole")
    assert done.stdout == "1 file removed, 9 B\n"
    assert kept(laptop) == {}
    assert list((laptop.folder / ".manifest-sync/trash").iterdir()) == []


def test_a_run_that_is_not_there(laptop: Machine) -> None:
    done = laptop.command("trash", "empty", "99")
    assert (done.returncode, "trash list" in done.stderr) == (2, True)
    done = laptop.command("trash", "empty", "../../experiments")
    assert done.returncode == 2
    assert (laptop.root / "both").exists()


def test_what_a_large_file_holds_is_found_at_another_path(tmp_path: FsPath) -> None:
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    gpu.write("a.bin", b"0123456789" * 300_000)
    gpu.push()
    laptop.pull()
    (gpu.root / "a.bin").rename(gpu.root / "b.bin")
    gpu.push("full")
    laptop.pull("full", max_delete="100%")
    assert kept(laptop) == {b"a.bin": False}


def test_strays_are_kept(laptop: Machine) -> None:
    stray = laptop.folder / ".manifest-sync/trash/old"
    stray.mkdir()
    (stray / "0").write_text("who knows")
    laptop.project().empty_trash(sole=True)
    assert (stray / "0").read_text() == "who knows"


def test_a_run_of_which_nothing_is_kept_is_listed_only_while_it_can_be_taken_back(laptop: Machine) -> None:
    def listed() -> list[str]:
        lines = laptop.command("trash", "list").stdout.splitlines()
        return [line.partition("  ")[0] + line.partition(": ")[2] for line in lines if line[:1].isdigit()]

    assert listed() == ["22 files, 27 B", "1nothing is kept of it; `undo 1` takes it back"]
    assert laptop.command("restore", "renamed", "--at", "1").returncode == 0
    assert listed()[0] == "3nothing is kept of it; `undo 3` takes it back"
    assert laptop.command("undo").returncode == 0
    assert listed()[:2] == ["41 file, 18 B", "22 files, 27 B"]


def test_what_dropped_nothing_does_not_say_how_it_comes_back(laptop: Machine) -> None:
    assert "brings them back" in laptop.command("drop", "moved").stdout
    assert laptop.command("drop", "moved").stdout == "0 files dropped, 0 B\n"

"""Restore and `pull --at`: an earlier state comes back; the base is not touched, nothing is lost (P8)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path as FsPath

import pytest

from manifest_sync.errors import SafetyLimit, UsageError
from tests.machines import Machine


@pytest.fixture
def gpu(tmp_path: FsPath) -> Machine:
    """Sequence 1: exp/a exp/b keep; 2: exp/a changed, exp/b deleted; 3: exp/new."""
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    for name in ("exp/a", "exp/b", "keep"):
        machine.write(name, f"one {name}", mtime_ns=10**18)
    machine.write("exp/big", os.urandom(3 << 20))
    machine.push()
    machine.write("exp/a", "two")
    (machine.root / "exp/b").unlink()
    machine.push("full")
    machine.write("exp/new", "three")
    machine.push()
    return machine


def test_a_deleted_file_comes_back_as_a_local_edit(gpu: Machine) -> None:
    report = gpu.project().restore(["exp/b"], at="1")
    assert (report.new, report.changed, report.exit_code) == (1, 0, 0)
    assert gpu.read("exp/b") == "one exp/b"
    assert (gpu.root / "exp/b").stat().st_mtime_ns == 10**18
    assert gpu.status().cases == {"new_here": [b"exp/b"]}
    assert gpu.push().new == 1


def test_a_folder_comes_back_and_what_it_replaces_is_in_the_trash(gpu: Machine) -> None:
    before = gpu.tree()
    report = gpu.project().restore(["exp"], at="1")
    assert (report.new, report.changed, report.unchanged) == (1, 1, 1)
    assert gpu.read("exp/a") == "one exp/a"
    assert (gpu.root / "exp/new").exists(), "restore deletes nothing"
    assert gpu.status().cases == {"new_here": [b"exp/b"], "changed_here": [b"exp/a"]}
    gpu.project().undo()
    assert gpu.tree() == before
    assert not gpu.status().has_drift


def test_without_a_snapshot_it_is_the_head(gpu: Machine) -> None:
    gpu.write("exp/a", "spoilt")
    (gpu.root / "keep").unlink()
    gpu.project().restore(["exp/a", "keep"])
    assert not gpu.status().has_drift


def test_into_another_folder(gpu: Machine, tmp_path: FsPath) -> None:
    before = gpu.tree()
    target = tmp_path / "out"
    report = gpu.project().restore(["exp"], at="1", to=str(target))
    assert report.new == 3
    assert {str(p.relative_to(target)) for p in target.rglob("*")} == {"exp", "exp/a", "exp/b", "exp/big"}
    assert (target / "exp/a").read_text() == "one exp/a"
    assert gpu.tree() == before
    assert not gpu.status().has_drift
    again = gpu.project().restore(["exp"], at="1", to=str(target))
    assert (again.new, again.unchanged, again.exit_code) == (0, 3, 0)
    (target / "exp/a").write_text("mine")
    refused = gpu.project().restore(["exp"], at="1", to=str(target))
    assert (refused.conflicts, refused.exit_code) == ([b"exp/a"], 6)
    assert (target / "exp/a").read_text() == "mine"


def test_what_is_in_the_way_in_another_folder_is_told_of_in_fitting_words(
    gpu: Machine, tmp_path: FsPath
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/keep").write_text("mine")
    told = gpu.command("restore", "keep", "--to", str(tmp_path / "out"))
    assert told.returncode == 6
    assert told.stdout.splitlines()[-3:] == [
        "1 file, not written because another is there:",
        "  keep",
        "  remove or rename what is there, or name another folder with --to",
    ]


def test_a_dry_run_into_another_folder_writes_nothing(gpu: Machine, tmp_path: FsPath) -> None:
    target = tmp_path / "out"
    report = gpu.project().restore(["exp"], at="1", to=str(target), dry_run=True)
    assert (report.new, report.dry_run, report.sequence) == (3, True, 1)
    assert report.actions == ["download  exp/a", "download  exp/b", "download  exp/big"]
    assert not target.exists()
    (target / "exp").mkdir(parents=True)
    (target / "exp/a").write_text("mine")
    (target / "exp/b").write_text("one exp/b")
    report = gpu.project().restore(["exp"], at="1", to=str(target), dry_run=True)
    assert (report.new, report.unchanged, report.conflicts) == (1, 1, [b"exp/a"])
    assert sorted(os.listdir(target / "exp")) == ["a", "b"]


@pytest.mark.parametrize(
    "place", ["gpu/.manifest-sync", "gpu/.manifest-sync/deep", "bucket", "bucket/deep", "link"]
)
def test_nothing_is_written_into_the_local_state_or_the_bucket(
    gpu: Machine, tmp_path: FsPath, place: str
) -> None:
    (tmp_path / "link").symlink_to("bucket")
    before = sorted((tmp_path / "bucket").rglob("*"))
    with pytest.raises(UsageError, match=r"lies in the (local state|bucket)"):
        gpu.project().restore(["keep"], to=str(tmp_path / place))
    assert sorted((tmp_path / "bucket").rglob("*")) == before
    assert not (gpu.folder / ".manifest-sync/keep").exists()
    assert not (gpu.folder / ".manifest-sync/deep").exists()


def test_a_path_that_leads_into_the_bucket_is_refused(gpu: Machine, tmp_path: FsPath) -> None:
    gpu.write("bucket/packs/x", "x")
    gpu.push()
    with pytest.raises(UsageError, match="bucket/packs/x lies in the bucket"):
        gpu.project().restore(["bucket", "keep"], to=str(tmp_path))
    assert not (tmp_path / "bucket/packs/x").exists()
    assert not (tmp_path / "keep").exists()
    assert gpu.project().restore(["keep"], to=str(tmp_path)).new == 1


def test_a_path_that_the_snapshot_does_not_have(gpu: Machine) -> None:
    for paths in (["exp/new"], ["keep", "exp/new"]):
        with pytest.raises(UsageError, match="exp/new is not in snapshot 1"):
            gpu.project().restore(paths, at="1")
    with pytest.raises(UsageError, match="exp/new is not in snapshot 1"):
        gpu.project().restore(["exp/new"], at="1", to="elsewhere")


def test_what_git_owns_now_is_left_out_and_said(gpu: Machine, tmp_path: FsPath) -> None:
    config = gpu.folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace('"git *.py"', '"git *.py", "git /keep"'))
    gpu.write("keep", "git's")
    report = gpu.project().restore(["keep"], at="1")
    assert (report.exit_code, gpu.read("keep")) == (3, "git's")
    assert "git /keep" in report.skipped[0][1]
    assert gpu.project().restore(["keep"], at="1", to=str(tmp_path / "out")).new == 1


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("new", {"exp/a": "two", "exp/b": "one exp/b", "keep": "one keep", "exp/new": "three"}),
        ("copy", {"exp/a": "one exp/a", "exp/b": "one exp/b", "keep": "one keep", "exp/new": "three"}),
        ("full", {"exp/a": "one exp/a", "exp/b": "one exp/b", "keep": "one keep"}),
    ],
)
def test_pull_at_in_each_mode(gpu: Machine, mode: str, expected: dict[str, str]) -> None:
    before = gpu.tree()
    gpu.write("mine", "never pushed")
    report = gpu.project().pull_at("1", mode)
    found = {p: gpu.read(p) for p in gpu.tree() if p not in ("exp/big", "mine")}
    assert found == expected
    assert gpu.read("mine") == "never pushed"
    assert report.left["new_here"] >= 1
    (gpu.root / "mine").unlink()
    gpu.project().undo()
    assert gpu.tree() == before
    assert not gpu.status().has_drift


def test_pull_at_within_a_scope_and_with_a_limit(gpu: Machine) -> None:
    for number in range(30):
        gpu.write(f"many/{number}", "x")
    gpu.push()
    with pytest.raises(SafetyLimit):
        gpu.project().pull_at("1", "full")
    # A dry run is how one looks at what a limit stopped.
    looked = gpu.project().pull_at("1", "full", dry_run=True)
    assert (len(looked.actions), looked.exit_code, "--max-delete 31" in looked.limit) == (33, 8, True)
    assert gpu.project().pull_at("1", "full", only=["exp"]).deleted == 1
    assert gpu.project().pull_at("1", "full", max_delete="100%", dry_run=True).deleted == 30
    assert (gpu.root / "many/1").exists()


def test_a_mistyped_limit_is_told_before_there_is_anything_to_delete(gpu: Machine, tmp_path: FsPath) -> None:
    project = gpu.project()
    runs: tuple[Callable[[], object], ...] = (
        lambda: project.push("full", max_delete="lots"),
        lambda: project.pull("full", max_delete="lots"),
        lambda: project.pull_at("3", "full", max_delete="lots"),
        lambda: project.export(str(tmp_path / "site"), prune=True, max_delete="lots"),
    )
    for run in runs:
        with pytest.raises(UsageError, match="--max-delete"):
            run()
    assert not (tmp_path / "site").exists()


def test_a_lost_tree_comes_back_from_last_week(gpu: Machine) -> None:
    shutil.rmtree(gpu.root / "exp")
    done = gpu.command("restore", "exp", "--at", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert gpu.read("exp/b") == "one exp/b"
    assert gpu.command("restore", "exp", "--at", "99").returncode == 2
    assert gpu.command("pull", "--at", "1", "--resolve", "local").returncode == 2


def test_what_pull_at_brought_is_pushed_as_an_edit(gpu: Machine, tmp_path: FsPath) -> None:
    gpu.project().pull_at("1", "full")
    pushed = gpu.push("full")
    assert (pushed.new, pushed.changed, pushed.deleted) == (1, 1, 1)
    other = Machine(tmp_path / "other", gpu.bucket)
    other.pull()
    assert other.tree() == gpu.tree()

"""What git tracks, asked of real repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from manifest_sync.gitinfo import tracked_files


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture(name="root")
def make_root(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    root = tmp_path / "experiments"
    (root / "a").mkdir(parents=True)
    for name in ("a/1.json", "a/é\n.json", "untracked.json"):
        (root / name).write_text(name)
    (tmp_path / "outside.py").write_text("")
    with open(os.fsencode(root) + b"/\xff.pt", "wb"):
        pass
    git(tmp_path, "add", "outside.py", "experiments/a")
    subprocess.run([b"git", b"add", b"experiments/\xff.pt"], cwd=tmp_path, check=True)
    return root


def test_names_are_raw_and_below_the_root(root: Path) -> None:
    assert tracked_files(str(root)) == (
        frozenset([b"a/1.json", "a/é\n.json".encode(), b"\xff.pt"]),
        "",
    )


def test_a_file_deleted_here_is_still_tracked(root: Path) -> None:
    git(root, "commit", "-q", "-m", "x")
    (root / "a" / "1.json").unlink()
    assert b"a/1.json" in tracked_files(str(root))[0]


def test_variables_of_a_hook_do_not_mislead(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere/.git")
    assert b"a/1.json" in tracked_files(str(root))[0]


def test_no_repository_and_no_root(tmp_path: Path) -> None:
    assert tracked_files(str(tmp_path)) == (frozenset(), "")
    assert tracked_files(str(tmp_path / "absent")) == (frozenset(), "")


def test_git_missing_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    tracked, warning = tracked_files(str(root))
    assert tracked == frozenset()
    assert "git could not be run" in warning


def test_broken_repository_is_said(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    tracked, warning = tracked_files(str(tmp_path))
    assert tracked == frozenset()
    assert "git ls-files failed" in warning

"""What a review found: absence that is no deletion, and plans that must hold to their end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manifest_sync.model import Path as TreePath
from manifest_sync.worktree import Unreadable, Vanished, Worktree
from tests.machines import Machine


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for name in ("a", "run1/x", "run1/y", "keep/z"):
        gpu.write(name, name)
    gpu.push()
    laptop.pull()
    return gpu, laptop


def names(machine: Machine) -> set[bytes]:
    return {entry.path for entry in machine.project().ls()}


def test_a_file_above_the_scope_blocks_a_push_below_it(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    (gpu.root / "a").unlink()
    gpu.write("a/b", "below")
    assert gpu.push(only=["a/b"]).conflicts == [b"a/b"]
    assert gpu.push(exclude=["/a"]).left == {}
    assert laptop.pull("full").exit_code == 0


def test_a_symlink_above_the_scope_skips_what_is_below_it(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    """In a narrow scope as in a wide one: nobody expects a file there, so it is no conflict."""
    gpu, laptop = pair
    gpu.write("run2/x", "x")
    gpu.push()
    (laptop.root / "run2").symlink_to(tmp_path)
    for only in ([], ["run2/x"]):
        report = laptop.pull(only=only)
        assert (report.conflicts, report.exit_code) == ([], 3)
        assert report.skipped == [(b"run2/x", "a file or a symlink stands where a folder must be")]


def test_a_folder_moved_away_behind_a_symlink_is_not_deleted(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    gpu, _ = pair
    shutil.move(gpu.root / "run1", tmp_path / "disk")
    (gpu.root / "run1").symlink_to(tmp_path / "disk")
    for _ in range(3):  # and not only the first look says that it was not seen
        assert gpu.status().skipped == [(b"run1", "a symlink or a special file stands where a folder was")]
        report = gpu.push("full")
        assert (report.deleted, report.exit_code) == (0, 3)
    assert b"run1/x" in names(gpu)
    (gpu.root / "run1").unlink()
    shutil.move(tmp_path / "disk", gpu.root / "run1")
    assert gpu.push("full").exit_code == 0


def test_a_folder_left_out_once_is_seen_to_be_deleted_later(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    gpu.push("full", exclude=["run1/"])
    assert b"run1/x" in names(gpu)
    shutil.rmtree(gpu.root / "run1")
    assert gpu.push("full").deleted == 2


def test_a_folder_that_is_gone_is_noticed_beside_one_left_out(pair: tuple[Machine, Machine]) -> None:
    """A file in its place must not be published beside what the bucket still has below that name."""
    gpu, _ = pair
    gpu.write("other/c", "not looked at")
    shutil.rmtree(gpu.root / "run1")
    gpu.write("run1", "a file now")
    assert gpu.push("copy", exclude=["other/"]).conflicts == [b"run1", b"run1/x", b"run1/y"]
    shutil.rmtree(gpu.root / "keep")
    assert gpu.push("full", exclude=["other/"], resolve="local").deleted == 3
    assert names(gpu) == {b"a", b"run1"}


def test_resolving_for_this_side_holds_through_a_full_pull(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("a", "theirs")
    gpu.push("copy")
    laptop.write("a", "mine")
    laptop.pull("full", resolve="local")
    assert laptop.read("a") == "mine"
    assert laptop.push("copy").changed == 1


def test_resolving_for_the_other_side_deletes_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("a", "theirs")
    gpu.push("copy")
    (laptop.root / "a").unlink()
    laptop.push("full", delete_unknown=True, resolve="remote")
    assert b"a" in names(laptop)
    laptop.pull()
    assert laptop.read("a") == "theirs"


def test_status_leaves_a_running_pulls_files_alone(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    staged = gpu.folder / ".manifest-sync/staging/x"
    staged.write_text("half")
    with gpu.project().workspace(()):
        gpu.status()
        assert staged.exists()


def test_a_blocked_path_does_not_stop_the_rest(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    for name in ("b", "c"):
        gpu.write(name, "new")
    gpu.push()
    (laptop.root / "b/empty").mkdir(parents=True)
    report = laptop.pull()
    assert [path for path, _ in report.skipped] == [b"b"]
    assert report.exit_code == 3
    assert laptop.read("c") == "new"


def test_very_deep_folders(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    deep = "/".join(["d"] * 300)
    for level in range(0, 300, 7):
        gpu.write(deep[: 2 * level] + "side/f", "x")
    gpu.write(deep + "/f", "bottom")
    gpu.push()
    laptop.pull()
    assert laptop.tree() == gpu.tree()


@pytest.mark.parametrize("folder", ["d/g", "g"])
@pytest.mark.parametrize("bring", ["pull", "restore"])
def test_what_came_back_alone_and_went_again_is_noticed(tmp_path: Path, bring: str, folder: str) -> None:
    """The folder above is as it was before it came; only the run that brought it knows better (P12)."""
    gpu, laptop = (Machine(tmp_path / name, str(tmp_path / "bucket")) for name in ("gpu", "laptop"))
    for name in (f"{folder}/h", "d/other"):
        gpu.write(name, name)
    gpu.push()
    laptop.pull()
    gone = {"deleted_here": [f"{folder}/h".encode()]}
    shutil.rmtree(laptop.root / folder)
    assert laptop.status().cases == gone
    if bring == "pull":
        laptop.pull("full", only=[folder], restore_deleted=True)
    else:
        laptop.project().restore((folder,))
    assert laptop.status(only=[folder]).cases == {}
    shutil.rmtree(laptop.root / folder)
    assert laptop.status().cases == gone


@pytest.mark.parametrize("mode", ["copy", "full"])
@pytest.mark.parametrize("becomes", ["unreadable", "unseen", "another", "file", "folder", "nothing"])
def test_a_symlink_that_changes_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, becomes: str
) -> None:
    """As `latest` does at each checkpoint. Only what is gone for good counts as deleted (P12)."""
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"), defaults='symlinks = "keep"')
    gpu.write("run/a", "a")
    link = gpu.root / "run/latest"
    link.symlink_to("a")
    gpu.push()
    link.unlink()
    link.symlink_to("b")
    real = Worktree.read_link

    def read_link(worktree: Worktree, path: TreePath) -> bytes:
        monkeypatch.undo()
        if becomes in ("unreadable", "unseen"):
            # It will look as it does now: no stat tells that it has to be read again.
            raise (Unreadable if becomes == "unreadable" else Vanished)(path, "for a moment")
        link.unlink()
        if becomes == "file":
            link.write_text("")
        elif becomes == "folder":
            link.mkdir()
        try:
            return real(worktree, path)
        finally:
            if becomes == "another":
                link.symlink_to("c")

    monkeypatch.setattr(Worktree, "read_link", read_link)
    first, second = gpu.push(mode), gpu.push(mode)
    # What was taken for deleted is looked for once more before that is sent.
    is_skipped = becomes in ("unreadable", "file", "folder") or (
        mode == "full" and becomes in ("unseen", "another")
    )
    assert [path for path, _ in first.skipped] == [b"run/latest"] * is_skipped
    assert (first.changed, second.changed) == (0, becomes not in ("folder", "nothing"))
    assert first.deleted == (becomes == "nothing" and mode == "full")
    assert second.deleted == (becomes == "folder" and mode == "full")
    assert second.exit_code == 0
    assert gpu.status().has_drift == (becomes in ("folder", "nothing") and mode == "copy")


def test_a_file_in_the_place_of_a_folder_leaves_nothing_below_it(tmp_path: Path) -> None:
    """Also where the scope leaves out what was in it: else the file would clash with what is gone."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    gpu.write("d/e", "one")
    gpu.push()
    laptop.pull()
    for machine, content in ((gpu, "three"), (laptop, "four")):
        shutil.rmtree(machine.root / "d")
        machine.write("d", content)
    gpu.push("full")
    report = laptop.pull("full", exclude=("d/",), resolve="remote")
    assert (report.exit_code, report.conflicts, report.changed) == (0, [], 1)
    assert laptop.read("d") == "three"


def test_a_folder_that_only_a_part_had_shown_is_missed_when_it_goes(tmp_path: Path) -> None:
    """Without it the folders above look as they did when they were last compared."""
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    gpu.status()
    gpu.write("a/x/b", "three")
    assert gpu.status(only=("a/x",)).cases == {"new_here": [b"a/x/b"]}
    shutil.rmtree(gpu.root / "a")
    assert gpu.status().cases == {}

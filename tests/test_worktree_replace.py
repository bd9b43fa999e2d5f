"""Replacing and removing: old or new, never lost, never outside (P7, P8, P15)."""

from __future__ import annotations

import errno
import os
import shutil
import stat as st
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path as FsPath
from typing import Any

import pytest
from blake3 import blake3

from manifest_sync.errors import ManifestSyncError
from manifest_sync.model import Path, Stat
from manifest_sync.worktree import TargetBlocked, TargetChanged, replace, staging, syscalls
from tests.worktree_helpers import Tree, unprivileged_tree


@pytest.fixture
def tree(tmp_path: FsPath) -> Tree:
    return Tree(tmp_path)


def refuse(number: int) -> Any:
    """A stand-in for a system call that fails."""

    def failing(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def test_new_file_with_its_folders(tree: Tree) -> None:
    stat, stored = tree.put(b"a/b/c/f", b"hello", mode=0o755)
    assert tree.read("a/b/c/f") == b"hello"
    assert stored is None
    assert stat == tree.stat(b"a/b/c/f")
    assert (stat.mode & 0o777, stat.mtime_ns) == (0o755, 1_700_000_000_123_456_789)
    assert tree.staged_names() == []


def test_old_content_goes_to_the_trash(tree: Tree) -> None:
    tree.write("d/f", b"old", mode=0o600)
    inode = tree.stat(b"d/f").inode
    _, stored = tree.put(b"d/f", b"new", expected=tree.stat(b"d/f"))
    assert stored is not None
    assert (tree.read("d/f"), tree.trashed(stored)) == (b"new", b"old")
    assert os.stat(tree.trash_path(stored)).st_ino == inode


def test_trash_keeps_apart_what_one_run_and_several_put_there(tree: Tree) -> None:
    kept: dict[str, bytes] = {}
    for run in ("one", "two", "one"):
        for number in range(3):
            path = b"f%d" % number
            content = f"{run} {number} {len(kept)}".encode()
            tree.write(path, content)
            kept[tree.remove(path, expected=tree.stat(path), run=run)] = content
    assert len(kept) == 9
    assert all(tree.trashed(stored) == content for stored, content in kept.items())


@pytest.mark.parametrize("mtime_ns", [0, -1_500_000_000, -1, 1, 4_102_444_800_000_000_007])
def test_any_time_is_restored_exactly(tree: Tree, mtime_ns: int) -> None:
    assert tree.put(b"f", mtime_ns=mtime_ns)[0].mtime_ns == mtime_ns


def test_time_beyond_the_system_blocks_only_this_path(tree: Tree) -> None:
    with pytest.raises(TargetBlocked):
        tree.put(b"f", mtime_ns=1 << 100)
    assert tree.snapshot() == []


def test_only_permission_bits_are_restored(tree: Tree) -> None:
    assert tree.put(b"f", mode=0o107777)[0].mode == 0o100777


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b"n" * 255])
def test_odd_names_are_written(tree: Tree, name: bytes) -> None:
    tree.put(b"d/" + name, b"x")
    assert tree.read(b"d/" + name) == b"x"


def test_name_too_long_for_the_disk_is_blocked(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replace, "rename_new", refuse(errno.ENAMETOOLONG))
    with pytest.raises(TargetBlocked):
        tree.put(b"f")


def expectations(tree: Tree) -> Iterator[tuple[str, Stat | None]]:
    stat = tree.stat(b"d/f")
    yield "absent", None
    yield "size", Stat(stat.size + 1, stat.mtime_ns, stat.ctime_ns, stat.inode, stat.mode)
    yield "mtime", Stat(stat.size, stat.mtime_ns + 1, stat.ctime_ns, stat.inode, stat.mode)
    yield "ctime", Stat(stat.size, stat.mtime_ns, stat.ctime_ns - 1, stat.inode, stat.mode)
    yield "inode", Stat(stat.size, stat.mtime_ns, stat.ctime_ns, stat.inode + 1, stat.mode)
    yield "mode", Stat(stat.size, stat.mtime_ns, stat.ctime_ns, stat.inode, stat.mode ^ 0o100)


def test_a_target_that_is_not_what_was_expected_is_left_alone(tree: Tree) -> None:
    tree.write("d/f", b"mine")
    before = (tree.snapshot(), tree.stat(b"d/f"))
    for what, expected in expectations(tree):
        with pytest.raises(TargetChanged):
            tree.put(b"d/f", expected=expected)
        with pytest.raises(TargetChanged):
            tree.remove(b"d/f", expected=expected, run="run")
        assert (tree.snapshot(), tree.stat(b"d/f")) == before, what
    assert tree.staged_names() == []


def test_a_target_that_is_gone_is_not_written_over(tree: Tree) -> None:
    tree.write("d/f")
    expected = tree.stat(b"d/f")
    os.unlink(tree.at("d/f"))
    with pytest.raises(TargetChanged):
        tree.put(b"d/f", expected=expected)
    for path in (b"d/f", b"gone/f", b"d/f/below"):
        with pytest.raises(TargetChanged):
            tree.remove(path, expected=expected, run="run")
    assert not os.path.exists(tree.at("d/f"))


def test_what_appears_after_the_look_survives(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    rename_new = syscalls.rename_new

    def late(*args: Any) -> None:
        tree.write("f", b"someone was faster")
        rename_new(*args)

    monkeypatch.setattr(replace, "rename_new", late)
    with pytest.raises(TargetChanged):
        tree.put(b"f")
    assert tree.read("f") == b"someone was faster"


def test_what_replaces_a_file_after_the_look_is_not_removed(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write("d/f", b"old")
    expected = tree.stat(b"d/f")
    rename_new = syscalls.rename_new
    calls: list[object] = []

    def late(*args: Any) -> None:
        if not calls:
            tree.write("d/g", b"someone was faster")
            os.rename(tree.at("d/g"), tree.at("d/f"))
        calls.append(args)
        rename_new(*args)

    monkeypatch.setattr(replace, "rename_new", late)
    with pytest.raises(TargetChanged):
        tree.remove(b"d/f", expected=expected, run="run")
    assert tree.read("d/f") == b"someone was faster"


def test_folder_in_the_way(tree: Tree) -> None:
    tree.write("d/f")
    before = tree.snapshot()
    for expected in (None, tree.stat(b"d/f")):
        with pytest.raises(TargetBlocked):
            tree.put(b"d", expected=expected)
        with pytest.raises(TargetBlocked):
            tree.remove(b"d", expected=expected, run="run")
    assert tree.snapshot() == before


def test_an_empty_folder_makes_room(tree: Tree) -> None:
    os.makedirs(tree.at("d/f"))
    tree.put(b"d/f", b"a file now")
    assert tree.read("d/f") == b"a file now"


def test_file_or_symlink_where_a_folder_must_be(tree: Tree, tmp_path: FsPath) -> None:
    tree.write("file")
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", tree.at("link"))
    os.symlink("nowhere", tree.at("dangling"))
    for path in (b"file/f", b"file/a/b", b"link/f", b"link/a/f", b"dangling/f"):
        with pytest.raises(TargetBlocked):
            tree.put(path)
    assert os.listdir(tmp_path / "outside") == []
    assert tree.read("file") == b"content"


def test_a_folder_swapped_for_a_symlink_between_two_files(tree: Tree, tmp_path: FsPath) -> None:
    tree.put(b"d/one")
    (tmp_path / "outside").mkdir()
    os.rename(tree.at("d"), tmp_path / "moved")
    os.symlink(tmp_path / "outside", tree.at("d"))
    with pytest.raises(TargetBlocked):
        tree.put(b"d/two")
    assert os.listdir(tmp_path / "outside") == []
    assert os.listdir(tmp_path / "moved") == ["one"]


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"..",
        b"../f",
        b"a/../../f",
        b"/etc/f",
        b"a//f",
        b"a/./f",
        b".git/hooks/f",
        b"a/.GIT/f",
        b".git",
        b".manifest-sync/index.sqlite",
        b"a/.Manifest-Sync/f",
        b"nul\x00",
        b"n" * 256,
        b"a/" * 2048 + b"f",
    ],
)
def test_no_path_leads_outside_or_into_reserved_folders(tree: Tree, tmp_path: FsPath, path: bytes) -> None:
    (tmp_path / "f").write_bytes(b"canary")
    with pytest.raises(TargetBlocked):
        tree.put(path)
    with pytest.raises(TargetBlocked):
        tree.remove(path, expected=None, run="run")
    assert tree.snapshot() == []
    assert (tmp_path / "f").read_bytes() == b"canary"


def test_a_symlink_in_the_way_is_replaced_itself_never_its_target(tmp_path: FsPath) -> None:
    tree = Tree(tmp_path, symlinks="keep")
    (tmp_path / "target").write_bytes(b"untouched")
    os.symlink(tmp_path / "target", tree.at("f"))
    _, stored = tree.put(b"f", b"new", expected=tree.stat(b"f"))
    assert stored is not None
    assert not os.path.islink(tree.at("f"))
    assert os.readlink(tree.trash_path(stored)) == str(tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"untouched"


def test_followed_symlink_is_replaced_by_a_file(tmp_path: FsPath) -> None:
    tree = Tree(tmp_path, symlinks="follow")
    (tmp_path / "target").write_bytes(b"untouched")
    for name in ("f", "g"):
        os.symlink(tmp_path / "target", tree.at(name))
    tree.put(b"f", b"new", expected=tree.stat(b"f"))
    tree.remove(b"g", expected=tree.stat(b"g"), run="run")
    assert tree.read("f") == b"new"
    assert not os.path.lexists(tree.at("g"))
    assert (tmp_path / "target").read_bytes() == b"untouched"


def test_symlinks_are_made_only_where_they_are_kept(tree: Tree, tmp_path: FsPath) -> None:
    with pytest.raises(TargetBlocked):
        tree.worktree.replace_symlink(b"x", Path(b"link"), expected=None, keep_as=tree.slot())
    keeping = Tree(tmp_path, symlinks="keep")
    link = Path(b"d/link")
    stat, had = keeping.worktree.replace_symlink(b"x\xff", link, expected=None, keep_as=keeping.slot())
    assert (os.readlink(keeping.at("d/link")), had) == (b"x\xff", False)
    stored = keeping.slot()
    _, was_there = keeping.worktree.replace_symlink(b"y", Path(b"d/link"), expected=stat, keep_as=stored)
    assert was_there
    assert os.readlink(keeping.trash_path(stored)) == os.fsdecode(b"x\xff")
    with pytest.raises(TargetChanged):
        keeping.worktree.replace_symlink(b"z", Path(b"d/link"), expected=stat, keep_as=keeping.slot())
    with pytest.raises(TargetBlocked):
        keeping.worktree.replace_symlink(b"nul\x00", Path(b"d/other"), expected=None, keep_as=keeping.slot())
    assert keeping.staged_names() == []


def test_remove_prunes_empty_folders_up_to_the_root(tree: Tree) -> None:
    tree.write("a/b/c/f")
    tree.write("a/keep")
    tree.write("only")
    tree.remove(b"a/b/c/f", expected=tree.stat(b"a/b/c/f"), run="run")
    assert sorted(os.listdir(tree.at("a"))) == [b"keep"]
    tree.remove(b"a/keep", expected=tree.stat(b"a/keep"), run="run")
    stored = tree.remove(b"only", expected=tree.stat(b"only"), run="run")
    assert (tree.snapshot(), tree.trashed(stored)) == ([], b"content")
    tree.put(b"a", b"a file where a folder was")


def test_a_folder_pruned_and_made_again(tree: Tree) -> None:
    for _ in range(3):
        stat, _ = tree.put(b"a/b/f")
        tree.remove(b"a/b/f", expected=stat, run="run")
    assert tree.snapshot() == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK])
def test_without_hard_links_the_old_is_copied(
    tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tree = Tree(tmp_path, symlinks="keep")
    tree.write("f", b"old", mode=0o750)
    os.utime(tree.at("f"), ns=(7, 7))
    os.symlink("old", tree.at("link"))
    monkeypatch.setattr(os, "link", refuse(number))
    _, stored = tree.put(b"f", expected=tree.stat(b"f"))
    assert stored is not None
    kept = os.stat(tree.trash_path(stored))
    assert (tree.trashed(stored), kept.st_mode & 0o777, kept.st_mtime_ns) == (b"old", 0o750, 7)
    _, stored = tree.put(b"link", expected=tree.stat(b"link"))
    assert stored is not None
    assert os.readlink(tree.trash_path(stored)) == "old"


def overwrite(tree: Tree) -> None:
    with open(tree.at("d/f"), "r+b") as file:
        file.write(b"newer!")


def save(tree: Tree) -> None:
    os.rename(tree.write("d/g", b"newer!"), tree.at("d/f"))


def delete(tree: Tree) -> None:
    os.unlink(tree.at("d/f"))


def only_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a link nor a rename leads from the tree to the trash."""
    rename_new = syscalls.rename_new

    def far(source: bytes, *args: Any) -> None:
        if source == b"f":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename_new(source, *args)

    monkeypatch.setattr(os, "link", refuse(errno.EXDEV))
    monkeypatch.setattr(replace, "rename_new", far)


def pull_over(tree: Tree, expected: Stat) -> None:
    tree.put(b"d/f", b"pulled", expected=expected)


def remove(tree: Tree, expected: Stat) -> None:
    tree.remove(b"d/f", expected=expected)


def kept_names(tree: Tree) -> list[str]:
    """What lies in the trash of the run."""
    return os.listdir(tree.state / "trash/run")


@pytest.mark.parametrize("take", [pull_over, remove])
@pytest.mark.parametrize("write", [overwrite, save, delete])
def test_what_changes_while_it_is_copied_to_the_trash_is_left(
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Tree], None],
    take: Callable[[Tree, Stat], object],
) -> None:
    tree.write("d/f", b"before")
    os.utime(tree.at("d/f"), ns=(7, 7))
    expected = tree.stat(b"d/f")
    only_copies(monkeypatch)
    copy = shutil.copyfileobj
    copied: list[bool] = []

    def slow(*args: Any) -> None:
        copy(*args)
        assert kept_names(tree) == [], "what a kill leaves now is not whole"
        write(tree)
        copied.append(True)

    monkeypatch.setattr(shutil, "copyfileobj", slow)
    with pytest.raises(TargetChanged):
        take(tree, expected)
    assert copied
    if write is delete:
        assert not os.path.exists(tree.at("d/f"))
    else:
        assert tree.read("d/f") == b"newer!"
    assert (kept_names(tree), tree.staged_names()) == ([], [])


@pytest.mark.parametrize("take", [pull_over, remove])
@pytest.mark.parametrize("call", ["copyfileobj", "fchmod", "fsync", "fsync of the folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, 0])
def test_a_copy_to_the_trash_that_fails_is_not_kept(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, number: int, call: str, take: Callable[[Tree, Stat], object]
) -> None:
    tree.write("d/f", b"before")
    expected = tree.stat(b"d/f")
    before = tree.snapshot()
    sync = os.fsync

    def fail(*args: Any) -> None:
        if not number:
            raise KeyboardInterrupt
        raise OSError(number, os.strerror(number))

    def half(reader: Any, writer: Any, size: int) -> None:
        writer.write(reader.read(3))
        fail()

    def sync_file(descriptor: int) -> None:
        if st.S_ISDIR(os.fstat(descriptor).st_mode):
            fail()
        sync(descriptor)

    with monkeypatch.context() as patch:
        only_copies(patch)
        if call == "copyfileobj":
            patch.setattr(shutil, call, half)
        else:
            patch.setattr(os, call.partition(" ")[0], sync_file if " " in call else fail)
        with pytest.raises(ManifestSyncError if number else KeyboardInterrupt):
            take(tree, expected)
    assert (tree.snapshot(), kept_names(tree), tree.staged_names()) == (before, [], [])


def test_what_is_copied_to_the_trash_and_cannot_be_removed_is_not_kept(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write("d/f", b"before")
    unlink = os.unlink

    def closed(name: Any, **options: Any) -> None:
        if name == b"f":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlink(name, **options)

    only_copies(monkeypatch)
    monkeypatch.setattr(os, "unlink", closed)
    with pytest.raises(ManifestSyncError, match="read-only"):
        tree.remove(b"d/f", expected=tree.stat(b"d/f"))
    assert (tree.read("d/f"), kept_names(tree)) == (b"before", [])


def test_a_trash_folder_that_cannot_be_synced_is_used(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write("d/f", b"before")
    sync = os.fsync

    def sync_file(descriptor: int) -> None:
        if st.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    only_copies(monkeypatch)
    monkeypatch.setattr(os, "fsync", sync_file)
    _, stored = tree.put(b"d/f", b"pulled", expected=tree.stat(b"d/f"))
    assert stored is not None
    assert (tree.read("d/f"), tree.trashed(stored)) == (b"pulled", b"before")


def test_without_an_exclusive_rename_it_is_looked_first(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "_renameat2", None)
    stat, _ = tree.put(b"f", b"new")
    stored = tree.remove(b"f", expected=stat, run="run")
    assert tree.trashed(stored) == b"new"
    descriptor = os.open(tree.root, os.O_RDONLY)
    tree.write("a", b"a")
    tree.write("b", b"b")
    with pytest.raises(FileExistsError):
        syscalls.rename_new(b"a", descriptor, b"b", descriptor)
    os.close(descriptor)
    assert tree.read("b") == b"b"


@pytest.mark.parametrize("call", ["pwrite", "open", "chmod", "link", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_disk_leaves_the_old_and_no_litter(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    tree.write("d/f", b"old")
    expected = tree.stat(b"d/f")
    tree.put(b"d/warm")
    before = tree.snapshot()
    real_open = os.open
    failing = refuse(number)
    if call == "open":

        def failing(name: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                raise OSError(number, os.strerror(number))
            return real_open(name, flags, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(ManifestSyncError) as caught:
            tree.put(b"d/f", expected=expected, run="failed")
    assert caught.value.hint
    assert tree.snapshot() == before
    assert tree.staged_names() == []
    assert not os.path.isdir(tree.state / "trash/failed") or os.listdir(tree.state / "trash/failed") == []
    tree.put(b"d/f", b"new", expected=tree.stat(b"d/f"))
    assert tree.read("d/f") == b"new"


def test_a_full_disk_at_the_sync(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "sync_filesystem", refuse(errno.ENOSPC))
    with pytest.raises(ManifestSyncError, match="disk is full"):
        tree.put(b"f")
    assert (tree.snapshot(), tree.staged_names()) == ([], [])


def test_leftovers_of_a_killed_run_are_removed(tree: Tree) -> None:
    tree.put(b"f")
    (tree.state / "staging/leftover").write_bytes(b"x")
    os.symlink("x", tree.state / "staging/link")
    (tree.state / "staging/folder").mkdir()
    tree.worktree.clean_staging()
    assert os.listdir(tree.state / "staging") == []
    tree.put(b"g")


def test_staged_file_written_out_of_order(tree: Tree) -> None:
    content = os.urandom(3_000_000)
    with tree.worktree.stage() as batch:
        staged = batch.create()
        staged.write_at(2_000_000, content[2_000_000:])
        staged.write_at(0, content[:2_000_000])
        assert staged.hash() == blake3(content).digest()
    assert tree.staged_names() == []


def test_one_closed_folder_does_not_stop_the_run() -> None:
    with unprivileged_tree() as tree:
        tree.write("readonly/f", b"old")
        os.chmod(tree.at("readonly"), 0o555)
        os.mkdir(tree.at("closed"), 0)
        for path, expected in ((b"readonly/f", tree.stat(b"readonly/f")), (b"readonly/g", None)):
            with pytest.raises(TargetBlocked) as caught:
                tree.put(path, expected=expected)
            assert caught.value.reason == "permission denied"
        with pytest.raises(TargetBlocked):
            tree.remove(b"readonly/f", expected=tree.stat(b"readonly/f"), run="run")
        with pytest.raises(TargetBlocked):
            tree.put(b"closed/f")
        assert tree.read("readonly/f") == b"old"
        tree.put(b"open/f")


@pytest.fixture
def mounted(tree: Tree) -> Iterator[FsPath]:
    """A small filesystem mounted inside the tree, at ``disk``."""
    disk = tree.root / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this user may not mount a filesystem")
    yield disk
    tree.worktree.close()
    subprocess.run(["umount", str(disk)], check=True)


def test_mounted_filesystem_inside_the_tree(tree: Tree, mounted: FsPath) -> None:
    stat, _ = tree.put(b"disk/a/f", b"one", mode=0o640)
    assert (stat.mode & 0o777, stat.mtime_ns) == (0o640, 1_700_000_000_123_456_789)
    stat, stored = tree.put(b"disk/a/f", b"two", expected=stat)
    assert stored is not None
    assert (tree.read("disk/a/f"), tree.trashed(stored)) == (b"two", b"one")
    stored = tree.remove(b"disk/a/f", expected=stat, run="run")
    assert tree.trashed(stored) == b"two"
    assert os.listdir(mounted) == [".manifest-sync"]
    assert os.listdir(mounted / ".manifest-sync/staging") == []
    found = tree.scan()
    assert found[b"disk"].mounted
    assert not found[b""].mounted


def test_what_changes_while_the_new_is_carried_to_its_filesystem_is_left(
    tree: Tree, mounted: FsPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.put(b"disk/f", b"before", mtime_ns=7)
    expected = tree.stat(b"disk/f")
    copy = shutil.copyfileobj
    copied: list[bool] = []

    def slow(*args: Any) -> None:
        copy(*args)
        if not copied:
            (mounted / "f").write_bytes(b"newer!")
        copied.append(True)

    monkeypatch.setattr(shutil, "copyfileobj", slow)
    with pytest.raises(TargetChanged):
        tree.put(b"disk/f", b"pulled", expected=expected)
    assert len(copied) == 2
    assert tree.read("disk/f") == b"newer!"
    assert (kept_names(tree), tree.staged_names()) == ([], [])
    assert os.listdir(mounted / ".manifest-sync/staging") == []


def test_mounted_filesystem_that_is_full(tree: Tree, mounted: FsPath) -> None:
    stat, _ = tree.put(b"disk/f", b"old")
    with pytest.raises(ManifestSyncError, match="disk is full"):
        tree.put(b"disk/f", bytes(2 << 20), expected=stat)
    assert tree.read("disk/f") == b"old"
    assert os.listdir(mounted / ".manifest-sync/staging") == []
    tree.put(b"disk/f", b"new", expected=stat)


def test_state_on_another_device_than_the_root(tmp_path: FsPath) -> None:
    shared_memory = FsPath("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second filesystem here")
    tree = Tree(tmp_path)
    far = shared_memory / f"manifest-sync-test-{os.getpid()}"
    far.mkdir()
    try:
        tree.worktree = type(tree.worktree)(str(tree.root), str(far))
        stat, _ = tree.put(b"f", b"one")
        _, stored = tree.put(b"f", b"two", expected=stat)
        assert stored is not None
        assert tree.trashed(stored) == b"one"
        own = tree.root / ".manifest-sync"
        assert (own / ".gitignore").read_text() == "*\n"
        assert tree.trash_path(stored).startswith(str(own))
        assert os.listdir(far) == []
        assert tree.scan()[b""].mounted
    finally:
        for name in os.listdir(far):
            os.unlink(far / name)
        far.rmdir()

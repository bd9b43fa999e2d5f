"""Scanning: what is listed, when a folder counts as unchanged, and what is unseen rather than gone."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path as FsPath

import pytest

from manifest_sync.model import MAX_PATH, Path
from manifest_sync.worktree import is_symlink
from tests.worktree_helpers import Tree, names, unprivileged_tree


@pytest.fixture
def tree(tmp_path: FsPath) -> Tree:
    return Tree(tmp_path)


def test_files_and_folders_are_listed_parents_first(tree: Tree) -> None:
    tree.write("b/c/deep.json", b"12345")
    tree.write("b/x.json")
    tree.write("top.json", b"")
    (tree.root / "empty").mkdir()
    found = tree.scan()
    assert list(found) == [b"", b"b", b"b/c", b"empty"]
    assert names(found[b""]) == [b"top.json"]
    assert found[b""].folders == [b"b", b"empty"]
    assert found[b"b/c"].files[0][1] == tree.stat(b"b/c/deep.json")
    assert (found[b"b/c"].n_files, found[b"b/c"].n_bytes) == (1, 5)
    assert all(listing.complete and not listing.unseen for listing in found.values())


def test_missing_root_has_no_listing(tree: Tree) -> None:
    tree.root.rmdir()
    assert tree.scan() == {}


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.json", b"new\nline", b"n" * 255, b"back\\slash", "e\u0301".encode(), b"-rf", b" "]
)
def test_odd_names_are_names(tree: Tree, name: bytes) -> None:
    tree.write(b"d/" + name)
    assert names(tree.scan()[b"d"]) == [name]
    assert tree.worktree.hash_file(Path(b"d/" + name))[1].size == 7


def test_case_and_composition_twins_are_two_files(tree: Tree) -> None:
    twins = [b"A", b"a", "\u00e9".encode(), "e\u0301".encode()]
    for name in twins:
        tree.write(name)
    assert sorted(names(tree.scan()[b""])) == sorted(twins)


def test_fifo_socket_and_symlinks_are_special(tree: Tree) -> None:
    os.mkfifo(tree.at("fifo"))
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{short}/s")
        os.rename(f"{short}/s", tree.at("socket"))
    os.symlink("nowhere", tree.at("dangling"))
    os.symlink("loop", tree.at("loop"))
    os.symlink("/etc", tree.at("outside"))
    tree.write("plain")
    root = tree.scan()[b""]
    assert names(root) == [b"plain"]
    assert root.special == [b"dangling", b"fifo", b"loop", b"outside", b"socket"]
    assert root.folders == []


def test_device_is_special(tree: Tree) -> None:
    try:
        os.mknod(tree.at("device"), 0o20600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this user may not make a device node")
    assert tree.scan()[b""].special == [b"device"]


def test_special_names_are_only_those_that_are_ours(tree: Tree) -> None:
    os.mkfifo(tree.at("ours"))
    os.mkfifo(tree.at("not.tmp"))
    os.symlink("x", tree.at("tracked"))
    found = tree.scan(rules=["neither *.tmp"], tracked=frozenset([b"tracked"]))
    assert found[b""].special == [b"ours"]


def test_symlinks_kept(tmp_path: FsPath) -> None:
    tree = Tree(tmp_path, symlinks="keep")
    os.symlink("nowhere", tree.at("link"))
    os.symlink("/etc", tree.at("folder"))
    root = tree.scan()[b""]
    assert [(name, is_symlink(stat)) for name, stat in root.files] == [(b"folder", True), (b"link", True)]
    assert root.folders == []
    assert tree.worktree.read_link(Path(b"link")) == b"nowhere"


def test_symlinks_followed_to_files_only(tmp_path: FsPath) -> None:
    tree = Tree(tmp_path, symlinks="follow")
    target = tmp_path / "outside.bin"
    target.write_bytes(b"far away")
    os.symlink(target, tree.at("file"))
    os.symlink("nowhere", tree.at("dangling"))
    os.symlink(tmp_path, tree.at("folder"))
    before = tree.scan()
    assert [(name, stat.size) for name, stat in before[b""].files] == [(b"file", 8)]
    assert before[b""].special == [b"dangling", b"folder"]
    target.write_bytes(b"moved on!")
    assert not tree.rescan(before)[b""].unchanged


def test_excluded_and_reserved_folders_are_not_entered(tree: Tree) -> None:
    for folder in ("cache", ".git", ".manifest-sync", "ours"):
        tree.write(f"{folder}/file")
    found = tree.scan(rules=["neither cache/"])
    assert sorted(found) == [b"", b"ours"]
    assert found[b""].folders == [b"ours"]
    assert found[b""].all_folders == [b".git", b".manifest-sync", b"cache", b"ours"]
    assert found[b""].complete


def test_unchanged_folder_has_no_files_listed(tree: Tree) -> None:
    tree.write("a/one")
    tree.write("b/two")
    before = tree.scan()
    tree.write("b/three")
    after = tree.rescan(before)
    assert after[b""].unchanged
    assert after[b"a"].unchanged
    assert (after[b"a"].files, after[b"a"].n_files, after[b"a"].n_bytes) == ([], 1, 7)
    assert after[b""].folders == [b"a", b"b"]
    assert names(after[b"b"]) == [b"three", b"two"]
    assert not tree.rescan(before, skippable=lambda folder: folder != b"a")[b"a"].unchanged


def _overwrite_keeping_size_and_mtime(tree: Tree) -> None:
    before = os.stat(tree.at("d/f"))
    with open(tree.at("d/f"), "r+b") as file:
        file.write(b"CONTENT")
    os.utime(tree.at("d/f"), ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace_by_folder(tree: Tree) -> None:
    os.unlink(tree.at("d/f"))
    os.mkdir(tree.at("d/f"))


def _replace_by_symlink(tree: Tree) -> None:
    os.unlink(tree.at("d/f"))
    os.symlink("elsewhere", tree.at("d/f"))


def _replace_by_twin(tree: Tree) -> None:
    before = os.stat(tree.at("d/f"))
    tree.write("d/twin")
    os.rename(tree.at("d/twin"), tree.at("d/f"))
    os.utime(tree.at("d/f"), ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        _overwrite_keeping_size_and_mtime,
        _replace_by_folder,
        _replace_by_symlink,
        _replace_by_twin,
        lambda tree: os.chmod(tree.at("d/f"), 0o755),
        lambda tree: os.unlink(tree.at("d/f")),
        lambda tree: os.rename(tree.at("d/f"), tree.at("d/g")),
        lambda tree: os.link(tree.at("d/f"), tree.at("d/hard")),
        lambda tree: os.mkdir(tree.at("d/sub")),
        lambda tree: os.utime(tree.at("d/f"), ns=(0, 0)),
    ],
)
def test_every_change_changes_the_digest(tree: Tree, change) -> None:  # type: ignore[no-untyped-def]
    tree.write("d/f")
    before = tree.scan()
    tree.worktree.tick()
    change(tree)
    after = tree.rescan(before)
    assert not after[b"d"].unchanged


def test_rules_and_tracked_files_change_the_digest(tree: Tree) -> None:
    tree.write("d/f")
    before = tree.scan()
    assert not tree.rescan(before, rules=["neither *.tmp"])[b"d"].unchanged
    assert not tree.rescan(before, tracked=frozenset([b"d/f"]))[b"d"].unchanged


@pytest.mark.parametrize(("trust", "is_unchanged"), [(True, False), (False, True)])
def test_untrusted_ctime_and_inode_are_not_looked_at(
    tmp_path: FsPath, trust: bool, is_unchanged: bool
) -> None:
    tree = Tree(tmp_path, trust_ctime=trust, trust_inode=trust)
    tree.write("d/f")
    before = tree.scan()
    stat = tree.stat(b"d/f")
    tree.worktree.tick()
    _replace_by_twin(tree)
    assert tree.rescan(before)[b"d"].unchanged is is_unchanged
    assert tree.worktree.same_stat(stat, tree.stat(b"d/f")) is is_unchanged


def test_only_a_folder_is_walked_from_there(tree: Tree) -> None:
    for path in ("a/b/c/f", "a/b/g", "a/h", "z/i"):
        tree.write(path)
    found = tree.scan([b"a/b", b"a/b/c"])
    assert list(found) == [b"a/b", b"a/b/c"]
    assert all(listing.complete for listing in found.values())


@pytest.mark.parametrize("path", [b"a/file", b"a/absent", b"a/absent/below", b"a/file/below"])
def test_only_a_file_lists_the_folder_around_it(tree: Tree, path: bytes) -> None:
    tree.write("a/file")
    tree.write("a/sub/other")
    found = tree.scan([path])
    assert list(found) == [b"a"]
    assert names(found[b"a"]) == [b"file"]
    assert (found[b"a"].complete, found[b"a"].folders) == (False, [])


def test_only_below_an_excluded_folder_or_a_symlink(tree: Tree, tmp_path: FsPath) -> None:
    tree.write("cache/sub/f")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"x")
    os.symlink(tmp_path / "outside", tree.at("link"))
    assert tree.scan([b"cache/sub"], rules=["neither cache/"]) == {}
    found = tree.scan([b"link/secret"])
    assert list(found) == [b""]
    assert found[b""].special == [b"link"]


def test_what_exclude_leaves_out_makes_a_listing_incomplete(tree: Tree) -> None:
    tree.write("keep/f")
    tree.write("skip/f")
    tree.write("g")
    before = tree.scan()
    found = tree.rescan(before, exclude=("skip/", "g"))
    assert sorted(found) == [b"", b"keep"]
    assert not found[b""].complete
    assert found[b""].digest == before[b""].digest, "a digest does not hang on the scope"


def test_folder_on_another_device_than_last_time_is_unseen(tree: Tree) -> None:
    tree.write("disk/f")
    before = tree.scan()
    found = tree.scan(known=lambda folder: (before[folder].digest, folder == b"disk"))
    assert "another device" in found[b"disk"].unseen
    assert found[b""].unchanged
    found = tree.scan(known=lambda folder: (b"", True))
    assert "another device" in found[b""].unseen
    assert list(found) == [b""], "an unseen folder is not entered"


def test_deep_tree_needs_no_recursion(tree: Tree, request: pytest.FixtureRequest) -> None:
    # Too deep for what pytest removes its folders with.
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", str(tree.root)], check=True))
    descriptor = os.open(tree.root, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir(b"d", dir_fd=descriptor)
        below = os.open(b"d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open(b"leaf", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    deepest = Path(b"/".join([b"d"] * 1500))
    found = tree.scan()
    assert names(found[deepest]) == [b"leaf"]
    assert tree.worktree.hash_file(Path(deepest + b"/leaf"))[1].size == 0


def test_a_path_longer_than_allowed_is_said_to_be(tree: Tree) -> None:
    name = b"n" * 250
    descriptor = os.open(tree.root, os.O_RDONLY)
    for _ in range(17):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    found = tree.scan()
    assert max(len(folder) for folder in found) <= MAX_PATH
    assert [listing.folder for listing in found.values() if listing.too_long == [name]]


def test_unreadable_folder_is_unseen() -> None:
    with unprivileged_tree() as tree:
        tree.write("closed/f")
        tree.write("no-stat/f")
        tree.write("open/f")
        os.chmod(tree.at("closed"), 0)
        os.chmod(tree.at("no-stat"), 0o400)
        found = tree.scan()
        assert found[b"closed"].unseen == "permission denied"
        assert found[b"no-stat"].unseen == "permission denied"
        assert names(found[b"open"]) == [b"f"]
        assert [each.unseen for each in tree.scan([b"closed/f"]).values()] == ["permission denied"]


def test_unreadable_root_is_unseen() -> None:
    with unprivileged_tree() as tree:
        tree.write("f")
        os.chmod(tree.root, 0)
        assert tree.scan()[b""].unseen == "permission denied"


def test_folder_that_vanishes_or_becomes_a_symlink_meanwhile_is_unseen(tree: Tree, tmp_path: FsPath) -> None:
    tree.write("a/f")
    tree.write("b/f")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"x")

    def known(folder: Path) -> None:
        if not folder:
            for name in ("a", "b"):
                os.rename(tree.at(name), tmp_path / f"moved-{name}")
            os.symlink(outside, tree.at("b"))

    found = tree.scan(known=known)
    assert found[b"a"].unseen
    assert found[b"b"].unseen
    assert not found[b"b"].files


def test_clock_ticks_on_the_filesystem(tree: Tree) -> None:
    before = tree.worktree.clock()
    after = tree.worktree.tick()
    assert after > before
    tree.write("f")
    assert tree.stat(b"f").mtime_ns >= after

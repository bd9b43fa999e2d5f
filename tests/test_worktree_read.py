"""Reading: torn files are noticed, odd ones refused, and no symlink is walked through."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path as FsPath

import pytest
from blake3 import blake3

from manifest_sync.model import Path
from manifest_sync.worktree import Changing, Unreadable, Vanished, is_symlink
from manifest_sync.worktree import read as reading
from tests.worktree_helpers import Tree, unprivileged_tree


@pytest.fixture
def tree(tmp_path: FsPath) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_hash_is_blake3_of_the_content(tree: Tree, size: int) -> None:
    content = os.urandom(size)
    tree.write("d/f", content)
    digest, stat = tree.worktree.hash_file(Path(b"d/f"))
    assert digest == blake3(content).digest()
    assert stat == tree.stat(b"d/f")


def test_sparse_file_is_read_whole(tree: Tree) -> None:
    target = tree.write("sparse", b"")
    os.truncate(target, 3_000_000)
    assert tree.worktree.hash_file(Path(b"sparse"))[0] == blake3(bytes(3_000_000)).digest()


def test_reader_gives_what_is_asked_for(tree: Tree) -> None:
    tree.write("f", b"0123456789")
    with tree.worktree.open_read(Path(b"f")) as reader:
        assert (reader.read(4), reader.read(100), reader.read(1)) == (b"0123", b"456789", b"")
        assert reader.unchanged()
        assert reader.stat.size == 10


@pytest.mark.parametrize("change", ["grow", "shrink", "same-size overwrite", "chmod"])
def test_a_change_while_it_is_read_is_noticed(tree: Tree, change: str) -> None:
    target = tree.write("f", b"0123456789")
    with tree.worktree.open_read(Path(b"f")) as reader:
        reader.read(5)
        tree.worktree.tick()
        if change == "grow":
            with open(target, "ab") as file:
                file.write(b"more")
        elif change == "shrink":
            os.truncate(target, 3)
        elif change == "chmod":
            os.chmod(target, 0o600)
        else:
            with open(target, "r+b") as file:
                file.write(b"9876543210")
            os.utime(target, ns=(reader.stat.mtime_ns, reader.stat.mtime_ns))
        assert not reader.unchanged()


def test_replaced_file_is_still_the_one_that_was_opened(tree: Tree) -> None:
    tree.write("f", b"old")
    with tree.worktree.open_read(Path(b"f")) as reader:
        tree.write("g", b"new")
        os.rename(tree.at("g"), tree.at("f"))
        assert reader.read(10) == b"old"


def test_what_is_read_at_once_is_what_was_seen(tree: Tree) -> None:
    """The folder is moved away and another takes its place: the content that was seen, or none."""
    path = Path(b"d/f")
    tree.write("d/f", b"seen")
    seen = tree.worktree.lstat(path)
    assert seen is not None
    assert tree.worktree.read_unchanged(path, seen) == b"seen"
    os.rename(tree.at("d"), tree.at("e"))
    tree.write("d/f", b"new!")
    assert tree.worktree.read_unchanged(path, seen) == b"seen"
    tree.worktree.tick()
    tree.write("e/f", b"torn")
    assert tree.worktree.read_unchanged(path, seen) is None


def _with(make: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Something else in a file's place."""

    def meddle(target: bytes) -> None:
        os.unlink(target)
        make(target)

    return meddle


MEDDLING: dict[str, Callable[[bytes], object]] = {
    "gone": os.unlink,
    "mode": lambda target: os.chmod(target, 0o700),
    "shorter": lambda target: os.truncate(target, 1),
    "touched": os.utime,
    "symlink": _with(lambda target: os.symlink("elsewhere", target)),
    "fifo": _with(os.mkfifo),
    "folder": _with(os.mkdir),
}


@pytest.mark.parametrize("what", MEDDLING)
def test_another_file_is_not_read_for_the_one_that_was_seen(tree: Tree, what: str) -> None:
    tree.write("f", b"seen")
    seen = tree.worktree.lstat(Path(b"f"))
    assert seen is not None
    tree.worktree.tick()
    MEDDLING[what](tree.at("f"))
    assert tree.worktree.read_unchanged(Path(b"f"), seen) is None


def test_file_that_keeps_changing_is_given_up(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tree.write("log", b"line\n" * 300_000)
    read = reading.Reader.read

    def growing(self: reading.Reader, size: int) -> bytes:
        with open(target, "ab") as file:
            file.write(b"line\n" * 300_000)
        return read(self, size)

    monkeypatch.setattr(reading.Reader, "read", growing)
    with pytest.raises(Changing) as caught:
        tree.worktree.hash_file(Path(b"log"))
    assert "changing" in caught.value.reason


@pytest.mark.parametrize("path", [b"absent", b"absent/f", b"f/below"])
def test_what_is_not_there_has_vanished(tree: Tree, path: bytes) -> None:
    tree.write("f")
    assert tree.worktree.lstat(Path(path)) is None
    with pytest.raises(Vanished):
        tree.worktree.open_read(Path(path))
    with pytest.raises(Vanished):
        tree.worktree.read_link(Path(path))


def test_what_is_no_regular_file_is_refused_at_once(tree: Tree) -> None:
    os.mkfifo(tree.at("fifo"))
    os.mkdir(tree.at("folder"))
    os.symlink("nowhere", tree.at("link"))
    for path in (b"fifo", b"folder", b"link"):
        with pytest.raises(Unreadable) as caught:
            tree.worktree.hash_file(Path(path))
        assert caught.value.reason
    with pytest.raises(Unreadable, match="it is no symlink"):
        tree.worktree.read_link(Path(b"folder"))


@pytest.mark.parametrize(
    "path", [b"../outside", b"a/../../outside", b".git/config", b".manifest-sync/x", b"a//b"]
)
def test_reserved_and_impossible_names_are_refused(tree: Tree, path: bytes) -> None:
    (tree.root.parent / "outside").write_bytes(b"x")
    tree.write("a/b")
    tree.write(".git/config")
    with pytest.raises((Unreadable, Vanished)):
        tree.worktree.open_read(Path(path))
    with pytest.raises(Unreadable):
        tree.worktree.lstat(Path(path))


@pytest.mark.parametrize("symlinks", ["skip", "follow", "keep"])
def test_a_symlinked_folder_is_never_walked_through(tmp_path: FsPath, symlinks: str) -> None:
    tree = Tree(tmp_path, symlinks=symlinks)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"x")
    os.symlink(tmp_path / "outside", tree.at("link"))
    assert tree.worktree.lstat(Path(b"link/secret")) is None
    with pytest.raises((Unreadable, Vanished)):
        tree.worktree.hash_file(Path(b"link/secret"))


def test_a_folder_swapped_for_a_symlink_is_noticed_though_it_was_used_before(
    tree: Tree, tmp_path: FsPath
) -> None:
    tree.write("d/e/f", b"mine")
    assert tree.worktree.hash_file(Path(b"d/e/f"))
    (tmp_path / "outside/e").mkdir(parents=True)
    (tmp_path / "outside/e/f").write_bytes(b"secret")
    os.rename(tree.at("d"), tmp_path / "moved")
    os.symlink(tmp_path / "outside", tree.at("d"))
    with pytest.raises((Unreadable, Vanished)):
        tree.worktree.hash_file(Path(b"d/e/f"))


def test_a_folder_replaced_by_another_is_the_new_one(tree: Tree, tmp_path: FsPath) -> None:
    tree.write("d/f", b"old")
    assert tree.worktree.hash_file(Path(b"d/f"))
    os.rename(tree.at("d"), tmp_path / "moved")
    tree.write("d/f", b"new")
    assert tree.worktree.hash_file(Path(b"d/f"))[0] == blake3(b"new").digest()


def test_links_to_files_are_read_only_when_followed(tmp_path: FsPath) -> None:
    tree = Tree(tmp_path, symlinks="follow")
    tree.write("real", b"content")
    os.symlink("real", tree.at("link"))
    digest, stat = tree.worktree.hash_file(Path(b"link"))
    assert digest == blake3(b"content").digest()
    assert stat == tree.stat(b"link")
    os.unlink(tree.at("real"))
    assert is_symlink(tree.stat(b"link"))
    with pytest.raises(Vanished):
        tree.worktree.hash_file(Path(b"link"))


def test_hard_links_are_files_of_their_own(tree: Tree) -> None:
    tree.write("one", b"shared")
    os.link(tree.at("one"), tree.at("two"))
    assert tree.worktree.hash_file(Path(b"one"))[0] == tree.worktree.hash_file(Path(b"two"))[0]


def test_permission_denied_is_said_in_words() -> None:
    with unprivileged_tree() as tree:
        tree.write("secret", mode=0)
        tree.write("closed/f")
        os.chmod(tree.at("closed"), 0)
        for path in (b"secret", b"closed/f"):
            with pytest.raises(Unreadable) as caught:
                tree.worktree.hash_file(Path(path))
            assert caught.value.reason == "permission denied"

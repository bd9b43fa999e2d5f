"""What people have on their disks: each row of docs/filesystems.md, done with the commands a person types.

A row gets two machines and one bucket, and returns the exit codes of push, of the pull elsewhere and of
status, which have to be those in the table of the document; the rest of what the table says, the row asserts.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import socket
import stat as st
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path as FsPath
from typing import Any

import pytest
from click.testing import CliRunner

from manifest_sync.cli.main import main
from manifest_sync.project import Project
from manifest_sync.worktree import Worktree, read
from tests.machines import Machine
from tests.worktree_helpers import NOBODY

DOCUMENT = FsPath(__file__).parent.parent / "docs" / "filesystems.md"


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    report: dict[str, Any]
    err: str

    @property
    def skipped(self) -> dict[str, str]:
        """Path to reason."""
        return {each["path"]: each["reason"] for each in self.report["skipped"]}


class Pair:
    """Two machines and a bucket; ``gpu`` is where the oddity is."""

    def __init__(self, folder: FsPath, **options: Any) -> None:
        bucket = str(folder / "bucket")
        self.folder = folder
        self.gpu = Machine(folder / "gpu", bucket, **options)
        self.laptop = Machine(folder / "laptop", bucket, **options)
        for machine in (self.gpu, self.laptop):
            machine.root.mkdir(exist_ok=True)
        self.root = os.fsencode(self.gpu.root)
        self.there = os.fsencode(self.laptop.root)

    def run(self, machine: Machine, *words: str) -> Ran:
        """The command line, in this process."""
        before = os.getcwd()
        os.chdir(machine.folder)
        try:
            result = CliRunner().invoke(main, [words[0], "--json", *words[1:]], prog_name="manifest-sync")
        finally:
            os.chdir(before)
        return Ran(result.exit_code, json.loads(result.stdout), result.stderr)

    def push(self, *words: str) -> Ran:
        return self.run(self.gpu, "push", *words)

    def pull(self, *words: str) -> Ran:
        return self.run(self.laptop, "pull", *words)

    def status(self, *words: str) -> Ran:
        return self.run(self.gpu, "status", *words)

    def names(self) -> list[str]:
        """What the bucket has."""
        return [os.fsdecode(entry.path) for entry in self.gpu.project().ls()]

    def write(self, path: str | bytes, content: bytes = b"content", mode: int = 0o644) -> bytes:
        """A file on the first machine."""
        target = os.path.join(self.root, os.fsencode(path))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
        os.chmod(target, mode)
        return target

    def travels(self, *names: str | bytes) -> tuple[int, int, int]:
        """Push and pull: exactly these files arrive, the same in content, time and permissions."""
        codes = (self.push().code, self.pull().code, self.status().code)
        wanted = sorted(map(os.fsencode, names))
        assert sorted(map(os.fsencode, self.names())) == wanted
        assert regular_files(self.there) == wanted
        for name in wanted:
            one, other = os.path.join(self.root, name), os.path.join(self.there, name)
            with open(one, "rb") as here, open(other, "rb") as there:
                assert here.read() == there.read()
            mode = stat_of(one).st_mode & ~(st.S_ISUID | st.S_ISGID | st.S_ISVTX)
            assert (stat_of(other).st_mode, stat_of(other).st_mtime_ns) == (mode, stat_of(one).st_mtime_ns)
        assert self.status().report["cases"] == {}
        assert self.run(self.laptop, "status").report["cases"] == {}
        again = self.push("--full")
        assert (again.report["new"], again.report["changed"], again.report["deleted"]) == (0, 0, 0)
        return codes


Row = Callable[[Pair], tuple[int, int, int]]
ROWS: dict[str, tuple[Row, dict[str, Any]]] = {}


def row(name: str, **needs: Any) -> Callable[[Row], Row]:
    """A row of the table.

    Args:
        name: as in the document.
        needs: ``defaults`` for the configuration; ``user``: not as root; ``disk``: not in memory.
    """

    def add(function: Row) -> Row:
        assert name not in ROWS
        ROWS[name] = (function, needs)
        return function

    return add


def stat_of(path: bytes) -> os.stat_result:
    return os.stat(path, follow_symlinks=False)


def regular_files(root: bytes) -> list[bytes]:
    """All files that are no symlinks, below a root that may be deeper than a path can say."""
    found = []
    for folder, folders, names, descriptor in os.fwalk(root):
        if b".manifest-sync" in folders:
            folders.remove(b".manifest-sync")  # staging on a mounted filesystem
        for name in names:
            if st.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return sorted(found)


@contextmanager
def as_ordinary_user() -> Iterator[FsPath]:
    """A folder, and not being root: for root every permission is granted, so that it becomes nobody."""
    is_root = os.geteuid() == 0
    folder = FsPath(tempfile.mkdtemp(prefix="manifest-sync-test-"))
    try:
        if is_root:
            os.chown(folder, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(folder))
            yield folder
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)
        shutil.rmtree(folder)


def make_deep(root: bytes, parts: Sequence[bytes], name: bytes, content: bytes = b"deep") -> None:
    """A file so deep that its whole path could not be opened."""
    descriptor = os.open(root, os.O_RDONLY)
    for part in parts:
        os.mkdir(part, dir_fd=descriptor)
        below = os.open(part, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    file = os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor)
    os.write(file, content)
    os.close(file)
    os.close(descriptor)


@contextmanager
def mounted(folder: FsPath, *options: str) -> Iterator[None]:
    """A filesystem in memory at ``folder``."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a filesystem, which this row is about")
    words = ["mount", "-t", "tmpfs", "-o", ",".join(["size=4m", *options]), "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this system lets nobody mount a filesystem, which this row is about: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


# --- names


@row("not-utf8")
def not_utf8(pair: Pair) -> tuple[int, int, int]:
    pair.write(b"run\xff/caf\xe9.json")
    pair.write("run/café.json")
    return pair.travels(b"run\xff/caf\xe9.json", "run/café.json")


@row("255-bytes")
def longest_name(pair: Pair) -> tuple[int, int, int]:
    names = ["n" * 255, "ü" * 127 + "x", "f" * 255 + "/" + "g" * 255]
    for name in names:
        pair.write(name)
    codes = pair.travels(*names)
    # The name of the copy that a conflict leaves is no longer than the filesystem allows.
    for machine in (pair.gpu, pair.laptop):
        machine.write(names[0], machine.folder.name)
    pair.push("--copy")
    assert pair.pull("--copy", "--resolve", "both").code == 0
    copies = [n for n in os.listdir(pair.there) if b".conflict-" in n]
    assert [len(n) for n in copies] == [255]
    return codes


@row("newline")
def newline(pair: Pair) -> tuple[int, int, int]:
    pair.write("two\nlines\t/a\r")
    return pair.travels("two\nlines\t/a\r")


@row("control-characters")
def control_characters(pair: Pair) -> tuple[int, int, int]:
    name = "\x1b[31mred\x07\x7f\u202e.json"
    pair.write(name)
    codes = pair.travels(name)
    os.remove(os.path.join(pair.root, name.encode()))
    shown = [printed(pair, *words) for words in (["status"], ["push", "--full", "-n", "-v"])]
    # Into a pipe go names as they are, for --files-from; a terminal gets them made printable.
    shown += [on_a_terminal(pair, *words) for words in (["ls"], ["diff", "0", "head"])]
    for text in shown:
        assert "\\x1b[31mred\\x07\\x7f\\u202e.json" in text
        assert not set(text) & {"\x1b", "\x07", "\x7f", "\u202e"}
    return codes


def printed(pair: Pair, *words: str) -> str:
    """What a command prints for people, not on a terminal."""
    before = os.getcwd()
    os.chdir(pair.gpu.folder)
    try:
        result = CliRunner().invoke(main, words, prog_name="manifest-sync")
    finally:
        os.chdir(before)
    return result.stdout + result.stderr


def on_a_terminal(pair: Pair, *words: str) -> str:
    """What a command in a process of its own prints where stdout is a terminal."""
    controller, terminal = pty.openpty()
    try:
        command = [sys.executable, "-m", "manifest_sync", *words]
        subprocess.run(command, cwd=pair.gpu.folder, stdout=terminal, stderr=subprocess.PIPE, check=True)
        return os.read(controller, 65536).decode()
    finally:
        os.close(controller)
        os.close(terminal)


@row("case-twins")
def case_twins(pair: Pair) -> tuple[int, int, int]:
    for name in ("Run/a", "run/a", "RUN"):
        pair.write(name, name.encode())
    return pair.travels("Run/a", "run/a", "RUN")


@row("composition-twins")
def composition_twins(pair: Pair) -> tuple[int, int, int]:
    names = ("caf\u00e9", "cafe\u0301")
    for name in names:
        pair.write(name, name.encode())
    return pair.travels(*names)


@row("spaces-and-dots")
def spaces_and_dots(pair: Pair) -> tuple[int, int, int]:
    names = [" lead", "trail ", " / ", "...", ".hidden", "dot.", "a  b"]
    for name in names:
        pair.write(name)
    return pair.travels(*names)


@row("leading-dash")
def leading_dash(pair: Pair) -> tuple[int, int, int]:
    pair.write("-rf/--full")
    codes = pair.travels("-rf/--full")
    pair.write("-rf/--full", b"again")
    assert pair.push("--copy", "--only=-rf").report["changed"] == 1
    assert pair.run(pair.gpu, "restore", "--at", "1", "--", "-rf/--full").code == 0
    with open(os.path.join(pair.root, b"-rf/--full"), "rb") as file:
        assert file.read() == b"content"
    return codes


@row("other-systems-names")
def other_systems_names(pair: Pair) -> tuple[int, int, int]:
    names = ["a\\b", "C:x", "con", "a*?<>|\"'`$(x)", "%2e%2e", "#x", "a,b"]
    for name in names:
        pair.write(name)
    codes = pair.travels(*names)
    pair.write("a,b", b"again")
    (pair.folder / "list").write_bytes(b"a,b\0")  # --only takes a comma for the end of a name
    assert pair.push("--copy", "--files-from", str(pair.folder / "list")).report["changed"] == 1
    return codes


@row("reserved-names")
def reserved_names(pair: Pair) -> tuple[int, int, int]:
    for name in (".git/config", "a/.GIT/x", ".Manifest-Sync/x", "b/.git ", "b/.manifest-sync"):
        pair.write(name)
    pair.write("b/.gitignore")
    return pair.travels("b/.gitignore")


# --- depth and length


@row("deep-folders")
def deep_folders(pair: Pair) -> tuple[int, int, int]:
    parts = [b"d"] * 900
    make_deep(pair.root, parts, b"leaf")
    codes = (pair.push().code, pair.pull().code, pair.status().code)
    wanted = os.fsdecode(b"/".join([*parts, b"leaf"]))
    assert pair.names() == [wanted]
    assert regular_files(pair.there) == [wanted.encode()]
    return codes


@row("4096-bytes")
def longest_path(pair: Pair) -> tuple[int, int, int]:
    parts = [b"n" * 255] * 15 + [b"d"]
    make_deep(pair.root, parts, b"f" * 254)
    codes = (pair.push().code, pair.pull().code, pair.status().code)
    assert [len(name) for name in pair.names()] == [4096]
    assert [len(name) for name in regular_files(pair.there)] == [4096]
    return codes


@row("4097-bytes")
def too_long_path(pair: Pair) -> tuple[int, int, int]:
    parts = [b"n" * 255] * 15 + [b"d"]
    make_deep(pair.root, parts, b"x" * 255)
    pair.write("fine")
    reason = "its path has more than 4096 bytes"
    for _ in range(2):  # not only the first look says so
        pushed = pair.push()
        assert [(len(path), why) for path, why in pushed.skipped.items()] == [(4097, reason)]
        assert pair.names() == ["fine"]
    status = pair.status()
    assert status.skipped == pushed.skipped
    return pushed.code, pair.pull().code, status.code


# --- what is no regular file


def is_passed_over(pair: Pair, name: str = "odd") -> tuple[int, int, int]:
    """It is not sent and not spoken of; a file of the bucket never replaces it."""
    pair.write("fine")
    codes = (pair.push().code, pair.pull().code, pair.status().code)
    assert pair.names() == ["fine"]
    assert pair.status().report["cases"] == {}
    found = stat_of(os.path.join(pair.root, name.encode()))
    pair.laptop.write(name, "a file of the other machine")
    assert pair.run(pair.laptop, "push").code == 0
    for words in (["--full"], ["--full", "--resolve", "remote"]):
        pulled = pair.run(pair.gpu, "pull", *words)
        assert (pulled.code, pulled.report["conflicts"]) == (6, [name]), pulled
    after = stat_of(os.path.join(pair.root, name.encode()))
    assert (after.st_mode, after.st_ino, after.st_rdev) == (found.st_mode, found.st_ino, found.st_rdev)
    return codes


@row("fifo")
def fifo(pair: Pair) -> tuple[int, int, int]:
    os.mkfifo(os.path.join(pair.root, b"odd"))
    return is_passed_over(pair)


@row("socket")
def unix_socket(pair: Pair) -> tuple[int, int, int]:
    listening = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(pair.root)  # the name of a socket must be short
    try:
        listening.bind("odd")
    finally:
        os.chdir(before)
    try:
        return is_passed_over(pair)
    finally:
        listening.close()


@row("device")
def device(pair: Pair) -> tuple[int, int, int]:
    try:
        os.mknod(os.path.join(pair.root, b"odd"), st.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root may make a device, which this row is about")
    return is_passed_over(pair)


@row("symlinks-skipped")
def symlinks_skipped(pair: Pair) -> tuple[int, int, int]:
    outside = pair.folder / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    os.symlink(outside / "secret", pair.gpu.root / "to-a-file")
    os.symlink(outside, pair.gpu.root / "to-a-folder")
    os.symlink("nowhere", pair.gpu.root / "dangling")
    os.symlink("odd", pair.gpu.root / "odd")
    codes = is_passed_over(pair)
    assert sorted(os.listdir(outside)) == ["secret"]
    return codes


@row("symlinks-kept", defaults='symlinks = "keep"')
def symlinks_kept(pair: Pair) -> tuple[int, int, int]:
    targets = {
        "dangling": b"nowhere",
        "loop": b"loop",
        "outside": b"/etc/passwd",
        "up": b"../..",
        "odd": b"\xff\n",
    }
    pair.write("fine")
    for name, target in targets.items():
        os.symlink(target, os.path.join(pair.root, name.encode()))
    codes = (pair.push().code, pair.pull().code, pair.status().code)
    assert pair.names() == sorted([*targets, "fine"])
    for name, target in targets.items():
        assert os.readlink(os.path.join(pair.there, name.encode())) == target
    os.remove(pair.gpu.root / "up")
    os.symlink("fine", pair.gpu.root / "up")
    assert pair.push("--copy").report["changed"] == 1
    assert pair.pull("--copy").code == 0
    assert os.readlink(pair.laptop.root / "up") == "fine"
    return codes


@row("symlinks-followed", defaults='symlinks = "follow"')
def symlinks_followed(pair: Pair) -> tuple[int, int, int]:
    outside = pair.folder / "outside"
    outside.mkdir()
    (outside / "big.pt").write_bytes(b"weights")
    os.symlink(outside / "big.pt", pair.gpu.root / "to-a-file")
    os.symlink(outside, pair.gpu.root / "to-a-folder")
    os.symlink("nowhere", pair.gpu.root / "dangling")
    os.symlink("loop", pair.gpu.root / "loop")
    codes = (pair.push().code, pair.pull().code, pair.status().code)
    assert pair.names() == ["to-a-file"]
    assert not os.path.islink(pair.laptop.root / "to-a-file")
    assert pair.laptop.read("to-a-file") == "weights"
    (outside / "big.pt").write_bytes(b"trained")
    assert pair.push("--copy").report["changed"] == 1
    return codes


@row("root-is-a-symlink")
def root_is_a_symlink(pair: Pair) -> tuple[int, int, int]:
    os.rename(pair.gpu.root, pair.folder / "disk")
    os.symlink(pair.folder / "disk", pair.gpu.root)
    pair.write("run/a")
    return pair.travels("run/a")


# --- regular files of every kind


@row("empty-file")
def empty_file(pair: Pair) -> tuple[int, int, int]:
    pair.write("empty", b"")
    return pair.travels("empty")


@row("empty-folder")
def empty_folder(pair: Pair) -> tuple[int, int, int]:
    (pair.gpu.root / "a/b").mkdir(parents=True)
    codes = pair.travels()
    assert os.listdir(pair.there) == []
    assert (pair.gpu.root / "a/b").is_dir()
    return codes


@row("hard-links")
def hard_links(pair: Pair) -> tuple[int, int, int]:
    pair.write("one", os.urandom(200_000))
    os.link(os.path.join(pair.root, b"one"), os.path.join(pair.root, b"two"))
    codes = pair.travels("one", "two")
    assert stat_of(os.path.join(pair.there, b"one")).st_nlink == 1
    packs = [f.stat().st_size for f in (pair.folder / "bucket").rglob("*.pack")]
    assert 200_000 < sum(packs) < 210_000  # once
    with open(os.path.join(pair.root, b"one"), "r+b") as file:  # seen under both names
        file.write(b"changed")
    assert pair.push("--copy").report["changed"] == 2
    # A pull replaces one name: the other one keeps its content.
    os.link(os.path.join(pair.there, b"one"), pair.folder / "backup")
    before = (pair.folder / "backup").read_bytes()
    assert pair.pull("--copy").code == 0
    assert (pair.folder / "backup").read_bytes() == before
    assert (pair.laptop.root / "one").read_bytes() != before
    return codes


@row("sparse-file")
def sparse_file(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("sparse", b"")
    with open(path, "r+b") as file:
        file.seek(9_000_000)
        file.write(b"end")
    codes = pair.travels("sparse")
    assert pair.push().report["stored_bytes"] == 0
    return codes


@row("executable-bit")
def executable_bit(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("tool")
    codes = pair.travels("tool")
    os.chmod(path, 0o755)
    assert pair.status().report["cases"] == {"changed_here": ["tool"]}
    assert pair.push("--copy").report["changed"] == 1
    assert pair.pull("--copy").code == 0
    assert os.access(os.path.join(pair.there, b"tool"), os.X_OK)
    os.chmod(path, 0o700)  # the other bits are no change
    assert pair.push("--copy").report["changed"] == 0
    return codes


@row("setuid")
def setuid(pair: Pair) -> tuple[int, int, int]:
    pair.write("tool", mode=0o6755)
    assert stat_of(os.path.join(pair.root, b"tool")).st_mode & 0o7777 == 0o6755
    codes = pair.travels("tool")
    assert stat_of(os.path.join(pair.there, b"tool")).st_mode & 0o7777 == 0o755
    return codes


@row("owner-without-a-name")
def owner_without_a_name(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("file")
    try:
        os.chown(path, 123_456, 123_456)
    except PermissionError:
        pytest.skip("only root may give a file away, which this row is about")
    codes = pair.travels("file")
    assert stat_of(os.path.join(pair.there, b"file")).st_uid == os.geteuid()
    return codes


# --- times


@row("mtime-odd")
def odd_times(pair: Pair) -> tuple[int, int, int]:
    times = {"zero": 0, "negative": -1_500_000_001, "future": 4_102_444_800_000_000_007, "nanosecond": 1}
    for name, mtime_ns in times.items():
        os.utime(pair.write(name, name.encode()), ns=(mtime_ns, mtime_ns))
        assert stat_of(os.path.join(pair.root, name.encode())).st_mtime_ns == mtime_ns
    return pair.travels(*times)


@row("mtime-restored")
def restored_time(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("file", b"one")
    os.utime(path, ns=(10**18, 10**18))
    pair.push()
    pair.pull()
    settle(path)
    pair.status()  # hashes it once more and trusts its stat from now on
    pair.write("file", b"two")
    os.utime(path, ns=(10**18, 10**18))
    assert pair.status().report["cases"] == {"changed_here": ["file"]}
    pushed = pair.push("--copy")
    assert pushed.report["changed"] == 1
    pulled = pair.pull("--copy")
    assert (pair.laptop.read("file"), pulled.report["changed"]) == ("two", 1)
    return pushed.code, pulled.code, pair.status().code


def settle(path: bytes) -> None:
    """Wait until the filesystem's clock is past a file's last change."""
    settle_clock(path, FsPath(os.fsdecode(path)).parent)


def settle_clock(path: bytes, folder: FsPath) -> None:
    """The same by the clock of another folder."""
    probe = os.fsencode(folder / "probe")
    changed = stat_of(path).st_ctime_ns
    now = changed
    while now <= changed:
        with open(probe, "wb"):
            now = stat_of(probe).st_ctime_ns
        os.remove(probe)


@row("time-alone")
def time_alone(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("file")
    pair.push()
    pair.pull()
    os.utime(path, ns=(10**18, 10**18))
    status = pair.status()
    pushed = pair.push("--full")
    assert (status.report["cases"], pushed.report["changed"]) == ({}, 0)
    return pushed.code, pair.pull("--full").code, status.code


@row("stat-tells-nothing", defaults="trust_ctime = false\ntrust_inode = false")
def stat_tells_nothing(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("file", b"one")
    os.utime(path, ns=(10**18, 10**18))
    pair.push()
    pair.pull()
    pair.write("file", b"two")
    os.utime(path, ns=(10**18, 10**18))
    status = pair.status()
    assert (status.report["cases"], pair.push("--copy").report["changed"]) == ({}, 0)
    pushed = pair.push("--copy", "--checksum")
    assert (pushed.report["changed"], pushed.report["missed"]) == (1, ["file"])
    return pushed.code, pair.pull("--copy").code, status.code


@row("stale-inode", defaults="trust_ctime = false\ntrust_inode = false")
def stale_inode(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("file", b"one")
    os.utime(path, ns=(10**18, 10**18))
    codes = pair.travels("file")
    before = stat_of(path).st_ino
    shutil.copy2(path, path + b"-copy")
    os.rename(path + b"-copy", path)
    assert stat_of(path).st_ino != before
    pair.write("other")  # so that the folder is looked through
    with reading() as opened:
        assert pair.push("--full").report["changed"] == 0
    assert opened == [b"other"], "a file server that numbers files anew makes nothing be read again"
    return codes


@contextmanager
def reading() -> Iterator[list[bytes]]:
    """The paths that are opened for reading meanwhile."""
    opened: list[bytes] = []

    def noting(real: Callable[..., Any]) -> Callable[..., Any]:
        def open_one(folders: Any, path: Any, *seen: Any, **options: Any) -> Any:
            opened.append(path)
            return real(folders, path, *seen, **options)

        return open_one

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open_read", "read_unchanged"):
            patch.setattr(read, name, noting(getattr(read, name)))
        yield opened


@row("clock-backwards")
def clock_backwards(pair: Pair) -> tuple[int, int, int]:
    pair.write("file", b"one")
    pair.push()
    pair.pull()
    with clocks_behind(timedelta(days=400)):
        pair.write("file", b"two")
        pair.write("new", b"new")
        pushed = pair.push("--copy")
        status = pair.status()
    assert (pushed.report["changed"], pushed.report["new"], pushed.report["sequence"]) == (1, 1, 2)
    assert status.report["cases"] == {}
    pulled = pair.pull("--copy")
    assert (pair.laptop.read("file"), pair.laptop.read("new")) == ("two", "new")
    pair.write("file", b"six")
    assert pair.push("--copy").report["changed"] == 1
    assert [line["sequence"] for line in pair.run(pair.gpu, "log").report["snapshots"]] == [3, 2, 1, 0]
    return pushed.code, pulled.code, status.code


@contextmanager
def clocks_behind(by: timedelta) -> Iterator[None]:
    """Both clocks that are asked, the machine's and the filesystem's, say an earlier time."""
    clock, now = Worktree.clock, Project.now
    back_ns = int(by.total_seconds()) * 10**9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worktree, "clock", lambda self: clock(self) - back_ns)
        patch.setattr(Project, "now", lambda self: now(self) - by)
        yield


# --- changing while it is read


@contextmanager
def meddling(meddle: Callable[[], None]) -> Iterator[None]:
    """Do something each time that some of a file was read and the rest was not."""
    real = read.read_some

    def slowly(descriptor: int, size: int) -> bytes:
        begun = real(descriptor, min(size, 2))
        meddle()
        return begun + real(descriptor, size - len(begun))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "read_some", slowly)
        yield


@row("grows-while-read")
def grows_while_read(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("log.jsonl", b"{}")
    pair.write("fine")

    def append() -> None:
        with open(path, "ab") as file:
            file.write(b"{}")

    with meddling(append):
        pushed = pair.push()
    assert pushed.skipped == {"log.jsonl": "it kept changing while it was read"}
    assert pair.names() == ["fine"]
    pulled, status = pair.pull(), pair.status()
    assert status.report["cases"] == {"new_here": ["log.jsonl"]}
    assert pair.push().code == 0  # it holds still now
    return pushed.code, pulled.code, status.code


@row("overwritten-while-read")
def overwritten_while_read(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("state.pt", b"A" * 100_000)
    once = iter([b"B" * 100_000])

    def overwrite() -> None:
        for content in once:
            with open(path, "r+b") as file:
                file.write(content)

    with meddling(overwrite):
        pushed = pair.push()
    pulled = pair.pull()
    assert pair.laptop.read("state.pt") == "B" * 100_000
    return pushed.code, pulled.code, pair.status().code


@row("replaced-while-read")
def replaced_while_read(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("state.pt", b"old")
    once = iter([b"new"])

    def rename_over() -> None:
        for content in once:
            with open(path + b".tmp", "wb") as file:
                file.write(content)
            os.rename(path + b".tmp", path)

    with meddling(rename_over):
        pushed = pair.push()
    pulled = pair.pull()
    assert pair.names() == ["state.pt"]
    assert pair.laptop.read("state.pt") == "new"
    return pushed.code, pulled.code, pair.status().code


@row("vanishes-while-read")
def vanishes_while_read(pair: Pair) -> tuple[int, int, int]:
    pair.write("a-first")
    pair.write("gone/file")
    pair.write("gone/too")
    with meddling(lambda: shutil.rmtree(pair.gpu.root / "gone", ignore_errors=True)):
        pushed = pair.push()
    assert pushed.skipped == dict.fromkeys(["gone/file", "gone/too"], "it vanished while it was read")
    assert pair.names() == ["a-first"]
    return pushed.code, pair.pull().code, pair.status().code


# --- one thing in place of another


@row("file-to-folder")
def file_to_folder(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("x", b"a file")
    pair.push()
    pair.pull()
    os.remove(path)
    pair.write("x/inside", b"a folder")
    held = pair.push("--copy")
    assert (held.code, held.report["conflicts"]) == (6, ["x", "x/inside"])
    pushed, pulled = pair.push("--full"), pair.pull("--full")
    assert regular_files(pair.there) == [b"x/inside"]
    return pushed.code, pulled.code, pair.status().code


@row("folder-to-file")
def folder_to_file(pair: Pair) -> tuple[int, int, int]:
    pair.write("x/inside", b"a folder")
    pair.push()
    pair.pull()
    shutil.rmtree(pair.gpu.root / "x")
    pair.write("x", b"a file")
    held = pair.push("--copy")
    assert (held.code, held.report["conflicts"]) == (6, ["x", "x/inside"])
    pushed, pulled = pair.push("--full"), pair.pull("--full")
    assert regular_files(pair.there) == [b"x"]
    return pushed.code, pulled.code, pair.status().code


@row("file-to-symlink")
def file_to_symlink(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("x", b"a file")
    pair.push()
    pair.pull()
    os.rename(path, pair.folder / "moved")
    os.symlink(pair.folder / "moved", path)
    status, pushed = pair.status(), pair.push("--full")
    assert status.report["cases"] == {"changed_here": ["x"]}
    assert pushed.skipped == {"x": "not a regular file"}
    assert pushed.report["deleted"] == 0
    assert pair.names() == ["x"]
    pulled = pair.pull("--full")
    assert pair.laptop.read("x") == "a file"
    return pushed.code, pulled.code, status.code


@row("file-to-kept-symlink", defaults='symlinks = "keep"')
def file_to_kept_symlink(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("x", b"a file")
    pair.push()
    pair.pull()
    os.remove(path)
    os.symlink("elsewhere", path)
    pushed, pulled = pair.push("--copy"), pair.pull("--copy")
    assert os.readlink(pair.laptop.root / "x") == "elsewhere"
    os.remove(path)
    pair.write("x", b"a file again")
    pair.push("--copy")
    pair.pull("--copy")
    assert not os.path.islink(pair.laptop.root / "x")
    assert pair.laptop.read("x") == "a file again"
    return pushed.code, pulled.code, pair.status().code


@row("folder-to-symlink")
def folder_to_symlink(pair: Pair) -> tuple[int, int, int]:
    pair.write("x/inside")
    pair.push()
    pair.pull()
    os.rename(pair.gpu.root / "x", pair.folder / "disk")
    os.symlink(pair.folder / "disk", pair.gpu.root / "x")
    status, pushed = pair.status(), pair.push("--full")
    assert pushed.skipped == {"x": "a symlink or a special file stands where a folder was"}
    assert pair.names() == ["x/inside"]
    pulled = pair.pull("--full")
    assert regular_files(pair.there) == [b"x/inside"]
    return pushed.code, pulled.code, status.code


# --- permissions


@row("unreadable-file", user=True)
def unreadable_file(pair: Pair) -> tuple[int, int, int]:
    pair.write("fine")
    pair.write("shut", mode=0)
    status, pushed = pair.status(), pair.push("--full")
    assert pushed.skipped == {"shut": "permission denied"}
    assert status.report["cases"] == {"new_here": ["fine", "shut"]}
    assert pair.names() == ["fine"]
    return pushed.code, pair.pull().code, pair.status().code


@row("unreadable-folder", user=True)
def unreadable_folder(pair: Pair) -> tuple[int, int, int]:
    pair.write("shut/inside")
    pair.write("fine")
    pair.push()
    pair.pull()
    os.chmod(pair.gpu.root / "shut", 0)
    status, pushed = pair.status(), pair.push("--full")
    assert pushed.skipped == status.skipped == {"shut": "permission denied"}
    assert pushed.report["deleted"] == 0
    assert pair.names() == ["fine", "shut/inside"]
    pulled = pair.pull("--full")
    assert regular_files(pair.there) == [b"fine", b"shut/inside"]
    return pushed.code, pulled.code, status.code


@row("read-only-folder", user=True)
def read_only_folder(pair: Pair) -> tuple[int, int, int]:
    for name in ("shut/old", "shut/gone", "open/old"):
        pair.write(name, b"1")
    pair.push()
    pair.pull()
    for name in ("shut/old", "shut/new", "open/old"):
        pair.write(name, b"2")
    os.remove(pair.gpu.root / "shut/gone")
    pushed = pair.push("--full")
    os.chmod(pair.laptop.root / "shut", 0o555)
    pulled = pair.pull("--full")
    assert pulled.skipped == dict.fromkeys(["shut/gone", "shut/new", "shut/old"], "permission denied")
    assert (pair.laptop.read("shut/old"), pair.laptop.read("open/old")) == ("1", "2")
    os.chmod(pair.laptop.root / "shut", 0o755)
    assert pair.pull("--full").code == 0
    assert regular_files(pair.there) == [b"open/old", b"shut/new", b"shut/old"]
    return pushed.code, pulled.code, pair.status().code


@row("read-only-file", user=True)
def read_only_file(pair: Pair) -> tuple[int, int, int]:
    path = pair.write("file", b"1", mode=0o444)
    pair.push()
    pair.pull()
    os.remove(path)
    pair.write("file", b"2", mode=0o444)
    pushed, pulled = pair.push("--copy"), pair.pull("--copy")
    assert pair.laptop.read("file") == "2"
    return pushed.code, pulled.code, pair.status().code


@row("someone-elses-file", user=True)
def someone_elses_file(pair: Pair) -> tuple[int, int, int]:
    for name in ("readable", "secret"):
        pair.write(name, b"1")
    pair.push()
    pair.pull()
    if os.getuid() != 0:
        pytest.skip("only root may give a file away, which this row is about")
    for name, mode in (("readable", 0o644), ("secret", 0o600)):
        with as_root():
            os.chown(pair.laptop.root / name, 0, 0)
            os.chmod(pair.laptop.root / name, mode)
        pair.write(name, b"2", mode=mode)
    pushed, pulled = pair.push("--copy"), pair.pull("--copy")
    assert pulled.skipped == {"secret": "permission denied"}
    assert pair.laptop.read("readable") == "2"
    with as_root():
        assert pair.laptop.read("secret") == "1"
    assert pair.run(pair.laptop, "undo").code == 0
    assert pair.laptop.read("readable") == "1"
    return pushed.code, pulled.code, pair.status().code


@contextmanager
def as_root() -> Iterator[None]:
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(NOBODY)


def flagged(pair: Pair, flag: str) -> tuple[int, int, int]:
    """A file that the filesystem lets nobody replace, where a pull has a new version."""
    pair.write("held", b"1")
    pair.write("fine", b"1")
    pair.push()
    pair.pull()
    pair.write("held", b"2")
    pair.write("fine", b"2")
    pushed = pair.push("--copy")
    held = str(pair.laptop.root / "held")
    if shutil.which("chattr") is None:
        pytest.skip("there is no chattr here, which sets the flag that this row is about")
    done = subprocess.run(["chattr", f"+{flag}", held], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user or filesystem cannot set the flag that this row is about: {done.stderr}")
    try:
        pulled = pair.pull("--copy")
        assert pulled.skipped == {"held": "permission denied"}
        assert (pair.laptop.read("held"), pair.laptop.read("fine")) == ("1", "2")
    finally:
        subprocess.run(["chattr", f"-{flag}", held], check=True)
    assert pair.pull("--copy").code == 0
    assert pair.laptop.read("held") == "2"
    return pushed.code, pulled.code, pair.status().code


@row("immutable", disk=True)
def immutable(pair: Pair) -> tuple[int, int, int]:
    return flagged(pair, "i")


@row("append-only", disk=True)
def append_only(pair: Pair) -> tuple[int, int, int]:
    return flagged(pair, "a")


# --- mounts


@row("nested-mount")
def nested_mount(pair: Pair) -> tuple[int, int, int]:
    for machine in (pair.gpu, pair.laptop):
        (machine.root / "disk").mkdir()
    pair.write("fine")
    with mounted(pair.gpu.root / "disk"), mounted(pair.laptop.root / "disk"):
        pair.write("disk/run/a", b"1")
        codes = pair.travels("disk/run/a", "fine")
        pair.write("disk/run/a", b"2")
        pair.push("--copy")
        assert pair.pull("--copy").code == 0
        assert pair.laptop.read("disk/run/a") == "2"
        assert pair.run(pair.laptop, "undo").code == 0
        assert pair.laptop.read("disk/run/a") == "1"
    return codes


@row("unmounted")
def unmounted(pair: Pair) -> tuple[int, int, int]:
    disk = pair.gpu.root / "disk"
    disk.mkdir()
    pair.write("fine")
    with mounted(disk):
        for number in range(3):
            pair.write(f"disk/{number}")
        pair.push()
        pair.pull()
    status, pushed = pair.status(), pair.push("--full")
    assert list(pushed.skipped) == list(status.skipped) == ["disk"]
    assert pushed.report["deleted"] == 0
    disk.rmdir()  # the mount point gone as well
    pushed = pair.push("--full")
    assert (pushed.report["deleted"], list(pushed.skipped)) == (0, ["disk"])
    assert pair.names() == ["disk/0", "disk/1", "disk/2", "fine"]
    pulled = pair.pull("--full")
    assert len(regular_files(pair.there)) == 4
    return pushed.code, pulled.code, status.code


@row("read-only-root")
def read_only_root(pair: Pair) -> tuple[int, int, int]:
    with mounted(pair.gpu.root):
        path = pair.write("run/a", b"one")
        remount(pair.gpu.root, "ro")
        codes = pair.travels("run/a")
        settle_clock(path, pair.gpu.folder)
        assert pair.status().code == 0
        with reading() as opened:
            assert pair.push("--full").report["changed"] == 0
        assert opened == [], "its clock is this machine's: what has settled is not read again"
        # What somebody writes where it is mounted to be written to.
        remount(pair.gpu.root, "rw")
        pair.write("run/a", b"two")
        remount(pair.gpu.root, "ro")
        assert pair.status().report["cases"] == {"changed_here": ["run/a"]}
        pair.laptop.write("run/b", "new")
        pair.run(pair.laptop, "push")
        refused = pair.run(pair.gpu, "pull")
        assert (refused.code, os.listdir(pair.gpu.root / "run")) == (12, ["a"])
        assert refused.report["message"].endswith("the filesystem is read-only")
        # Nothing tells the time of a file server that cannot be written to: what changed is read every time.
        remount(pair.gpu.root, "rw")
        pair.write("run/a", b"six")
        remount(pair.gpu.root, "ro")
        settle_clock(path, pair.gpu.folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("manifest_sync.worktree.worktree.mount_of", lambda path: None)
            for _ in range(2):
                with reading() as opened:
                    assert pair.status().report["cases"]["changed_here"] == ["run/a"]
                assert opened == [b"run/a"]
    return codes


def remount(folder: FsPath, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


@row("missing-root")
def missing_root(pair: Pair) -> tuple[int, int, int]:
    pair.write("run/a")
    pair.push()
    pair.pull()
    os.rename(pair.gpu.root, pair.folder / "elsewhere")
    status, pushed = pair.status(), pair.push("--full")
    assert pushed.report["message"].endswith("nothing was done")
    assert not pair.gpu.root.exists()
    pulled = pair.pull("--full")
    assert regular_files(pair.there) == [b"run/a"]
    return pushed.code, pulled.code, status.code


# --- the table


DOCUMENTED = {
    name: tuple(int(code) for code in re.findall(r"\d+", codes))
    for name, codes in re.findall(r"^\| `([\w-]+)` \|.*\| ([\d, ]+) \|$", DOCUMENT.read_text("utf-8"), re.M)
}


@pytest.mark.parametrize("name", ROWS)
def test_oddity(name: str, tmp_path: FsPath, fast_path: FsPath, request: pytest.FixtureRequest) -> None:
    function, needs = ROWS[name]
    defaults = needs.get("defaults", "")
    if needs.get("user"):
        with as_ordinary_user() as folder:
            codes = function(Pair(folder, defaults=defaults))
    else:
        folder = (tmp_path if needs.get("disk") else fast_path) / "oddity"
        # Some of this is too deep for what pytest and tempfile remove their folders with.
        request.addfinalizer(lambda: subprocess.run(["rm", "-rf", str(folder)], check=False))
        codes = function(Pair(folder, defaults=defaults))
    assert DOCUMENTED.get(name) == codes


def test_the_document_has_a_row_for_each_and_no_other() -> None:
    assert list(DOCUMENTED) == list(ROWS)
    assert len(ROWS) >= 25

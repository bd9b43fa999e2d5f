"""A victim of a hostile bucket, what must not change around it, and the commands it is put through."""

from __future__ import annotations

import os
import shutil
import stat as st
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path as FsPath

from manifest_sync.cli.main import main
from manifest_sync.project import Project
from tests.confined import Confined, Outcome, Used
from tests.forge import Forge

MAX_PEAK = 216 << 20
"""Of 256 MiB, because a fork begins with 40 MiB less than a process that has loaded the program itself."""
DOCUMENTED = {0, 3, 5, 6, 7, 8, 10}
"""Exit codes of cli.md that a bucket can bring about."""

CONFIG = """\
bucket = "../bucket"
root = "experiments"
[ownership]
git_tracked = false
rules = ["git *.py"]
[defaults]
symlinks = "{symlinks}"
"""
SYNCED = {
    b"exp/a.json": b'{"a": 1}\n',
    b"exp/b.bin": b"\x00binary\xff" * 100,
    b"exp/edited.json": b"as it was pushed\n",
    b"plain": b"a file where a folder could be\n",
    b"zz/last": b"last\n",
}
EDITED = b"as it was edited here and is nowhere else\n"
LOCAL_ONLY = {b"exp/local.json": b"never pushed\n", b"exp/deep/er/own": b"never pushed either\n"}

READS: list[list[str]] = [
    ["ls", "-l"],
    ["status", "--json"],
    ["log", "--all"],
    ["diff"],
    ["cat", "exp/new"],
    ["pull", "--full", "--dry-run"],
    ["pull"],
    ["pull", "--copy"],
    ["pull", "--full", "--delete-unknown", "--max-delete", "100%"],
    ["pull", "--checksum", "--restore-deleted"],
    ["pull", "--full", "--resolve", "remote", "--max-delete", "100%", "--json"],
    ["pull", "--full", "--resolve", "both"],
    ["verify", "--read-data"],
    ["gc", "--min-age", "0s", "--keep-last", "1"],
    ["status", "--offline"],
]
"""Commands that change nothing in the bucket, in the order in which the victim runs them."""
PUSHES: list[list[str]] = [
    ["push"],
    ["push", "--copy"],
    ["push", "--full", "--delete-unknown", "--max-delete", "100%", "--resolve", "local"],
    ["pull", "--full"],
]
CHAINS: list[list[list[str]]] = [
    # A new index has seen no head and no repository before.
    [["rebuild-index"], ["pull", "--full"], ["push", "--full"]],
    [["gc", "--min-age", "0s", "--keep-last", "1", "--apply"], ["verify"], ["push", "--repair"]],
    [
        ["restore", "exp", "plain"],
        ["undo"],
        ["restore", "exp", "--to", "../restored"],
        ["drop", "zz"],
        ["pull", "--full"],
        ["trash", "list"],
        ["pull", "--at", "1", "--full"],
    ],
]
"""More commands; each list is tried on a copy of its own."""
HEAVY_READS: list[list[str]] = [["pull", "--full", "--json"]]
HEAVY_PUSHES: list[list[str]] = [["push", "--full"]]
"""What the attacks that cost much time go through: a bound that holds here is the bound of all."""


def known(commands: Iterable[list[str]]) -> list[list[str]]:
    """Those of the commands that this version has."""
    return [args for args in commands if args[0] in main.commands]


@dataclass(frozen=True)
class Seen:
    """One path as it was found: what it is, which inode, when changed, and what is in it."""

    inode: int
    mode: int
    mtime_ns: int
    content: bytes


def portrait(folder: FsPath, leave_out: Iterable[FsPath] = ()) -> dict[bytes, Seen]:
    """Everything at and below ``folder``, without following links."""
    found: dict[bytes, Seen] = {}
    left_out = {os.fsencode(path) for path in leave_out}
    pending = [os.fsencode(folder)]
    while pending:
        path = pending.pop()
        if path in left_out:
            continue
        stat = os.lstat(path)
        content = b""
        if st.S_ISDIR(stat.st_mode):
            pending += [os.path.join(path, name) for name in os.listdir(path)]
        elif st.S_ISLNK(stat.st_mode):
            content = os.readlink(path)
        elif st.S_ISREG(stat.st_mode):
            content = FsPath(os.fsdecode(path)).read_bytes()
        found[os.path.relpath(path, os.fsencode(folder))] = Seen(
            stat.st_ino, stat.st_mode, stat.st_mtime_ns, content
        )
    return found


class World:
    """A bucket, a victim's project and a canary tree, in one folder; paths in it are relative."""

    def __init__(self, folder: FsPath) -> None:
        self.folder = folder
        self.bucket = folder / "bucket"
        self.victim = folder / "victim"
        self.root = self.victim / "experiments"
        self.state = self.victim / ".manifest-sync"
        self.restored = folder / "restored"
        """Where `restore --to` writes; that keeps links, whatever the configuration says of the tree."""
        self.keeps_links = False

    @classmethod
    def make(cls, folder: FsPath) -> World:
        """A victim that has pushed, edited, and has files and links of its own."""
        world = cls(folder)
        world.victim.mkdir(parents=True)
        world.configure("skip")
        Project.init(str(world.victim), "../bucket", env={})
        for path, content in SYNCED.items():
            world.write(path, content)
        assert Project.find(str(world.victim), env={}).push().new == len(SYNCED)
        for path, content in LOCAL_ONLY.items():
            world.write(path, content)
        world.write(b"exp/edited.json", EDITED)
        outside = folder / "outside"
        (outside / "folder/below").mkdir(parents=True)
        (outside / "secret").write_bytes(b"secret\n")
        (outside / "folder/below/file").write_bytes(b"outside\n")
        (world.root / "link").symlink_to("../../outside/folder")
        (world.root / "linkfile").symlink_to("../../outside/secret")
        for canary in (world.root / ".git/hooks/post-merge", world.victim / ".git/config"):
            canary.parent.mkdir(parents=True)
            canary.write_bytes(b"canary\n")
        (world.victim / "notes.txt").write_bytes(b"canary\n")
        (world.state / "keep").mkdir()
        (world.state / "keep/canary").write_bytes(b"canary\n")
        return world

    def configure(self, symlinks: str) -> None:
        """Write the victim's configuration."""
        self.keeps_links = symlinks == "keep"
        (self.victim / "manifest-sync.toml").write_text(CONFIG.format(symlinks=symlinks))

    def write(self, path: bytes, content: bytes) -> None:
        """Write a file of the victim's tree."""
        target = self.root / os.fsdecode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def copy(self, folder: FsPath) -> World:
        """The same again in another place."""
        shutil.copytree(self.folder, folder, symlinks=True)
        copied = World(folder)
        copied.keeps_links = self.keeps_links
        return copied

    def forge(self) -> Forge:
        """What writes the bucket by hand."""
        return Forge(self.bucket, SYNCED)

    def around(self) -> dict[bytes, Seen]:
        """All that no bucket may have changed: everything but the tree, the bucket and the state."""
        own = [self.state / name for name in os.listdir(self.state) if name != "keep"]
        written = [self.bucket, self.root, self.state, self.restored]
        own_folder = portrait(self.folder, written)
        found = own_folder | portrait(self.state / "keep") | portrait(self.root / ".git")
        for path in own:
            if path.name in ("machine", ".gitignore"):
                found |= {path.name.encode(): portrait(path)[b"."]}
        # The folders that hold the root and the bucket are written to; that they stay folders is enough.
        return {path: seen for path, seen in found.items() if path not in (b".", b"victim")}

    def tree(self) -> dict[bytes, Seen]:
        """The victim's tree, without folders."""
        found = portrait(self.root, [self.root / ".git"])
        return {path: seen for path, seen in found.items() if not st.S_ISDIR(seen.mode)}

    def state_names(self) -> set[str]:
        """What lies directly in the state folder."""
        return set(os.listdir(self.state))

    def is_stored(self, content: bytes) -> bool:
        """Whether a pack of the bucket holds this content as it is."""
        return any(content in pack.read_bytes() for pack in self.bucket.glob("packs/*/*.pack"))

    def trashed(self) -> set[bytes]:
        """The contents in the trash."""
        found = portrait(self.state / "trash") if (self.state / "trash").is_dir() else {}
        return {seen.content for seen in found.values() if not st.S_ISDIR(seen.mode)}


def check_outcome(outcome: Outcome, allowed: set[int]) -> None:
    """Nothing but a documented exit code and a message in the user's words."""
    told = f"{' '.join(outcome.args)} -> {outcome.code}\n{outcome.stdout}\n{outcome.stderr}"
    assert "Traceback" not in outcome.stderr + outcome.stdout, told
    assert "internal error" not in outcome.stderr + outcome.stdout, told
    assert outcome.code in allowed, told
    if outcome.code not in (0, 3, 6) and not {"--json", "--repair", "verify"} & set(outcome.args):
        # What is hurt is a result like another, and the rest goes on.
        assert outcome.stderr.startswith("manifest-sync: ") or "hurt in the bucket" in outcome.stdout, told


@dataclass(frozen=True)
class Before:
    """What a world was like before it was attacked."""

    around: dict[bytes, Seen]
    tree: dict[bytes, Seen]
    names: set[str]


def look(world: World) -> Before:
    """Remember what must not change."""
    return Before(world.around(), world.tree(), world.state_names())


def check_world(world: World, before: Before, lands: dict[bytes, bytes]) -> None:
    """Nothing around the tree has changed, and in it only what may land is new; nothing is lost.

    Args:
        lands: contents that may be new in the tree, by path; links by their target.
    """
    assert world.around() == before.around
    own = {"index.sqlite", "index.sqlite-journal", "index.sqlite.before-rebuild", "lock", "clock", "cache"}
    assert world.state_names() - before.names <= own | {"staging", "trash"}
    after, trashed = world.tree(), world.trashed()
    for path, seen in after.items():
        old = before.tree.get(path)
        if old is not None and (old.content, st.S_IFMT(old.mode)) == (seen.content, st.S_IFMT(seen.mode)):
            continue
        legal = SYNCED | lands
        assert path in legal, f"{path!r} appeared in the tree"
        assert seen.content == legal[path], f"{path!r} holds something else"
        assert st.S_ISREG(seen.mode) or (world.keeps_links and st.S_ISLNK(seen.mode)), f"{path!r}"
        assert not seen.mode & 0o7000, f"{path!r} got mode {seen.mode:o}"
    if world.restored.exists():
        for path, seen in portrait(world.restored).items():
            assert st.S_ISDIR(seen.mode) or seen.content == (SYNCED | lands)[path], f"{path!r} was restored"
            assert not seen.mode & 0o7000, f"{path!r} got mode {seen.mode:o}"
    for path, seen in before.tree.items():
        kept = path in after and after[path].content == seen.content
        # What was dropped is in the bucket, in a pack that was not compressed.
        assert kept or seen.content in trashed or world.is_stored(seen.content), f"{path!r} is lost"
    staging = world.state / "staging"
    assert not staging.exists() or set(os.listdir(staging)) <= {"clock"}


def check_used(used: Used, commands: list[list[str]]) -> None:
    """Bounded memory and time."""
    assert used.signal == 0, f"killed by signal {used.signal} after {[o.args for o in used.outcomes]}"
    assert len(used.outcomes) == len(commands)
    assert used.peak_bytes < MAX_PEAK, f"{used.peak_bytes >> 20} MiB"


def assail(
    world: World,
    confined: Confined,
    craft: Callable[[Forge], object],
    codes: set[int],
    lands: dict[bytes, bytes],
    *,
    scratch: FsPath,
    chains: Iterable[list[list[str]]] = (),
    is_heavy: bool = False,
) -> None:
    """Put the victim of one attack through the commands, and look what became of it and around it.

    Args:
        codes: what a pull may exit with, before the index is made anew.
        lands: what may be new in the tree.
        chains: what else to try.
    """
    craft(world.forge())
    lists = [HEAVY_READS, HEAVY_PUSHES] if is_heavy else [READS, PUSHES, *chains]
    worlds = [world, *(world.copy(scratch / f"world{number}") for number in range(1, len(lists)))]
    for victim, chain in zip(worlds, lists, strict=True):
        before = look(victim)
        commands = known(chain)
        used = confined.run(victim.victim, commands)
        for outcome in used.outcomes:
            is_strict = victim is world and outcome.args[0] == "pull" and "--dry-run" not in outcome.args
            # There may be no such file in the bucket, or nothing to undo.
            more = {1, 2} if outcome.args[0] in ("cat", "restore", "undo") else set()
            check_outcome(outcome, codes if is_strict else DOCUMENTED | more)
        check_used(used, commands)
        check_world(victim, before, lands)

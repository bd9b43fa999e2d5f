"""Three machines, one bucket, and whatever can happen to them in any order (P1-P14), against the oracle.

The rules are what people, programs and broken stores do; `tests.fleet` compares every outcome with
`tests.oracle` after every step, and reads the bucket with code of its own. A failure is shrunk to a short
program of these rules.
"""

from __future__ import annotations

import ast
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path as FsPath
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests import oracle
from tests.conftest import Soak
from tests.faulty_store import Kind
from tests.fleet import Fleet
from tests.oracle import EXCLUDES, Asked

MACHINES = 3
PATHS = [
    "a",  # a file here, a folder there
    "a/b",
    "a/b/c",
    "a-x",  # sorts between "a" and what is in it
    "d/e.json",
    "d/f.tmp",
    "d/g/h",
    "d/m759",  # a page ends after this path and after the next
    "m270",
    "d/notes.md",  # not ours
    "d/activations/v",  # not ours
]
NEVER_FOLDERS = ["d/e.json", "m270"]
"""Where fifos can stand: where a folder was, a fifo hides it, which `Hide` is about."""
CONTENTS = [b"", b"1", b"2", b"3", b"four", b"a bit longer"]
KINDS: list[Kind] = ["crash", "crash_after", "before", "after_lost_reply"]


class Happening(Protocol):
    """One thing that happens."""

    def __call__(self, fleet: Fleet) -> None: ...


# People and their programs.


@dataclass(frozen=True)
class Write:
    n: int
    path: str
    content: bytes
    how: str = "in place"

    def __call__(self, fleet: Fleet) -> None:
        if fleet.can_write(self.n, self.path):
            fleet.write(self.n, self.path, self.content, how=self.how)


@dataclass(frozen=True)
class Chmod:
    n: int
    path: str
    mode: int

    def __call__(self, fleet: Fleet) -> None:
        if self.path in fleet.sides[self.n].tree.files:
            fleet.chmod(self.n, self.path, self.mode)


@dataclass(frozen=True)
class Delete:
    n: int
    path: str

    def __call__(self, fleet: Fleet) -> None:
        tree = fleet.sides[self.n].tree
        if tree.has(self.path) or self.path in tree.folders:
            fleet.delete(self.n, self.path)


@dataclass(frozen=True)
class Rename:
    n: int
    path: str
    to: str

    def __call__(self, fleet: Fleet) -> None:
        tree = fleet.sides[self.n].tree
        is_there = self.path in tree.files or self.path in tree.folders
        if not is_there or oracle.in_ranges(self.to, (self.path,)) or not fleet.can_write(self.n, self.to):
            return
        if self.path not in tree.folders or (self.to not in tree.files and self.to not in NEVER_FOLDERS):
            fleet.rename(self.n, self.path, self.to)


@dataclass(frozen=True)
class Swap:
    """A file becomes a folder, a folder a file."""

    n: int
    path: str
    content: bytes

    def __call__(self, fleet: Fleet) -> None:
        tree = fleet.sides[self.n].tree
        if self.path in tree.folders:
            fleet.delete(self.n, self.path)
            fleet.write(self.n, self.path, self.content)
        elif self.path in tree.files and self.path not in NEVER_FOLDERS:
            fleet.delete(self.n, self.path)
            fleet.write(self.n, self.path + "/b", self.content)


@dataclass(frozen=True)
class Fifo:
    """A fifo comes, or goes."""

    n: int
    path: str

    def __call__(self, fleet: Fleet) -> None:
        if self.path in fleet.sides[self.n].tree.special:
            fleet.delete(self.n, self.path)
        elif fleet.can_write(self.n, self.path):
            fleet.make_fifo(self.n, self.path)


# Commands.


@dataclass(frozen=True)
class Run:
    n: int
    asked: Asked

    def __call__(self, fleet: Fleet) -> None:
        fleet.run(self.n, self.asked)


@dataclass(frozen=True)
class Sync:
    """Pull, then push, as ``sync`` does."""

    n: int
    mode: str

    def __call__(self, fleet: Fleet) -> None:
        fleet.run(self.n, Asked("pull", self.mode))
        fleet.run(self.n, Asked("push", self.mode))


@dataclass(frozen=True)
class Drop:
    n: int
    path: str

    def __call__(self, fleet: Fleet) -> None:
        fleet.drop(self.n, (self.path,))


@dataclass(frozen=True)
class Restore:
    """``back``: how many snapshots ago, as far as that is kept."""

    n: int
    paths: tuple[str, ...]
    back: int

    def __call__(self, fleet: Fleet) -> None:
        newest = len(fleet.chain) - 1
        fleet.restore(self.n, self.paths, max(newest - self.back, fleet.raw.read().oldest))


@dataclass(frozen=True)
class Undo:
    n: int

    def __call__(self, fleet: Fleet) -> None:
        fleet.undo(self.n)


@dataclass(frozen=True)
class Collect:
    n: int
    keep_last: int
    after: int = -1
    kind: Kind = "crash"

    def __call__(self, fleet: Fleet) -> None:
        fleet.collect(self.n, self.keep_last, self.after, self.kind)


# What goes wrong.


@dataclass(frozen=True)
class Struck:
    """A command at whose store call number ``after`` the store fails, or the process dies."""

    n: int
    asked: Asked
    after: int
    kind: Kind

    def __call__(self, fleet: Fleet) -> None:
        fleet.run_with_fault(self.n, self.asked, self.after, self.kind)


@dataclass(frozen=True)
class Meddled:
    """A command, with something else right before its store call number ``at``."""

    n: int
    asked: Asked
    at: int
    meddling: tuple[Happening, ...]

    def __call__(self, fleet: Fleet) -> None:
        def meddle() -> None:
            for happening in self.meddling:
                # What a file of its own that is new may do to a plan, the oracle does not say.
                files = fleet.sides[self.n].tree.files
                if not isinstance(happening, Write) or happening.n != self.n or happening.path in files:
                    happening(fleet)

        fleet.run_meddled(self.n, self.asked, self.at, meddle)


@dataclass(frozen=True)
class Hide:
    n: int
    folder: str
    asked: Asked

    def __call__(self, fleet: Fleet) -> None:
        if self.folder in fleet.sides[self.n].tree.folders and oracle.is_ours(self.folder + "/x"):
            fleet.hide(self.n, self.folder, self.asked)


@dataclass(frozen=True)
class RootAway:
    n: int
    asked: Asked

    def __call__(self, fleet: Fleet) -> None:
        fleet.take_root_away(self.n, self.asked)


@dataclass(frozen=True)
class OldHead:
    n: int
    back: int
    asked: Asked

    def __call__(self, fleet: Fleet) -> None:
        fleet.bring_back_an_old_head(self.n, self.back, self.asked)


@dataclass(frozen=True)
class Index:
    """``lost``, ``copied``, or ``older``: that copy comes back."""

    n: int
    fate: str

    def __call__(self, fleet: Fleet) -> None:
        fates: dict[str, Callable[[int], None]] = {
            "lost": fleet.lose_index,
            "copied": fleet.copy_index,
            "older": fleet.bring_back_the_index,
        }
        fates[self.fate](self.n)


machines = st.integers(0, MACHINES - 1)
paths = st.sampled_from(PATHS)
contents = st.sampled_from(CONTENTS)
struck_at = st.integers(0, 7)
kinds = st.sampled_from(KINDS)


@st.composite
def existing(draw: st.DrawFn, what: str = "files and folders") -> tuple[int, str]:
    """A machine and something in its tree, or a path where nothing is."""
    fleet = draw(st.runner()).fleet
    n = draw(machines)
    tree = fleet.sides[n].tree
    found = sorted(
        tree.files
        if what == "files"
        else tree.folders
        if what == "folders"
        else tree.files.keys() | tree.folders
    )
    return n, draw(st.sampled_from(found or ["nothing"]))


@st.composite
def asked(draw: st.DrawFn, *commands: str) -> Asked:
    """Any push or pull, half of them plain."""
    command = draw(st.sampled_from(commands or ("push", "pull")))
    mode = draw(st.sampled_from(["full", "copy", "copy", "full", "new"]))
    plain = Asked(command, mode)
    if draw(st.sampled_from([True, False])):
        return plain
    resolve, resolve_paths = draw(
        st.sampled_from(
            [
                ("", ()),
                ("", ()),
                ("", ()),
                ("local", ()),
                ("remote", ()),
                ("both", ()),
                ("local", ("a", "d/e.json")),
                ("remote", ("d",)),
                ("both", ("a", "m270")),
            ]
        )
    )
    return replace(
        plain,
        only=draw(st.sampled_from([(), (), ("a",), ("d",), ("a/b",), ("a", "d/g"), ("m270", "d/e.json")])),
        exclude=draw(st.sampled_from(["", "", "", *EXCLUDES])),
        delete_unknown=mode == "full" and draw(st.sampled_from([False, False, True])),
        restore_deleted=draw(st.sampled_from([False, False, True])),
        resolve=resolve,
        resolve_paths=resolve_paths,
        max_delete=draw(st.sampled_from([None, None, None, None, 0, 1])),
        dry_run=draw(st.sampled_from([False, False, False, False, True])),
    )


edits = st.one_of(
    st.builds(Write, machines, paths, contents, st.sampled_from(["in place", "replaced"])),
    st.builds(Write, machines, paths, contents, st.sampled_from(["in place", "replaced"])),
    existing("files").flatmap(
        lambda it: st.builds(
            Write,
            st.just(it[0]),
            st.just(it[1]),
            contents,
            st.sampled_from(["in place", "quietly", "replaced"]),
        )
    ),
    existing("files").flatmap(
        lambda it: st.builds(Chmod, st.just(it[0]), st.just(it[1]), st.sampled_from([0o755, 0o644, 0o600]))
    ),
    existing().map(lambda it: Delete(*it)),
    existing().flatmap(lambda it: st.builds(Rename, st.just(it[0]), st.just(it[1]), paths)),
    existing().flatmap(lambda it: st.builds(Swap, st.just(it[0]), st.just(it[1]), contents)),
    st.builds(Fifo, machines, st.sampled_from(NEVER_FOLDERS)),
)
scopes = st.sampled_from([("a",), ("d",), ("d/e.json", "m270"), ("a/b",)])
commands = st.one_of(
    st.builds(Run, machines, asked("push")),
    st.builds(Run, machines, asked("pull")),
    st.builds(Sync, machines, st.sampled_from(["copy", "full"])),
    st.builds(Run, machines, st.builds(Asked, st.just("status"), only=st.just(()) | scopes)),
    existing().map(lambda it: Drop(*it)),
    st.builds(Restore, machines, scopes, st.integers(0, 4)),
    st.builds(Undo, machines),
    st.builds(Collect, machines, st.integers(1, 3)),
)


@st.composite
def meddled(draw: st.DrawFn) -> Meddled:
    """Something comes between: other machines' commands, or an edit of this one's file."""
    if draw(st.booleans()):
        n, path = draw(existing("files"))
        meddling: tuple[Happening, ...] = (Write(n, path, draw(contents)),) if path != "nothing" else ()
    else:
        n = draw(machines)
        other = (n + draw(st.integers(1, MACHINES - 1))) % MACHINES
        does = [
            st.builds(Run, st.just(other), asked("push")),
            st.builds(Write, st.just(other), paths, contents),
            st.builds(Collect, st.just(other), st.integers(1, 2)),
        ]
        meddling = tuple(draw(st.lists(st.one_of(*does), min_size=1, max_size=3)))
    return Meddled(n, draw(asked()), draw(struck_at), meddling)


troubles = st.one_of(
    st.builds(Struck, machines, asked("push"), struck_at, kinds),
    st.builds(Struck, machines, asked("pull"), struck_at, kinds),
    meddled(),
    meddled(),
    st.builds(Collect, machines, st.integers(1, 3), st.integers(0, 12), kinds),
    st.builds(Index, machines, st.sampled_from(["lost", "copied", "older"])),
    existing("folders").flatmap(
        lambda it: st.builds(Hide, st.just(it[0]), st.just(it[1]), asked().map(seeing_everything))
    ),
    st.builds(RootAway, machines, asked()),
    st.builds(OldHead, machines, st.integers(1, 4), asked()),
)


def seeing_everything(one: Asked) -> Asked:
    """The same, without a limited scope."""
    return replace(one, only=(), exclude="")


class Fleeting(RuleBasedStateMachine):
    """The rules. Each step leaves the fleet checked."""

    kind: ClassVar[str] = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.folder = FsPath(tempfile.mkdtemp(prefix="manifest-sync-stateful-", dir=fast_folder()))
        self.fleet = Fleet(self.folder, self.kind, MACHINES)

    def teardown(self) -> None:
        try:
            converge(self.fleet)
        finally:
            shutil.rmtree(self.folder)

    @initialize(
        files=st.lists(st.tuples(paths, contents), min_size=2, max_size=8),
        pulled=st.sampled_from([True, True, False]),
    )
    def begin(self, files: list[tuple[str, bytes]], pulled: bool) -> None:
        """Most histories begin with something that all have."""
        for path, content in files:
            Write(0, path, content)(self.fleet)
        if pulled:
            self.fleet.run(0, Asked("push"))
            for n in range(1, MACHINES):
                self.fleet.run(n, Asked("pull"))

    # One rule for all: hypothesis switches off whole rules for a history, and histories without commands, or
    # without edits, show little.
    @rule(what=st.one_of(edits, commands, edits, troubles))
    def happens(self, what: Happening) -> None:
        what(self.fleet)


def converge(fleet: Fleet) -> None:
    """P10: without open conflicts ``--full`` push and pull, twice on each machine, give identical trees, and
    a third round writes nothing."""
    for n, side in enumerate(fleet.sides):
        for path in sorted(side.tree.special):
            fleet.delete(n, path)
    quiet = 0
    for turn in range(5):
        before = (fleet.chain, [side.tree for side in fleet.sides])
        codes: list[int | None] = []
        for n in range(len(fleet.sides)):
            codes.append(fleet.run(n, Asked("push", "full", resolve="" if turn else "local")).exit_code)
            codes.append(fleet.run(n, Asked("pull", "full")).exit_code)
        # A conflict may end by what another machine does, and what it held up then begins.
        quiet = 0 if any(codes) else quiet + 1
        if quiet == 3:
            now = (fleet.chain, [side.tree for side in fleet.sides])
            assert now == before, "a third round wrote something"
            break
    else:
        return  # a file here and a folder there: a person has to settle that
    for side in fleet.sides:
        ours = {path: file.state for path, file in side.tree.files.items() if oracle.is_ours(path)}
        dropped = side.memories[0].dropped
        expected = {path: file.state for path, file in fleet.bucket.items() if path not in dropped}
        assert ours == expected


def fast_folder() -> str | None:
    """A folder in memory where there is one: what is tested here does not hang on the disk."""
    return "/dev/shm" if FsPath("/dev/shm").is_dir() else None


class FleetingOnDisk(Fleeting):
    """The same with the bucket in a folder."""

    kind = "directory"


@pytest.mark.usefixtures("short_pages")
@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("machine", "share"), [(Fleeting, 1.0), (FleetingOnDisk, 0.2)], ids=["memory", "directory"]
)
def test_any_history(
    machine: type[Fleeting], share: float, soak: Soak, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifest_sync.repository.time", SimpleNamespace(sleep=lambda _: None))
    seeded: Any = seed(soak.seed)(type(machine.__name__, (machine,), {}))
    run_state_machine_as_test(
        seeded,
        settings=settings(
            max_examples=max(1, int(soak.count(100, 1000) * share)),
            stateful_step_count=300 if soak.factor else 50,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )


def test_the_oracle_knows_nothing_of_the_code() -> None:
    for module in (FsPath(oracle.__file__), FsPath(__file__).with_name("raw_bucket.py")):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.startswith(("manifest_sync", "tests"))]

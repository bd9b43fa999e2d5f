"""Runs a command in a forked process, counts its events (`crash_hooks`), strikes at one, and checks what is
left. An operation is a prepared state and a command on it; adding one is adding a line to ``OPERATIONS``.

A state is a folder with two machines, ``gpu`` (where the command runs) and ``laptop``, and ``bucket``. It
is prepared once and copied for every strike.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import shutil
import signal
import stat as st
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path as FsPath
from typing import Any, TypeVar

import manifest_sync
from manifest_sync.cli.main import main
from tests.closure import Bucket, folder_fetch, folder_objects, read_bucket
from tests.crash_hooks import NO_CHANGE, Event, Plan, install

T = TypeVar("T")

WORKERS = 2
_SECONDS = 60

Audit = Callable[[str, tuple[Any, ...]], None]
Node = tuple[str, bytes, int, int]
"""What stands at a path: type, content (or a link's target), permission bits, mtime in nanoseconds."""

CONFIG = """\
bucket = "../bucket"
root = "experiments"
[ownership]
git_tracked = false
[defaults]
symlinks = "keep"
trust_ctime = false
trust_inode = false
"""
"""A copy of a state has other inodes and ctimes: without them a copied file counts as unchanged."""


# --- running


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal), what it printed, and its events."""

    code: int
    out: str
    err: str
    events: tuple[Event, ...] = ()

    def json(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def run(folder: FsPath, *argv: str) -> Done:
    """The command ``manifest-sync ARGV`` in ``folder``, undisturbed, in this process."""
    load_everything()
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    before, home = os.getcwd(), os.environ.get("HOME", "")
    try:
        os.chdir(folder)
        os.environ["HOME"] = str(folder)
        with redirect_stdout(out), redirect_stderr(err):
            code = main.main(list(argv), standalone_mode=False)
    finally:
        os.chdir(before)
        os.environ["HOME"] = home
    texts = [bytes(stream.buffer.getvalue()).decode() for stream in (out, err)]
    return Done(code, texts[0], texts[1])


def run_with(plan: Plan, folder: FsPath, *argv: str, audit: Audit | None = None) -> Done:
    """The same in a forked process of its own, its events counted, and struck as the plan says."""
    load_everything()
    streams = [os.memfd_create(name) for name in ("stdout", "stderr", "events")]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        code = 99
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_SECONDS)
            sys.stdout, sys.stderr = (
                io.TextIOWrapper(io.FileIO(stream, "w"), write_through=True) for stream in streams[:2]
            )
            os.chdir(folder)
            os.environ["HOME"] = str(folder)
            install(plan, streams[2])
            if audit is not None:
                sys.addaudithook(audit)
            code = main.main(list(argv), standalone_mode=False)
        except BaseException:  # noqa: BLE001  it is told through the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    out, err, events = (_drain(stream) for stream in streams)
    return Done(os.waitstatus_to_exitcode(status), out, err, _parse_events(events))


@cache
def load_everything() -> None:
    """Import what the commands import when they need it, so that no child has to."""
    for module in pkgutil.walk_packages(manifest_sync.__path__, "manifest_sync."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("sqlite_utils", "rich.progress", "pyfastcdc"):
        importlib.import_module(name)


def _drain(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def _parse_events(lines: str) -> tuple[Event, ...]:
    return tuple(Event(*json.loads(line)) for line in lines.splitlines())


def in_parallel(jobs: Sequence[T], work: Callable[[T], str]) -> list[str]:
    """What ``work`` says of each job, empty texts left out; in ``WORKERS`` forked processes."""
    running = []
    for number in range(WORKERS):
        stream = os.memfd_create("results")
        child = os.fork()
        if not child:
            code = 1
            try:
                found = [said for job in jobs[number::WORKERS] if (said := work(job))]
                os.write(stream, json.dumps(found).encode())
                code = 0
            except BaseException:  # noqa: BLE001  it is told through the exit code
                traceback.print_exc()
            finally:
                os._exit(code)
        running.append((child, stream))
    failures: list[str] = []
    for child, stream in running:
        _, status = os.waitpid(child, 0)
        text = _drain(stream)
        assert status == 0, f"a worker broke down: {text}"
        failures += json.loads(text)
    return failures


@contextmanager
def scratch() -> Iterator[FsPath]:
    """A temporary folder, in memory where there is one: thousands of runs would wait for a disk's syncs."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = FsPath(tempfile.mkdtemp(prefix="manifest-sync-crash-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def copy_state(source: FsPath, target: FsPath) -> FsPath:
    shutil.copytree(source, target, symlinks=True)
    return target


# --- looking


def tree(machine: FsPath) -> dict[str, Node]:
    """Everything below a machine's root but folders that hold something."""
    root = machine / "experiments"
    found: dict[str, Node] = {}
    for folder, names, files in os.walk(root):
        for name in [*files, *(n for n in names if os.path.islink(os.path.join(folder, n)))]:
            full = os.path.join(folder, name)
            found[os.path.relpath(full, root)] = _node(full)
        if not names and not files and folder != str(root):
            found[os.path.relpath(folder, root)] = ("folder", b"", 0, 0)
    return found


def _node(full: str) -> Node:
    stat = os.lstat(full)
    if st.S_ISLNK(stat.st_mode):
        return "symlink", os.fsencode(os.readlink(full)), 0, 0
    return "file", FsPath(full).read_bytes(), st.S_IMODE(stat.st_mode), stat.st_mtime_ns


def trash(machine: FsPath) -> set[bytes]:
    """The contents of everything in a machine's trash."""
    found = set()
    for folder, _, files in os.walk(machine / ".manifest-sync/trash"):
        found |= {_node(os.path.join(folder, name))[1] for name in files}
    return found


def leftovers(machine: FsPath) -> list[str]:
    """What lies in a machine's local state and should not."""
    state = machine / ".manifest-sync"
    known = {
        ".gitignore",
        "lock",
        "machine",
        "index.sqlite",
        "index.mark",
        "index.sqlite.before-rebuild",
        "trash",
        "staging",
    }
    found = sorted(set(os.listdir(state)) - known) if state.is_dir() else []
    if (state / "staging").is_dir():
        found += sorted(set(os.listdir(state / "staging")) - {"clock"})
    return found


_VOLATILE = ("seconds", "requests", "snapshot", "sequence", "stored_bytes", "time")


def status(machine: FsPath) -> dict[str, Any]:
    """What ``status --json`` says, without what differs from run to run."""
    done = run(machine, "status", "--json")
    assert done.code == 0, done.err
    return {key: value for key, value in done.json().items() if key not in _VOLATILE}


@dataclass(frozen=True)
class Seen:
    """A state as its users would compare it."""

    trees: dict[str, dict[str, Node]]
    trash: set[bytes] = field(repr=False)
    bucket: Bucket | None
    status: dict[str, Any] | None = None


def look(state: FsPath, *, with_status: bool = True) -> Seen:
    has_head = (state / "bucket/manifest.json").exists()
    return Seen(
        trees={name: tree(state / name) for name in ("gpu", "laptop")},
        trash=trash(state / "gpu"),
        bucket=read_bucket(folder_fetch(state / "bucket")) if has_head else None,
        status=status(state / "gpu") if with_status else None,
    )


# --- operations


@dataclass(frozen=True)
class Operation:
    """A command and the state it finds.

    Args:
        prepare: makes ``gpu``, ``laptop`` and ``bucket`` in a folder.
        argv: what runs, and dies, in ``gpu``.
        carry_on: the commands that carry on after a death; by default the same one again.
        check: what else must hold in the end; raises ``AssertionError``.
        keeps_trash: whether what is in the trash beforehand must not be lost.
    """

    name: str
    prepare: Callable[[FsPath], None]
    argv: tuple[str, ...]
    carry_on: tuple[tuple[str, ...], ...] = ()
    check: Callable[[FsPath], None] = lambda state: None
    keeps_trash: bool = True

    def continued(self) -> tuple[tuple[str, ...], ...]:
        return self.carry_on or (self.argv,)


class Subject:
    """An operation with its state prepared, run once to its end: what every strike is compared with."""

    def __init__(self, operation: Operation, folder: FsPath) -> None:
        self.operation = operation
        self._folder = folder
        self.prepared = folder / "prepared"
        self.prepared.mkdir()
        operation.prepare(self.prepared)
        self.before = look(self.prepared, with_status=False)
        done = copy_state(self.prepared, folder / "done")
        whole = run_with(Plan(), done / "gpu", *operation.argv)
        assert whole.code == 0, whole.err
        self.events = whole.events
        self.struck = look(done)
        """After the command that is struck, before anything else."""
        for argv in operation.carry_on:
            carried = run(done / "gpu", *argv)
            assert carried.code == 0, carried.err
        self.after = look(done)
        self.done = done

    def points(self) -> list[Plan]:
        """A plan for every state that a kill can leave: before each event that changes something, in the
        middle of each write, and after the last event."""
        plans = [Plan(event.number) for event in self.events if changes_something(event)]
        plans += [Plan(event.number, "torn") for event in self.events if event.size > 1]
        return [*plans, Plan(self.events[-1].number, "after")]

    def lost_replies(self) -> list[Plan]:
        """A plan for every call of the store whose reply is lost while the process lives on."""
        return [Plan(event.number, "lost") for event in self.events if event.layer == "store"]

    @contextmanager
    def copy(self) -> Iterator[FsPath]:
        target = FsPath(tempfile.mkdtemp(dir=self._folder))
        try:
            yield copy_state(self.prepared, target / "state")
        finally:
            shutil.rmtree(target)

    def describe(self, plan: Plan) -> str:
        return f"{self.operation.name}, {plan.strike} at {self.events[plan.at - 1]} of {len(self.events)}"


def changes_something(event: Event) -> bool:
    """Whether the disk may be another after it. A call of the store is made of ``os`` events."""
    return event.layer != "store" and event.name not in NO_CHANGE and not event.name.startswith("SAVEPOINT")


def strike(subject: Subject, plan: Plan) -> str:
    """Let the operation meet its plan, and check all that must hold; what does not, as text."""
    with subject.copy() as state:
        done = run_with(plan, state / "gpu", *subject.operation.argv)
        try:
            if plan.strike == "lost":
                assert done.code in (0, 5), f"a lost reply ends with {done.code}: {done.err}"
                assert (done.code == 0) is not done.err.startswith("manifest-sync:"), done.err
            else:
                assert done.code == -signal.SIGKILL, f"it lived, and ended with {done.code}: {done.err}"
            assert "Traceback" not in done.err, done.err
            bucket = check_whole(subject, state)
            if bucket is not None and (state / "laptop").exists():
                check_reader(bucket, state / "laptop")
            check_carries_on(subject, state)
        except AssertionError as error:
            return f"{subject.describe(plan)}\n{failure_of(error)}"
    return ""


def failure_of(error: AssertionError) -> str:
    """Which check failed, and what it said."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((f for f in reversed(frames) if f.filename == __file__), frames[-1])
    return f"  line {where.lineno} {where.line}\n  {str(error)[:1500]}"


def check_whole(subject: Subject, state: FsPath) -> Bucket | None:
    """Right after the death: every path whole (P7), nothing lost (P8), the bucket whole (P1)."""
    before, after = subject.before, subject.struck
    found = tree(state / "gpu")
    old, new = before.trees["gpu"], after.trees["gpu"]
    for path in found.keys() | old.keys() | new.keys():
        node = found.get(path)
        if node is not None and node[0] == "folder":
            continue
        assert node in (old.get(path), new.get(path)), f"{path} is neither old nor new: {node}"
    bucket = None
    if (state / "bucket/manifest.json").exists():
        bucket = read_bucket(folder_fetch(state / "bucket"))
        assert before.bucket is None or before.bucket.snapshot in bucket.chain, "the old head is no ancestor"
        heads = [seen.bucket.entries for seen in (before, after) if seen.bucket is not None]
        assert bucket.entries in heads, "the head is neither the old nor the new one"
    else:
        assert before.bucket is None, "the head is gone"
    check_nothing_lost(subject, found, trash(state / "gpu"), bucket)
    return bucket


def b3(content: bytes) -> str:
    from blake3 import blake3  # noqa: PLC0415

    return blake3(content).hexdigest()


def check_reader(bucket: Bucket, machine: FsPath) -> None:
    """Another machine pulls at once, with no repair first, and has what the head says."""
    done = run(machine, "pull", "--full")
    assert done.code == 0, f"the other machine: {done.code} {done.err}"
    has = {path.encode(): b3(node[1]) for path, node in tree(machine).items()}
    wanted = {path: entry.hash for path, entry in bucket.entries.items()}
    assert has == wanted, f"the other machine has another tree: {differing(has, wanted)}"


def check_carries_on(subject: Subject, state: FsPath) -> None:
    """The next run needs no help, ends where the undisturbed run ended, and leaves nothing lying about."""
    operation, after = subject.operation, subject.after
    for argv in operation.continued():
        done = run(state / "gpu", *argv)
        assert done.code == 0, f"carrying on with {argv} ended with {done.code}: {done.err} {done.out}"
    found = look(state)
    assert found.trees["gpu"] == after.trees["gpu"], differing(found.trees["gpu"], after.trees["gpu"])
    entries = [seen.bucket.entries if seen.bucket else {} for seen in (found, after)]
    assert entries[0] == entries[1], differing(*entries)
    assert found.status == after.status, differing(found.status or {}, after.status or {})
    assert leftovers(state / "gpu") == [], f"left behind: {leftovers(state / 'gpu')}"
    check_nothing_lost(subject, found.trees["gpu"], found.trash, found.bucket)
    operation.check(state)
    objects = folder_objects(state / "bucket")
    done = run(state / "gpu", *operation.continued()[-1])
    assert done.code == 0, f"one more run ended with {done.code}: {done.err}"
    assert folder_objects(state / "bucket") == objects, "one more run still wrote to the bucket"
    assert tree(state / "gpu") == found.trees["gpu"], "one more run still changed the tree"
    assert trash(state / "gpu") == found.trash, "one more run still moved something to the trash"


def check_nothing_lost(
    subject: Subject, nodes: dict[str, Node], in_trash: set[bytes], bucket: Bucket | None
) -> None:
    """What was here before is at a path, in the trash, or in the bucket (P8)."""
    kept = in_trash | {node[1] for node in nodes.values()}
    held = bucket.hashes() if bucket is not None else set()
    old = {path: node[1] for path, node in subject.before.trees["gpu"].items()}
    if subject.operation.keeps_trash:
        old |= {f"trash {n}": content for n, content in enumerate(sorted(subject.before.trash))}
    for path, content in old.items():
        assert content in kept or b3(content) in held, f"the old {path} is nowhere: {content!r:.99}"


def differing(found: dict[Any, Any], wanted: dict[Any, Any]) -> str:
    """Where two dictionaries differ, short enough to read."""
    keys = [key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)]
    return "; ".join(f"{k!r}: {found.get(k)!r:.200}, wanted {wanted.get(k)!r:.200}" for k in keys)

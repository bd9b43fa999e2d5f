"""Three machines and a bucket beside their models, compared after every step: what test_stateful.py runs.

Each command is carried out twice: by the program, and by `tests.oracle.predict`. Where the program may
come out in more than one way (it was killed before or after its commit point; another machine got in
between), every permitted outcome is a `World`; what is found must be one of them, and those that it is
not are struck out. What then stays open (the base is not visible from outside) is kept as several memories
and narrowed down by what later commands do.
"""

from __future__ import annotations

import os
import random
import shutil
import stat as st
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import combinations
from pathlib import Path as FsPath
from typing import Any, Literal

from blake3 import blake3

from manifest_sync.diff import NUMBERS
from manifest_sync.errors import ManifestSyncError, StoreUnavailable
from manifest_sync.model import display
from manifest_sync.project import Project
from manifest_sync.report import RunReport, StatusReport
from manifest_sync.stores.base import Store
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.stores.memory import MemoryStore
from manifest_sync.workspace import Workspace
from tests.faulty_store import Crash, FaultyStore, Kind
from tests.machines import Machine
from tests.oracle import (
    Asked,
    Bucket,
    File,
    Memory,
    Outcome,
    Tree,
    above,
    agreed,
    in_scope,
    looked_at,
    predict,
    predict_drop,
    predict_restore,
    predict_undo,
)
from tests.raw_bucket import RawBucket, RawEntry, RawHead

_NUMBER = {case.value: number for case, number in NUMBERS.items()}
_VERBS = {"U": "upload", "D": "download", "!": "conflict", "<": "settle", ">": "yield", "B": "both"}


@dataclass
class Clock:
    """Time and chance of all machines, the same in every run."""

    now: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def tell(self) -> datetime:
        """A second later each time it is asked."""
        self.now += timedelta(seconds=1)
        return self.now


class RepeatableProject(Project):
    """A project whose ids, times and waits are chosen by the test."""

    clock: Clock

    @contextmanager
    def workspace(
        self,
        groups: tuple[str, ...],
        *,
        must_lock: bool = True,
        new_index: bool = False,
        offline: bool = False,
    ) -> Iterator[Workspace]:
        """See `ProjectFolder`."""
        with super().workspace(groups, must_lock=must_lock, new_index=new_index, offline=offline) as ws:
            yield replace(
                ws,
                now=self.clock.tell,
                random_bytes=self.clock.dice.randbytes,
                sleep=lambda _: None,
            )


class RepeatableMachine(Machine):
    """A machine of the fleet; it makes its requests one by one."""

    clock: Clock

    def project(self) -> Project:
        """A fresh run's project."""
        project = RepeatableProject.find(str(self.folder), env=self.env, store=self.store, jobs=1)
        project.clock = self.clock
        return project


@dataclass
class Side:
    """A machine and its model."""

    machine: RepeatableMachine
    tree: Tree = field(default_factory=Tree)
    memories: list[Memory] = field(default_factory=lambda: [Memory()])
    """What it can remember, as far as that is known from outside."""
    copied: tuple[bytes, str, list[Memory]] | None = None
    """A copy of its index, the mark beside it, and what it could remember then."""
    seen: str | None = None
    """The snapshot it certainly saw last; None when that is not known."""
    trash: dict[str, bytes] = field(default_factory=dict)
    """Files in its trash that were read already."""

    @property
    def root(self) -> FsPath:
        """Its tree on the disk."""
        return self.machine.root

    @property
    def index(self) -> FsPath:
        """Its index."""
        return self.machine.folder / ".manifest-sync" / "index.sqlite"

    @property
    def mark(self) -> str:
        """What the mark beside its index says; nothing where a kill left an index that has none yet."""
        mark = self.index.with_name("index.mark")
        return mark.read_text() if mark.exists() else ""


@dataclass
class World:
    """One permitted outcome. ``told``: what is reported then: all that the outcome says, an exit code alone,
    or whatever (None)."""

    outcome: Outcome
    told: Literal["all"] | int | None = "all"


@dataclass
class Told:
    """What the program said. There is no exit code when it was killed, and no report when it failed."""

    exit_code: int | None
    report: RunReport | StatusReport | None = None
    error: str = ""


class Fleet:
    """Some machines and one bucket.

    Args:
        folder: an empty folder.
        bucket: ``memory`` or ``directory``.
    """

    def __init__(self, folder: FsPath, bucket: str, machines: int = 3) -> None:
        self.folder = folder
        clock = Clock()
        where = f"memory://{folder}" if bucket == "memory" else str(folder / "bucket")
        self.sides = []
        for number in range(machines):
            machine = RepeatableMachine(folder / f"m{number}", where)
            machine.clock = clock
            machine.root.mkdir(exist_ok=True)
            self.sides.append(Side(machine))
        if bucket == "memory":
            self.store: Store = MemoryStore.shared(str(folder))
            objects = MemoryStore._shared[str(folder)][0]
            self.raw = RawBucket(lambda key: objects[key][0].body, objects.keys)
        else:
            self.store = DirectoryStore(where)
            place = folder / "bucket"
            self.raw = RawBucket(lambda key: (place / key).read_bytes(), lambda: _keys(place))
        self.busy: int | None = None
        """The machine that is in the midst of a command."""
        self.bucket: Bucket = {}
        self.chain: tuple[str, ...] = self.raw.read().chain
        self.heads: list[bytes] = [self.raw.load("manifest.json")]
        self.history: list[Bucket] = [{}]
        """The bucket as of each snapshot."""
        self.pushes: list[int] = [0]
        """Sequence numbers of the snapshots that are no collection's."""

    # What a person does to a tree.

    def can_write(self, n: int, path: str) -> bool:
        """Whether a file can be made or changed at ``path``."""
        tree = self.sides[n].tree
        return path not in tree.special and not tree.is_taken(path)

    def write(self, n: int, path: str, content: bytes, *, how: str = "in place") -> None:
        """Write a file.

        Args:
            how: ``in place``; ``replaced`` by another file renamed over it; ``quietly``, in place and with
                its old mtime given back.
        """
        side = self.sides[n]
        target = side.root / path
        before = side.tree.files.get(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "replaced":
            other = target.with_name("other.being.written")
            other.write_bytes(content)
            os.replace(other, target)
        else:
            target.write_bytes(content)
        if how == "quietly" and before is not None:
            os.utime(target, ns=(before.mtime_ns, before.mtime_ns))
        self._look(side, path)

    def chmod(self, n: int, path: str, mode: int) -> None:
        """Change the permission bits of a file."""
        side = self.sides[n]
        os.chmod(side.root / path, mode)
        self._look(side, path)

    def delete(self, n: int, path: str) -> None:
        """Delete a file, a fifo, or a folder with all that is in it."""
        side = self.sides[n]
        target = side.root / path
        if path in side.tree.folders:
            shutil.rmtree(target)
        else:
            target.unlink()
        side.tree = read_tree(side.root)

    def rename(self, n: int, source: str, target: str) -> None:
        """Rename a file or a folder."""
        side = self.sides[n]
        (side.root / target).parent.mkdir(parents=True, exist_ok=True)
        os.rename(side.root / source, side.root / target)
        side.tree = read_tree(side.root)

    def make_fifo(self, n: int, path: str) -> None:
        """Put a fifo where a file is, or where nothing is."""
        side = self.sides[n]
        if path in side.tree.files:
            (side.root / path).unlink()
        (side.root / path).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(side.root / path)
        side.tree = read_tree(side.root)

    def _look(self, side: Side, path: str) -> None:
        target = side.root / path
        found = target.lstat()
        side.tree.put(path, File(target.read_bytes(), st.S_IMODE(found.st_mode), found.st_mtime_ns))

    # What a person runs.

    def run(self, n: int, asked: Asked) -> Told:
        """A command that nothing disturbs."""
        side = self.sides[n]
        before = side.tree.copy()
        told = self._execute(side, asked)
        worlds = [
            World(predict(asked, side.tree, memory, self.bucket, unseen=unseen))
            for known in side.memories
            for memory in looked_at(asked, side.tree, known, self.bucket)
            for unseen in _unseen(asked, side.tree, self.bucket)
        ]
        self._settle(side, before, worlds, told, f"machine {n}: {asked}")
        if told.exit_code != 8:
            side.seen = self.chain[-1]
        return told

    def run_with_fault(self, n: int, asked: Asked, after: int, kind: Kind) -> bool:
        """A command at whose store call number ``after`` (from 0) the store fails, or the process dies;
        whether it made so many."""
        side = self.sides[n]
        before = side.tree.copy()
        store = FaultyStore(self.store)
        fault = store.add_fault("any", after=after, kind=kind)
        told = self._execute(side, asked, store)
        worlds: list[World] = []
        for known in side.memories:
            for memory in looked_at(asked, side.tree, known, self.bucket):
                for unseen in _unseen(asked, side.tree, self.bucket):
                    worlds += self._interrupted(asked, side.tree, memory, told, unseen)
            if told.report is None:
                worlds.append(World(Outcome(side.tree.copy(), known, dict(self.bucket)), told.exit_code))
        self._settle(side, before, worlds, told, f"machine {n}: {asked} with {fault}")
        side.seen = None
        return fault.fired

    def _interrupted(
        self, asked: Asked, tree: Tree, memory: Memory, told: Told, unseen: frozenset[str]
    ) -> Iterator[World]:
        """Where a run can have been stopped: nothing done; the base brought up to date; a pull's deletions
        done, and also what it brings but for the second versions of conflicts; all done but what is recorded
        last; all done."""
        foresee = partial(predict, asked, tree, memory, self.bucket, unseen=unseen)
        done = foresee()
        if told.report is not None or told.exit_code == done.exit_code:
            yield World(done)
            return
        assert told.exit_code in (None, 5), told
        first = Outcome(tree.copy(), memory.copy(), dict(self.bucket))
        for start in (first, replace(first, memory=agreed(asked, tree, memory, self.bucket))):
            yield World(start, told.exit_code)
        if asked.dry_run or asked.command == "status" or done.exit_code == 8:
            return
        if asked.command == "pull":
            for steps in ("X", "XD"):
                yield World(foresee(steps=steps), told.exit_code)
        yield World(foresee(steps="XUDB"), told.exit_code)

    def run_meddled(self, n: int, asked: Asked, at: int, meddle: Callable[[], None]) -> bool:
        """A command, with ``meddle`` called right before its store call number ``at``; whether it was.

        ``meddle`` may run commands of other machines, or change a file of this one.
        """
        side = self.sides[n]
        before = side.tree.copy()
        bucket = dict(self.bucket)
        published: list[bool] = []

        def once() -> None:
            # Once this run has published there is nothing to come between any more.
            published.append(self.raw.load("manifest.json") != self.heads[-1])
            if not published[0]:
                self.busy = n
                try:
                    meddle()
                finally:
                    self.busy = None

        store = FaultyStore(self.store)
        store.add_fault("any", after=at, kind="pass", meanwhile_before=once)
        told = self._execute(side, asked, store)
        edited = [path for path, file in side.tree.files.items() if before.files.get(path) != file]
        worlds: list[World] = []
        for known in side.memories:
            for memory in looked_at(asked, side.tree, known, bucket):
                for unseen in _unseen(asked, side.tree, {**bucket, **self.bucket}):
                    worlds += self._meddled(asked, before, side.tree, memory, bucket, unseen)
                    for path in edited:
                        worlds += self._edited(asked, before, side.tree.files[path], path, memory, unseen)
        if asked.command == "pull" and published:
            for one in worlds:
                one.outcome.memory.runs.append(None)
        what = f"machine {n}: {asked} with something before call {at}"
        self._settle(side, side.tree.copy(), worlds, told, what)
        side.seen = None
        return bool(published) and not published[0]

    def _meddled(
        self, asked: Asked, before: Tree, tree: Tree, memory: Memory, bucket: Bucket, unseen: frozenset[str]
    ) -> Iterator[World]:
        """A run that saw the bucket as it was before, or as it is now, or first the one, then the other."""
        for at_first in (memory, agreed(asked, before, memory, bucket)):
            for later in looked_at(asked, tree, at_first, self.bucket):
                yield World(predict(asked, tree, later, self.bucket, unseen=unseen))
        stale = predict(asked, tree, memory, bucket, unseen=unseen)
        if not stale.publishes or self.bucket == bucket:
            if not stale.publishes:
                stale.bucket = dict(self.bucket)
            yield World(stale)

    def _edited(
        self, asked: Asked, before: Tree, after: File, path: str, memory: Memory, unseen: frozenset[str]
    ) -> Iterator[World]:
        """Where a file was changed after the plan had been made, the change stands; a push sent what was
        there before, what is there now, or passed it over, and a pull left it or had just deleted it."""
        done = predict(asked, before, memory, self.bucket, unseen=unseen)
        base = agreed(asked, before, memory, self.bucket).base
        below = {file for file in done.tree.files if file.startswith(path + "/")}
        for file in ({*above(path)} & done.tree.files.keys()) | below:
            # What was to take the place of the folder that this file is in, or to come into a folder in its
            # place: it stands in its way.
            done.tree.remove(file, prune=file in below)
            done.memory.set(file, base.get(file))
        is_taken = path not in done.tree.files
        done.tree.put(path, after)
        if asked.command == "pull" and is_taken:
            # Written where the run had already taken away what was there: another file.
            yield World(replace(done, memory=done.memory.copy()), None)
        if asked.command == "push":
            yield World(done, None)
            if done.bucket.get(path) is before.files[path]:
                later = replace(done, bucket={**done.bucket, path: after}, memory=done.memory.copy())
                later.memory.set(path, after.state)
                yield World(later, None)
        passed = replace(done, bucket=dict(done.bucket), memory=done.memory.copy())
        passed.memory.set(path, base.get(path))
        passed.bucket.pop(path, None)
        if path in self.bucket:
            passed.bucket[path] = self.bucket[path]
        passed.publishes = done.publishes and any(letter in "UXB" and p != path for letter, p in done.actions)
        yield World(passed, None)

    def drop(self, n: int, paths: tuple[str, ...]) -> None:
        """Give local copies up."""
        self.run(n, Asked("status"))
        side = self.sides[n]
        before = side.tree.copy()
        told = self._call(side, lambda project: project.drop(paths))
        worlds = [World(predict_drop(paths, side.tree, memory, self.bucket)) for memory in side.memories]
        held = {file.content for file in self.bucket.values()}
        self._settle(side, before, worlds, told, f"machine {n}: drop {paths}", held)

    def restore(self, n: int, paths: tuple[str, ...], sequence: int) -> None:
        """Bring files of a snapshot back."""
        self.run(n, Asked("status"))
        side = self.sides[n]
        before = side.tree.copy()
        told = self._call(side, lambda project: project.restore(paths, str(sequence)))
        snapshot = self.history[sequence]
        worlds = [
            World(predict_restore(paths, snapshot, side.tree, memory, self.bucket))
            for memory in side.memories
        ]
        self._settle(side, before, worlds, told, f"machine {n}: restore {paths} --at {sequence}")

    def undo(self, n: int) -> None:
        """Take back the last run, where it is known what it came to."""
        side = self.sides[n]
        if any(memory.runs and memory.runs[-1] is None for memory in side.memories):
            return
        self.run(n, Asked("status"))
        before = side.tree.copy()
        told = self._call(side, lambda project: project.undo())
        worlds = [World(predict_undo(side.tree, memory, self.bucket)) for memory in side.memories]
        self._settle(side, before, worlds, told, f"machine {n}: undo")

    def collect(self, n: int, keep_last: int, after: int = -1, kind: Kind = "crash") -> None:
        """``gc`` with age 0; with ``after``, struck at that store call. The bucket holds what it held."""
        side = self.sides[n]
        store = FaultyStore(self.store)
        if after >= 0:
            store.add_fault("any", after=after, kind=kind)
        oldest, fence = self.raw.read().oldest, self.raw.read().fence
        what = f"machine {n}: gc --keep-last {keep_last}, struck at {after}"
        side.machine.store = store
        try:
            side.machine.project().gc(keep_last=keep_last, min_age=timedelta(0), apply=True)
            finished = True
        except (Crash, StoreUnavailable):
            assert after >= 0, what
            finished = False
        finally:
            side.machine.store = None
        head = self.raw.read()
        assert head.entries == {path: raw_entry(file) for path, file in self.bucket.items()}, what
        # One snapshot for the packs that were written anew, one for the list of what was deleted, which is
        # the only one that retention does not count.
        self._advance(head, 2)
        if head.fence > fence:
            self.pushes.pop()
        if finished:
            allowed = max(oldest, self.pushes[-keep_last:][0])
            assert head.oldest <= allowed, f"{what}: kept only from {head.oldest} on"
            reachable = set[str]().union(*(known.keys for known in self.raw.kept(head)))
            kinds = ("packs/", "pages/", "snapshots/")
            left = [k for k in self.raw.list_keys() if k.startswith(kinds) and k not in reachable]
            assert not left, f"{what}: left {left}"
        self.check_trees(what)

    def hide(self, n: int, folder: str, asked: Asked) -> None:
        """A command while a symlink stands where a known folder was (P12)."""
        side = self.sides[n]
        self.run(n, Asked("status"))
        before = side.tree.copy()
        away = side.machine.folder / "away"
        os.rename(side.root / folder, away)
        os.symlink(away, side.root / folder)
        try:
            told = self._execute(side, asked)
        finally:
            os.unlink(side.root / folder)
            os.rename(away, side.root / folder)
        worlds = [
            World(predict(asked, side.tree, memory, self.bucket, (folder,))) for memory in side.memories
        ]
        self._settle(side, before, worlds, told, f"machine {n}: {asked} without {folder}")

    def take_root_away(self, n: int, asked: Asked) -> None:
        """A command while the root is gone although something is known of it (P12): nothing happens."""
        side = self.sides[n]
        if not all(memory.base for memory in side.memories):
            return
        away = side.machine.folder / "away"
        os.rename(side.root, away)
        told = self._execute(side, asked)
        assert not side.root.exists()
        os.rename(away, side.root)
        assert told.exit_code == 1, f"machine {n}: {asked} without its root: {told}"
        assert self.raw.read().chain == self.chain
        self.check_trees(f"machine {n}: {asked} without its root")

    def bring_back_an_old_head(self, n: int, back: int, asked: Asked) -> None:
        """A command while the bucket says what it said ``back`` snapshots ago (P18): it is refused."""
        side = self.sides[n]
        if back >= len(self.heads) or side.seen != self.chain[-1]:
            return
        now, then = self.heads[-1], self.heads[-1 - back]
        self.store.put_if("manifest.json", then, etag=blake3(now).hexdigest())
        told = self._execute(side, asked)
        self.store.put_if("manifest.json", now, etag=blake3(then).hexdigest())
        assert told.exit_code == 7, f"machine {n}: {asked} on an old head: {told}"
        self.check_trees(f"machine {n}: {asked} on an old head")

    # What happens to the local state.

    def lose_index(self, n: int) -> None:
        """Delete the index: nothing is known to be agreed on any more; the trash has its records."""
        side = self.sides[n]
        side.index.unlink(missing_ok=True)
        side.memories = _distinct(Memory(runs=memory.runs) for memory in side.memories)
        side.seen = None

    def copy_index(self, n: int) -> None:
        """Keep a copy of the index."""
        side = self.sides[n]
        if side.index.exists():
            side.copied = side.index.read_bytes(), side.mark, [memory.copy() for memory in side.memories]

    def bring_back_the_index(self, n: int) -> None:
        """An index that is older than the tree (P11): it is refused, and made anew. Where nothing was written
        since, it is the one that was used last."""
        side = self.sides[n]
        if side.copied is None:
            return
        body, mark, memories = side.copied
        if not mark:  # nothing had been written to it: as good as none
            self.lose_index(n)
            side.index.write_bytes(body)
            return
        side.index.write_bytes(body)
        if mark == side.mark:
            side.memories = [replace(memory.copy(), runs=[None]) for memory in memories]
            side.seen = None
            return
        for asked in (Asked("push", "full"), Asked("pull", "full"), Asked("status")):
            told = self._execute(side, asked)
            assert told.exit_code == 7, f"machine {n}: {asked} with an older index: {told}"
            assert "rebuild-index" in told.error, told
        assert self.raw.read().chain == self.chain
        self.check_trees(f"machine {n}: an older index")
        told = self._call(side, lambda project: project.rebuild_index())
        assert told.exit_code in (0, 3), f"machine {n}: rebuild-index: {told}"
        self.check_trees(f"machine {n}: rebuild-index")
        side.memories = _distinct(
            agreed(Asked("status"), side.tree, Memory(runs=memory.runs), self.bucket)
            for memory in side.memories
        )
        side.seen = self.chain[-1]

    def _execute(self, side: Side, asked: Asked, store: Store | None = None) -> Told:
        def command(project: Project) -> RunReport | StatusReport:
            if asked.command == "status":
                return project.status(only=asked.only)
            run = project.push if asked.command == "push" else project.pull
            return run(
                asked.mode,
                only=asked.only,
                exclude=(asked.exclude,) if asked.exclude else (),
                delete_unknown=asked.delete_unknown,
                restore_deleted=asked.restore_deleted,
                resolve=asked.resolve or None,
                resolve_paths=asked.resolve_paths,
                max_delete=None if asked.max_delete is None else str(asked.max_delete),
                dry_run=asked.dry_run,
            )

        return self._call(side, command, store)

    def _call(
        self,
        side: Side,
        command: Callable[[Project], RunReport | StatusReport],
        store: Store | None = None,
    ) -> Told:
        side.machine.store = store or self.store
        try:
            report = command(side.machine.project())
            return Told(report.exit_code if isinstance(report, RunReport) else 0, report)
        except ManifestSyncError as error:
            return Told(error.exit_code, None, f"{error.message} ({error.hint})")
        except Crash as crash:
            return Told(None, None, f"killed at {crash}")
        finally:
            side.machine.store = None

    # What must hold afterwards.

    def _settle(
        self,
        side: Side,
        before: Tree,
        worlds: list[World],
        told: Told,
        what: str,
        held: Collection[bytes] = (),
    ) -> None:
        """Find the worlds that fit what is there; take them over.

        Args:
            before: the tree of which nothing may be lost, unless it is among the contents ``held``.
        """
        tree = read_tree(side.root)
        head = self.raw.read()
        fitting = []
        complaints = []
        for candidate in worlds:
            complaint = self._misfit(candidate, tree, head, told)
            if complaint:
                complaints.append(complaint)
            else:
                fitting.append(candidate.outcome)
        assert fitting, f"{what}\n  " + "\n  or ".join(dict.fromkeys(complaints)) + f"\n  {told}"
        side.tree = tree
        side.memories = _distinct(outcome.memory for outcome in fitting)
        self.bucket = fitting[0].bucket
        self._advance(head)
        self._check_trash(side, before, held)
        self.check_trees(what)

    def _misfit(self, candidate: World, tree: Tree, head: RawHead, told: Told) -> str:
        """What speaks against a world; nothing when it is the one we are in."""
        outcome = candidate.outcome
        if outcome.tree != tree:
            return f"the tree: {_difference(outcome.tree, tree)}"
        expected = {path: raw_entry(file) for path, file in outcome.bucket.items()}
        if expected != head.entries:
            return f"the bucket: expected {expected}\n    found {head.entries}"
        moved = head.chain != self.chain
        if moved != outcome.publishes:
            return "the head moved" if moved else "the head did not move"
        if candidate.told is None:
            return ""
        exit_code = outcome.exit_code if candidate.told == "all" else candidate.told
        if exit_code != told.exit_code:
            return f"exit code {told.exit_code} instead of {exit_code}"
        if candidate.told != "all" or told.report is None:
            return ""
        if moved and isinstance(told.report, RunReport) and told.report.snapshot != head.snapshot:
            return "the report names another snapshot than the head's"
        return _untold(outcome, told.report)

    def _advance(self, head: RawHead, most: int = 1) -> None:
        """P3: the chain only grows, by one snapshot a publish."""
        assert head.chain[: len(self.chain)] == self.chain, "the head does not descend from the one before"
        assert len(head.chain) <= len(self.chain) + most, "one run published too often"
        if head.chain == self.chain:
            return
        self.bucket = {
            path: replace(file, writer=head.entries[path].writer) for path, file in self.bucket.items()
        }
        for sequence in range(len(self.chain), len(head.chain)):
            self.history.append(dict(self.bucket))
            self.pushes.append(sequence)
        self.heads.append(self.raw.load("manifest.json"))
        self.chain = head.chain

    def _check_trash(self, side: Side, before: Tree, held: Collection[bytes]) -> None:
        """P8: what a run took away or replaced is in the trash."""
        gone = {
            file.content
            for path, file in before.files.items()
            if (now := side.tree.files.get(path)) is None or now.content != file.content
        }
        if not gone - set(held):
            return
        trash = side.machine.folder / ".manifest-sync" / "trash"
        places = [os.path.join(folder, name) for folder, _, names in os.walk(trash) for name in names]
        side.trash = {p: side.trash[p] if p in side.trash else FsPath(p).read_bytes() for p in places}
        missing = gone - set(side.trash.values()) - set(held)
        assert not missing, f"gone and not in the trash: {missing}"

    def check_trees(self, what: str) -> None:
        """No machine's tree is other than its model says; one that is in the midst of a command is not looked
        at before its end."""
        for number, side in enumerate(self.sides):
            if number == self.busy:
                continue
            found = read_tree(side.root)
            assert found == side.tree, f"{what} changed machine {number}: {_difference(side.tree, found)}"


def read_tree(root: FsPath) -> Tree:
    """What is on the disk."""
    tree = Tree()
    for folder, folders, names in os.walk(root):
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else inside + "/"
        for name in folders:
            here = tree.special if os.path.islink(os.path.join(folder, name)) else tree.folders
            here.add(prefix + name)
        for name in names:
            place = os.path.join(folder, name)
            found = os.lstat(place)
            if not st.S_ISREG(found.st_mode):
                tree.special.add(prefix + name)
                continue
            with open(place, "rb") as file:
                content = file.read()
            tree.files[prefix + name] = File(content, st.S_IMODE(found.st_mode), found.st_mtime_ns)
    return tree


def raw_entry(file: File) -> RawEntry:
    """How a file stands in the bucket."""
    return RawEntry(blake3(file.content).hexdigest(), len(file.content), file.mode, file.mtime_ns)


def _tops(conflicts: list[str]) -> list[str]:
    """Without those below another: of a file and a folder that clash (case 13) the file stands for both,
    because which others are listed hangs on what the run has looked at."""
    return [path for path in conflicts if not any(path.startswith(f"{other}/") for other in conflicts)]


def _untold(outcome: Outcome, report: RunReport | StatusReport) -> str:
    """In what the report differs from the outcome."""
    expected: dict[str, Any] = {"skipped": sorted(outcome.skipped)}
    found: dict[str, Any] = {"skipped": [display(path) for path, _ in report.skipped]}
    if outcome.unchanged is not None:
        expected["unchanged"], found["unchanged"] = outcome.unchanged, report.unchanged
    if isinstance(report, StatusReport):
        expected["cases"] = outcome.cases
        if outcome.dropped is not None:
            expected["dropped"], found["dropped"] = outcome.dropped, len(report.dropped)
        found["cases"] = {_NUMBER[name]: [display(p) for p in paths] for name, paths in report.cases.items()}
    else:
        expected.update(
            new=outcome.new,
            changed=outcome.changed,
            deleted=outcome.deleted,
            left=outcome.left,
            conflicts=_tops(outcome.conflicts),
        )
        found.update(
            new=report.new,
            changed=report.changed,
            deleted=report.deleted,
            left={_NUMBER[name]: count for name, count in report.left.items() if name != "dropped"},
            conflicts=_tops([display(path) for path in report.conflicts]),
        )
        if report.command == "pull" and outcome.dropped is not None:
            expected["dropped"], found["dropped"] = outcome.dropped, report.left.get("dropped", 0)
        if report.dry_run:
            delete = "delete" if report.command == "push" else "trash"
            expected["actions"] = [(_VERBS.get(letter, delete), path) for letter, path in outcome.actions]
            found["actions"] = [tuple(line.split(maxsplit=1)) for line in report.actions]
    wrong = {name: (value, found[name]) for name, value in expected.items() if value != found[name]}
    return "; ".join(f"{name}: expected {one}, reported {other}" for name, (one, other) in wrong.items())


def _difference(expected: Tree, found: Tree) -> str:
    wrong = [
        f"{path}: expected {expected.files.get(path)}, found {found.files.get(path)}"
        for path in sorted(expected.files.keys() | found.files.keys())
        if expected.files.get(path) != found.files.get(path)
    ]
    for name, one, other in (
        ("folders", expected.folders, found.folders),
        ("special", expected.special, found.special),
    ):
        if one != other:
            wrong.append(f"{name}: missing {one - other}, not expected {other - one}")
    return "; ".join(wrong)


def _distinct(memories: Iterable[Memory]) -> list[Memory]:
    found: list[Memory] = []
    for memory in memories:
        if memory not in found:
            found.append(memory)
    return found


def _unseen(asked: Asked, tree: Tree, bucket: Bucket) -> list[frozenset[str]]:
    """What may never have been looked at of what ``--exclude`` leaves out, for a folder that it leaves out is
    not entered: each selection of the files that come in the way of something in the bucket."""
    if not asked.exclude:
        return [frozenset()]
    hidden = {p for p in (*tree.files, *tree.special) if not in_scope(p, asked)}
    tops = {folder for path in bucket for folder in above(path)}
    ways = sorted(p for p in hidden if p in tops or not bucket.keys().isdisjoint(above(p)))
    return [frozenset(some) for n in range(len(ways) + 1) for some in combinations(ways, n)]


def _keys(place: FsPath) -> list[str]:
    found = []
    for folder, folders, names in os.walk(place):
        if ".store" in folders:
            folders.remove(".store")
        inside = os.path.relpath(folder, place)
        found += [name if inside == "." else f"{inside}/{name}" for name in names]
    return found

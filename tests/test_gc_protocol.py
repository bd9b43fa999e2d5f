"""Every interleaving of pushes and collections on a small scale, through the real code (P1, P3, P4).

Two pushers (one may die and resumes) and two collections; each request of one may fall between any two of the
others. And the same with one rule of the protocol left out at a time, which must be found every time.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from manifest_sync import manifest as fmt
from manifest_sync import push as push_module
from manifest_sync import upload
from manifest_sync.canonical import decompress, hash_bytes
from manifest_sync.decide import run_options
from manifest_sync.errors import ManifestSyncError
from manifest_sync.gc import gc as gc_module
from manifest_sync.gc.gc import GcOptions, gc
from manifest_sync.gc.retention import Retention
from manifest_sync.gc.trace import Reachable
from manifest_sync.index.index import Index
from manifest_sync.keys import encode_gc_list
from manifest_sync.model import ChunkRef, Hash
from manifest_sync.pages import parse_page
from manifest_sync.push import push
from manifest_sync.races import until_published
from manifest_sync.repository import Head, Raced, Repository
from manifest_sync.stores import open_store
from manifest_sync.stores.base import NotFound
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Worktree
from tests.bucket_check import examine
from tests.conftest import Soak
from tests.interleavings import AtOnce, Checked, Died, Program, Script, Search, Searched, World
from tests.machines import Machine

NOW = datetime(2026, 11, 20, tzinfo=UTC)
SHARED = b"shared" * 50


class Player:
    """A machine that can be put back to how it was, and run again with the same random numbers.

    Its index is kept in memory, its tree is only read, and what a run leaves in the index outlives its death.
    """

    def __init__(self, machine: Machine, name: str) -> None:
        self.name = name
        self._saved = sqlite3.connect(":memory:")
        with machine.project().workspace(()) as ws:
            self._ws = replace(ws, now=lambda: NOW, sleep=lambda _: None, host=name, jobs=1)
            source = sqlite3.connect(ws.index._path)
            source.backup(self._saved)
            source.close()
        state = str(machine.folder / ".manifest-sync")
        self._worktree = Worktree(
            str(machine.root), state, symlinks="skip", trust_ctime=True, trust_inode=True
        )

    def close(self) -> None:
        self._worktree.close()
        self._saved.close()

    def play(self, store: Script, runs: Sequence[Callable[[Workspace], object]]) -> str:
        """Do ``runs`` one after the other; one in which the process dies is done again."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self._saved.backup(connection)
        index = Index(connection, ":memory:")
        count = 0

        def random_bytes(length: int) -> bytes:
            nonlocal count
            count += 1
            return hash_bytes(f"{self.name} {count}".encode())[:length]

        ws = replace(
            self._ws,
            worktree=self._worktree,
            index=index,
            repository=Repository(store, index, jobs=1),
            random_bytes=random_bytes,
        )
        try:
            for run in runs:
                while True:
                    try:
                        run(ws)
                        break
                    except Died:
                        store.revive()
        except ManifestSyncError as error:
            return f"{type(error).__name__}: {error.message}"
        finally:
            index.close()
        return "ok"


@dataclass(frozen=True)
class Scene:
    """Who takes part: the pushers' runs and how many collections, one after the other or at once."""

    pushers: int = 2
    collectors: tuple[int, ...] = (2,)
    faults: int = 1
    switches: int | None = None
    mortal: tuple[str, ...] = ("gpu",)
    repack: bool = False
    """What is deleted lies in one pack with what stays, so that collections write the rest anew."""


def check(get: Callable[[str], bytes | None]) -> Checked:
    found = examine(get)
    problem = "; ".join(found.problems)
    if len(set(found.chain)) != len(found.chain) or found.kept[0]["sequence"] != len(found.chain) - 1:
        problem = problem or "a snapshot is in the chain twice, or not at all"
    return Checked(problem, frozenset(found.reachable), found.files)


def set_scene(folder: Path, scene: Scene) -> Callable[..., Searched]:
    """Make the machines and the bucket; the search that begins there, with its arguments left open."""
    bucket = str(folder / "bucket")
    gpu, laptop = Machine(folder / "gpu", bucket), Machine(folder / "laptop", bucket)
    for name, content in (("keep", b"keep"), ("old", SHARED)):
        gpu.write(f"exp/{name}", content)
        if not scene.repack or name == "old":
            gpu.push()  # each in a pack of its own, or all in one
    laptop.pull()
    Machine(folder / "before", bucket).project().gc(keep_last=1, min_age=timedelta(0), apply=True)
    # What the GPU machine is going to push is in part new, and in part a copy of what the laptop deletes.
    gpu.write("exp/copy", SHARED)
    gpu.write("exp/fresh", "fresh" * 50)
    (laptop.root / "exp/old").unlink()
    laptop.write("exp/other", "other" * 50)
    store = open_store(gpu.project().location())
    objects = {}
    for item in store.list(""):
        found = store.get(item.key, max_bytes=1 << 30)
        assert found is not None
        objects[item.key] = found.body
    new = run_options("push", "new", gpu.project().config)
    full = run_options("push", "full", laptop.project().config)
    options = GcOptions(Retention(1, None), timedelta(0), apply=True, repack=scene.repack)

    def ends_well(**expected: bytes | None) -> Callable[[str, dict[bytes, bytes]], str]:
        def expects(outcome: str, files: dict[bytes, bytes]) -> str:
            if outcome != "ok":
                return outcome
            wrong = [
                name for name, content in expected.items() if files.get(f"exp/{name}".encode()) != content
            ]
            return f"the push ended well, but not in the head: {wrong}" if wrong else ""

        return expects

    players = [Player(gpu, "gpu"), Player(laptop, "laptop")]
    programs = [
        Program(
            "gpu",
            lambda script: players[0].play(script, [lambda ws: push(ws, new)]),
            ends_well(copy=SHARED, fresh=b"fresh" * 50),
        ),
        Program(
            "laptop",
            lambda script: players[1].play(script, [lambda ws: push(ws, full)]),
            ends_well(old=None, other=b"other" * 50),
        ),
    ][: scene.pushers]
    for number, times in enumerate(scene.collectors):
        keeper = Player(Machine(folder / f"keeper{number}", bucket), f"keeper{number}")
        players.append(keeper)

        def collect(script: Script, keeper: Player = keeper, times: int = times) -> str:
            return keeper.play(script, [lambda ws: gc(ws, options)] * times)

        programs.append(Program(keeper.name, collect, ends_well()))

    def search(*, ignores_conditions: bool = False, most_states: int = 5_000_000) -> Searched:
        world = World(objects, ignores_conditions=ignores_conditions)
        search = Search(
            world, programs, check, faults=scene.faults, mortal=scene.mortal, switches=scene.switches
        )
        found = search.run(most_states)
        for player in players:
            player.close()
        return found

    return search


@pytest.fixture(autouse=True)
def in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("page_reader", "repository", "packer", "gc.trace", "gc.gc", "fetch"):
        monkeypatch.setattr(f"manifest_sync.{module}.ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr("manifest_sync.repository.time.sleep", lambda _: None)
    # A pure function that is asked the same over and over.
    monkeypatch.setattr("manifest_sync.manifest.parse_manifest", lru_cache(10_000)(fmt.parse_manifest))


SCENES = {
    "two pushers, a collection": Scene(pushers=2, collectors=(1,), faults=0),
    "a push that dies once, two collections": Scene(pushers=1, collectors=(2,), faults=1),
    "a push, two collections at once, three interruptions": Scene(1, (1, 1), faults=0, switches=3),
    "two pushers, two collections at once, an interruption": Scene(2, (1, 1), faults=0, switches=1),
}
LONG_SCENES = {
    "two pushers one of which dies once, a collection": Scene(2, (1,), faults=1),
    "two pushers, two collections": Scene(2, (2,), faults=0),
    "a push that dies twice, two collections": Scene(1, (2,), faults=2),
    "a push, two collections at once": Scene(1, (1, 1), faults=0),
    "a push that dies once, two collections at once, two interruptions": Scene(1, (1, 1), 1, switches=2),
    "two pushers, two collections at once, two interruptions": Scene(2, (1, 1), 0, switches=2),
    "two pushers, a collection that repacks": Scene(2, (1,), faults=0, repack=True),
    "two pushers, two collections that repack, two interruptions": Scene(
        2, (1, 1), 0, switches=2, repack=True
    ),
    "a push, two collections of which one dies": Scene(1, (1, 1), 1, switches=2, mortal=("keeper0",)),
}


@pytest.mark.parametrize("name", SCENES)
def test_no_interleaving_breaks_a_promise(fast_path: Path, name: str) -> None:
    found = set_scene(fast_path, SCENES[name])()
    assert found.violation == "", "\n".join([found.violation, *found.trace])
    assert found.is_complete
    assert found.states > 10_000
    print(f"{name}: {found.states} states, {found.runs} runs")


@pytest.mark.soak
@pytest.mark.parametrize("name", LONG_SCENES)
def test_no_longer_interleaving_breaks_a_promise(fast_path: Path, soak: Soak, name: str) -> None:
    """In an ordinary run only the shortest of them, as far as it goes in a few seconds."""
    found = set_scene(fast_path, LONG_SCENES[name])(most_states=soak.count(3_000, 5_000_000))
    assert found.violation == "", "\n".join([found.violation, *found.trace])
    print(f"{name}: {found.states} states, {found.runs} runs, complete: {found.is_complete}")


Break = Callable[[pytest.MonkeyPatch], None]


def no_list_check(patch: pytest.MonkeyPatch) -> None:
    """What was uploaded before a collection counts as there."""
    patch.setattr(Repository, "collected", lambda self, head, since: frozenset())


def existence_for_safety(patch: pytest.MonkeyPatch) -> None:
    """What a list names is used if it is still there."""
    real = Repository.collected

    def collected(self: Repository, head: Head, since: int) -> frozenset[str] | None:
        named = real(self, head, since)
        return None if named is None else frozenset(key for key in named if not exists(self, key))

    patch.setattr(Repository, "collected", collected)


def exists(repository: Repository, key: str) -> bool:
    try:
        repository.store.get(key, max_bytes=1 << 30)
    except NotFound:
        return False
    return True


def without_lists(patch: pytest.MonkeyPatch, is_blind: Callable[[int], bool]) -> None:
    """Lists are not looked at in some of a run's attempts to publish."""

    def half_blind(ws: Workspace, head: Head, attempt: Any, lost: str) -> Head:
        attempts = itertools.count()

        def tried(current: Head) -> Head | Raced:
            with pytest.MonkeyPatch.context() as inner:
                if is_blind(next(attempts)):
                    inner.setattr(push_module, "drop_collected", lambda ws, head: None)
                outcome: Head | Raced = attempt(current)
                return outcome

        return until_published(ws, head, tried, lost)

    patch.setattr(push_module, "until_published", half_blind)


def resume_without_lists(patch: pytest.MonkeyPatch) -> None:
    """What an unfinished run uploaded is taken as it is; lists are read only after a lost race."""
    without_lists(patch, lambda attempt: attempt == 0)


def race_without_lists(patch: pytest.MonkeyPatch) -> None:
    """After a lost race the same entries are published on the new head, whatever it and its lists say."""
    without_lists(patch, lambda attempt: attempt > 0)


def stale_hints(patch: pytest.MonkeyPatch) -> None:
    """Content is looked for in every page that was ever cached, in the head or not."""

    def find(self: Any, chunk_id: Hash) -> ChunkRef | None:
        page_id = self._ws.index.page_of_chunk(chunk_id)
        body = None if page_id is None else self._ws.index.load_page_body(page_id)
        if body is None:
            return None
        entries = parse_page(decompress(body, 1 << 20), page_id)
        return next((chunk for entry in entries for chunk in entry.chunks if chunk.id == chunk_id), None)

    patch.setattr(upload._Uploader, "_find", find)
    patch.setattr(Index, "drop_pages", lambda self, keep: None)


def delete_before_swap(patch: pytest.MonkeyPatch) -> None:
    """Objects go before anyone can know."""
    real = gc_module._Collection._publish

    def publish(self: Any, head: Head, reachable: Reachable, keys: list[str]) -> Head | Raced:
        for key in keys:
            self._ws.repository.store.delete(key)
        return real(self, head, reachable, keys)

    patch.setattr(gc_module._Collection, "_publish", publish)


def collect_without_tracing_again(patch: pytest.MonkeyPatch) -> None:
    """After a lost race the first trace stands."""
    real = gc_module._Collection._trace

    def trace(self: Any, head: Head) -> Reachable:
        if "first" not in vars(self):
            self.first = real(self, head)
        found: Reachable = self.first
        return found

    patch.setattr(gc_module._Collection, "_trace", trace)


def fence_not_raised(patch: pytest.MonkeyPatch) -> None:
    """The head does not say that there was a collection."""
    real = Repository.publish

    def publish(
        self: Repository, expected: Head, changes: Any, commit: Any, *args: Any, **options: Any
    ) -> Any:
        revise = options.pop("revise", None)
        if revise is not None:
            old = expected.manifest
            options["revise"] = lambda new: replace(revise(new), fence=old.fence, collections=old.collections)
        return real(self, expected, changes, commit, *args, **options)

    patch.setattr(Repository, "publish", publish)


def list_without_packs(patch: pytest.MonkeyPatch) -> None:
    """The list leaves out the packs that are deleted."""
    patch.setattr(
        "manifest_sync.manifest.encode_gc_list",
        lambda fence, keys: encode_gc_list(fence, [key for key in keys if not key.startswith("packs/")]),
    )


def live_from_the_head_alone(patch: pytest.MonkeyPatch) -> None:
    """The snapshots that are to be kept are forgotten; only the head's own pages count."""
    patch.setattr(Retention, "count", lambda self, chain, now: 1)
    real = Repository.publish

    def publish(
        self: Repository, expected: Head, changes: Any, commit: Any, *args: Any, **options: Any
    ) -> Any:
        revise = options.pop("revise", None)
        if revise is not None:
            options["revise"] = lambda new: replace(revise(new), oldest=expected.manifest.oldest)
        return real(self, expected, changes, commit, *args, **options)

    patch.setattr(Repository, "publish", publish)


def snapshot_after_the_swap(patch: pytest.MonkeyPatch) -> None:
    """The copy of a head is written when it is the head already."""
    real_put, real_swap = Repository.put_snapshot, Repository._swap

    def swap(self: Repository, expected: Head, manifest: fmt.Manifest, body: bytes) -> Head | Raced:
        outcome = real_swap(self, expected, manifest, body)
        real_put(self, manifest, body)
        return outcome

    patch.setattr(Repository, "put_snapshot", lambda self, manifest, body: None)
    patch.setattr(Repository, "_swap", swap)


def lost_race_taken_for_success(patch: pytest.MonkeyPatch) -> None:
    """A refused swap counts as done."""
    real = Repository._swap

    def swap(self: Repository, expected: Head, manifest: fmt.Manifest, body: bytes) -> Head | Raced:
        outcome = real(self, expected, manifest, body)
        return outcome.head if isinstance(outcome, Raced) else outcome

    patch.setattr(Repository, "_swap", swap)


def swap_without_condition(patch: pytest.MonkeyPatch) -> None:
    """The store ignores If-Match; the search is told so."""


BREAKS: list[tuple[Break, str]] = [
    (no_list_check, "two pushers, a collection"),
    (existence_for_safety, "two pushers, a collection"),
    (resume_without_lists, "a push that dies once, two collections"),
    (race_without_lists, "two pushers, a collection"),
    (stale_hints, "two pushers, a collection"),
    (delete_before_swap, "two pushers, a collection"),
    (collect_without_tracing_again, "two pushers, a collection"),
    (fence_not_raised, "two pushers, a collection"),
    (list_without_packs, "two pushers, a collection"),
    (live_from_the_head_alone, "two pushers, a collection"),
    (snapshot_after_the_swap, "two pushers, a collection"),
    (lost_race_taken_for_success, "two pushers, a collection"),
    (swap_without_condition, "two pushers, a collection"),
]


@pytest.mark.parametrize(("broken", "scene"), BREAKS, ids=[broken.__name__ for broken, _ in BREAKS])
def test_a_protocol_without_one_of_its_rules_is_found_out(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break, scene: str
) -> None:
    search = set_scene(fast_path, SCENES[scene])
    broken(monkeypatch)
    found = search(ignores_conditions=broken is swap_without_condition)
    assert found.violation, f"not found in {found.states} states"
    print(f"{broken.__name__}: {found.violation} after {found.states} states, {len(found.trace)} requests")

"""Every call of every command goes wrong in every way (P1, P6, P12, P14, P17), on a store in a folder.

Found by counting: a command runs once undisturbed, then once for each of its calls and each kind of fault.
What only a network can do (hang, drip, retry) is in `tests.test_faults`.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path as FsPath
from typing import cast

import pytest

from manifest_sync.errors import ManifestSyncError
from manifest_sync.project import Project
from manifest_sync.stores.directory import DirectoryStore
from tests import bucket_check
from tests.fault_world import Files, Place
from tests.faulty_store import KINDS, LISTINGS, SPOILED, FaultyStore, Kind, Method

HEAD = "manifest.json"
ENDINGS: dict[Kind, set[int]] = {
    "before": {0, 5},
    "after_lost_reply": {0, 5},
    "denied": {12},
    "missing": {0, 7, 10},
    "refused": {0},
    "unconditional": {0},
    **{kind: {0, 7} for kind in (*SPOILED, *LISTINGS)},
}
"""How a command may end: it reads again what can be read again, tells of damage, or that the store failed."""


@dataclass(frozen=True)
class Command:
    """A command of one machine, and when all of it is done."""

    name: str
    machine: str
    run: Callable[[Project], int]
    is_done: Callable[[Place, Scene], bool]
    changes_tree: bool = False


@dataclass
class Scene:
    """A place before the command, and the trees that belong to it."""

    place: Place
    old: Files
    new: Files
    mine: Files
    first_head: bytes
    first_etag: str


def restore_old(project: Project) -> int:
    return project.restore(["exp/a.json"], at="1").exit_code


def collect(project: Project) -> int:
    project.gc(keep_last=1, min_age=timedelta(0), apply=True)
    return 0


def look_back(project: Project) -> int:
    with project.history() as history:
        list(history.log())
    return 0


COMMANDS = [
    Command(
        "push",
        "laptop",
        lambda project: project.push("full").exit_code,
        lambda place, scene: place.held() == {**scene.new, **scene.mine},
    ),
    Command(
        "pull",
        "laptop",
        lambda project: project.pull("full").exit_code,
        lambda place, scene: place.tree("laptop") == {**scene.new, **scene.mine},
        changes_tree=True,
    ),
    Command(
        "restore",
        "laptop",
        restore_old,
        lambda place, scene: place.tree("laptop")["exp/a.json"] == scene.old["exp/a.json"],
        changes_tree=True,
    ),
    Command("status", "laptop", lambda project: int(not project.status().cases), lambda *_: True),
    Command("gc", "gpu", collect, lambda place, _: not bucket_check.garbage(place.bucket)),
    Command("verify", "gpu", lambda project: project.verify().exit_code, lambda *_: True),
    Command(
        "verify-data",
        "gpu",
        lambda project: project.verify(read_data=True).exit_code,
        lambda *_: True,
    ),
    Command("repair", "gpu", lambda project: project.repair().exit_code, lambda *_: True),
    Command("log", "laptop", look_back, lambda *_: True),
    Command("rebuild", "laptop", lambda project: project.rebuild_index().exit_code, lambda *_: True),
]


@pytest.fixture(scope="module")
def scene(fast_folder: FsPath) -> Scene:
    place = Place(fast_folder / "scene")
    place.folder.mkdir()
    gpu, laptop = place.machine("gpu"), place.machine("laptop")
    head = DirectoryStore(str(place.bucket)).get(HEAD, max_bytes=1 << 20)
    assert head is not None
    for number in range(4):
        gpu.write(f"exp/{number}.json", f"{number}" * 300)
    gpu.write("exp/a.json", "old")
    gpu.push()
    laptop.pull()
    old = place.tree("gpu")
    gpu.write("exp/a.json", "new")
    gpu.write("exp/big.bin", os.urandom(50_000))
    gpu.write("exp2/b.json", "more")
    (gpu.root / "exp/3.json").unlink()
    gpu.push("full")
    laptop.write("mine/c.json", "laptop's")
    return Scene(place, old, place.tree("gpu"), {"mine/c.json": b"laptop's"}, head.body, head.etag)


@pytest.fixture(scope="module")
def fast_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FsPath]:
    folder = FsPath("/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path_factory.mktemp("x"))
    made = folder / f"faults-{os.getpid()}"
    made.mkdir()
    yield made
    shutil.rmtree(made)


def perform(place: Place, command: Command, store: FaultyStore) -> int:
    project = Project.find(str(place.folder / command.machine), env={}, store=store, jobs=1)
    try:
        return command.run(project)
    except ManifestSyncError as error:
        assert error.message  # noqa: PT017
        return error.exit_code


def calls_of(scene: Scene, command: Command, where: FsPath) -> list[tuple[Method, int, str]]:
    """The command's calls: method, number among the calls of that method, key."""
    place = scene.place.copy(where)
    store = FaultyStore(DirectoryStore(str(place.bucket)))
    assert perform(place, command, store) == 0
    assert command.is_done(place, scene)
    found: list[tuple[Method, int, str]] = []
    counts: Counter[str] = Counter()
    for called, key in store.calls:
        method = cast(Method, called)
        found.append((method, counts[method], key))
        counts[method] += 1
    return found


def strike(
    scene: Scene, command: Command, where: FsPath, method: Method, number: int, key: str, kind: Kind
) -> None:
    place = scene.place.copy(where)
    with FaultyStore(DirectoryStore(str(place.bucket))) as store:
        if kind == "stale":
            store.add_fault(method, after=number, kind=kind, body=scene.first_head, etag=scene.first_etag)
        else:
            store.add_fault(method, after=number, kind=kind)
        code = perform(place, command, store)
    assert code in ENDINGS[kind], f"exit {code}"
    place.held()
    tree, before = place.tree(command.machine), scene.place.tree(command.machine)
    wanted = {**scene.new, **scene.mine}
    for path in tree.keys() | before.keys():
        allowed_content = {
            before.get(path),
            *([wanted.get(path), scene.old.get(path)] if command.changes_tree else []),
        }
        assert tree.get(path) in allowed_content, f"{path} holds something else"
    # What a listing leaves out nobody can see; a collection takes it next time.
    if code == 0 and method != "list":
        assert command.is_done(place, scene), "exit 0, and not done"
    again = perform(place, command, FaultyStore(DirectoryStore(str(place.bucket))))
    assert again == 0, f"exit {again} when it is run again"
    assert command.is_done(place, scene)
    place.held()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_call_goes_wrong(scene: Scene, fast_folder: FsPath, command: Command) -> None:
    where = fast_folder / "strike"
    calls = calls_of(scene, command, where)
    assert calls
    failures = []
    for method, number, key in calls:
        for kind in KINDS[method]:
            if kind == "stale" and key != HEAD:
                continue
            try:
                strike(scene, command, where, method, number, key, kind)
            except Exception as error:  # noqa: BLE001  every failure is told of, not only the first
                failures.append(f"{kind} at {method} {key} (number {number}): {error!r:.300}")
    assert failures == [], f"{len(failures)} failures:\n" + "\n".join(failures)

"""Every fault of the network at every kind of request of every command (P1, P6, P14, P17).

A command under a fault ends well or with a clean error; it ends with 0 only if all of it is done; nothing
is lost here or there; and the same command, run again when all is well, does the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FsPath

import pytest

from manifest_sync.project import Project
from tests.fault_proxy import FaultProxy
from tests.fault_world import (
    Files,
    Outcome,
    Scene,
    World,
    files_of,
    held_by,
    make_world,
    silent,
)
from tests.servers import S3Server

Site = tuple[str, str]
HEAD, PAGE, PACK, COPY = "manifest.json", "pages/*", "packs/*", "snapshots/*"


@dataclass(frozen=True)
class Command:
    """A command, who runs it in which scene, and the kinds of requests it makes."""

    name: str
    machine: str
    scene: str
    run: Callable[[Project], int]
    sites: tuple[Site, ...]


def _status(project: Project) -> int:
    return 0 if project.status().cases else 1


COMMANDS = [
    Command(
        "push",
        "gpu",
        "edited",
        lambda project: project.push("full").exit_code,
        (("GET", HEAD), ("PUT", PACK), ("PUT", PAGE), ("PUT", COPY), ("PUT", HEAD)),
    ),
    Command(
        "push-behind",
        "laptop",
        "published",
        lambda project: project.push("full").exit_code,
        (("GET", HEAD), ("GET", PAGE), ("PUT", PACK), ("PUT", PAGE), ("PUT", COPY), ("PUT", HEAD)),
    ),
    Command(
        "pull",
        "laptop",
        "published",
        lambda project: project.pull("full").exit_code,
        (("GET", HEAD), ("GET", PAGE), ("GET", PACK)),
    ),
    Command("status", "laptop", "published", _status, (("GET", HEAD), ("GET", PAGE))),
]
BY_NAME = {command.name: command for command in COMMANDS}

SLOW = ["hang", "hang-after", "trickle"]
PASSING = ["429", "500", "503", "503-after", "503-html", "reset-before", "reset-middle", "reset-after", *SLOW]
PASSING += ["200-error", "200-html", "304", "409"]
PASSING_READ = [*PASSING, "trickle-body", "truncate", "length-long", "no-length"]
PASSING_WRITE = [*PASSING, "404", "412", "twice", "flip", "no-condition", "weak-etag"]


@dataclass
class Stage:
    """The world, its scenes, and what the trees hold in them."""

    world: World
    scenes: dict[str, Scene] = field(default_factory=dict)
    before: Files = field(default_factory=dict)
    """What both machines and the bucket agreed on."""
    after: Files = field(default_factory=dict)
    """What ``gpu`` made of it."""
    extra: Files = field(default_factory=dict)
    """What ``laptop`` alone has."""
    old_head: bytes = b""
    old_length: int = 0
    """Snapshots in the chain that this head ends."""


@pytest.fixture(scope="module")
def stage(seaweed_http: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "world").mkdir()
    proxy = FaultProxy(seaweed_http.endpoint_url)
    for world in make_world(seaweed_http, proxy, folder / "world", f"faults-{folder.name}"):
        yield _set_up(world, folder)
    proxy.close()


def _set_up(world: World, folder: FsPath) -> Stage:
    stage = Stage(world)
    gpu, laptop = world.machine("gpu"), world.machine("laptop")
    for number in range(6):
        gpu.write(f"exp{number % 2}/{number}.json", f"{number}" * 400)
    gpu.push()
    laptop.pull()
    stage.before = files_of(gpu.root)
    stage.old_head = world.fetch("manifest.json") or b""
    stage.old_length = len(world.bucket().chain)
    gpu.write("exp0/0.json", "changed")
    gpu.write("exp1/new.json", "new")
    gpu.write("exp1/big.bin", os.urandom(100_000))
    (gpu.root / "exp1/1.json").unlink()
    stage.after = files_of(gpu.root)
    stage.scenes["edited"] = world.keep(folder / "edited")
    gpu.push("full")
    laptop.write("exp2/mine.json", "laptop")
    stage.extra = {"exp2/mine.json": b"laptop"}
    stage.scenes["published"] = world.keep(folder / "published")
    return stage


def perform(stage: Stage, command: Command, kind: str) -> Outcome:
    """Run the command through the proxy and check what must hold however it ends."""
    world = stage.world
    root = world.folder / command.machine / "experiments"
    mine = files_of(root)
    done = world.run(command.machine, command.run, world.store(kind), silent())
    bucket = world.bucket()
    left = files_of(root)
    if command.name == "pull":
        wanted = {**stage.after, **stage.extra}
        for path in mine.keys() | left.keys():
            assert left.get(path) in {mine.get(path), wanted.get(path)}, f"{path} is neither old nor new"
        if done.code == 0:
            assert left == wanted
    else:
        assert left == mine
    if command.name.startswith("push") and done.code == 0:
        assert held_by(bucket) == _published(stage, command)
    return done


def _published(stage: Stage, command: Command) -> Files:
    """What the bucket has to hold after a push."""
    return stage.after if command.name == "push" else {**stage.after, **stage.extra}


def converge(stage: Stage, command: Command) -> None:
    """Without faults the same command does the rest, and each change was published exactly once."""
    world = stage.world
    world.proxy.clear()
    again = perform(stage, command, "")
    assert again == Outcome(0), again.error
    published = len(world.bucket().chain) - stage.old_length
    assert published == {"push": 1, "push-behind": 2, "pull": 1, "status": 1}[command.name]
    world.proxy.clear()
    assert world.run(command.machine, command.run, world.through, silent()) == Outcome(0)
    if command.name != "status":
        assert world.proxy.seen == [("GET", world.proxy.seen[0][1])], "a second run has nothing to do"


def add(stage: Stage, site: Site, kind: str, repeat: int = 1) -> None:
    body = stage.old_head if kind == "stale" else b"another object's bytes "
    stage.world.proxy.add_fault(*site, kind=kind, repeat=repeat, body=body)


def passes(kind: str, site: Site) -> bool:
    """Whether the fault, met once, is overcome."""
    if (kind, site) == ("304", ("GET", HEAD)):
        return False  # a conditional request: nobody can see that the answer is a lie
    return kind in (PASSING_READ if site[0] == "GET" else PASSING_WRITE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (command.name, kind)
        for command in COMMANDS
        for kind in dict.fromkeys([*PASSING_READ, *PASSING_WRITE])
        if any(passes(kind, site) for site in command.sites)
    ],
)
def test_a_fault_that_passes_at_every_request(stage: Stage, name: str, kind: str) -> None:
    """Each request of the command meets the fault once; all is done nevertheless."""
    command = BY_NAME[name]
    sites = [site for site in command.sites if passes(kind, site)]
    stage.world.restore(stage.scenes[command.scene])
    for site in sites:
        add(stage, site, kind)
    done = perform(stage, command, kind)
    stage.world.proxy.check()
    assert done == Outcome(0), done.error
    converge(stage, command)

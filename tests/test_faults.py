"""Every fault of the network at every kind of request of every command (P1, P6, P14, P17).

A command under a fault ends well or with a clean error; it ends with 0 only if all of it is done; nothing
is lost here or there; and the same command, run again when all is well, does the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path as FsPath
from types import SimpleNamespace

import pytest

from manifest_sync.project import Project
from tests.conftest import Soak
from tests.fault_proxy import FOREVER, FaultProxy
from tests.fault_world import (
    Files,
    Outcome,
    Scene,
    World,
    files_of,
    held_by,
    make_world,
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
PASSING_READ = [*PASSING, "trickle-body", "truncate", "length-long", "length-short", "no-length"]
PASSING_READ += ["flip", "other-body", "404"]
LIES = {"304", "stale"}
"""Answers to a conditional GET of the head that no machine can see through: nothing seems to be new."""
WITH_BODY = {"trickle-body", "truncate", "length-long", "length-short", "no-length", "flip", "other-body"}
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
    first_head: bytes = b""
    old_head: bytes = b""
    old_length: int = 0
    """Snapshots in the chain that this head ends."""


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two swaps whose outcome is unknown, and after a lost race."""
    at_once = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)
    monkeypatch.setattr("manifest_sync.repository.time", at_once)
    monkeypatch.setattr("manifest_sync.project_folder.time", at_once)


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
    stage.first_head = world.fetch("manifest.json") or b""
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


def perform(stage: Stage, command: Command, *kinds: str, is_lied_to: bool = False) -> Outcome:
    """Run the command through the proxy and check what must hold however it ends.

    ``is_lied_to``: it is told that there is nothing new, and can do nothing but believe it.
    """
    world = stage.world
    root = world.folder / command.machine / "experiments"
    mine = files_of(root)
    done = world.run(command.machine, command.run, world.store(*kinds))
    bucket = world.bucket()
    left = files_of(root)
    if command.name == "pull":
        wanted = {**stage.after, **stage.extra}
        for path in mine.keys() | left.keys():
            assert left.get(path) in {mine.get(path), wanted.get(path)}, f"{path} is neither old nor new"
        if done.code == 0:
            assert left == (mine if is_lied_to else wanted)
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
    again = perform(stage, command)
    assert again == Outcome(0), again.error
    published = len(world.bucket().chain) - stage.old_length
    assert published == {"push": 1, "push-behind": 2, "pull": 1, "status": 1}[command.name]
    world.proxy.clear()
    assert world.run(command.machine, command.run, world.through) == Outcome(0)
    if command.name != "status":
        assert world.proxy.seen == [("GET", world.proxy.seen[0][1])], "a second run has nothing to do"


def add(stage: Stage, site: Site, kind: str, repeat: int = 1) -> None:
    body = {"stale": stage.old_head, "older": stage.first_head}.get(kind, b"another object's bytes ")
    stage.world.proxy.add_fault(*site, kind="stale" if kind == "older" else kind, repeat=repeat, body=body)


def passes(name: str, site: Site, kind: str) -> bool:
    """Whether a command meets the fault there, and overcomes it when it meets it once."""
    if site == ("GET", HEAD) and kind in {"304", "404"}:
        return False  # nobody can see that these are lies
    if site == ("GET", HEAD) and name == "push" and kind in WITH_BODY:
        return False  # it has the head already, and is told so in an answer without a body
    return kind in (PASSING_READ if site[0] == "GET" else PASSING_WRITE)


QUICK = {
    "push-behind": [*sorted(WITH_BODY), "404", "304", "500", "weak-etag", "hang"],
    "status": ["500", "flip", "hang"],
}
"""What the commands above do as well is tried with a few kinds only; the pairs below leave nothing out."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (command.name, kind)
        for command in COMMANDS
        for kind in QUICK.get(command.name, dict.fromkeys([*PASSING_READ, *PASSING_WRITE]))
        if any(passes(command.name, site, kind) for site in command.sites)
    ],
)
def test_a_fault_that_passes_at_every_request(stage: Stage, name: str, kind: str) -> None:
    """Each request of the command meets the fault once; all is done nevertheless."""
    command = BY_NAME[name]
    sites = [site for site in command.sites if passes(name, site, kind)]
    stage.world.restore(stage.scenes[command.scene])
    for site in sites:
        add(stage, site, kind)
    done = perform(stage, command, kind)
    stage.world.proxy.check()
    assert done == Outcome(0), done.error
    converge(stage, command)


ENDING = {
    ("GET", HEAD): {"403": 12, "404": 10, "older": 7, "stale": 0, "304": 0},
    ("GET", PAGE): {"403": 12},
    ("GET", PACK): {"403": 12},
    ("PUT", PACK): {"403": 12},
    ("PUT", PAGE): {"403": 12},
    ("PUT", COPY): {"403": 12},
    ("PUT", HEAD): {"403": 12},
}
"""Faults that end a command when they are met once, and the exit code."""


@pytest.mark.parametrize(
    ("name", "site", "kind"),
    [
        (command.name, site, kind)
        for command in COMMANDS
        for site in command.sites
        for kind in ENDING[site]
        if command.name != "status" or site == ("GET", HEAD)
    ],
    ids=str,
)
def test_a_fault_that_ends_the_command(stage: Stage, name: str, site: Site, kind: str) -> None:
    command = BY_NAME[name]
    stage.world.restore(stage.scenes[command.scene])
    add(stage, site, kind)
    done = perform(stage, command, kind, is_lied_to=kind in LIES)
    stage.world.proxy.check()
    assert done.code == ENDING[site][kind], done.error
    if done.code:
        assert done.error is not None
        assert done.error.message
        assert done.error.hint
    converge(stage, command)


FOR_EVER_READ = {
    **dict.fromkeys(
        ["429", "500", "503-html", "reset-before", "reset-after", "hang", "trickle", "truncate"], 5
    ),
    **dict.fromkeys(["200-error", "200-html", "no-length"], 5),
    **dict.fromkeys(["flip", "other-body", "404", "length-short"], 7),
}
FOR_EVER_WRITE = {
    **dict.fromkeys(["503", "503-after", "500", "reset-before", "reset-after", "hang", "trickle"], 5),
    **dict.fromkeys(["200-error", "200-html", "404", "412", "flip"], 5),
    **dict.fromkeys(["twice", "weak-etag", "no-condition"], 0),
}


def code_for_ever(site: Site, kind: str) -> int:
    """The exit code when every such request meets the fault."""
    if site == ("GET", HEAD):
        return {"404": 10, "weak-etag": 5}.get(kind, FOR_EVER_READ.get(kind, 0))
    if site == ("GET", PACK) and kind == "length-short":
        return 5  # the length of a range is known
    if site == ("PUT", HEAD) and kind in {"reset-after", "trickle"}:
        return 0  # it took effect, which reading finds out
    return (FOR_EVER_READ if site[0] == "GET" else FOR_EVER_WRITE)[kind]


@pytest.mark.parametrize(
    ("name", "site", "kind"),
    [
        *[("push", site, kind) for site in (("PUT", PACK), ("PUT", HEAD)) for kind in FOR_EVER_WRITE],
        *[("push", site, kind) for site in (("PUT", PAGE), ("PUT", COPY)) for kind in ("500", "200-html")],
        *[("pull", site, kind) for site in (("GET", HEAD), ("GET", PACK)) for kind in FOR_EVER_READ],
        *[("push-behind", ("GET", PAGE), kind) for kind in ("404", "flip", "hang", "other-body")],
        ("push-behind", ("GET", HEAD), "weak-etag"),
    ],
    ids=str,
)
def test_a_fault_for_ever(stage: Stage, name: str, site: Site, kind: str) -> None:
    command = BY_NAME[name]
    stage.world.restore(stage.scenes[command.scene])
    add(stage, site, kind, FOREVER)
    done = perform(stage, command, kind)
    stage.world.proxy.check()
    assert done.code == code_for_ever(site, kind), done.error
    converge(stage, command)


def struck(command: Command) -> list[tuple[Site, str]]:
    """Every fault at every kind of request of a command, but for the lies that nobody can see through."""
    found = []
    for site in command.sites:
        kinds = [*(PASSING_READ if site[0] == "GET" else PASSING_WRITE), *ENDING[site]]
        if site == ("GET", HEAD):
            without = LIES | (WITH_BODY if command.name == "push" else set())
            kinds = [kind for kind in kinds if kind not in without]
        found += [(site, kind) for kind in dict.fromkeys(kinds)]
    return found


@pytest.mark.soak
@pytest.mark.parametrize("name", ["push", "push-behind", "pull", "status"])
def test_pairs_of_faults(stage: Stage, soak: Soak, name: str) -> None:
    """Two faults in one command, or one in it and one when it is run again; with ``--soak`` all pairs."""
    command = BY_NAME[name]
    pairs = list(combinations(struck(command), 2))
    soak.dice(name).shuffle(pairs)
    both = 0
    chosen = pairs[: soak.count(4, len(pairs))]
    for pair in chosen:
        stage.world.restore(stage.scenes[command.scene])
        for site, kind in pair:
            add(stage, site, kind)
        kinds = [kind for _, kind in pair]
        for _ in range(3):
            done = perform(stage, command, *kinds)
            if done.code == 0:
                break
        fired = [fault.fired for fault in stage.world.proxy.faults]
        assert any(fired), pair
        both += all(fired)
        assert done.code == 0, (pair, done.error)
        converge(stage, command)
    # One fault can take away the request that the other waits for, but not often.
    assert both >= 0.75 * len(chosen), f"{both} of {len(chosen)}"

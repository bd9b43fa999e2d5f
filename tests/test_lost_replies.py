"""The answer to a write is lost while another machine goes on (P3, P6).

Every push that says it succeeded is in the chain exactly once; nothing is deleted for what is not known.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path as FsPath
from typing import Literal

import pytest

from manifest_sync.errors import ManifestSyncError, RolledBack
from manifest_sync.project import Project
from manifest_sync.stores.directory import DirectoryStore
from tests.bucket_check import Found, snapshot_key
from tests.conftest import Soak
from tests.fault_proxy import FaultProxy
from tests.fault_world import Files, Place, Scene, World, files_of, held_by, make_world
from tests.faulty_store import FaultyStore, Kind, Method
from tests.machines import Machine
from tests.servers import S3Server

HEAD = "manifest.json"
When = Literal["before", "after"]
"""Whether the other machine acts before the write takes effect, or between that and its answer."""


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch, hurried: None) -> None:
    monkeypatch.setattr("manifest_sync.repository.time.sleep", lambda seconds: None)


@dataclass
class Record:
    """The pushes that said that they had published something, by the snapshot that they named."""

    acknowledged: list[str] = field(default_factory=list)

    def push(self, project: Project) -> int:
        """Push, and take down what it says; the exit code."""
        report = project.push("copy")
        if report.new + report.changed:
            self.acknowledged.append(report.snapshot)
        return report.exit_code


@dataclass(frozen=True)
class Meanwhile:
    """What ``laptop`` does while ``gpu`` waits for the answer; ``files`` is what it adds to the bucket."""

    name: str
    do: Callable[[Callable[[], Project], FsPath, Record], None]
    files: Files = field(default_factory=dict)
    clashes: bool = False

    @property
    def acts(self) -> bool:
        return self.name != "nothing"


def write(root: FsPath, path: str, body: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(body)


def nothing(open_: Callable[[], Project], root: FsPath, record: Record) -> None:
    """The other machine sleeps."""


def push_other_files(open_: Callable[[], Project], root: FsPath, record: Record) -> None:
    write(root, "laptop/a.json", b"laptop's")
    assert record.push(open_()) == 0


def push_twice(open_: Callable[[], Project], root: FsPath, record: Record) -> None:
    push_other_files(open_, root, record)
    write(root, "laptop/b.json", b"laptop's second")
    assert record.push(open_()) == 0


def push_the_same_path(open_: Callable[[], Project], root: FsPath, record: Record) -> None:
    write(root, "exp/new.json", b"laptop's version")
    record.push(open_())


def pull(open_: Callable[[], Project], root: FsPath, record: Record) -> None:
    assert open_().pull("full").exit_code == 0


def collect(open_: Callable[[], Project], root: FsPath, record: Record) -> None:
    """What ``gpu`` has uploaded and not published yet is garbage to it."""
    open_().gc(keep_last=1, min_age=timedelta(0), apply=True)


MEANWHILE = [
    Meanwhile("nothing", nothing),
    Meanwhile("other-files", push_other_files, {"laptop/a.json": b"laptop's"}),
    Meanwhile("twice", push_twice, {"laptop/a.json": b"laptop's", "laptop/b.json": b"laptop's second"}),
    Meanwhile("same-path", push_the_same_path, {"exp/new.json": b"laptop's version"}, clashes=True),
    Meanwhile("pull", pull),
    Meanwhile("gc", collect),
]
LOSSES: list[tuple[Kind, When]] = [
    ("before", "before"),
    ("after_lost_reply", "before"),
    ("after_lost_reply", "after"),
]
WRITES: list[tuple[Method, str]] = [
    ("put", "packs/"),
    ("put", "pages/"),
    ("put", "snapshots/"),
    ("put_if", HEAD),
]
FIRST: Files = {"exp/old.json": b"old", "exp/gone.json": b"gone"}
CHANGED: Files = {"exp/old.json": b"changed", "exp/gone.json": b"gone", "exp/new.json": b"new" * 100}


def prepare(gpu: Machine, laptop: Machine) -> None:
    """Both machines agree, and ``gpu`` has something to push."""
    for path, body in FIRST.items():
        gpu.write(path, body)
    gpu.push()
    laptop.pull()
    for path, body in CHANGED.items():
        gpu.write(path, body)


def run(gpu: Machine, record: Record) -> int:
    try:
        return record.push(gpu.project())
    except ManifestSyncError as error:
        return error.exit_code


def finish(
    gpu: Machine, laptop: Machine, look: Callable[[], Found], record: Record, meanwhile: Meanwhile, old: Found
) -> None:
    """What was acknowledged is there, once; the machines come to an end, and that publishes nothing more."""
    held = held_by(look())
    if meanwhile.clashes:
        # Whoever was first is in the bucket, and the other still has what it has.
        assert held.pop("exp/new.json") in {CHANGED["exp/new.json"], meanwhile.files["exp/new.json"]}
        assert gpu.read("exp/new.json").encode() == CHANGED["exp/new.json"]
        assert laptop.read("exp/new.json").encode() == meanwhile.files["exp/new.json"]
        assert held == {path: body for path, body in CHANGED.items() if path != "exp/new.json"}
    else:
        assert held == {**CHANGED, **meanwhile.files}
    for _ in range(2):
        for machine in (gpu, laptop):
            machine.pull("copy")
            record.push(machine.project())
    found = look()
    assert found.problems == []
    for snapshot in record.acknowledged:
        assert found.chain.count(snapshot) == 1, "an acknowledged push is not in the chain"
    assert len(set(record.acknowledged)) == len(record.acknowledged), "two pushes name one snapshot"
    published = len(found.chain) - len(old.chain)
    collections = found.kept[0]["fence"]
    assert published == len(record.acknowledged) + collections, "something was published twice, or not at all"
    if not meanwhile.clashes:
        assert files_of(gpu.root) == files_of(laptop.root)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("lost"))
    prepare(place.machine("gpu"), place.machine("laptop"))
    return place


@dataclass(frozen=True)
class Case:
    """A write, what becomes of it, and when what happens meanwhile."""

    method: Method
    prefix: str
    kind: Kind
    when: When
    meanwhile: Meanwhile

    def __str__(self) -> str:
        loss = {"before": "never-arrived", "after_lost_reply": f"lost-{self.when}"}[self.kind]
        return f"{self.prefix.rstrip('/')}-{loss}-{self.meanwhile.name}"


CASES = [
    Case(method, prefix, kind, when, meanwhile)
    for method, prefix in WRITES
    for kind, when in LOSSES
    for meanwhile in MEANWHILE
]
QUICK = [
    case
    for case in CASES
    if (case.method == "put_if" and (case.meanwhile.acts or case.when == "before"))
    or (case.prefix in {"packs/", "snapshots/"} and case.when == "after" and case.meanwhile.name == "gc")
    or (case.prefix == "pages/" and case.kind == "before" and case.meanwhile.clashes)
]
"""All about the swap, and of the other writes, which only add what nobody sees yet, the hardest of each."""


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_no_answer_to_a_write(scene: Place, fast_path: FsPath, case: Case) -> None:
    lose_an_answer(scene, fast_path, case)


@pytest.mark.soak
def test_no_answer_to_any_write(scene: Place, fast_path: FsPath, soak: Soak) -> None:
    cases = list(CASES)
    soak.dice().shuffle(cases)
    for case in cases[: soak.count(2, len(cases))]:
        lose_an_answer(scene, fast_path, case)


def lose_an_answer(scene: Place, folder: FsPath, case: Case) -> None:
    place = scene.copy(folder / "place")
    old = place.examine()
    gpu, laptop = place.machine("gpu"), place.machine("laptop")
    record = Record()

    def act() -> None:
        case.meanwhile.do(laptop.project, laptop.root, record)

    with FaultyStore(DirectoryStore(str(place.bucket))) as store:
        if case.when == "before":
            store.add_fault(case.method, kind=case.kind, key_prefix=case.prefix, meanwhile_before=act)
        else:
            store.add_fault(case.method, kind=case.kind, key_prefix=case.prefix, meanwhile_after=act)
        gpu.store = store
        code = run(gpu, record)
    gpu.store = None
    if code == 5:
        # A store in a folder repeats nothing by itself.
        assert case.method == "put"
        code = run(gpu, record)
    assert code == 0 or (case.meanwhile.clashes and code == 6)
    finish(gpu, laptop, place.examine, record, case.meanwhile, old)


@pytest.mark.parametrize("command", ["push", "gc", "pin"])
def test_a_report_names_the_snapshot_of_its_own_run(scene: Place, fast_path: FsPath, command: str) -> None:
    """The answer is lost, and another machine has published by the time that the head is read."""
    place = scene.copy(fast_path / "place")
    gpu, laptop = place.machine("gpu"), place.machine("laptop")
    if command == "gc":
        gpu.push("copy")
        laptop.pull("copy")
    with FaultyStore(DirectoryStore(str(place.bucket))) as gpu.store:
        gpu.store.add_fault(
            "put_if",
            kind="after_lost_reply",
            meanwhile_after=lambda: push_other_files(laptop.project, laptop.root, Record()),
        )
        project = gpu.project()
        if command == "push":
            push = project.push("copy")
            named = push.snapshot, push.sequence
        elif command == "gc":
            collection = project.gc(keep_last=1, min_age=timedelta(0), apply=True)
            named = collection.snapshot, collection.sequence
        else:
            pin = project.pin("1")
            named = pin.snapshot, pin.sequence
    latest, own = place.examine().kept[:2]
    assert named == (own["snapshot"], own["sequence"])
    assert (own["machine"], latest["machine"]) == (machine_id(gpu), machine_id(laptop))


def machine_id(machine: Machine) -> str:
    with machine.project().workspace(()) as ws:
        return ws.machine


@contextmanager
def stale_after_a_lost_reply(place: Place, gpu: Machine, reads: int) -> Iterator[None]:
    """The swap takes effect and is not answered; a cache then shows a head older than the one it replaced."""
    first = next(manifest for manifest in place.examine().kept if manifest["sequence"] == 0)
    body = json.dumps(first).encode()
    with FaultyStore(DirectoryStore(str(place.bucket))) as store:
        store.add_fault("put_if", kind="after_lost_reply", key_prefix=HEAD)
        for number in range(1, reads + 1):
            store.add_fault("get", kind="stale", after=number, key_prefix=HEAD, body=body, etag="older")
        gpu.store = store
        yield
    gpu.store = None


@pytest.mark.parametrize(("reads", "code"), [(1, 0), (6, 7)], ids=["once", "on-and-on"])
def test_a_stale_head_after_a_lost_reply_settles_nothing(
    scene: Place, fast_path: FsPath, reads: int, code: int
) -> None:
    place = scene.copy(fast_path / "place")
    old = place.examine()
    gpu, laptop = place.machine("gpu"), place.machine("laptop")
    record = Record()
    with stale_after_a_lost_reply(place, gpu, reads):
        assert run(gpu, record) == code
    if code:
        record.acknowledged = [place.examine().chain[0]]
        assert run(gpu, record) == 0
    finish(gpu, laptop, place.examine, record, MEANWHILE[0], old)


@pytest.mark.parametrize(("reads", "code"), [(1, 0), (6, 7)], ids=["once", "on-and-on"])
def test_a_collection_keeps_its_list_when_a_stale_head_follows_a_lost_reply(
    scene: Place, fast_path: FsPath, reads: int, code: int
) -> None:
    """The head that is there names the list: whoever deletes it takes away what others must read (P6)."""
    place = scene.copy(fast_path / "place")
    gpu = place.machine("gpu")
    gpu.push("copy")
    doomed = [
        place.bucket / snapshot_key(old["sequence"], old["snapshot"]) for old in place.examine().kept[1:]
    ]
    with stale_after_a_lost_reply(place, gpu, reads):
        if code:
            with pytest.raises(RolledBack):
                collect(gpu.project, gpu.root, Record())
        else:
            collect(gpu.project, gpu.root, Record())
    head = json.loads((place.bucket / HEAD).read_bytes())
    assert all((place.bucket / key).exists() for _, key in head["collections"])
    assert head["fence"] == 1, "a collection that succeeded is not repeated"
    assert [path.exists() for path in doomed] == [bool(code)] * 2
    assert place.examine().problems == []


@pytest.fixture(scope="module")
def world(seaweed_http: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Scene]]:
    folder = tmp_path_factory.mktemp("replies")
    (folder / "world").mkdir()
    proxy = FaultProxy(seaweed_http.endpoint_url)
    for world in make_world(seaweed_http, proxy, folder / "world", f"replies-{folder.name}"):
        prepare(world.machine("gpu"), world.machine("laptop"))
        yield world, world.keep(folder / "scene")
    proxy.close()


PROXY_KINDS = ["reset-before", "reset-after", "503-after", "hang-after", "twice", "pass"]
BY_NAME = {meanwhile.name: meanwhile for meanwhile in MEANWHILE}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("reset-before", "same-path"),
        ("reset-after", "other-files"),
        ("reset-after", "gc"),
        ("503-after", "twice"),
        ("hang-after", "same-path"),
        ("twice", "other-files"),
        ("pass", "pull"),
    ],
)
def test_no_answer_to_the_swap_from_a_real_server(world: tuple[World, Scene], kind: str, name: str) -> None:
    """The same over TCP, where a lost answer is repeated, turned into another one, or waited for in vain."""
    lose_an_answer_over_tcp(*world, kind, BY_NAME[name])


@pytest.mark.soak
def test_no_answer_to_any_swap_from_a_real_server(world: tuple[World, Scene], soak: Soak) -> None:
    cases = [(kind, meanwhile) for kind in PROXY_KINDS for meanwhile in MEANWHILE]
    soak.dice().shuffle(cases)
    for kind, meanwhile in cases[: soak.count(1, len(cases))]:
        lose_an_answer_over_tcp(*world, kind, meanwhile)


def lose_an_answer_over_tcp(stage: World, scene: Scene, kind: str, meanwhile: Meanwhile) -> None:
    stage.restore(scene)
    old = stage.bucket()
    gpu, laptop = stage.machine("gpu"), stage.machine("laptop")
    record = Record()
    act = Once(lambda: meanwhile.do(laptop.project, laptop.root, record))
    if kind in {"reset-before", "pass"}:
        stage.proxy.add_fault("PUT", HEAD, kind=kind, before=act)
    else:
        stage.proxy.add_fault("PUT", HEAD, kind=kind, after=act)
    gpu.store = stage.store(kind)
    code = run(gpu, record)
    stage.proxy.check()
    # Whoever waits for an answer in vain goes on while the other machine is still at work.
    assert act.is_over.wait(60)
    assert code == 0 or (meanwhile.clashes and code == 6)
    gpu.store = stage.direct
    finish(gpu, laptop, stage.bucket, record, meanwhile, old)


def test_a_stale_head_after_a_lost_reply_from_a_real_server(world: tuple[World, Scene]) -> None:
    stage, scene = world
    stage.restore(scene)
    old = stage.bucket()
    gpu, laptop = stage.machine("gpu"), stage.machine("laptop")
    first = next(manifest for manifest in old.kept if manifest["sequence"] == 0)
    stage.proxy.add_fault("PUT", HEAD, kind="reset-after")
    stage.proxy.add_fault("GET", HEAD, kind="stale", nth=1, body=json.dumps(first).encode())
    gpu.store = stage.store()
    record = Record()
    assert run(gpu, record) == 0
    stage.proxy.check()
    gpu.store = stage.direct
    finish(gpu, laptop, stage.bucket, record, MEANWHILE[0], old)


class Once:
    """Does something the first time it is called: a request that is sent twice is answered twice."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._is_begun = False
        self.is_over = threading.Event()

    def __call__(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._act()
            self.is_over.set()

"""Faults of the network at gc, verify, init and doctor (P1, P4, P12, P14): what lists and deletes, and what
finds out what a store is worth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path as FsPath
from types import SimpleNamespace

import pytest

from manifest_sync.doctor.findings import Level
from manifest_sync.errors import ManifestSyncError
from manifest_sync.initialize import InitReport
from manifest_sync.project import Project
from manifest_sync.stores.s3 import S3Store
from tests.bucket_check import examine
from tests.fault_proxy import FOREVER, FaultProxy
from tests.fault_world import Files, Outcome, Scene, World, files_of, held_by, make_world
from tests.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

CREDENTIALS = {"R2_ACCESS_KEY_ID": ACCESS_KEY, "R2_SECRET_ACCESS_KEY": SECRET_KEY}
HEAD, COPY, PAGE, PACK = "manifest.json", "snapshots/*", "pages/*", "packs/*"
LISTS = [("LIST", f"{kind}/") for kind in ("snapshots", "pages", "packs")]
GC_SITES = [
    ("GET", HEAD),
    ("GET", COPY),
    ("GET", PAGE),
    *LISTS,
    ("PUT", "gc/*"),
    ("PUT", COPY),
    ("PUT", HEAD),
    ("DELETE", COPY),
    ("DELETE", PAGE),
    ("DELETE", PACK),
]
VERIFY_SITES = [("GET", HEAD), ("GET", COPY), ("GET", PAGE), ("GET", PACK), *LISTS]
PASSING = [
    "429",
    "500",
    "503-html",
    "reset-before",
    "reset-middle",
    "reset-after",
    "hang",
    "hang-after",
    "trickle",
]
FOR_READS = ["truncate", "length-long"]


@dataclass
class Stage:
    """A bucket with garbage in it, and what its head holds."""

    world: World
    scene: Scene
    files: Files
    garbage: set[str]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifest_sync.repository.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture(scope="module")
def stage(seaweed_http: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("upkeep")
    (folder / "world").mkdir()
    proxy = FaultProxy(seaweed_http.endpoint_url)
    for world in make_world(seaweed_http, proxy, folder / "world", f"upkeep-{folder.name}"):
        gpu = world.machine("gpu")
        for turn in range(3):
            gpu.write("exp0/same.json", "same")
            gpu.write("exp0/a.json", f"version {turn} " * 100)
            gpu.push("copy")
        scene = world.keep(folder / "scene")
        yield Stage(world, scene, files_of(gpu.root), garbage(world))
    proxy.close()


def garbage(world: World) -> set[str]:
    """What nothing but the snapshots before the head needs."""
    head = json.loads(world.fetch("manifest.json") or b"")
    alone = json.dumps(head | {"oldest": head["sequence"]}).encode()
    needed = examine(lambda key: alone if key == "manifest.json" else world.fetch(key)).reachable
    return {key for key in world.objects() if key.startswith(("snapshots/", "pages/", "packs/"))} - needed


def collect(project: Project) -> int:
    project.gc(keep_last=1, min_age=timedelta(0), repack=False, apply=True)
    return 0


def verify(project: Project) -> int:
    return project.verify(read_data=True).exit_code


def perform_gc(stage: Stage, kind: str) -> Outcome:
    """Collect through the proxy; nothing that the head needs may go, whatever happens."""
    world = stage.world
    done = world.run("laptop", collect, world.store(kind))
    assert held_by(world.bucket()) == stage.files
    return done


def converge(stage: Stage) -> None:
    """Collected again without faults, what was garbage is gone; pushes and pulls go on."""
    world = stage.world
    world.proxy.clear()
    assert perform_gc(stage, "") == Outcome(0)
    assert not stage.garbage & set(world.objects())
    assert world.run("gpu", lambda project: project.push("full").exit_code, world.through) == Outcome(0)
    assert world.run("laptop", verify, world.through) == Outcome(0)


def sites_of(kind: str, sites: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [site for site in sites if site[0] in {"GET", "LIST"} or kind not in FOR_READS]


@pytest.mark.parametrize("kind", [*PASSING, *FOR_READS])
def test_gc_meets_a_fault_that_passes_at_every_request(stage: Stage, kind: str) -> None:
    world = stage.world
    world.restore(stage.scene)
    assert stage.garbage <= set(world.objects())
    for site in sites_of(kind, GC_SITES):
        world.proxy.add_fault(*site, kind=kind)
    done = perform_gc(stage, kind)
    world.proxy.check()
    assert done == Outcome(0), done.error
    assert not stage.garbage & set(world.objects())
    converge(stage)


GC_ENDS = {
    "403": {site: {12} for site in GC_SITES},
    "empty-listing": {site: {7} for site in LISTS},
    "short-listing": {site: {0, 7} for site in LISTS},
    "flip": {site: {0, 5, 7} for site in LISTS},
    "404": {("GET", COPY): {0, 7}, **{site: {5} for site in LISTS}, ("DELETE", PACK): {0}},
}


@pytest.mark.parametrize(
    ("kind", "site"), [(kind, site) for kind, sites in GC_ENDS.items() for site in sites], ids=str
)
def test_gc_meets_what_it_cannot_get_over(stage: Stage, kind: str, site: tuple[str, str]) -> None:
    """What a listing does not show is no evidence (P12); what could not be deleted is deleted next time."""
    world = stage.world
    world.restore(stage.scene)
    world.proxy.add_fault(*site, kind=kind)
    done = perform_gc(stage, kind)
    world.proxy.check()
    assert done.code in GC_ENDS[kind][site], done.error
    if done.code and site[0] != "DELETE":
        assert stage.garbage <= set(world.objects()), "nothing is deleted after an error"
    converge(stage)


@pytest.mark.parametrize(
    "site", [("GET", COPY), ("LIST", "packs/"), ("PUT", "gc/*"), ("PUT", HEAD), ("DELETE", PAGE)]
)
@pytest.mark.parametrize("kind", ["500", "reset-after", "503-after"])
def test_gc_meets_a_fault_for_ever(stage: Stage, kind: str, site: tuple[str, str]) -> None:
    world = stage.world
    world.restore(stage.scene)
    world.proxy.add_fault(*site, kind=kind, repeat=FOREVER)
    done = perform_gc(stage, kind)
    world.proxy.check()
    assert done.code == (0 if (kind, site) == ("reset-after", ("PUT", HEAD)) else 5), done.error
    if done.code and site[0] != "DELETE":
        assert stage.garbage <= set(world.objects()), "nothing is deleted after an error"
    converge(stage)


@pytest.mark.parametrize("kind", [*PASSING, *FOR_READS, "empty-listing", "short-listing"])
def test_verify_cries_no_wolf(stage: Stage, kind: str) -> None:
    world = stage.world
    world.restore(stage.scene)
    if kind.endswith("listing"):
        for site in LISTS:
            world.proxy.add_fault(*site, kind=kind)
        done = world.run("laptop", lambda project: project.verify().exit_code, world.through)
    else:
        for site in VERIFY_SITES[1:4]:
            world.proxy.add_fault(*site, kind=kind)
        done = world.run("laptop", verify, world.store(kind))
    world.proxy.check()
    assert done == Outcome(0), done.error


@pytest.mark.parametrize("kind", ["403", "500", "hang"])
def test_verify_does_not_take_an_error_for_damage(stage: Stage, kind: str) -> None:
    for site in VERIFY_SITES:
        world = stage.world
        world.restore(stage.scene)
        world.proxy.add_fault(*site, kind=kind, repeat=FOREVER)
        command = (lambda project: project.verify().exit_code) if site in LISTS else verify
        done = world.run("laptop", command, world.store(kind))
        world.proxy.check()
        assert done.code == (12 if kind == "403" else 5), (site, done.error)


class Newcomer:
    """A folder that is not a project yet, with a place of its own behind the proxy."""

    def __init__(self, proxy: FaultProxy, server: S3Server, folder: FsPath) -> None:
        self.proxy = proxy
        self.folder = folder
        self.prefix = f"init-{folder.parent.name}"
        self.direct = S3Store(server.location(self.prefix))
        folder.mkdir()

    def init(self, single_writer: bool = False) -> InitReport:
        return Project.init(
            str(self.folder),
            f"s3://{BUCKET}/{self.prefix}",
            endpoint_url=self.proxy.url,
            env=CREDENTIALS,
            single_writer=single_writer,
        )

    def objects(self) -> set[str]:
        return {item.key for item in self.direct.list("")}


@pytest.fixture
def newcomer(seaweed_http: S3Server, tmp_path: FsPath) -> Iterator[Newcomer]:
    proxy = FaultProxy(seaweed_http.endpoint_url)
    made = Newcomer(proxy, seaweed_http, tmp_path / "new")
    yield made
    made.direct.close()
    proxy.close()


@pytest.mark.parametrize("kind", ["no-condition", "no-if-match", "no-if-none-match"])
def test_init_refuses_a_store_that_ignores_conditions(newcomer: Newcomer, kind: str) -> None:
    newcomer.proxy.add_fault("PUT", "*", kind=kind, repeat=FOREVER)
    with pytest.raises(ManifestSyncError, match="ignores conditional writes") as caught:
        newcomer.init()
    assert "--single-writer" in caught.value.hint
    newcomer.proxy.check()
    assert newcomer.objects() == set(), "nothing is left behind"
    assert list(newcomer.folder.iterdir()) == []
    assert newcomer.init(single_writer=True).created


@pytest.mark.parametrize("kind", ["no-condition", "no-if-match", "no-if-none-match"])
def test_doctor_finds_that_conditions_are_ignored(stage: Stage, kind: str) -> None:
    world = stage.world
    world.restore(stage.scene)
    world.proxy.add_fault("PUT", "*", kind=kind, repeat=FOREVER)
    before = world.objects()
    found = {
        finding.name: finding
        for finding in Project.doctor(str(world.folder / "gpu"), env=CREDENTIALS, store=world.through)
    }
    world.proxy.check()
    assert found["compare-and-swap"].level is Level.FAILURE
    assert found["compare-and-swap"].exit_code
    assert world.objects() == before


@pytest.mark.parametrize("kind", ["500", "503", "reset-before", "reset-after", "200-html"])
def test_init_meets_a_fault_at_every_request(newcomer: Newcomer, kind: str) -> None:
    sites = [("GET", HEAD), ("PUT", "probe/*"), ("PUT", COPY), ("PUT", HEAD), ("DELETE", "probe/*")]
    for site in sites:
        newcomer.proxy.add_fault(*site, kind=kind)
    assert newcomer.init().created
    newcomer.proxy.check()
    newcomer.proxy.clear()
    assert not newcomer.init().created
    assert {key.split("/")[0] for key in newcomer.objects()} == {HEAD, "snapshots"}


def test_an_empty_listing_makes_no_second_repository(newcomer: Newcomer) -> None:
    """The head seems to be missing and there seem to be no snapshots: creating fails, joining succeeds."""
    newcomer.init()
    newcomer.proxy.add_fault("GET", HEAD, kind="404")
    newcomer.proxy.add_fault("LIST", "*", kind="empty-listing", repeat=FOREVER)
    before = newcomer.direct.get(HEAD, max_bytes=1 << 20)
    assert not newcomer.init().created
    newcomer.proxy.check()
    assert newcomer.direct.get(HEAD, max_bytes=1 << 20) == before


def test_a_store_that_compares_etags_without_quotes(newcomer: Newcomer) -> None:
    """Ceph: conditions are found to be kept once the quotes are left out; pushes race and none is lost."""
    newcomer.proxy.add_fault("PUT", "*", kind="bare-etags", repeat=FOREVER)
    newcomer.init()
    for turn in range(3):
        tree = newcomer.folder / "experiments/exp"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / f"{turn}.json").write_text(f"turn {turn}")
        with Project.find(str(newcomer.folder), env=CREDENTIALS) as project:
            assert project.push().exit_code == 0
    newcomer.proxy.check()
    head = newcomer.direct.get(HEAD, max_bytes=1 << 20)
    assert head is not None
    assert json.loads(head.body)["sequence"] == 3
    assert not [key for key in newcomer.objects() if key.startswith("probe/")]

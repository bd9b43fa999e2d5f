"""A lost page or pack does not stop what does not need it: pull, push, status and ls go on with the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from manifest_sync import manifest as fmt
from manifest_sync.errors import Damaged
from manifest_sync.lostpages import LostPages
from manifest_sync.merge import merge_pages
from manifest_sync.model import Entry as ModelEntry
from manifest_sync.model import EntryType, Hash, Writer
from manifest_sync.model import Path as ModelPath
from manifest_sync.pages import PageRef
from manifest_sync.report import RunReport, StatusReport
from manifest_sync.stores.directory import DirectoryStore
from tests import bucket_check
from tests.damage import Bucket, boundary_names, clone
from tests.machines import Machine
from tests.paused_store import PausedStore

MIB = 1 << 20


class World:
    """A bucket of three experiments, each with a page and a pack of its own; ``late`` has only init-ed."""

    def __init__(self, gpu: Machine, late: Machine, folder: Path) -> None:
        self.gpu = gpu
        self.late = late
        self.folder = folder
        self.bucket = Bucket.at(folder)

    def page_of(self, path: bytes) -> PageRef:
        return next(p for p in self.bucket.head().manifest.pages if p.first <= path <= p.last)

    def lose_page(self, path: bytes) -> Callable[[], None]:
        """Delete the page of a path; what is returned brings it back."""
        page = self.page_of(path)
        return self._lose(fmt.page_key(page.session, page.id))

    def lose_pack(self, path: bytes) -> Callable[[], None]:
        return self._lose(self.bucket.pack_of(path))

    def _lose(self, key: str) -> Callable[[], None]:
        body = self.bucket.body(key)
        self.bucket.store.delete(key)
        return lambda: self.bucket.store.put(key, body)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, short_pages: None) -> World:
    folder = tmp_path_factory.mktemp("made")
    gpu = Machine(folder / "gpu", str(folder / "bucket"))
    late = Machine(folder / "late", str(folder / "bucket"))
    dice = Random("hurt")
    for number in range(3):
        for name in (
            *(f"exp{number}/{n:02}.json" for n in range(10)),
            next(boundary_names(f"exp{number}/z")),
        ):
            gpu.write(name, json.dumps({"name": name, "noise": dice.random()}))
        gpu.write(f"exp{number}/noise.bin", dice.randbytes(300_000))
        gpu.push()
    world = World(gpu, late, folder / "bucket")
    assert len({world.page_of(f"exp{n}/05.json".encode()).id for n in range(3)}) == 3
    assert len({world.bucket.pack_of(f"exp{n}/05.json".encode()) for n in range(3)}) == 3
    return world


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    shutil.copytree(made.folder, tmp_path / "bucket")
    bucket = tmp_path / "bucket"
    gpu, late = clone(made.gpu, tmp_path / "gpu", bucket), clone(made.late, tmp_path / "late", bucket)
    return World(gpu, late, bucket)


def names(machine: Machine) -> set[str]:
    return set(machine.tree())


def of(world: World, *folders: str) -> set[str]:
    return {name for name in names(world.gpu) if name.startswith(folders)}


def test_a_lost_pack_hurts_only_its_files(world: World) -> None:
    back = world.lose_pack(b"exp1/05.json")
    report = world.late.pull()
    assert report.exit_code == 7
    assert names(world.late) == of(world, "exp0/", "exp2/")
    assert {os.fsdecode(path) for path, _ in report.damaged} == of(world, "exp1/")
    assert all("it is missing" in reason for _, reason in report.damaged)
    assert report.new == len(of(world, "exp0/", "exp2/"))
    assert {os.fsdecode(p) for p in world.late.status().cases["new_there"]} == of(world, "exp1/")
    staging = world.late.folder / ".manifest-sync/staging"
    assert {path.name for path in staging.iterdir()} <= {"clock"}
    back()
    assert world.late.pull().exit_code == 0
    assert world.late.tree() == world.gpu.tree()


def test_a_pack_that_ends_too_soon_or_is_flipped_hurts_only_what_lies_there(world: World) -> None:
    key = world.bucket.pack_of(b"exp1/05.json")
    body = world.bucket.body(key)
    content = world.bucket.content()
    for number, harmed in enumerate((body[: len(body) // 2], body[:5000] + b"X" + body[5001:])):
        world.bucket.store.put(key, harmed)
        truth = {os.fsdecode(path) for _, path in world.bucket.hurt(content)}
        assert truth
        assert truth < of(world, "exp1/")
        machine = clone(world.late, world.folder.parent / f"late{number}", world.folder)
        report = machine.pull()
        assert {os.fsdecode(path) for path, _ in report.damaged} == truth
        assert names(machine) == names(world.gpu) - truth


def test_what_cannot_be_had_leaves_what_is_here(world: World) -> None:
    world.late.pull()
    before = world.late.tree()
    for name in ("exp1/03.json", "exp2/03.json", "exp1/new.json"):
        world.gpu.write(name, f"newer {name}")
    world.gpu.push("copy")
    world.lose_pack(b"exp1/03.json")
    world.gpu.write("exp0/after.json", "after")
    world.gpu.push()
    report = world.late.pull("full")
    lost = {"exp1/03.json", "exp2/03.json", "exp1/new.json"}
    assert {os.fsdecode(path) for path, _ in report.damaged} == lost
    assert (report.new, report.changed) == (1, 0)
    after = world.late.tree()
    assert after.pop("exp0/after.json")[0] == b"after"
    assert after == before


def test_restore_brings_what_there_is(world: World, tmp_path: Path) -> None:
    world.lose_pack(b"exp1/05.json")
    told = world.late.command("restore", "exp0", "exp1")
    assert told.returncode == 7
    assert names(world.late) == of(world, "exp0/")
    assert "exp1/05.json: packs/" in told.stdout
    told = world.late.command("restore", "exp1", "exp2", "--to", str(tmp_path / "out"))
    assert told.returncode == 7
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"exp2"}


def test_what_a_collection_moved_meanwhile_is_not_lost(world: World) -> None:
    """The content is elsewhere by the time it is asked for: the pull plans again with the new head."""
    key = world.bucket.pack_of(b"exp1/05.json")

    def move() -> None:
        for name in of(world, "exp1/"):
            world.gpu.write(name, f"moved {name}")
        world.gpu.push("copy")
        world.bucket.collect(key, oldest=world.bucket.head().manifest.sequence)

    with PausedStore(DirectoryStore(str(world.folder))) as store:
        store.pause("get_range", "packs/", move)
        world.late.store = store
        report = world.late.pull()
    assert (report.damaged, report.exit_code) == ([], 0)
    assert world.late.read("exp1/05.json") == "moved exp1/05.json"
    # Two plans, and one run: counted together, and taken back together.
    assert report.new + report.changed == len(names(world.late))
    assert world.late.project().undo().deleted == report.new + report.changed
    assert names(world.late) == set()


def test_a_lost_page_hides_only_its_files_from_a_pull(world: World) -> None:
    back = world.lose_page(b"exp1/05.json")
    report = world.late.pull()
    assert report.exit_code == 7
    assert names(world.late) == of(world, "exp0/", "exp2/")
    assert len(report.damaged) == 1
    assert "is missing" in report.damaged[0][1]
    status = world.late.status()
    assert (status.cases, len(status.damaged)) == ({}, 1)
    # What does not reach there knows nothing of it.
    assert world.late.pull(only=["exp2"]).exit_code == 0
    assert world.late.status(only=["exp0"]).damaged == []
    back()
    assert world.late.pull().exit_code == 0
    assert world.late.tree() == world.gpu.tree()


def test_absence_from_a_lost_page_is_no_deletion(world: World) -> None:
    """The base knows the files, the bucket's list of them is gone: nothing is deleted on either side, and
    nothing is forgotten."""
    world.late.pull()
    world.gpu.write("exp1/05.json", "changed in the page")
    world.gpu.push("copy")
    (world.late.root / "exp1/07.json").unlink()
    back = world.lose_page(b"exp1/05.json")
    before = world.late.tree()
    for command in (world.late.pull, world.late.push):
        report = command("full", delete_unknown=True, max_delete="100%")
        assert (report.exit_code, report.deleted) == (7, 0)
        assert world.late.tree() == before
    back()
    assert {os.fsdecode(p) for p in world.late.status().cases["deleted_here"]} == {"exp1/07.json"}
    assert world.late.push("full").deleted == 1
    assert world.late.pull("copy").changed == 1


def test_dropped_files_in_a_lost_page_stay_dropped(world: World) -> None:
    world.late.pull()
    assert world.late.command("drop", "exp1/07.json").returncode == 0
    world.gpu.write("exp1/05.json", "changed in the page")
    world.gpu.push("copy")
    back = world.lose_page(b"exp1/05.json")
    assert world.late.pull("copy").exit_code == 7
    back()
    assert world.late.pull("copy").exit_code == 0
    assert world.late.push("full").deleted == 0
    assert "exp1/07.json" not in names(world.late)


def test_push_goes_on_beside_a_lost_page(world: World) -> None:
    world.late.pull()
    world.gpu.write("exp1/05.json", "changed in the page")
    world.gpu.push("copy")
    page = world.page_of(b"exp1/05.json")
    back = world.lose_page(b"exp1/05.json")
    sent = ("exp0/zzz.json", "exp1/zzz.json", "exp2/00", "exp3/new", "a", "exp2/05.json")
    for name in (*sent, "exp1/00.json.bak"):
        world.late.write(name, f"new {name}")
    report = world.late.push("copy")
    assert report.exit_code == 7
    pages = world.bucket.head().manifest.pages
    assert page in pages
    found = bucket_check.examine(bucket_check.folder(world.folder))
    for name in sent:
        assert found.files[name.encode()] == f"new {name}".encode(), name
    # What would belong into the page waits.
    assert b"exp1/00.json.bak" not in found.files
    assert {p for p in found.problems if page.id not in p} == set()
    back()
    assert world.late.push("copy").exit_code == 0
    assert bucket_check.head_files(bucket_check.folder(world.folder))[b"exp1/00.json.bak"]
    assert world.gpu.pull("copy").exit_code == 0


def test_what_may_clash_with_a_lost_page_waits(world: World) -> None:
    """A file where the page may have a folder, and the other way round."""
    world.late.pull()
    world.gpu.write("exp1/05.json", "changed in the page")
    world.gpu.push("copy")
    world.lose_page(b"exp1/05.json")
    shutil.rmtree(world.late.root / "exp1")
    world.late.write("exp1", "a file now")
    report = world.late.push("copy")
    assert report.exit_code == 7
    assert b"exp1" not in bucket_check.examine(bucket_check.folder(world.folder)).files


def test_a_push_to_a_bucket_with_a_lost_page_races_as_ever(world: World) -> None:
    world.lose_page(b"exp1/05.json")
    other = clone(world.late, world.folder.parent / "other", world.folder)
    other.write("exp5/other", "other")
    world.late.write("exp4/mine", "mine")
    with PausedStore(DirectoryStore(str(world.folder))) as store:
        store.pause("put_if", "manifest.json", other.push)
        world.late.store = store
        assert world.late.push().new == 1
    files = bucket_check.examine(bucket_check.folder(world.folder)).files
    assert (files[b"exp4/mine"], files[b"exp5/other"]) == (b"mine", b"other")


def test_a_page_that_was_collected_meanwhile_is_not_lost(world: World) -> None:
    page = world.page_of(b"exp1/05.json")
    runs: list[Callable[[Machine], RunReport | StatusReport]] = [Machine.pull, Machine.status, Machine.push]
    for number, run in enumerate(runs):
        folder = world.folder.parent / str(number)
        shutil.copytree(world.folder, folder / "bucket")
        machine = clone(world.late, folder / "late", folder / "bucket")
        again = World(clone(world.gpu, folder / "gpu", folder / "bucket"), machine, folder / "bucket")
        machine.write("exp9/mine", "mine")

        def strike(again: World = again) -> None:
            again.gpu.write("exp1/05.json", "another page")
            again.gpu.push("copy")
            key = fmt.page_key(page.session, page.id)
            again.bucket.collect(key, oldest=again.bucket.head().manifest.sequence)

        with PausedStore(DirectoryStore(str(again.folder))) as store:
            store.pause("get", fmt.page_key(page.session, page.id), strike)
            machine.store = store
            assert run(machine).damaged == []


def test_ls_lists_what_it_can_and_says_that_it_is_not_all(world: World) -> None:
    world.lose_page(b"exp1/05.json")
    told = world.late.command("ls")
    assert told.returncode == 7
    assert set(told.stdout.split()) == of(world, "exp0/", "exp2/")
    assert "the list is not whole" in told.stderr
    found = world.late.command("ls", "--json")
    listed = json.loads(found.stdout)
    assert (found.returncode, listed["error"], len(listed["entries"])) == (7, "damaged", 24)
    assert world.late.command("ls", "exp2").returncode == 0


def test_the_commands_say_what_is_hurt(world: World) -> None:
    world.lose_page(b"exp1/05.json")
    for args in (("pull",), ("status",), ("push",)):
        told = world.late.command(*args)
        assert told.returncode == 7, args
        assert "hurt in the bucket, 1:\n  exp1/00.json: this and what follows up to exp1/z" in told.stdout
        assert "`manifest-sync verify`" in told.stdout
    assert json.loads(world.late.command("status", "--json").stdout)["damaged"][0]["path"] == "exp1/00.json"


def test_a_new_file_does_not_build_upon_a_pack_known_to_be_lost(world: World) -> None:
    """Dedup would refer to content that the bucket has lost."""
    content = (world.gpu.root / "exp1/05.json").read_bytes()
    world.lose_pack(b"exp1/05.json")
    world.late.pull()
    world.late.write("exp7/same.json", content)
    world.late.push()
    assert bucket_check.examine(bucket_check.folder(world.folder)).files[b"exp7/same.json"] == content


def test_a_page_that_no_one_keeps_can_be_let_go_of(world: World) -> None:
    """Only on demand; what is here of its files is in the next head again, and nothing else is touched."""
    world.late.pull()
    other = clone(world.late, world.folder.parent / "other", world.folder)
    (world.late.root / "exp1/07.json").unlink()
    world.gpu.write("exp1/05.json", "changed in the page")
    world.gpu.write("exp1/unknown.json", "never seen elsewhere")
    world.gpu.push("copy")
    page = world.page_of(b"exp1/05.json")
    world.lose_page(b"exp1/05.json")
    before = world.late.tree()
    assert world.late.project().repair().exit_code == 7
    assert page in world.bucket.head().manifest.pages
    report = world.late.project().repair(drop_lost=True)
    assert [(d.page, d.added) for d in report.dropped] == [(page, 11)]
    assert [damage.head for damage in report.left] == [False]
    files = bucket_check.examine(bucket_check.folder(world.folder)).files
    # What it had itself, as it has it; not what it never saw or has deleted.
    assert {name.decode() for name in files} == set(before)
    assert files == {name.encode(): content for name, (content, _, _) in before.items()}
    assert world.late.tree() == before
    # The others lose nothing, and can send what they have.
    status = other.status()
    assert {os.fsdecode(p) for p in status.cases["deleted_there"]} == {"exp1/07.json"}
    assert other.push("copy", resolve="local", resolve_paths=["exp1"]).changed == 1
    assert "exp1/unknown.json" in names(world.gpu)
    assert {os.fsdecode(p) for p in world.gpu.status().cases["deleted_there"]} >= {"exp1/unknown.json"}


def test_a_page_that_is_kept_here_is_never_let_go_of(world: World) -> None:
    world.lose_page(b"exp1/05.json")
    report = world.gpu.project().repair(drop_lost=True)
    assert (report.dropped, report.exit_code, len(report.repaired)) == ([], 0, 1)
    assert world.late.pull().exit_code == 0
    assert world.late.tree() == world.gpu.tree()


def test_letting_go_is_told(world: World) -> None:
    world.lose_page(b"exp1/05.json")
    assert world.late.command("push", "--drop-lost").returncode == 2
    told = world.late.command("push", "--repair", "--drop-lost")
    assert told.returncode == 3  # the snapshots before still name it
    assert "let go of 12 files from exp1/00.json to exp1/z" in told.stdout
    assert "; 0 of these are here and were sent again" in told.stdout
    found = json.loads(world.gpu.command("push", "--repair", "--drop-lost", "--json").stdout)
    assert (found["dropped"], found["head_hurt"]) == ([], False)


def _ref(first: bytes, last: bytes) -> PageRef:
    return PageRef("a" * 64, "0-" + "b" * 32, ModelPath(first), ModelPath(last), 9, 0, 9, 9)


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        (b"e/b", True),
        (b"e/m", True),
        (b"e/y", True),
        (b"e/a", False),
        (b"e/z", False),
        (b"e", True),  # may be the folder of what is listed
        (b"e/b/x", True),  # what is listed may be the folder of it
        (b"e/y/x", True),
        (b"e/z/x", False),
        (b"e/a/x", False),
        (b"f", False),
        (b"d", False),
        (b"e-", False),
    ],
)
def test_what_a_lost_page_hides(path: bytes, hidden: bool) -> None:
    assert LostPages({_ref(b"e/b", b"e/y"): "lost"}).hides(path) is hidden


def test_ranges_without_lost_pages() -> None:
    lost = LostPages({_ref(b"b", b"c"): "", _ref(b"f", b"f"): ""})
    assert lost.known([(b"", b"\xff")]) == [(b"", b"b"), (b"c\0", b"f"), (b"f\0", b"\xff")]
    assert lost.known([(b"b", b"c")]) == []
    assert lost.known([(b"d", b"e")]) == [(b"d", b"e")]


def _entry(path: str) -> ModelEntry:
    digest = Hash(bytes(32))
    return ModelEntry(
        ModelPath(path.encode()), EntryType.SYMLINK, 1, 0, 0o777, digest, Writer("m", "h", "t"), target=b"x"
    )


def test_merging_beside_a_lost_page() -> None:
    kept = [_ref(b"a", b"c"), _ref(b"f", b"h"), _ref(b"m", b"o")]
    held = {kept[0]: [_entry("a"), _entry("c")], kept[1]: None, kept[2]: [_entry("m"), _entry("o")]}
    changes = [(_entry(p).path, _entry(p)) for p in ("b", "e", "i", "n", "p")]
    pieces = list(merge_pages(kept, changes, lambda page: held[page]))
    shown = [p if isinstance(p, PageRef) else b"".join(e.path for e in p) for p in pieces]
    assert shown == [b"abce", kept[1], b"imnop"]
    with pytest.raises(Damaged, match="g belongs into a page"):
        list(merge_pages(kept, [(_entry("g").path, _entry("g"))], lambda page: held[page]))

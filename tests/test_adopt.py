"""Adopting what other tools have put into a bucket: in place, without a byte moved that is here already, and
never served as anything but what was adopted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path as FsPath
from typing import TYPE_CHECKING, Any

import boto3.session
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from click.testing import CliRunner

from manifest_sync.adopt.report import AdoptReport
from manifest_sync.chunker import cut
from manifest_sync.cli.main import main
from manifest_sync.errors import Damaged, FormatError, ManifestSyncError, StoreUnavailable, UsageError
from manifest_sync.etags import MIB, PartsMd5, part_sizes
from manifest_sync.export.destination import may_be_same_store
from manifest_sync.externals import object_url, split_url
from manifest_sync.location import Location
from manifest_sync.model import Entry
from manifest_sync.project import Project
from manifest_sync.stores.base import Listed, Part, Readable
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.verify.damage import VerifyReport
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine
from tests.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class World:
    """A bucket in a folder, a folder full of plain files beside it, and machines."""

    def __init__(self, folder: FsPath) -> None:
        self.folder = folder
        self.bucket = folder / "bucket"
        self.plain = folder / "plain"
        self.plain.mkdir()
        self.gpu = self.machine("gpu")

    def machine(self, name: str) -> Machine:
        return Machine(self.folder / name, str(self.bucket))

    def put(self, name: str, content: bytes | str) -> None:
        """What another tool does."""
        path = self.plain / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def adopt(self, machine: Machine | None = None, **options: Any) -> AdoptReport:
        return (machine or self.gpu).project().adopt(str(self.plain), **options)

    def outside(self) -> dict[str, tuple[bytes, int]]:
        """The plain files: content and mtime."""
        return {
            str(path.relative_to(self.plain)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self.plain.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def world(fast_path: FsPath) -> World:
    return World(fast_path)


def head_entries(machine: Machine) -> dict[str, Entry]:
    with machine.project().workspace(()) as ws:
        pages = ws.repository.load_head().manifest.pages
        return {e.path.decode(): e for _, page in ws.repository.load_pages(pages) for e in page}


def contents(machine: Machine) -> dict[str, bytes]:
    return {path: content for path, (content, *_) in machine.tree().items()}


BIG = secrets.token_bytes(3 * MIB + 5)


def test_all_is_adopted_where_it_lies(world: World) -> None:
    for name, content in (
        ("exp/a.json", "a"),
        ("exp/b c+d.json", "b"),
        ("exp/big.bin", BIG),
        ("exp/empty", ""),
    ):
        world.put(name, content)
    world.gpu.write("exp/a.json", "a")
    before = world.outside()
    report = world.adopt()
    assert (report.new, report.changed, report.matched, report.exit_code) == (4, 0, 1, 0)
    assert world.outside() == before
    assert not list(world.bucket.glob("packs/**/*.pack"))
    world.gpu.pull()
    assert not world.gpu.status().has_drift
    laptop = world.machine("laptop")
    assert laptop.pull().exit_code == 0
    assert contents(laptop) == {name: content for name, (content, _) in before.items()} == contents(world.gpu)
    assert abs(laptop.tree()["exp/big.bin"][1] - before["exp/big.bin"][1]) < 1000
    verified = laptop.project().verify(read_data=True)
    assert (verified.damaged, verified.checked["adopted object"], verified.exit_code) == ([], 3, 0)
    assert laptop.project().verify().exit_code == 0


def test_what_the_rules_leave_out_or_a_tree_cannot_hold_is_not_adopted(world: World) -> None:
    for name in ("a.json", "a.py", "lora/x", "activations/x", ".git/config", "b/.manifest-sync/lock"):
        world.put(name, name)
    report = world.adopt()
    assert (report.listed, report.new, report.excluded, report.exit_code) == (6, 1, 3, 3)
    assert {path for path, _ in report.skipped} == {b".git/config", b"b/.manifest-sync/lock"}
    assert list(head_entries(world.gpu)) == ["a.json"]
    assert world.adopt(groups=["loras"]).new == 1
    assert list(head_entries(world.gpu)) == ["a.json", "lora/x"]


def test_a_folder_whose_name_is_not_utf_8_is_told_of_in_the_message(world: World) -> None:
    world.put("a", "a")
    odd = os.fsdecode(bytes(world.folder) + b"/caf\xe9")
    os.rename(world.plain, odd)
    assert world.gpu.project().adopt(odd).new == 1
    assert next(world.gpu.project().log()).message.endswith("/caf\\xe9")
    assert world.machine("laptop").pull().new == 1


def test_only_a_part(world: World) -> None:
    for name in ("a/1", "a/2", "ab/1", "b/1"):
        world.put(name, name)
    assert world.adopt(only=["a"], exclude=["2"]).new == 1
    assert list(head_entries(world.gpu)) == ["a/1"]


def test_a_dry_run_does_nothing_and_tells(world: World) -> None:
    world.put("a", "here and there")
    world.put("b", "only there")
    world.gpu.write("a", "here and there")
    report = world.adopt(dry_run=True)
    assert (report.new, report.to_read, report.to_read_bytes) == (2, 2, 24)
    assert report.paths == [b"a", b"b"]
    assert head_entries(world.gpu) == {}


def test_a_later_adopt_takes_what_is_new_or_changed_there_and_nothing_else(world: World) -> None:
    for name in ("same", "changes", "pushed", "deleted"):
        world.put(name, f"{name} 1")
    world.adopt()
    world.gpu.pull()
    world.gpu.write("pushed", "edited here")
    (world.gpu.root / "deleted").unlink()
    world.gpu.push("full")
    sequence = world.gpu.status().sequence
    assert world.adopt().sequence == sequence
    world.put("changes", "changes 2")
    world.put("new", "new")
    report = world.adopt()
    assert (report.new, report.changed, report.unchanged, report.superseded) == (1, 1, 1, 2)
    assert (report.conflicts, report.read) == ([], 2)
    laptop = world.machine("laptop")
    laptop.pull()
    assert {path: content.decode() for path, content in contents(laptop).items()} == {
        "same": "same 1",
        "changes": "changes 2",
        "new": "new",
        "pushed": "edited here",
    }
    assert world.gpu.status().cases == {"new_there": [b"new"], "changed_there": [b"changes"]}
    # Another machine that adopts the same finds all of it done; what was changed since it cannot tell apart.
    assert world.adopt(laptop).conflicts == [b"pushed"]


def test_what_the_bucket_has_otherwise_is_a_conflict_and_stays(world: World) -> None:
    world.gpu.write("a", "pushed")
    world.gpu.write("b", "same")
    world.gpu.write("file", "a file")
    world.gpu.push()
    for name, content in (("a", "there!"), ("b", "same"), ("file/below", "x"), ("c", "c")):
        world.put(name, content)
    report = world.adopt()
    assert (report.new, report.unchanged, report.exit_code) == (1, 1, 6)
    assert report.conflicts == [b"a", b"file/below"]
    assert sorted(head_entries(world.gpu)) == ["a", "b", "c", "file"]
    laptop = world.machine("laptop")
    laptop.pull()
    assert laptop.read("a") == "pushed"


def test_a_file_that_was_cut_off_here_is_an_edit_of_it(world: World) -> None:
    """It consists of nothing but chunks of the object; when that changes too, it is a conflict (P9)."""
    whole = secrets.token_bytes(12 << 20)
    first = next(iter(cut(io.BytesIO(whole).read, len(whole))))
    assert len(first) < len(whole)
    world.put("big", whole)
    world.adopt()
    world.gpu.pull()
    world.gpu.write("big", first)
    assert world.gpu.push("copy").changed == 1
    world.put("big", "another tool's")
    report = world.adopt()
    assert (report.changed, report.conflicts) == (0, [b"big"])


def test_a_file_here_that_differs_stays_and_is_a_conflict_of_status(world: World) -> None:
    world.put("a", "there")
    world.gpu.write("a", "mine")
    report = world.adopt()
    assert (report.new, report.differing, report.matched) == (1, 1, 0)
    assert world.gpu.read("a") == "mine"
    assert world.gpu.status().cases == {"edit_edit": [b"a"]}
    world.gpu.push(resolve="local")
    assert not world.gpu.status().has_drift
    assert (world.plain / "a").read_text() == "there"


def hurt_paths(report: VerifyReport) -> set[bytes]:
    return {file.path for damage in report.damaged for file in damage.files if file.head}


def test_an_object_that_another_tool_touched_hurts_its_files_only(world: World) -> None:
    for name in ("good", "changed", "gone", "shorter"):
        world.put(name, f"{name} content")
    world.put("big.bin", BIG)
    world.adopt()
    world.put("changed", "CHANGED content")
    world.put("shorter", "s")
    (world.plain / "gone").unlink()
    world.put("big.bin", BIG[:-5] + b"other")
    laptop = world.machine("laptop")
    report = laptop.pull()
    assert report.exit_code == 7
    reasons = {path.decode(): reason for path, reason in report.damaged}
    assert sorted(reasons) == ["big.bin", "changed", "gone", "shorter"]
    assert f"{world.plain}/changed: another tool changed it" in reasons["changed"]
    assert "`manifest-sync adopt`" in reasons["changed"]
    assert "deleted it" in reasons["gone"]
    assert contents(laptop) == {"good": b"good content"}
    # A listing of a folder tells of sizes and absence only.
    verify = laptop.project().verify
    assert hurt_paths(verify()) == {b"gone", b"shorter"}
    assert hurt_paths(verify(read_data=True)) == {b"big.bin", b"changed", b"gone", b"shorter"}
    assert verify(read_data=True).exit_code == 7
    with pytest.raises(ManifestSyncError, match="another tool changed it"):
        b"".join(laptop.project().cat("changed"))


def test_gc_and_repair_leave_what_is_outside_alone(world: World) -> None:
    for name in ("a", "b", "c"):
        world.put(name, f"{name} content")
        world.gpu.write(name, f"{name} content")
    world.adopt()
    world.gpu.write("a", "another")
    (world.gpu.root / "c").unlink()
    world.gpu.push("full")
    before = world.outside()
    world.gpu.project().gc(keep_last=1, min_age=timedelta(0), apply=True)
    assert world.outside() == before
    (world.plain / "b").unlink()
    repaired = world.gpu.project().repair()
    assert (repaired.moved, repaired.exit_code) == ([b"b"], 3)
    assert [(damage.head, damage.key.rpartition("/")[2]) for damage in repaired.left] == [(False, "b")]
    assert not (world.plain / "b").exists()
    (world.plain / "a").unlink()
    (world.plain / "c").unlink()
    laptop = world.machine("laptop")
    assert laptop.pull().exit_code == 0
    assert contents(laptop) == {"a": b"another", "b": b"b content"}


@pytest.mark.parametrize("options", [{"only": ["a"], "prune": True}, {}])
@pytest.mark.parametrize("is_linked", [False, True])
def test_an_export_spares_what_was_adopted(world: World, options: dict[str, Any], is_linked: bool) -> None:
    """It is the only copy that the bucket has: neither pruned nor replaced, however the place is spelled."""
    world.put("a", "a")
    world.put("sub/b", "b")
    world.adopt()
    if not options:
        world.put("a", "another tool's")
    before = world.outside()
    link = world.folder / "link"
    link.symlink_to(world.plain)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="adopted objects"):
            world.gpu.project().export(str(link if is_linked else world.plain), dry_run=dry_run, **options)
    assert world.outside() == before
    assert world.gpu.project().export(str(world.folder / "apart"), only=["sub"]).new == 1


@pytest.mark.parametrize("options", [{"only": ["b"], "prune": True}, {"only": ["a"]}])
@pytest.mark.parametrize("is_pinned", [False, True])
def test_an_export_spares_what_only_an_old_snapshot_needs(
    world: World, options: dict[str, Any], is_pinned: bool
) -> None:
    for name in ("a", "b"):
        world.put(name, name)
    world.adopt()
    world.gpu.pull()
    world.gpu.write("a", "pushed later")
    world.gpu.push("copy")
    project = world.gpu.project()
    if is_pinned:
        project.pin("1")
        project.gc(keep_last=1, min_age=timedelta(0), apply=True)
    before = world.outside()
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=r"\d adopted objects .*, among them a;"):
            project.export(str(world.plain), dry_run=dry_run, **options)
    assert world.outside() == before
    assert project.export(str(world.folder / "old"), at="1").new == 2
    # Once nothing needs it any more, it is a file like any other.
    if is_pinned:
        project.unpin("1")
    project.gc(keep_last=1, min_age=timedelta(0), apply=True)
    report = project.export(str(world.plain), **options)
    assert (report.changed, report.deleted) == ((1, 0) if options["only"] == ["a"] else (0, 1))


def test_an_export_does_not_guess_what_a_lost_snapshot_needs(world: World) -> None:
    """Where other snapshots adopted something there; elsewhere it has nothing to do with the export."""
    for name in ("a", "b"):
        world.put(name, name)
    world.adopt()
    world.gpu.pull()
    for content in ("x", "y"):
        world.gpu.write("a", content)
        world.gpu.push("copy")
    (lost,) = (world.bucket / "snapshots").glob("0000000002-*")
    lost.unlink()
    world.put("c", "in the way")
    apart = world.folder / "apart"
    apart.mkdir()
    (apart / "c").write_text("in the way")
    with pytest.raises(Damaged, match="cannot be told"):
        world.machine("other").project().export(str(world.plain), only=["b"], prune=True)
    assert sorted(world.outside()) == ["a", "b", "c"]
    assert world.machine("third").project().export(str(apart), only=["b"], prune=True).deleted == 1


R2_A, R2_B = (f"https://{account}.r2.cloudflarestorage.com" for account in ("aaa", "bbb"))
AWS = "https://s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("one", "other", "maybe"),
    [
        (R2_A, f"{R2_A.upper()}:443/".replace("HTTPS", "https"), True),
        (R2_A, R2_A.replace("aaa", "aaa.eu"), True),
        (R2_A, R2_A.replace("aaa", "bucket.aaa"), True),
        (R2_A, R2_B, False),
        (R2_A, AWS, False),
        (AWS, "https://s3.amazonaws.com", True),
        (AWS, "https://bucket.s3-us-west-2.amazonaws.com", True),
        (AWS, "", True),  # AWS_ENDPOINT_URL or a profile may name any
        (R2_A, "", True),
        (R2_A, "https://ec2-198-51-100-1.compute.amazonaws.com", True),
        ("http://127.0.0.1:9000", "http://localhost:9000/", True),
        ("https://store.example", "http://10.0.0.1:8333", True),
        (R2_A, "http://127.0.0.1:9000", True),
    ],
)
def test_only_services_that_are_known_to_differ_are_two_stores(one: str, other: str, maybe: bool) -> None:
    places = [Location("s3", bucket="b", endpoint_url=url) for url in (one, other)]
    assert may_be_same_store(*places) is maybe
    assert may_be_same_store(*reversed(places)) is maybe


def test_drop_asks_whether_the_object_is_still_there(world: World) -> None:
    for name in ("a", "b"):
        world.put(name, name)
        world.gpu.write(name, name)
    world.adopt()
    (world.plain / "b").unlink()
    report = world.gpu.project().drop(["a", "b"])
    assert report.deleted == 1
    assert [path for path, _ in report.damaged] == [b"b"]
    assert contents(world.gpu) == {"b": b"b"}


class Moving(DirectoryStore):
    """Something happens outside before the read number ``at`` of what lies there."""

    def __init__(self, path: str, at: int, happens: Callable[[], object]) -> None:
        super().__init__(path)
        self.at = at
        self.happens = happens
        self.reads: list[str] = []
        self.lock = threading.Lock()

    def happens_at(self, number: int) -> None:
        if number == self.at:
            self.happens()

    def beside(self, place: str) -> Any:
        return _MovingPlace(self, super().beside(place))


class _MovingPlace:
    def __init__(self, world: Moving, inner: Readable) -> None:
        self._world = world
        self._inner = inner

    def get_part(self, key: str, offset: int, length: int, *, etag: str) -> Part:
        with self._world.lock:
            self._world.reads.append(key)
            number = len(self._world.reads)
        self._world.happens_at(number)
        return self._inner.get_part(key, offset, length, etag=etag)

    def list(self, prefix: str) -> Iterator[Listed]:
        return self._inner.list(prefix)


# --- interruptions and others at the same time


def test_a_killed_adopt_goes_on_where_it_was(world: World) -> None:
    names = [f"n{number:02}" for number in range(30)]
    for name in names:
        world.put(name, name)
    with FaultyStore(DirectoryStore(str(world.bucket))) as store:
        store.add_fault("get_range", kind="crash", after=20, key_prefix="file://")
        world.gpu.store = store
        with pytest.raises(Crash):
            world.adopt()
    with FaultyStore(DirectoryStore(str(world.bucket))) as store:
        world.gpu.store = store
        report = world.adopt()
        reads = [key for method, key in store.calls if method == "get_range"]
    assert (report.new, report.exit_code) == (30, 0)
    assert len(reads) == 10
    laptop = world.machine("laptop")
    laptop.pull()
    assert contents(laptop) == {name: name.encode() for name in names}


def test_what_was_under_way_at_a_failure_is_kept(world: World) -> None:
    for name in ("a", "b", "c"):
        world.put(name, name)
    failed, together = threading.Event(), threading.Barrier(3, timeout=10)

    class Failing(Moving):
        def happens_at(self, number: int) -> None:
            together.wait()
            if number == 2:
                # The others go on until the failure has been seen.
                threading.Timer(0.5, failed.set).start()
                raise StoreUnavailable("planned", "try again")
            failed.wait(10)

    world.gpu.store = Failing(str(world.bucket), 0, lambda: None)
    with pytest.raises(StoreUnavailable):
        world.adopt()
    world.gpu.store = store = Moving(str(world.bucket), 0, lambda: None)
    assert world.adopt().new == 3
    assert len(store.reads) == 1


@pytest.mark.parametrize("kind", ["crash", "crash_after"])
def test_a_kill_at_the_swap_leaves_nothing_that_a_push_would_believe(world: World, kind: Any) -> None:
    for name in ("a", "b"):
        world.put(name, f"{name} 1")
        world.gpu.write(name, f"{name} 1")
    with FaultyStore(DirectoryStore(str(world.bucket))) as store:
        store.add_fault("put_if", kind=kind, key_prefix="manifest.json")
        world.gpu.store = store
        with pytest.raises(Crash):
            world.adopt()
    world.gpu.store = None
    world.put("a", "a 2")
    world.gpu.push()
    laptop = world.machine("laptop")
    report = laptop.pull()
    if kind == "crash":
        # Nothing was published; the push sent what is here.
        assert (report.exit_code, contents(laptop)) == (0, {"a": b"a 1", "b": b"b 1"})
    else:
        assert (report.exit_code, contents(laptop)) == (7, {"b": b"b 1"})
        assert not world.gpu.status().has_drift
        assert world.adopt().changed == 1


def test_what_changes_while_it_is_adopted_is_read_again(world: World) -> None:
    for name in ("a", "b", "c"):
        world.put(name, f"{name} 1")

    def happen() -> None:
        world.put("a", "a 22")
        world.put("d", "d 1")
        (world.plain / "b").unlink()

    world.gpu.store = Moving(str(world.bucket), 3, happen)
    report = world.adopt()
    assert (report.new, report.exit_code) == (3, 0)
    laptop = world.machine("laptop")
    assert laptop.pull().exit_code == 0
    assert contents(laptop) == {"a": b"a 22", "c": b"c 1", "d": b"d 1"}


def test_another_machine_publishes_meanwhile(world: World, hurried: None) -> None:
    for name in ("a", "b"):
        world.put(name, name)
    laptop = world.machine("laptop")

    def happen() -> None:
        laptop.write("mine", "pushed")
        laptop.write("b", "pushed")
        laptop.push()

    world.gpu.store = Moving(str(world.bucket), 1, happen)
    report = world.adopt()
    assert (report.new, report.conflicts) == (1, [b"b"])
    entries = head_entries(laptop)
    assert sorted(entries) == ["a", "b", "mine"]
    assert not entries["b"].chunks[0].frame.pack.is_external


# --- places


@pytest.mark.parametrize("place", ["gpu/experiments", "gpu/experiments/sub", "gpu", "link"])
def test_the_tree_is_not_adopted(world: World, place: str) -> None:
    """Every edit and every pull there would destroy what the bucket has nowhere else."""
    world.gpu.write("sub/a", "a")
    (world.folder / "link").symlink_to(world.gpu.root)
    with pytest.raises(UsageError, match="overlaps"):
        world.gpu.project().adopt(str(world.folder / place))


def test_the_repository_itself_is_not_adopted(world: World) -> None:
    """The plain files and the repository lie in one folder."""
    world.gpu.write("own", "own")
    world.gpu.push()
    for name in ("exp/a", "packs/mine"):
        (world.bucket / name).parent.mkdir(exist_ok=True)
        (world.bucket / name).write_text(name)
    report = world.gpu.project().adopt(str(world.bucket))
    assert (report.listed, report.new, report.exit_code) == (1, 1, 0)
    assert sorted(head_entries(world.gpu)) == ["exp/a", "own"]
    world.gpu.project().gc(keep_last=1, apply=True)
    assert (world.bucket / "packs" / "mine").exists()


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "memory://other"])
def test_a_place_of_another_kind_is_refused(world: World, url: str) -> None:
    with pytest.raises(UsageError, match="not in the store"):
        world.gpu.project().adopt(url)


def test_what_the_command_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("exp/a", "exp/b", "exp/x.py"):
        world.put(name, name)
    world.gpu.write("exp/a", "mine")
    monkeypatch.chdir(world.gpu.root / "exp")

    def run(*args: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(main, ["adopt", "../../../plain", *args], catch_exceptions=False)
        return result.exit_code, result.output.splitlines()

    excluded = "1 left out by rules, groups or what is tracked here"
    code, lines = run("-n")
    assert (code, lines[:2], lines[3]) == (0, ["  exp/a", "  exp/b"], excluded)
    assert lines[2] == (
        "dry run, adopt: would be 2 new, 0 changed, 10 B; 0 of them here too, "
        "2 to be read from there (10 B); nothing was done"
    )
    code, lines = run()
    assert (code, lines[1]) == (0, excluded)
    assert lines[0].startswith(
        "adopt: 2 new, 0 changed, 10 B; 0 of them here too, 2 read from there (10 B); "
    )
    assert lines[2].startswith("1 differ from the file here: `manifest-sync status` lists them")
    code, lines = run()
    assert (code, lines[:2]) == (0, ["adopt: nothing new there; sequence 1", "2 in the bucket already"])
    world.gpu.push(resolve="local")
    world.put("exp/a", "mime")
    code, lines = run("--json")
    assert (code, json.loads(lines[0])["conflicts"]) == (6, ["exp/a"])
    code, lines = run()
    assert code == 6
    assert "1 not adopted: the bucket has another file at the path, or a folder:" in lines
    assert "  exp/a" in lines


def test_nothing_there(world: World) -> None:
    done = world.gpu.command("adopt", str(world.plain / "no"))
    assert done.returncode == 1
    assert "there is no object at" in done.stderr


@pytest.mark.parametrize("key", ["a", "a b/+%41/ü", "/lead", "x" * 900, "a\nb", 'q"<>#?&='])
def test_a_url_has_one_spelling(key: str) -> None:
    url = object_url("s3://bucket", key)
    assert split_url(url) == ("s3://bucket", key)
    assert url.isascii()
    assert url.isprintable()


@pytest.mark.parametrize(
    "url",
    [
        *("s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket/a b", "s3://bucket/%61"),
        *("s3://bucket/%ff", "http://bucket/key", "s3://user@bucket/key", "file://host/a", ""),
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(FormatError):
        split_url(url)


# --- ETags


def multipart_etag(content: bytes, part: int) -> str:
    digests = [hashlib.md5(content[at : at + part]).digest() for at in range(0, len(content), part)]
    return f'"{hashlib.md5(b"".join(digests)).hexdigest()}-{len(digests)}"'


@pytest.mark.parametrize(
    ("part", "size"),
    [(5, 16 * MIB), (8, 16 * MIB), (16, 16 * MIB + 1), (7, 16 * MIB + 1), (11, 23 * MIB - 3)],
)
def test_the_part_size_is_found(part: int, size: int) -> None:
    content = os.urandom(1024) * (size // 1024 + 1)
    content = content[:size]
    etag = multipart_etag(content, part * MIB)
    tried = part_sizes(etag, size)
    forms = [PartsMd5(size_) for sizes in tried for size_ in sizes]
    for form in forms:
        for at in range(0, size, 3_000_001):
            form.update(content[at : at + 3_000_001])
    assert any(form.matches(etag) for form in forms)
    assert not any(PartsMd5(other).matches(etag) for other in (0, 5 * MIB))


def test_a_few_huge_parts_are_not_guessed_for_ever() -> None:
    tried = part_sizes(f'"{"0" * 32}-2"', 5 << 30)
    assert sum(len(sizes) for sizes in tried) <= 24
    assert part_sizes("", 5) == part_sizes('"not-md5"', 5) == []
    assert part_sizes("0" * 32, 5) == [[0]]


# --- a real S3 server


@pytest.fixture
def client(seaweed_http: S3Server) -> Iterator[S3Client]:
    session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
    found = session.client(
        "s3", endpoint_url=seaweed_http.endpoint_url, config=Config(s3={"addressing_style": "path"})
    )
    yield found
    found.close()


def upload(client: S3Client, key: str, content: bytes, part: int = 0, **metadata: str) -> None:
    """As the AWS CLI and rclone do it: in parts when it is large."""
    config = TransferConfig(multipart_threshold=part or 1 << 30, multipart_chunksize=part or 1 << 30)
    client.upload_fileobj(io.BytesIO(content), BUCKET, key, Config=config, ExtraArgs={"Metadata": metadata})


def test_on_a_real_server(seaweed_http: S3Server, client: S3Client, tmp_path: FsPath) -> None:
    place = f"adopt-{secrets.token_hex(4)}"
    bucket, plain = f"s3://{BUCKET}/{place}/repository", f"{place}/plain"

    def machine(name: str) -> Machine:
        env = {"R2_ACCESS_KEY_ID": ACCESS_KEY, "R2_SECRET_ACCESS_KEY": SECRET_KEY}
        return Machine(tmp_path / name, bucket, endpoint_url=seaweed_http.endpoint_url, env=env)

    gpu = machine("gpu")
    big = os.urandom(12 * MIB + 77)
    files = {f"exp/{number} ü+.json": f"{number}".encode() for number in range(24)}
    files |= {"exp/rclone.bin": big, "exp/aws.bin": big[1:], "exp/odd.bin": big[2:]}
    for name, content in files.items():
        part = {"exp/rclone.bin": 5 * MIB, "exp/aws.bin": 8 * MIB, "exp/odd.bin": 7 * MIB}.get(name, 0)
        upload(client, f"{plain}/{name}", content, part)
        gpu.write(name, content)
    upload(client, f"{plain}/there/only.bin", big[3:], 5 * MIB, mtime="1700000000.123456789")
    files["there/only.bin"] = big[3:]
    upload(client, f"{plain}/there/marker/", b"")

    told = gpu.project().adopt(f"s3://{BUCKET}/{plain}", dry_run=True)
    assert (told.new, told.matched, told.to_read, told.to_read_bytes) == (28, 27, 1, len(big) - 3)
    assert told.requests == {"GET": 1, "LIST": 1}
    with gpu.project().workspace(()) as ws:
        assert not ws.index.has_pending()

    report = gpu.project().adopt(f"s3://{BUCKET}/{plain}")
    assert (report.new, report.matched, report.read, report.bytes) == (28, 27, 1, len(big) - 3)
    # The head, the object's two parts; no HEAD at all, and no object was written but page, copy and head.
    assert (report.requests.get("GET"), report.requests.get("HEAD", 0), report.requests["PUT"]) == (3, 0, 3)
    assert gpu.status().cases == {"new_there": [b"there/only.bin"]}

    laptop = machine("laptop")
    assert laptop.pull().exit_code == 0
    assert contents(laptop) == files
    assert laptop.tree()["there/only.bin"][1] == 1_700_000_000_123_456_789
    gpu.pull()
    gpu.write("exp/0 ü+.json", b"changed here")
    assert gpu.push("copy").changed == 1
    again = gpu.project().adopt(f"s3://{BUCKET}/{plain}")
    assert (again.new, again.changed, again.superseded, again.exit_code) == (0, 0, 1, 0)
    assert (again.requests.get("PUT", 0), again.requests["LIST"]) == (0, 1)

    # A machine that adopted nothing finds in the history that those who did have gone on from there.
    (gpu.root / "exp/3 ü+.json").unlink()
    assert gpu.push("full").deleted == 1
    elsewhere = machine("elsewhere").project().adopt(f"s3://{BUCKET}/{plain}")
    assert (elsewhere.new, elsewhere.superseded, elsewhere.exit_code) == (0, 2, 0)
    del files["exp/3 ü+.json"]

    # Same size, other content: only the ETag tells.
    upload(client, f"{plain}/exp/1 ü+.json", b"X")
    client.delete_object(Bucket=BUCKET, Key=f"{plain}/exp/2 ü+.json")
    third = machine("third")
    done = third.command("pull", "--json")
    assert done.returncode == 7, done.stderr
    why = {item["path"]: item["reason"] for item in json.loads(done.stdout)["damaged"]}
    assert sorted(why) == ["exp/1 ü+.json", "exp/2 ü+.json"]
    assert f"s3://{BUCKET}/{plain}/exp/1%20%C3%BC%2B.json: another tool changed it" in why["exp/1 ü+.json"]
    assert {*files} - {*contents(third)} == {"exp/1 ü+.json", "exp/2 ü+.json"}
    found = third.project().verify()
    assert (hurt_paths(found), found.exit_code) == ({p.encode() for p in why}, 7)
    assert found.requests.get("GET", 0) < 20

    adopted = gpu.project().adopt(f"s3://{BUCKET}/{plain}")
    assert (adopted.changed, adopted.differing) == (1, 1)
    repaired = gpu.project().repair()
    assert repaired.moved == ["exp/2 ü+.json".encode()]
    assert third.pull().exit_code == 0
    assert third.tree()["exp/1 ü+.json"][0] == b"X"
    assert third.tree()["exp/2 ü+.json"][0] == b"2"
    assert {item["Key"] for item in client.list_objects_v2(Bucket=BUCKET, Prefix=plain)["Contents"]} == {
        f"{plain}/{name}" for name in {*files, "exp/3 ü+.json", "there/marker/"} - {"exp/2 ü+.json"}
    }


def test_an_export_on_a_real_server_spares_what_was_adopted(
    seaweed_http: S3Server, client: S3Client, tmp_path: FsPath
) -> None:
    """Whatever the endpoint is called, and if only an old snapshot names it; what was read once is noted."""
    place = f"adopt-{secrets.token_hex(4)}"
    plain, apart = f"s3://{BUCKET}/{place}/plain", f"s3://{BUCKET}/{place}/apart"
    keys = {"R2_ACCESS_KEY_ID": ACCESS_KEY, "R2_SECRET_ACCESS_KEY": SECRET_KEY}
    env = {**keys, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    gpu = Machine(
        tmp_path / "gpu", f"s3://{BUCKET}/{place}/repository", endpoint_url=seaweed_http.endpoint_url, env=env
    )
    for name in ("a", "b"):
        upload(client, f"{place}/plain/{name}", name.encode())
        gpu.write(name, name)
    gpu.project().adopt(plain)
    gpu.write("a", "pushed later")
    gpu.push("copy")
    elsewhere = seaweed_http.endpoint_url.replace("127.0.0.1", "localhost")
    for url in ("", f"{elsewhere.upper().replace('HTTP', 'http')}/"):
        for options in ({"only": ["b"], "prune": True}, {"only": ["a"]}):
            with pytest.raises(UsageError, match=r"\d adopted objects .*, among them a;"):
                gpu.project().export(plain, endpoint_url=url, **options)
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{place}/plain/")["Contents"]
    assert [(item["Key"].rpartition("/")[2], item["Size"]) for item in found] == [("a", 1), ("b", 1)]

    upload(client, f"{place}/apart/a", b"in the way")
    upload(client, f"{place}/apart/z", b"in the way")

    def exported() -> dict[str, int]:
        return gpu.project().export(apart, only=["a"], prune=True).requests

    first = exported()
    gpu.write("a", "and later")
    gpu.push("copy")
    second = exported()
    # The first listed the snapshots and read them all; the second follows parents to the one that was noted.
    assert (first["LIST"], second["LIST"]) == (2, 1)
    assert second["GET"] <= 4
    upload(client, f"{place}/apart/c", b"adopted where exports go")
    gpu.project().adopt(apart)
    (gpu.root / "c").write_bytes(b"pushed later")
    gpu.push("copy")
    with pytest.raises(UsageError, match=r"1 adopted objects .*, among them c;"):
        exported()


def test_another_endpoint_is_refused(tmp_path: FsPath) -> None:
    conf = tmp_path / "rclone.conf"
    conf.write_text(
        "[other]\ntype = s3\naccess_key_id = a\nsecret_access_key = b\nendpoint = https://elsewhere.example\n"
    )
    (tmp_path / "manifest-sync.toml").write_text(
        'bucket = "s3://b/p"\nendpoint_url = "https://here.example"\nroot = "r"\n'
    )
    project = Project.find(str(tmp_path), env={"RCLONE_CONFIG": str(conf)})
    with pytest.raises(UsageError, match="not in the store that holds s3://b/p"):
        project.adopt("other:bucket/plain")

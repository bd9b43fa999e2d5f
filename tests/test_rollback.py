"""P18: a head that is not a descendant of the one seen last is refused.

With --accept-rollback the machine goes on and loses nothing, whatever it had agreed on with the heads that
are gone (P11).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from manifest_sync import manifest as fmt
from manifest_sync.canonical import compress
from manifest_sync.errors import Damaged, ManifestSyncError, RolledBack, WrongRepository
from manifest_sync.project import Project
from manifest_sync.repository import Commit, Head, Repository
from manifest_sync.stores.directory import DirectoryStore
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine


class NoCache:
    def load_page_body(self, page_id: str) -> bytes | None:
        return None

    def save_page_bodies(self, pages: object) -> None:
        return None


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    return Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)


def accepting(machine: Machine) -> Project:
    return Project.find(str(machine.folder), env=machine.env, store=machine.store, accept_rollback=True)


def head_file(machine: Machine) -> Path:
    return Path(machine.bucket, "manifest.json")


def contents(machine: Machine) -> dict[str, bytes]:
    return {path: content for path, (content, _, _) in machine.tree().items()}


def bucket_files(machine: Machine) -> dict[str, bytes]:
    folder = Path(machine.bucket)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- what is refused


COMMANDS = [("push",), ("push", "--full"), ("pull",), ("pull", "--full"), ("status",), ("ls",), ("log",)]


def refused(machine: Machine, *words: str, commands: Sequence[tuple[str, ...]] = COMMANDS[3:4]) -> None:
    tree, bucket = machine.tree(), bucket_files(machine)
    for command in commands:
        done = machine.command(*command)
        assert done.returncode == 7, (command, done.stdout, done.stderr)
        for word in words:
            assert word in done.stderr, command
        assert "Traceback" not in done.stderr
    assert machine.tree() == tree
    assert bucket_files(machine) == bucket


def test_an_older_head_is_refused_by_every_command(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    gpu.push()
    laptop.pull()
    old = head_file(gpu).read_bytes()
    gpu.write("exp/b", "b")
    gpu.push()
    head_file(gpu).write_bytes(old)
    refused(gpu, "does not descend", "--accept-rollback", commands=COMMANDS)
    assert laptop.pull("full").deleted == 0, "a machine that had seen no later one does not notice"
    done = gpu.command("doctor", "-q")
    assert done.returncode == 7
    assert "--accept-rollback" in done.stdout


@pytest.mark.parametrize("sequence", [1, 2, 3, 1000])
def test_a_sequence_proves_nothing(pair: tuple[Machine, Machine], sequence: int) -> None:
    """Another snapshot of the same or of a higher sequence, with an ETag of its own, is no descendant."""
    gpu, _ = pair
    for number in range(2):
        gpu.write(f"exp/{number}", "x")
        gpu.push()
    head = fmt.parse_manifest(head_file(gpu).read_bytes())
    ids = [f"{number:032x}" for number in range(1, 4)]
    other = fmt.Manifest(
        repository=head.repository,
        snapshot=ids[2],
        time=head.time,
        machine=head.machine,
        host=head.host,
        writer=head.writer,
        sequence=sequence,
        parent=ids[1],
        ancestors=(ids[0], ids[1]),
    )
    head_file(gpu).write_bytes(fmt.encode_manifest(other))
    refused(gpu, "does not descend", "--accept-rollback")


def test_another_repositorys_head_is_never_accepted(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    gpu, _ = pair
    gpu.write("exp/a", "a")
    gpu.push()
    other = Machine(tmp_path / "other", str(tmp_path / "bucket2"))
    other.write("exp/a", "other")
    other.write("exp/only", "other")
    other.push()
    shutil.rmtree(gpu.bucket)
    Path(other.bucket).rename(gpu.bucket)
    refused(gpu, "repository", "rebuild-index")
    for command in ("pull", "push", "status"):
        done = gpu.command(command, "--accept-rollback")
        assert done.returncode == 7
        assert "rebuild-index" in done.stderr
    with pytest.raises(WrongRepository):
        accepting(gpu).pull("full")
    # And that cure works: what differs is a conflict, nothing is overwritten or deleted.
    assert gpu.command("rebuild-index").returncode == 0
    report = gpu.pull("full")
    assert (report.conflicts, report.new) == ([b"exp/a"], 1)
    assert contents(gpu) == {"exp/a": b"a", "exp/only": b"other"}


def test_a_stale_head_within_a_run_is_refused(pair: tuple[Machine, Machine]) -> None:
    """A store that goes back to an older head between two requests of one push."""
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    gpu.push()
    laptop.pull()
    first = head_file(gpu).read_bytes()
    gpu.write("exp/b", "b")
    gpu.push()
    laptop.write("exp/c", "c")
    inner = DirectoryStore(laptop.bucket)

    class GoesBack(FaultyStore):
        def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
            head_file(laptop).write_bytes(first)
            return inner.put_if(key, body, etag=etag)

    laptop.store = GoesBack(inner)
    with pytest.raises(RolledBack, match="does not descend"):
        laptop.push()
    laptop.store = None
    assert head_file(gpu).read_bytes() == first


# ---- init


def init(folder: Path, bucket: str) -> ManifestSyncError | int:
    folder.mkdir()
    try:
        return Project.init(str(folder), bucket, env={}).sequence
    except ManifestSyncError as error:
        assert not (folder / "manifest-sync.toml").exists()
        return error


def test_init_where_the_head_is_lost(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    gpu, _ = pair
    gpu.write("exp/a", "a")
    gpu.push()
    head_file(gpu).unlink()
    before = bucket_files(gpu)
    error = init(tmp_path / "new", gpu.bucket)
    assert isinstance(error, Damaged)
    assert "manifest.json is missing" in error.message
    assert "doctor" in error.hint
    assert bucket_files(gpu) == before


def test_init_where_the_head_is_damaged(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    gpu, _ = pair
    head_file(gpu).write_bytes(b"{")
    before = bucket_files(gpu)
    error = init(tmp_path / "new", gpu.bucket)
    assert isinstance(error, Damaged)
    assert "doctor" in error.hint
    assert bucket_files(gpu) == before


def test_init_joins_what_is_there(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    gpu, _ = pair
    gpu.write("exp/a", "a")
    gpu.push()
    before = bucket_files(gpu)
    assert init(tmp_path / "new", gpu.bucket) == 1
    assert bucket_files(gpu) == before
    # A folder that knows another repository joins nothing by running init again.
    other = Machine(tmp_path / "other", str(tmp_path / "bucket2"))
    other.push()
    shutil.rmtree(other.bucket)
    shutil.copytree(gpu.bucket, other.bucket)
    assert Project.init(str(other.folder), other.bucket, env={}).created is False
    with pytest.raises(WrongRepository):
        other.pull()


# ---- going on with --accept-rollback


def lose_the_future(gpu: Machine, laptop: Machine, how: str) -> dict[str, bytes]:
    """A machine that agreed on much with heads that are lost then; the tree as it stands."""
    for name in ("same", "edited", "deleted", "pulled", "mine", "gone", "mended", "dropped"):
        gpu.write(f"exp/{name}", f"old {name}")
    gpu.push()
    laptop.pull()
    old = head_file(gpu).read_bytes()
    # The future that will be lost, agreed on here and there:
    gpu.write("exp/edited", "new edited")
    gpu.write("exp/added", "added")
    (gpu.root / "exp/deleted").unlink()
    gpu.push("full")
    laptop.pull("full")
    laptop.write("exp/pulled", "new pulled")
    laptop.write("exp/theirs", "theirs")
    laptop.push("copy")
    gpu.pull("copy")
    # Not sent yet:
    gpu.write("exp/mine", "my edit")
    gpu.write("exp/fresh", "fresh")
    (gpu.root / "exp/gone").unlink()
    gpu.write("exp/mended", "draft")
    gpu.push("copy", only=["exp/mended"])
    gpu.write("exp/mended", "old mended")
    gpu.status()
    if how == "by hand":
        head_file(gpu).write_bytes(old)
    else:
        head_file(gpu).unlink()
        assert laptop.project().restore_head("1").exit_code == 0
    return contents(gpu)


@pytest.mark.parametrize("mode", ["new", "copy", "full"])
@pytest.mark.parametrize("how", ["by hand", "restored"])
@pytest.mark.parametrize("command", ["pull", "push"])
def test_nothing_is_lost(pair: tuple[Machine, Machine], how: str, command: str, mode: str) -> None:
    gpu, laptop = pair
    before = lose_the_future(gpu, laptop, how)
    with pytest.raises(RolledBack):
        gpu.pull(mode)
    run = accepting(gpu).pull if command == "pull" else accepting(gpu).push
    report = run(mode)
    if (command, mode) == ("pull", "full"):
        # As ever: --full takes back an edit of a file that the bucket still has as it was agreed on.
        assert gpu.read("exp/mine") == "old mine"
        gpu.project().undo()
        (gpu.root / "exp/gone").unlink(missing_ok=True)
    # What differs from the restored head stays as it is, on both sides.
    assert {path: contents(gpu)[path] for path in before} == before
    assert set(report.conflicts) == {b"exp/edited", b"exp/pulled"}
    assert report.deleted == (1 if (command, mode) == ("push", "full") else 0), (
        "exp/gone is a deletion of mine"
    )
    # Accepted once: the next run does not ask again.
    again = gpu.push("copy") if command == "pull" else gpu.pull("copy")
    assert set(again.conflicts) == {b"exp/edited", b"exp/pulled"}
    assert {path: contents(gpu)[path] for path in before} == before
    # In the end both have everything of this machine.
    accepting(gpu).pull("copy")
    gpu.push("copy", resolve="local")
    fresh = Machine(gpu.folder.parent / "fresh", gpu.bucket)
    fresh.pull()
    assert {path: contents(fresh)[path] for path in before} == before


def test_the_other_machine_too(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    lose_the_future(gpu, laptop, "restored")
    before = contents(laptop)
    with pytest.raises(RolledBack):
        laptop.pull("full")
    accepting(laptop).pull("full")
    assert {path: contents(laptop)[path] for path in before} == before


def test_a_base_outside_the_scope_is_forgotten_as_well(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    before = lose_the_future(gpu, laptop, "by hand")
    gpu.write("elsewhere/x", "x")
    accepting(gpu).push("new", only=["elsewhere"])
    report = gpu.pull("copy")
    assert set(report.conflicts) == {b"exp/edited", b"exp/pulled"}
    assert {path: contents(gpu)[path] for path in before} == before


def test_when_pages_are_missing_no_base_is_kept(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    before = lose_the_future(gpu, laptop, "by hand")
    pages = Path(gpu.bucket, "pages")
    pages.rename(pages.with_name("kept"))
    assert accepting(gpu).pull("full").exit_code == 7
    assert {path: contents(gpu)[path] for path in before} == before
    pages.with_name("kept").rename(pages)
    report = accepting(gpu).pull("full")
    assert {path: contents(gpu)[path] for path in before} == before
    assert {b"exp/edited", b"exp/pulled"} <= set(report.conflicts)
    assert report.deleted == 0


def test_a_lost_history_block_can_be_accepted(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    gpu.write("exp/a", "a")
    gpu.push()
    repository = Repository(DirectoryStore(gpu.bucket), NoCache())
    head = repository.load_head()
    for number in range(300):
        commit = Commit(f"{number:032x}", "", "2026-01-01T00:00:00Z", "m", "h", "", "0")
        outcome = repository.publish(head, (), commit)
        assert isinstance(outcome, Head)
        head = outcome
    shutil.rmtree(Path(gpu.bucket, "history"))
    with pytest.raises(Damaged, match="history"):
        gpu.pull()
    assert accepting(gpu).pull("full").deleted == 0
    assert gpu.push("full").deleted == 0
    assert contents(gpu) == {"exp/a": b"a"}


def test_what_was_uploaded_for_the_lost_heads_is_sent_again(pair: tuple[Machine, Machine]) -> None:
    """The heads went back by hand, so the fence did not rise: a collection then deletes the packs of a push
    that believes itself younger than it."""
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    gpu.push()
    laptop.pull()
    old = head_file(gpu).read_bytes()
    repository = Repository(DirectoryStore(gpu.bucket), NoCache())
    collect(repository, [])
    collect(repository, [])
    gpu.write("exp/b", "b" * 1000)
    faulty = FaultyStore(DirectoryStore(gpu.bucket))
    faulty.add_fault("put", kind="crash", key_prefix="pages/")
    gpu.store = faulty
    with faulty, pytest.raises(Crash):
        gpu.push()
    gpu.store = None
    head_file(gpu).write_bytes(old)
    used = {page.session for page in repository.load_head().manifest.pages}
    sent = [i.key for i in repository.store.list("packs/") if i.key.split("/")[1] not in used]
    assert len(sent) == 1
    collect(repository, sent)
    collect(repository, [])
    assert repository.load_head().manifest.fence == 2, "what the push had noted"
    repository.store.delete(sent[0])
    report = accepting(gpu).push()
    assert report.stored_bytes > 0
    laptop.pull()
    assert laptop.read("exp/b") == "b" * 1000


def collect(repository: Repository, keys: list[str]) -> None:
    head = repository.load_head()
    fence = head.manifest.fence + 1
    key = fmt.gc_key(fence, f"{fence + 77:032x}")
    repository.store.put(key, fmt.encode_gc_list(fence, keys))
    commit = Commit(os.urandom(16).hex(), "", "2026-01-01T00:00:00Z", "m", "h", "gc", "0")

    def revise(manifest: fmt.Manifest) -> fmt.Manifest:
        return replace(manifest, fence=fence, collections=(*manifest.collections, (fence, key)))

    assert isinstance(repository.publish(head, (), commit, revise=revise), Head)


def test_an_interrupted_run_is_settled_first(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull that died between its renames and its record would make its base of the lost future."""
    gpu, laptop = pair
    gpu.write("exp/a", "old")
    gpu.push()
    laptop.pull()
    old = head_file(gpu).read_bytes()
    gpu.write("exp/a", "new")
    gpu.push("copy")
    with monkeypatch.context() as patch:
        patch.setattr("manifest_sync.index.index.Index.put_landed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            laptop.pull("copy")
    assert laptop.read("exp/a") == "new"
    index = laptop.folder / ".manifest-sync/index.sqlite"
    assert b"journal" in index.read_bytes()
    head_file(gpu).write_bytes(old)
    with pytest.raises(ManifestSyncError, match="interrupted"):
        list(accepting(laptop).ls())
    accepting(laptop).status()
    assert laptop.pull("full").conflicts == [b"exp/a"]
    assert laptop.read("exp/a") == "new"


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_undo_after_a_rollback_makes_no_base_of_the_lost_future(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "one")
    gpu.push()
    laptop.pull()
    old = head_file(gpu).read_bytes()
    for content in ("two", "three"):
        gpu.write("exp/a", content)
        gpu.push("copy")
        laptop.pull("copy")
    head_file(gpu).write_bytes(old)
    accepting(laptop).status()
    assert laptop.project().undo().exit_code == 0
    assert laptop.read("exp/a") == "two"
    report = laptop.pull("full")
    assert report.conflicts == [b"exp/a"]
    assert laptop.read("exp/a") == "two"


def test_a_push_that_was_published_in_the_restored_head_is_settled(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    faulty = FaultyStore(DirectoryStore(gpu.bucket))
    faulty.add_fault("put_if", kind="crash")
    gpu.store = faulty
    with faulty, pytest.raises(Crash):
        gpu.push()
    gpu.store = None
    head_file(gpu).unlink()
    assert laptop.project().restore_head().exit_code == 0
    assert accepting(gpu).push().new == 0
    assert not gpu.status().has_drift


def test_compressed_heads_are_no_heads(pair: tuple[Machine, Machine]) -> None:
    """A snapshot copy put in the head's place by hand is zstd, not JSON: damaged, and `doctor` cures it."""
    gpu, _ = pair
    gpu.write("exp/a", "a")
    gpu.push()
    head_file(gpu).write_bytes(compress(head_file(gpu).read_bytes()))
    assert gpu.command("pull").returncode == 7
    assert gpu.command("doctor", "--restore-head").returncode == 0
    assert gpu.pull().new == 0

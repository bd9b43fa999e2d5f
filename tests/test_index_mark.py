"""Which index is the right one, and that what a wrong row says is made sure of before it does harm (P11)."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path as FsPath
from typing import Any

import pytest

from manifest_sync.errors import Damaged, IndexDamaged, ManifestSyncError
from manifest_sync.index.index import Index
from manifest_sync.index.mark import IndexMark
from manifest_sync.worktree import Worktree
from tests.machines import Machine

REFUSED = "not the one that was used here last"


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    """Two machines in sync, with files old enough to be trusted."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for number in range(5):
        gpu.write(f"exp/{number}", f"old {number}", mtime_ns=10**18)
    gpu.push()
    laptop.pull()
    return gpu, laptop


def index_of(machine: Machine) -> FsPath:
    return machine.folder / ".manifest-sync/index.sqlite"


def sql(machine: Machine, *statements: str) -> None:
    connection = sqlite3.connect(index_of(machine))
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def fresh(machine: Machine, name: str = "fresh") -> dict[str, bytes]:
    """What a machine that has nothing but the bucket gets."""
    other = Machine(machine.folder.parent / name, machine.bucket)
    other.pull()
    return {path: found[0] for path, found in other.tree().items()}


# --- which index


def test_another_machines_index_overwrites_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.write("exp/1", "new, by the laptop")
    laptop.push("copy")
    shutil.copy(index_of(laptop), index_of(gpu))
    for command in (("push", "--copy"), ("push", "--full"), ("pull",), ("status",)):
        done = gpu.command(*command)
        assert done.returncode == 7, done
        assert REFUSED in done.stderr
        assert "manifest-sync rebuild-index" in done.stderr
    assert "rebuild-index" in gpu.command("doctor").stdout
    assert fresh(gpu)["exp/1"] == b"new, by the laptop"
    assert gpu.command("rebuild-index").returncode == 0
    assert gpu.push("full").conflicts == [b"exp/1"], "nobody knows any more whose it is"
    assert fresh(gpu, "later")["exp/1"] == b"new, by the laptop"


def test_an_index_from_before_a_drop_deletes_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    older = index_of(gpu).read_bytes()
    gpu.project().drop(["exp/1"])
    index_of(gpu).write_bytes(older)
    with pytest.raises(Damaged, match=REFUSED):
        gpu.push("full")
    gpu.project().rebuild_index()
    gpu.push("full")
    assert fresh(gpu)["exp/1"] == b"old 1"


def test_a_copy_of_the_folder_is_used_and_its_index_is_no_older_one(
    pair: tuple[Machine, Machine], tmp_path: FsPath
) -> None:
    gpu, _ = pair
    shutil.copytree(gpu.folder, tmp_path / "copy")
    fork = tmp_path / "copy/.manifest-sync/index.sqlite"
    copied = gpu.project().find(str(tmp_path / "copy"), env={})
    (tmp_path / "copy/experiments/exp/new").write_text("in the copy")
    # It has come further than ours, and is another one all the same.
    for _ in range(3):
        (tmp_path / "copy/experiments/exp/new").write_text("more")
        assert copied.push("copy").exit_code == 0
    shutil.copy(fork, index_of(gpu))
    with pytest.raises(Damaged, match=REFUSED):
        gpu.push("full")


def test_a_folder_that_is_restored_whole_is_used(pair: tuple[Machine, Machine], tmp_path: FsPath) -> None:
    gpu, laptop = pair
    shutil.copytree(gpu.folder, tmp_path / "backup")
    gpu.write("exp/1", "later")
    gpu.push("copy")
    shutil.rmtree(gpu.folder)
    shutil.copytree(tmp_path / "backup", gpu.folder)
    assert gpu.push("full").left == {"changed_there": 1}
    assert laptop.pull("copy").changed == 1


def test_an_index_brought_where_none_was_is_refused(pair: tuple[Machine, Machine], tmp_path: FsPath) -> None:
    gpu, _ = pair
    other = Machine(tmp_path / "other", gpu.bucket)
    for name in ("index.sqlite", "index.mark"):
        (other.folder / ".manifest-sync" / name).unlink(missing_ok=True)
    shutil.copy(index_of(gpu), index_of(other))
    with pytest.raises(Damaged, match=REFUSED):
        other.push("full", max_delete="100%")


def test_a_lost_index_is_begun_anew_beside_the_old_mark(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    index_of(gpu).unlink()
    assert not gpu.status().has_drift
    assert gpu.push("full").requests == {"GET": 1}


def test_a_run_with_nothing_to_do_writes_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    gpu.outwait()
    gpu.push("full")
    gpu.status()
    places = [index_of(gpu), index_of(gpu).with_name("index.mark")]
    before = [(place.read_bytes(), place.stat().st_ino, place.stat().st_mtime_ns) for place in places]
    gpu.push("full")
    gpu.pull("full")
    gpu.status()
    assert before == [(p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in places]


def test_a_mark_that_cannot_be_written_stops_the_run_and_not_the_next(
    pair: tuple[Machine, Machine],
) -> None:
    gpu, _ = pair
    blocked = index_of(gpu).with_name("index.mark.new")
    blocked.mkdir()
    gpu.write("exp/new", "new")
    with pytest.raises(ManifestSyncError, match="cannot use the local index") as caught:
        gpu.push()
    assert caught.value.hint
    blocked.rmdir()
    assert gpu.push().new == 1


# --- which folder it is of

ELSEWHERE = "is not the folder that this machine synced"
READING = (("status",), ("status", "--offline"), ("diff",), ("owners",), ("verify", "--local"))
WRITING = (
    *((way, f"--{mode}") for way in ("push", "pull") for mode in ("new", "copy", "full")),
    ("sync",),
    ("drop", "exp/1"),
    ("restore", "exp/1"),
    ("undo",),
    ("track", "exp"),
    ("trash", "empty"),
)


def old(number: int) -> dict[str, bytes]:
    """What the first so many files hold."""
    return {f"exp/{n}": f"old {n}".encode() for n in range(number)}


def refused(machine: Machine, command: tuple[str, ...], also: str = "") -> None:
    """The command does nothing, and says why."""
    before = machine.tree(), index_of(machine).read_bytes()
    done = machine.command(*command)
    assert done.returncode == 7, done
    for text in (ELSEWHERE, "manifest-sync rebuild-index", str(machine.root), also):
        assert text in done.stderr
    assert before == (machine.tree(), index_of(machine).read_bytes())


def renamed(machine: Machine, name: str) -> None:
    """The configuration says that the root is another folder."""
    config = machine.folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace(f'root = "{machine.root.name}"', f'root = "{name}"'))
    machine.root = machine.folder / name


def test_another_root_deletes_and_overwrites_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    first = gpu.root
    renamed(gpu, "other")
    gpu.write("exp/1", "another file")
    gpu.write("exp/new", "new")
    with pytest.raises(IndexDamaged, match=ELSEWHERE):
        gpu.push("full", max_delete="100%")
    for command in (*READING, *WRITING):
        refused(gpu, command, "exp/0")
    assert ELSEWHERE in gpu.command("doctor").stdout
    assert gpu.command("doctor").returncode == 7
    assert fresh(gpu) == old(5)
    renamed(gpu, "experiments")
    assert gpu.root == first
    assert not gpu.status().has_drift, "nothing was forgotten either"
    renamed(gpu, "other")
    assert gpu.command("rebuild-index").returncode == 0
    report = gpu.push("full")
    assert (report.new, report.deleted, report.conflicts) == (1, 0, [b"exp/1"])
    assert fresh(gpu, "later") == {**old(5), "exp/new": b"new"}
    gpu.pull()
    assert not gpu.push("full").deleted


@pytest.mark.parametrize("command", [("push", "--full"), ("push", "--copy"), ("status",)])
def test_a_root_that_leads_to_another_folder_is_noticed(
    pair: tuple[Machine, Machine], tmp_path: FsPath, command: tuple[str, ...]
) -> None:
    gpu, _ = pair
    gpu.root.rename(tmp_path / "disk1")
    gpu.root.symlink_to(tmp_path / "disk1")
    assert not gpu.status().has_drift, "the folder is the same"
    gpu.root.unlink()
    (tmp_path / "disk2").mkdir()
    gpu.root.symlink_to(tmp_path / "disk2")
    refused(gpu, command)
    gpu.write("exp/1", "another file")
    refused(gpu, command)
    assert fresh(gpu) == old(5)


def copied(machine: Machine, to: FsPath) -> Machine:
    """The whole folder elsewhere."""
    shutil.copytree(machine.folder, to, symlinks=True)
    copy = Machine.__new__(Machine)
    copy.folder, copy.bucket, copy.env, copy.store = to, machine.bucket, machine.env, None
    copy.root = to / machine.root.name
    return copy


@pytest.mark.parametrize("harm", ["missing", "older"])
def test_what_a_copied_folder_lacks_is_not_deleted(
    pair: tuple[Machine, Machine], tmp_path: FsPath, harm: str
) -> None:
    """A part of the tree was copied, or an older backup of it was restored, and all of .manifest-sync."""
    gpu, _ = pair
    copy = copied(gpu, tmp_path / "copy")
    if harm == "missing":
        (copy.root / "exp/3").unlink()
    else:
        copy.write("exp/3", "older", mtime_ns=10**17)
    copy.write("exp/4", "edited there")
    told = copied(copy, tmp_path / "again").command("push", "--dry-run").stderr
    assert "1 of its files are missing or older, exp/3 for one" in told
    report = copy.push("full")
    assert (report.exit_code, report.deleted) == (0 if harm == "missing" else 6, 0)
    assert fresh(gpu) == {**old(5), "exp/4": b"edited there"}
    case = "new_there" if harm == "missing" else "edit_edit"
    assert copy.status().cases == {case: [b"exp/3"]}
    # From then on it is a folder like any other.
    (copy.root / "exp/1").unlink()
    assert copy.push("full").deleted == 1


def test_a_copied_index_beside_a_small_part_of_the_tree_is_refused(
    pair: tuple[Machine, Machine], tmp_path: FsPath
) -> None:
    gpu, _ = pair
    copy = copied(gpu, tmp_path / "copy")
    for number in (0, 2, 3):
        (copy.root / f"exp/{number}").unlink()
    with pytest.raises(IndexDamaged, match=ELSEWHERE):
        copy.push("full")
    for command in (("push", "--copy"), ("pull", "--full"), ("status",)):
        refused(copy, command, "exp/0")
    assert fresh(gpu) == old(5)
    assert copy.command("rebuild-index").returncode == 0
    kept = copy.root.rename(copy.folder / "kept")
    copy.root.mkdir()
    refused(copy, ("push", "--full"))  # the new index knows its folder as well
    copy.root.rmdir()
    kept.rename(copy.root)
    assert copy.push("full").deleted == 0
    assert fresh(gpu, "later") == old(5)
    assert copy.status().cases == {"new_there": [b"exp/0", b"exp/2", b"exp/3"]}


def test_a_copy_that_is_whole_is_the_same_folder_from_then_on(
    pair: tuple[Machine, Machine], tmp_path: FsPath
) -> None:
    gpu, laptop = pair
    laptop.write("exp/1", "new, by the laptop")
    laptop.push("copy")
    copy = copied(gpu, tmp_path / "copy")
    copy.write("exp/new", "made there")
    assert not copy.status().conflicts, "the base is as good as before"
    (copy.root / "exp/3").unlink()
    report = copy.push("full")
    assert (report.new, report.deleted, report.left) == (1, 1, {"changed_there": 1})


def test_a_root_that_is_made_anew_is_another_folder(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    # Not removed: the filesystem could give its number to the new one.
    gpu.root.rename(gpu.folder / "kept")
    done = gpu.command("push", "--full")
    assert (done.returncode, "is missing" in done.stderr) == (1, True)
    gpu.root.mkdir()
    refused(gpu, ("push", "--full"))
    refused(gpu, ("pull", "--full"))
    gpu.command("rebuild-index")
    gpu.pull()
    gpu.push("full")
    assert fresh(gpu) == old(5)


def test_a_root_that_a_pull_makes_is_noted(pair: tuple[Machine, Machine], tmp_path: FsPath) -> None:
    gpu, _ = pair
    late = Machine(tmp_path / "late", gpu.bucket)
    late.root.rmdir()
    late.pull()
    kept = late.root.rename(late.folder / "kept")
    late.root.mkdir()
    refused(late, ("push", "--full"))
    late.root.rmdir()
    kept.rename(late.root)
    (late.root / "exp/1").unlink()
    assert late.push("full").deleted == 1


def test_a_root_that_vanishes_within_a_run_is_not_noted_anew(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, laptop = pair
    laptop.write("exp/new", "new")
    laptop.push()
    real = Worktree.make_root

    def make_root(worktree: Worktree) -> bool:
        gpu.root.rename(gpu.folder / "gone")
        return real(worktree)

    monkeypatch.setattr(Worktree, "make_root", make_root)
    with pytest.raises(ManifestSyncError, match="another folder was put in the place"):
        gpu.pull()
    monkeypatch.undo()
    refused(gpu, ("push", "--full"), "exp/0")


def test_a_root_that_is_exchanged_while_it_is_looked_at_deletes_nothing(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, _ = pair
    real = Worktree.scan

    def scan(*given: Any, **named: Any) -> Any:
        gpu.root.rename(gpu.folder / "gone")
        gpu.root.mkdir()
        return real(*given, **named)

    monkeypatch.setattr(Worktree, "scan", scan)
    with pytest.raises(ManifestSyncError, match="another folder was put in the place"):
        gpu.push("full", max_delete="100%")
    monkeypatch.undo()
    refused(gpu, ("push", "--full", "--max-delete", "100%"), "exp/0")
    assert fresh(gpu) == old(5)


def test_a_root_that_is_renamed_stays_the_same(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    gpu.root.rename(gpu.folder / "results")
    renamed(gpu, "results")
    (gpu.root / "exp/1").unlink()
    assert gpu.push("full").deleted == 1


def test_where_inodes_tell_nothing_they_are_not_compared(
    pair: tuple[Machine, Machine], tmp_path: FsPath
) -> None:
    gpu, _ = pair
    copy = copied(gpu, tmp_path / "copy")
    for number in (1, 2, 3):
        (copy.root / f"exp/{number}").unlink()
    refused(copy, ("push", "--full"))
    config = copy.folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace("[defaults]", "[defaults]\ntrust_inode = false"))
    assert copy.push("full").deleted == 3


def test_an_index_of_an_older_version_gets_the_note(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    sql(gpu, "DELETE FROM meta WHERE key = 'root'")
    assert not gpu.status().has_drift
    gpu.root.rename(gpu.folder / "kept")
    gpu.root.mkdir()
    refused(gpu, ("push", "--full"))


def test_a_look_beside_a_running_push_notices_it_too(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    with gpu.project().workspace(()):
        kept = gpu.root.rename(gpu.folder / "kept")
        gpu.root.mkdir()
        refused(gpu, ("status",))
        gpu.root.rmdir()
        shutil.copytree(kept, gpu.root)
        before = index_of(gpu).read_bytes()
        assert gpu.command("status").returncode == 0
        assert index_of(gpu).read_bytes() == before


# --- the mark at every moment


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def mark(tmp_path: FsPath) -> IndexMark:
    """The mark of an index that was used before."""
    numbers = iter(range(1, 100))
    made = IndexMark(str(tmp_path / "index.mark"), lambda size: bytes([next(numbers)]) * size)
    with Index.open(str(tmp_path / "index"), mark=made) as index:
        index.set_meta("run", "first")
    return made


def run(tmp_path: FsPath, mark: IndexMark, name: str) -> None:
    with Index.open(str(tmp_path / "index"), mark=mark) as index:
        index.set_meta("run", name)
        index.set_meta("more", name)


def test_every_run_has_a_token(tmp_path: FsPath, mark: IndexMark) -> None:
    first = mark.tokens()
    older = (tmp_path / "index").read_bytes()
    run(tmp_path, mark, "second")
    assert len(first) == len(mark.tokens()) == 1
    assert first != mark.tokens()
    (tmp_path / "index").write_bytes(older)
    with pytest.raises(Damaged, match=REFUSED):
        run(tmp_path, mark, "third")


@pytest.mark.parametrize("step", ["announce", "settle"])
def test_a_kill_beside_the_commit_leaves_an_index_that_is_used(
    tmp_path: FsPath, mark: IndexMark, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = (tmp_path / "index").read_bytes()
    real = IndexMark.announce

    def announce(self: IndexMark, present: tuple[str, ...]) -> str:
        real(self, present)
        raise Killed

    def settle(self: IndexMark, token: str = "") -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(IndexMark, step, {"announce": announce, "settle": settle}[step])
        with pytest.raises(Killed):
            run(tmp_path, mark, "killed")
    with Index.open(str(tmp_path / "index"), mark=mark) as index:
        assert index.get_meta("run") == ("first" if step == "announce" else "killed")
    assert len(mark.tokens()) == 1, "only one is right now"
    if step == "settle":
        (tmp_path / "index").write_bytes(older)
        with pytest.raises(Damaged, match=REFUSED):
            run(tmp_path, mark, "third")


def test_a_rebuild_that_dies_leaves_the_old_index_or_the_new_one(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, _ = pair

    def settle(self: IndexMark, token: str = "") -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(IndexMark, "settle", settle)
        with pytest.raises(Killed):
            gpu.project().rebuild_index()
    assert gpu.push("full").requests == {"GET": 1}


# --- wrong rows

_NOT_HERE = (
    "local = NULL, size = NULL, mtime_ns = NULL, ctime_ns = NULL, inode = NULL, mode = NULL, clean = 0"
)


def test_a_lost_row_is_no_deletion(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    (gpu.root / "exp/0").unlink()
    gpu.status()
    sql(gpu, f"UPDATE paths SET {_NOT_HERE} WHERE path IN (x'6578702f31', x'6578702f32')")
    report = gpu.push("full")
    assert report.deleted == 1
    assert report.skipped == [
        (path, "it was taken for deleted, and is there") for path in (b"exp/1", b"exp/2")
    ]
    assert report.exit_code == 3
    assert sorted(fresh(gpu)) == ["exp/1", "exp/2", "exp/3", "exp/4"]
    # The folder is compared file by file now.
    assert gpu.push("full").exit_code == 0
    assert not gpu.status().has_drift
    assert laptop.pull("full").deleted == 1


def test_nothing_is_replaced_that_the_plan_does_not_know(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.write("exp/1", "new, by the laptop")
    laptop.push("copy")
    gpu.status()
    # To an index without these it is a new file here.
    sql(gpu, "UPDATE paths SET base = NULL, remote = NULL WHERE path = x'6578702f31'")
    with pytest.raises(Damaged, match="exp/1") as caught:
        gpu.push()
    assert "rebuild-index" in caught.value.hint
    assert fresh(gpu)["exp/1"] == b"new, by the laptop"


def test_nothing_is_deleted_here_that_the_bucket_holds(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    sql(gpu, "UPDATE paths SET remote = NULL WHERE path = x'6578702f31'")
    with pytest.raises(Damaged, match="exp/1") as caught:
        gpu.pull("full")
    assert "rebuild-index" in caught.value.hint
    assert gpu.read("exp/1") == "old 1"


def test_a_damaged_copy_of_a_page_is_fetched_anew(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    for spoil in ("x'00'", "'text'", "substr(body, 1, 40)"):
        sql(gpu, f"UPDATE pages SET body = {spoil}", "UPDATE pages SET reflected = 0")
        (gpu.root / "exp/1").unlink()
        assert gpu.pull("full").exit_code == 0
        sql(gpu, f"UPDATE pages SET body = {spoil}")
        gpu.project().gc(keep_last=1, min_age=timedelta(0), apply=True)
        gpu.write("exp/2", f"as {spoil}")
        sql(gpu, f"UPDATE pages SET body = {spoil}")
        assert gpu.push("copy").exit_code == 0
    assert fresh(gpu) == {path: found[0] for path, found in gpu.tree().items()}


def test_an_error_that_is_kept_does_not_keep_the_index(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    sql(gpu, "UPDATE paths SET size = 'many'", "DELETE FROM folders")
    kept = []
    for _ in range(2):
        with pytest.raises(Damaged) as caught:
            gpu.push("full")
        kept.append(caught.value)
    gpu.project().rebuild_index()
    assert gpu.push("full").exit_code == 0

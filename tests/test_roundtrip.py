"""A tree goes to the bucket and back: the main path, end to end, on a directory bucket."""

from __future__ import annotations

import os
import random
from pathlib import Path as FsPath

import pytest
from blake3 import blake3

from manifest_sync.model import Hash, Path, Stat
from manifest_sync.worktree import Worktree
from tests.machines import Machine


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    return Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)


def fill(machine: Machine, files: int = 50) -> None:
    for number in range(files):
        machine.write(f"exp{number % 5:02}/set/{number}.json", f'{{"n": {number}, "x": "{"y" * number}"}}')
    machine.write("exp00/empty", b"")
    machine.write("exp00/run.sh", "#!/bin/sh\n").chmod(0o755)
    machine.write("exp00/old.pt", os.urandom(3000), mtime_ns=1_234_567_890_123_456_789)
    machine.write("exp01/big.safetensors", os.urandom(5 << 20))


def test_push_then_pull_gives_the_same_tree(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    fill(gpu)
    sent = gpu.push()
    assert (sent.new, sent.changed, sent.deleted, sent.conflicts, sent.skipped) == (54, 0, 0, [], [])
    got = laptop.pull()
    assert got.new == 54
    assert laptop.tree() == gpu.tree()
    assert not gpu.status().has_drift
    assert not laptop.status().has_drift


def test_a_push_with_nothing_to_do_is_one_conditional_get(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    fill(gpu)
    first = gpu.push()
    again = gpu.push()
    assert again.requests == {"GET": 1}
    assert again.sequence == first.sequence
    assert again.unchanged == 54
    laptop.pull()
    assert laptop.push("full").requests == {"GET": 1}
    assert laptop.pull("full").requests == {"GET": 1}


def test_a_small_push_is_one_get_and_four_puts(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    fill(gpu)
    gpu.push()
    gpu.write("exp02/set/2.json", "changed")
    assert gpu.push("copy").requests == {"GET": 1, "PUT": 4}


def test_a_same_size_overwrite_with_its_old_mtime_is_noticed(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    file = gpu.write("exp/a.json", "aaaa")
    gpu.push()
    laptop.pull()
    before = file.stat()
    file.write_text("bbbb")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert gpu.status().cases == {"changed_here": [b"exp/a.json"]}
    left = gpu.push("new")
    assert left.left == {"changed_here": 1}
    assert left.changed == 0
    assert gpu.push("copy").changed == 1
    assert laptop.pull("new").left == {"changed_there": 1}
    assert laptop.pull("copy").changed == 1
    assert laptop.read("exp/a.json") == "bbbb"


def test_overwrites_within_one_clock_tick_are_noticed(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    for n in range(20):
        gpu.write("exp/a.json", f"{n:04}")
        gpu.push("copy")
        gpu.write("exp/a.json", f"{n + 1000:04}")
        assert gpu.push("copy").changed == 1
    laptop.pull()
    assert laptop.read("exp/a.json") == "1019"


def test_a_file_as_young_as_its_hash_is_hashed_again(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The racy rule, without depending on how fast this machine is: the clock stands still."""
    gpu, _ = pair
    file = gpu.write("exp/a.json", "aaaa")
    hashed: list[bytes] = []
    real = Worktree.hash_file

    def record(self: Worktree, path: Path, seen: Stat | None = None) -> tuple[Hash, Stat]:
        hashed.append(path)
        return real(self, path, seen)

    monkeypatch.setattr(Worktree, "hash_file", record)
    monkeypatch.setattr(Worktree, "clock", lambda _: file.stat().st_ctime_ns)
    gpu.push()
    gpu.push()
    gpu.push()
    assert hashed == [b"exp/a.json"] * 2
    monkeypatch.setattr(Worktree, "clock", lambda _: file.stat().st_ctime_ns + 1)
    gpu.push()
    gpu.push()
    assert hashed == [b"exp/a.json"] * 3


def test_an_edit_right_after_a_pull_is_noticed(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a.json", "aaaa")
    gpu.push()
    laptop.pull()
    stat = (laptop.root / "exp/a.json").stat()
    laptop.write("exp/a.json", "bbbb", mtime_ns=stat.st_mtime_ns)
    assert laptop.status().cases == {"changed_here": [b"exp/a.json"]}


def test_deletions_travel_only_with_full(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    fill(gpu)
    gpu.push()
    laptop.pull()
    (gpu.root / "exp00/empty").unlink()
    assert gpu.push("copy").left == {"deleted_here": 1}
    assert gpu.push("full").deleted == 1
    assert laptop.pull("copy").left == {"deleted_there": 1}
    assert (laptop.root / "exp00/empty").exists()
    assert laptop.pull("full").deleted == 1
    assert not (laptop.root / "exp00/empty").exists()
    assert laptop.status().trash_files == 1
    assert laptop.tree() == gpu.tree()


def test_what_only_one_side_ever_had_is_kept_by_full(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "a")
    gpu.push()
    laptop.write("exp/b", "b")
    assert laptop.push("full").left == {"new_there": 1}
    assert laptop.pull("full").new == 1
    gpu.write("exp/c", "c")
    kept = gpu.pull("full")
    assert kept.left == {"new_here": 1}
    assert kept.new == 1
    assert (gpu.root / "exp/c").exists()


@pytest.mark.parametrize("look", ["push", "pull", "status"])
def test_what_both_have_alike_is_agreed_on(pair: tuple[Machine, Machine], look: str) -> None:
    """Neither brought it to the other, and yet its deletion is one (P10)."""
    gpu, laptop = pair
    for machine in pair:
        machine.write("exp/a", "the same")
        machine.write("exp/b", "the same")
    gpu.push()
    getattr(laptop, look)()
    (gpu.root / "exp/a").unlink()
    gpu.push("full")
    assert laptop.pull("full").deleted == 1
    assert not (laptop.root / "exp/a").exists()


def test_both_edit_the_same_file(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "base")
    gpu.write("exp/other", "base")
    gpu.push()
    laptop.pull()
    gpu.write("exp/a", "gpu")
    laptop.write("exp/a", "laptop")
    laptop.write("exp/other", "laptop")
    gpu.push("copy")
    for mode in ("new", "copy", "full"):
        report = laptop.pull(mode) if mode != "full" else laptop.pull("copy")
        assert report.conflicts == [b"exp/a"]
        assert report.exit_code == 6
    sent = laptop.push("copy")
    assert sent.conflicts == [b"exp/a"]
    assert sent.changed == 1
    assert laptop.read("exp/a") == "laptop"
    assert laptop.pull("new", resolve="remote").changed == 1
    assert laptop.read("exp/a") == "gpu"
    assert laptop.status().trash_files == 1
    assert not laptop.status().has_drift


def test_a_conflict_settled_for_this_side(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "base")
    gpu.push()
    laptop.pull()
    gpu.write("exp/a", "gpu")
    gpu.push("copy")
    laptop.write("exp/a", "laptop")
    assert laptop.push("copy", resolve="local").changed == 1
    gpu.pull("copy")
    assert gpu.read("exp/a") == "laptop"


def test_an_edit_survives_the_other_sides_deletion(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/a", "base")
    gpu.push()
    laptop.pull()
    (gpu.root / "exp/a").unlink()
    gpu.push("full")
    laptop.write("exp/a", "edited")
    for run in (laptop.pull, laptop.push):
        report = run("full")
        assert report.conflicts == [b"exp/a"]
    assert laptop.read("exp/a") == "edited"


def test_rebuilding_a_lost_index_transfers_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    fill(gpu)
    gpu.push()
    laptop.pull()
    laptop.write("exp00/run.sh", "edited")
    (laptop.folder / ".manifest-sync/index.sqlite").unlink()
    report = laptop.project().rebuild_index()
    assert report.requests.get("PUT", 0) == 0
    assert report.unchanged == 53
    assert laptop.status().cases == {"edit_edit": [b"exp00/run.sh"]}


def test_the_hash_is_that_of_b3sum(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    fill(gpu, 3)
    gpu.write("exp00/abc", "abc")
    gpu.push()
    hashes = {os.fsdecode(entry.path): entry.hash for entry in gpu.project().ls()}
    assert len(hashes) == 8
    assert hashes["exp00/abc"].hex() == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    for name, digest in hashes.items():
        assert digest == blake3((gpu.root / name).read_bytes()).digest()


def test_scope_and_ownership(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    fill(gpu)
    gpu.write("exp00/train.py", "code")
    gpu.write("exp00/activations/x.json", "no")
    gpu.write("exp00/lora/w.pt", "lora")
    gpu.push(only=["exp00"])
    assert {e.path.split(b"/")[0] for e in gpu.project().ls()} == {b"exp00"}
    gpu.push()
    paths = {e.path for e in gpu.project().ls()}
    assert not {b"exp00/train.py", b"exp00/activations/x.json", b"exp00/lora/w.pt"} & paths
    assert gpu.push(groups=["loras"]).new == 1
    assert laptop.pull(only=["exp03"]).new == 10
    assert {p.split("/")[0] for p in laptop.tree()} == {"exp03"}
    (laptop.root / "exp03/set/3.json").unlink()
    assert laptop.push("full", only=["exp03"]).deleted == 1
    assert len(list(gpu.project().ls())) == len(paths)


def test_dry_run_changes_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    fill(gpu, 3)
    plan = gpu.push(dry_run=True)
    assert plan.actions[0] == "upload    exp00/empty"
    assert list(gpu.project().ls()) == []
    gpu.push()
    assert laptop.pull(dry_run=True).new == 7
    assert laptop.tree() == {}


def test_copies_and_renames_send_no_content(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    fill(gpu)
    gpu.push()
    (gpu.root / "exp01").rename(gpu.root / "exp11")
    report = gpu.push("full", max_delete="100%")
    assert report.stored_bytes == 0
    laptop.pull()
    assert laptop.tree() == gpu.tree()


def test_a_file_becomes_a_folder_and_back(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    gpu.write("exp/x", "file")
    gpu.push()
    laptop.pull()
    (gpu.root / "exp/x").unlink()
    gpu.write("exp/x/inner", "folder")
    assert gpu.push("copy").conflicts == [b"exp/x", b"exp/x/inner"]
    gpu.push("full")
    laptop.pull("full")
    assert laptop.tree() == gpu.tree()
    (gpu.root / "exp/x/inner").unlink()
    (gpu.root / "exp/x").rmdir()
    gpu.write("exp/x", "file again")
    gpu.push("full")
    laptop.pull("full")
    assert laptop.tree() == gpu.tree()


def test_one_mib_inserted_into_a_big_file_sends_little(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    # The same bytes each time: of any bytes, one in a hundred needs more until the cuts fall together again.
    chance = random.Random(1)
    data = chance.randbytes(64 << 20)
    gpu.write("exp/big", data)
    gpu.push()
    gpu.write("exp/big", data[: 32 << 20] + chance.randbytes(1 << 20) + data[32 << 20 :])
    assert gpu.push("copy").stored_bytes < 16 << 20
    laptop.pull()
    assert laptop.tree() == gpu.tree()


def test_checksum_finds_what_no_stat_shows(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    gpu.write("exp/a", "a")
    gpu.push()
    report = gpu.push("full", checksum=True)
    assert report.missed == []
    assert report.unchanged == 1


def test_status_before_the_first_pull_of_a_fresh_clone(pair: tuple[Machine, Machine]) -> None:
    """Git brings the configuration, and neither the tree nor the local state."""
    gpu, laptop = pair
    gpu.write("exp00/a.json", "a")
    gpu.push()
    laptop.root.rmdir()
    assert laptop.status().cases == {"new_there": [b"exp00/a.json"]}
    assert laptop.project().trash() == []
    assert laptop.pull().new == 1


def test_a_missing_root_deletes_nothing(pair: tuple[Machine, Machine]) -> None:
    gpu, _ = pair
    fill(gpu)
    gpu.push()
    gpu.root.rename(gpu.folder / "moved")
    done = gpu.command("push", "--full", "--max-delete", "100%")
    assert done.returncode == 1
    assert "missing" in done.stderr
    assert len(list(gpu.project().ls())) == 54

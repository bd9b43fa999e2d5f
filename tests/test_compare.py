"""Diff: between snapshots, and between a snapshot and the tree, against an oracle that reads everything."""

from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import sys
from pathlib import Path as FsPath
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest_sync.compare import between
from manifest_sync.difference import Difference, Kind, spans_of, split_ranges
from manifest_sync.errors import Damaged
from manifest_sync.history import History
from manifest_sync.model import Entry, Hash, Path, Stat
from manifest_sync.pages import PageRef, parse_page
from manifest_sync.scope import Scope
from manifest_sync.worktree import Worktree
from tests.chains import Chain, entry
from tests.conftest import Soak
from tests.machines import Machine
from tests.servers import BUCKET, S3Server
from tests.test_snapshots import NOW

Found = dict[str, str]
"""Path to ``added``, ``changed`` or ``deleted``."""


@pytest.fixture
def gpu(tmp_path: FsPath) -> Machine:
    return Machine(tmp_path / "gpu", str(tmp_path / "bucket"))


def look(chain: Chain) -> History:
    return History(chain.repository, chain.head, 4, NOW)


def compared(chain: Chain, before: int, after: int, *only: str) -> Found:
    scope = Scope(tuple(Path(name.encode()) for name in only))
    found = between(look(chain), chain.manifests[before], chain.manifests[after], scope)
    return listed(found.differences)


def listed(differences: Any) -> Found:
    found: list[Difference] = list(differences)
    assert [d.path for d in found] == sorted({d.path for d in found}), "in order, each path once"
    return {os.fsdecode(d.path): d.kind.value for d in found}


def against_tree(machine: Machine, at: str = "", **options: Any) -> Found:
    with machine.project().diff(at, **options) as comparison:
        return listed(comparison.differences)


def expected(before: dict[str, Any], after: dict[str, Any]) -> Found:
    found = dict.fromkeys(after.keys() - before.keys(), "added")
    found.update((path, "deleted") for path in before.keys() - after.keys())
    found.update((path, "changed") for path in before.keys() & after.keys() if before[path] != after[path])
    return found


class TestTwoSnapshots:
    def test_all_three_kinds_both_ways(self) -> None:
        chain = Chain()
        chain.publish("exp/a", "exp/b", "exp/c")
        chain.publish("exp/d", entries=[entry("exp/b", executable=True)], without=["exp/c"])
        assert compared(chain, 1, 2) == {"exp/b": "changed", "exp/c": "deleted", "exp/d": "added"}
        assert compared(chain, 2, 1) == {"exp/b": "changed", "exp/c": "added", "exp/d": "deleted"}
        assert compared(chain, 0, 1) == {"exp/a": "added", "exp/b": "added", "exp/c": "added"}
        assert compared(chain, 2, 2) == {}

    def test_a_new_time_is_no_change(self) -> None:
        chain = Chain()
        chain.publish("exp/a")
        chain.publish(entries=[entry("exp/a", time=77)])
        assert chain.manifests[1].pages != chain.manifests[2].pages
        assert compared(chain, 1, 2) == {}

    def test_only_the_scope(self) -> None:
        chain = Chain()
        chain.publish("exp/a", "exp1/a", "exp/sub/a", "exp-1")
        assert compared(chain, 0, 1, "exp") == {"exp/a": "added", "exp/sub/a": "added"}
        assert compared(chain, 0, 1, "exp1", "exp/sub") == {"exp1/a": "added", "exp/sub/a": "added"}
        assert compared(chain, 0, 1, "nothing") == {}

    def test_both_versions_are_told(self) -> None:
        chain = Chain()
        chain.publish("exp/a")
        chain.publish(entries=[entry("exp/a", time=5_000_000_000, executable=True)])
        history = look(chain)
        old, new = chain.manifests[1:3]
        (only,) = between(history, old, new, Scope.everything()).differences
        assert only.before is not None
        assert only.after is not None
        assert (only.before.mode, only.after.mode) == (0o644, 0o755)
        assert (only.after.mtime_ns, only.after.type, only.after.host) == (5_000_000_000, "file", "gpu")

    def test_neighbours_of_a_big_tree_open_only_the_changed_pages(self) -> None:
        chain = Chain()
        chain.publish(*(f"exp{number % 50:02}/set/{number:05}.json" for number in range(30_000)))
        chain.publish("exp07/set/new.json", without=["exp31/set/00031.json"])
        old, new = chain.manifests[1:3]
        assert len(old.pages) >= 10
        opened = len({p.id for p in old.pages} ^ {p.id for p in new.pages})
        assert opened <= 6
        before = chain.store.requests.copy()
        assert compared(chain, 1, 2) == {"exp07/set/new.json": "added", "exp31/set/00031.json": "deleted"}
        assert chain.store.requests - before == {"GET": opened}
        before = chain.store.requests.copy()
        assert compared(chain, 1, 2, "exp31") == {"exp31/set/00031.json": "deleted"}
        assert (chain.store.requests - before)["GET"] < opened
        before = chain.store.requests.copy()
        assert compared(chain, 2, 2) == {}
        assert chain.store.requests == before

    def test_a_lost_page_that_both_have_does_not_matter(self) -> None:
        chain = Chain()
        chain.publish(*(f"exp{number % 50:02}/set/{number:05}.json" for number in range(30_000)))
        chain.publish(without=["exp31/set/00031.json"])
        old, new = chain.manifests[1:3]
        common = [page for page in old.pages if page in new.pages]
        for page in common:
            chain.store.delete(f"pages/{page.session}/{page.id}.json.zst")
        assert compared(chain, 1, 2) == {"exp31/set/00031.json": "deleted"}
        changed = next(page for page in old.pages if page not in new.pages)
        chain.store.delete(f"pages/{changed.session}/{changed.id}.json.zst")
        with pytest.raises(Damaged, match="missing"):
            compared(chain, 1, 2)

    @pytest.mark.soak
    def test_any_two_of_any_chain(self, soak: Soak) -> None:
        dice = soak.dice("snapshots")
        for _ in range(soak.count(2, 60)):
            chain = Chain()
            states: list[dict[str, bool]] = [{}]
            for _ in range(4):
                state, changes = dict(states[-1]), []
                gone = [path for path in state if dice.random() < 0.1]
                for path in gone:
                    del state[path]
                for _ in range(dice.choice([1, 30, 3000])):
                    path, executable = f"{dice.choice('abc')}/{dice.randrange(9000)}", dice.random() < 0.5
                    state[path] = executable
                    changes.append(entry(path, executable=executable))
                states.append(state)
                chain.publish(without=[p for p in gone if p not in state], entries=changes)
            for one in range(5):
                for other in range(5):
                    assert compared(chain, one, other) == expected(states[one], states[other])


class TestTheTree:
    def test_the_head_by_default(self, gpu: Machine) -> None:
        for name in ("a", "b", "c", "run.sh"):
            gpu.write(f"exp/{name}", name)
        gpu.push()
        assert against_tree(gpu) == {}
        gpu.write("exp/a", "A")
        (gpu.root / "exp/b").unlink()
        gpu.write("exp/new", "")
        (gpu.root / "exp/run.sh").chmod(0o755)
        same = gpu.root / "exp/c"
        os.utime(same, ns=(1, 1))
        assert against_tree(gpu) == {
            "exp/a": "changed", "exp/b": "deleted", "exp/new": "added", "exp/run.sh": "changed"
        }  # fmt: skip

    def test_an_older_snapshot(self, gpu: Machine) -> None:
        gpu.write("exp/a", "1")
        gpu.write("exp/gone", "x")
        gpu.push()
        gpu.write("exp/a", "2")
        gpu.write("exp/b", "b")
        (gpu.root / "exp/gone").unlink()
        gpu.push("full", max_delete="9")
        assert against_tree(gpu) == {}
        assert against_tree(gpu, "1") == {"exp/a": "changed", "exp/b": "added", "exp/gone": "deleted"}
        gpu.write("exp/a", "1")
        assert against_tree(gpu, "head~1") == {"exp/b": "added", "exp/gone": "deleted"}
        gpu.write("exp/gone", "x")
        assert against_tree(gpu, "1") == {"exp/b": "added"}
        assert against_tree(gpu, "0") == {"exp/a": "added", "exp/b": "added", "exp/gone": "added"}

    def test_a_machine_that_has_pulled_nothing(self, gpu: Machine, tmp_path: FsPath) -> None:
        gpu.write("exp/a", "1")
        gpu.push()
        laptop = Machine(tmp_path / "laptop", str(tmp_path / "bucket"))
        laptop.write("exp/b", "b")
        assert against_tree(laptop) == {"exp/a": "deleted", "exp/b": "added"}
        laptop.write("exp/a", "1")
        assert against_tree(laptop, "1") == {"exp/b": "added"}

    def test_only_what_is_the_buckets(self, gpu: Machine) -> None:
        gpu.write("exp/lora/x.pt", "x")
        gpu.write("exp/a.json", "a")
        gpu.push(groups=["loras"])
        gpu.write("exp/notes.md", "git's")
        gpu.write("exp/activations/1", "neither's")
        gpu.write("exp/lora/y.pt", "left out")
        (gpu.root / "exp/lora/x.pt").unlink()
        for at in ("", "0"):
            found = {} if at == "" else {"exp/a.json": "added"}
            assert against_tree(gpu, at) == found
            asked = against_tree(gpu, at, groups=["loras"])
            assert asked.pop("exp/lora/y.pt") == "added"
            assert asked == (found if at else {"exp/lora/x.pt": "deleted"})

    @pytest.mark.parametrize("at", ["", "1"])
    def test_only_the_scope(self, gpu: Machine, at: str) -> None:
        gpu.write("exp1/a", "a")
        gpu.write("exp2/a", "a")
        gpu.push()
        gpu.write("exp1/b", "b")
        gpu.push()
        gpu.write("exp1/a", "A")
        gpu.write("exp2/a", "A")
        found = {"exp1/a": "changed"} if at == "" else {"exp1/a": "changed", "exp1/b": "added"}
        assert against_tree(gpu, at, only=["exp1"]) == found
        assert against_tree(gpu, at, only=["exp2"]) == {"exp2/a": "changed"}
        assert against_tree(gpu, at, only=["exp1", "exp2"]) == {**found, "exp2/a": "changed"}

    @pytest.mark.parametrize("at", ["", "1"])
    def test_what_is_excluded_is_not_looked_at(self, gpu: Machine, at: str) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        gpu.write("exp/b.pt", "b")
        gpu.push()
        gpu.write("exp/a", "A")
        gpu.write("exp/b.pt", "B")
        gpu.write("exp/sub/c", "c")
        assert against_tree(gpu, at, exclude=["*.pt", "sub/"]) == {"exp/a": "changed"}
        words = [*([at, "head"] if at else []), "--exclude", "*.pt"]
        assert gpu.command("diff", *words).stdout == ("" if at else "changed  exp/a\nadded    exp/sub/c\n")

    def test_a_file_for_a_folder_and_a_link_for_a_file(self, tmp_path: FsPath) -> None:
        gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"), defaults='symlinks = "keep"')
        gpu.write("exp/a", "a")
        gpu.write("exp/b/c", "c")
        gpu.write("exp/d", "d")
        gpu.push()
        gpu.write("exp/later", "l")
        gpu.push()
        (gpu.root / "exp/a").unlink()
        gpu.write("exp/a/x", "x")
        (gpu.root / "exp/b/c").unlink()
        (gpu.root / "exp/b").rmdir()
        gpu.write("exp/b", "b")
        (gpu.root / "exp/d").unlink()
        (gpu.root / "exp/d").symlink_to("a")
        found = {
            "exp/a": "deleted", "exp/a/x": "added", "exp/b": "added", "exp/b/c": "deleted", "exp/d": "changed"
        }  # fmt: skip
        assert against_tree(gpu) == found
        assert against_tree(gpu, "1") == {**found, "exp/later": "added"}
        lines = gpu.command("diff", "-v").stdout
        assert "file -> symlink  exp/d" in lines

    @pytest.mark.parametrize("at", ["", "1"])
    def test_something_that_is_never_sent_stands_in_the_place(self, gpu: Machine, at: str) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        gpu.write("exp/b", "b")
        gpu.push()
        (gpu.root / "exp/a").unlink()
        os.mkfifo(gpu.root / "exp/a")
        os.mkfifo(gpu.root / "exp/other")
        with gpu.project().diff(at) as comparison:
            found = {os.fsdecode(d.path): d for d in comparison.differences}
        assert found["exp/a"].kind is Kind.CHANGED
        assert found["exp/a"].after is not None
        assert found["exp/a"].after.type == "other"
        assert set(found) == ({"exp/a"} if at == "" else {"exp/a", "exp/b"})
        assert against_tree(gpu, "0") == {"exp/b": "added"}
        after = json.loads(gpu.command("diff", "--json").stdout)["changed"][0]["after"]
        assert (after["type"], after["size"], after["hash"]) == ("other", None, None)

    @pytest.mark.parametrize("at", ["", "1"])
    def test_what_was_dropped_is_no_difference(self, gpu: Machine, at: str) -> None:
        gpu.write("exp/a", "a")
        gpu.write("exp/b", "b")
        gpu.push()
        gpu.write("exp/c", "c")
        gpu.push()
        gpu.project().drop(["exp/a"])
        assert not (gpu.root / "exp/a").exists()
        assert against_tree(gpu, at) == ({} if at == "" else {"exp/c": "added"})

    @pytest.mark.parametrize("at", ["", "1"])
    def test_what_cannot_be_seen_is_no_deletion(self, gpu: Machine, at: str) -> None:
        gpu.write("exp/a", "a")
        gpu.write("exp/b", "b")
        gpu.push()
        gpu.write("exp/a", "new content")
        gpu.push("copy")
        (gpu.root / "exp").rename(gpu.root.parent / "aside")
        (gpu.root / "exp").symlink_to(gpu.root.parent / "aside")
        with gpu.project().diff(at) as comparison:
            assert listed(comparison.differences) == {}
            assert list(comparison.skipped) == [b"exp"]
        done = gpu.command("diff", *([at] if at else []))
        assert done.returncode == 3
        assert "exp: " in done.stderr

    def test_a_missing_root_is_refused(self, gpu: Machine) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        gpu.root.rename(gpu.root.parent / "elsewhere")
        assert gpu.command("diff").returncode == 1

    def test_what_was_hashed_once_is_not_hashed_again(
        self, gpu: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        (gpu.root / "exp/a").unlink()
        gpu.write("exp/b", "b")
        gpu.outwait()
        gpu.push("full", max_delete="9")
        gpu.write("exp/a", "new")
        hashed: list[bytes] = []
        real = Worktree.hash_file

        def record(self: Worktree, path: Path, seen: Stat | None = None) -> tuple[Hash, Stat]:
            hashed.append(path)
            return real(self, path, seen)

        monkeypatch.setattr(Worktree, "hash_file", record)
        monkeypatch.setattr(Worktree, "clock", lambda _: 2**62)
        # Against the head it is new whatever it holds; against sequence 1 its content decides.
        assert against_tree(gpu) == {"exp/a": "added"}
        assert hashed == []
        for _ in range(3):
            assert against_tree(gpu, "1") == {"exp/a": "changed", "exp/b": "added"}
        assert hashed == [b"exp/a"]

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Ids of the pages that were opened, from the cache or not."""
        found: list[str] = []

        def record(raw: bytes, expect_id: str) -> list[Entry]:
            found.append(expect_id)
            return parse_page(raw, expect_id)

        monkeypatch.setattr("manifest_sync.page_reader.parse_page", record)
        return found

    def test_the_same_tree_that_never_synced_opens_no_page_twice(
        self, gpu: Machine, tmp_path: FsPath, opened: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Worktree, "clock", lambda _: 2**62)
        laptop = Machine(tmp_path / "laptop", str(tmp_path / "bucket"))
        for machine in (gpu, laptop):
            machine.write("exp/a", "a")
        gpu.push()
        opened.clear()
        assert against_tree(laptop) == {}
        assert len(opened) == 2, "when it came from the bucket, and to tell the index what it holds"
        for _ in range(2):
            assert against_tree(laptop) == {}
        assert len(opened) == 2

    def test_the_head_costs_one_conditional_get_and_the_page_of_what_differs(
        self, gpu: Machine, opened: list[str]
    ) -> None:
        for number in range(9000):
            gpu.write(f"exp/{number:04}", b"")
        gpu.push()
        gpu.write("exp/0007", "changed")
        opened.clear()
        project = gpu.project()
        with project.diff() as comparison:
            assert listed(comparison.differences) == {"exp/0007": "changed"}
        assert project.store().requests == {"GET": 1}
        assert len(opened) == 1

    def test_an_older_snapshot_opens_only_what_the_head_does_not_have(self, gpu: Machine) -> None:
        for number in range(9000):
            gpu.write(f"exp{number % 9}/{number:04}", b"")
        gpu.push()
        gpu.write("exp5/new", "n")
        gpu.push()
        project = gpu.project()
        with project.history() as history:
            old, new = history.at("1"), history.head.manifest
        other = [page for page in old.pages if page not in new.pages]
        assert len(old.pages) > 2 * len(other)
        # The page of the snapshot was replaced here, so it is asked of the bucket; the others are not.
        project = gpu.project()
        with project.diff("1") as comparison:
            assert listed(comparison.differences) == {"exp5/new": "added"}
        assert project.store().requests == {"GET": 1 + 1 + len(other), "LIST": 1}

    @pytest.mark.soak
    def test_any_tree_against_any_snapshot(self, gpu: Machine, soak: Soak, tmp_path: FsPath) -> None:
        dice = soak.dice("tree")
        for _ in range(soak.count(3, 40)):
            states: list[dict[str, tuple[bytes, bool]]] = [read_tree(gpu)]
            first = gpu.push("full", max_delete="100%").sequence
            for _ in range(3):
                scramble(gpu.root, dice)
                gpu.push("full", max_delete="100%")
                states.append(read_tree(gpu))
            last = next(gpu.project().log(1)).sequence
            numbers = range(first, last + 1)
            if len(numbers) != len(states):
                continue  # one of the scrambles changed nothing
            scramble(gpu.root, dice)
            here = read_tree(gpu)
            for number, state in zip(numbers, states, strict=True):
                assert against_tree(gpu, str(number)) == expected(state, here)
                only = f"exp{dice.randrange(3)}"
                inside = {p: k for p, k in expected(state, here).items() if p.startswith(f"{only}/")}
                assert against_tree(gpu, str(number), only=[only]) == inside
            assert against_tree(gpu) == expected(states[-1], here)


def read_tree(machine: Machine) -> dict[str, tuple[bytes, bool]]:
    return {path: (body, bool(mode & stat.S_IXUSR)) for path, (body, _, mode) in machine.tree().items()}


def scramble(root: FsPath, dice: Random) -> None:
    """Some files come, some go, some change, some only look as if they had."""
    for _ in range(dice.choice([1, 5, 400])):
        path = root / f"exp{dice.randrange(3)}" / dice.choice(["", "s", "s/t"]) / f"{dice.randrange(300)}"
        what = dice.random()
        if path.is_dir():
            continue
        if what < 0.6:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dice.randbytes(dice.choice([0, 1, 1, 9])))
        elif path.exists() and what < 0.8:
            path.unlink()
        elif path.exists() and what < 0.9:
            path.chmod(dice.choice([0o755, 0o644]))
        elif path.exists():
            os.utime(path)


class TestTheCommand:
    @pytest.fixture
    def changed(self, gpu: Machine) -> Machine:
        gpu.write("exp/a", "a", mtime_ns=1_600_000_000_000_000_000)
        gpu.write("exp/b", "b" * 2000)
        gpu.push()
        gpu.write("exp/a", "aaa" * 1024, mtime_ns=1_700_000_000_000_000_000)
        (gpu.root / "exp/b").unlink()
        gpu.write("exp/new", "n")
        gpu.env["TZ"] = "UTC"
        return gpu

    def test_lines(self, changed: Machine) -> None:
        (changed.root / "exp/new").rename(changed.root / "exp/new\nline \udcff")
        done = subprocess.run(
            [sys.executable, "-m", "manifest_sync", "diff"],
            cwd=changed.folder, env={**os.environ, **changed.env}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0
        # As in `ls`: into a pipe go the names as they are.
        assert done.stdout == b"changed  exp/a\ndeleted  exp/b\nadded    exp/new\nline \xff\n"
        assert done.stderr.startswith(b"sequence 1 of ")
        assert done.stderr.endswith(b"-> the tree here: 1 added, 1 changed, 1 deleted; +1.0 KiB\n")

    def test_details(self, changed: Machine) -> None:
        lines = changed.command("diff", "-v").stdout.splitlines()
        assert " ".join(lines[0].split()) == (
            "changed 1 B -> 3.0 KiB 2020-09-13 12:26:40 -> 2023-11-14 22:13:20 exp/a"
        )
        assert lines[1].startswith("deleted     2.0 KiB -> -")
        changed.push("copy")
        (changed.root / "exp/a").chmod(0o755)
        assert changed.command("diff", "-v", "--only", "exp/a").stdout.endswith("  0644 -> 0755  exp/a\n")

    def test_json(self, changed: Machine) -> None:
        found = json.loads(changed.command("diff", "--json").stdout)
        assert (found["command"], found["a"]["sequence"], found["b"]) == ("diff", 1, None)
        assert [item["path"] for item in found["added"]] == ["exp/new"]
        assert found["added"][0]["hash"] is None
        (both,) = found["changed"]
        assert (both["before"]["size"], both["after"]["size"]) == (1, 3072)
        assert both["before"]["mtime"] == "2020-09-13T12:26:40Z"
        assert found["deleted"][0]["mode"] == "0644"
        assert found["bytes_change"] == 3071 - 2000 + 1
        assert found["requests"] == {"GET": 1}
        between_two = json.loads(changed.command("diff", "--json", "0", "1").stdout)
        assert [item["path"] for item in between_two["added"]] == ["exp/a", "exp/b"]
        assert between_two["b"]["sequence"] == 1

    def test_exit_codes(self, changed: Machine) -> None:
        assert changed.command("diff", "--exit-code").returncode == 1
        assert changed.command("diff", "--exit-code", "1", "1").returncode == 0
        done = changed.command("diff", "1", "head")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.endswith(": no difference\n")
        assert changed.command("diff", "-q", "1", "head").stderr == ""
        missing = changed.command("diff", "--json", "exp")
        assert missing.returncode == 2
        assert json.loads(missing.stdout)["error"] == "usage_error"
        assert changed.command("diff", "1", "2", "3").returncode == 2

    def test_damage_leaves_one_json_object(self, changed: Machine, tmp_path: FsPath) -> None:
        changed.push("full", max_delete="9")
        for page in (tmp_path / "bucket/pages").rglob("*.zst"):
            page.unlink()
        (changed.folder / ".manifest-sync/index.sqlite").unlink()
        done = changed.command("diff", "1", "2", "--json")
        assert done.returncode == 7
        assert json.loads(done.stdout)["error"] == "damaged"

    def test_a_pager_holds_no_lock(self, gpu: Machine) -> None:
        for number in range(4000):
            gpu.write(f"exp/{'long' * 30}{number:04}", b"")
        with subprocess.Popen(
            [sys.executable, "-m", "manifest_sync", "diff"], cwd=gpu.folder, stdout=subprocess.PIPE
        ) as paused:
            assert paused.stdout is not None
            assert paused.stdout.read(9) == b"added    "
            # It stands in the full pipe now, as before a person who reads.
            assert gpu.push().new == 4000
            assert paused.poll() is None
            assert len(paused.stdout.read().splitlines()) == 4000

    def test_a_reader_that_stops_early(self, gpu: Machine) -> None:
        for number in range(3000):
            gpu.write(f"exp/{'long' * 20}{number:04}", b"")
        gpu.push()
        for words in ("diff 0", "diff 0 1"):
            shell = f"{sys.executable} -m manifest_sync {words} | head -n 2"
            done = subprocess.run(
                ["bash", "-c", shell], cwd=gpu.folder, capture_output=True, text=True, check=False
            )
            assert len(done.stdout.splitlines()) == 2
            assert done.stderr == ""


def test_diff_on_a_real_s3_server(
    tmp_path: FsPath, seaweed_http: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**seaweed_http.environment(), "HOME": str(tmp_path)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    gpu = Machine(tmp_path / "gpu", f"s3://{BUCKET}/diff", endpoint_url=seaweed_http.endpoint_url, env=env)
    gpu.write("exp/a.json", "old")
    gpu.push()
    gpu.write("exp/a.json", "new")
    gpu.push("copy")
    gpu.write("exp/b.json", "b")
    assert gpu.command("diff", "head~1", "head").stdout == "changed  exp/a.json\n"
    assert gpu.command("diff").stdout == "added    exp/b.json\n"
    assert gpu.command("diff", "1").stdout == "changed  exp/a.json\nadded    exp/b.json\n"


ranges = st.lists(st.binary(max_size=2), max_size=12, unique=True).map(
    lambda ends: list(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)


@given(ranges, ranges, st.binary(max_size=3))
def test_ranges_are_cut_and_nothing_is_lost(
    whole: list[tuple[bytes, bytes]], spans: list[tuple[bytes, bytes]], path: bytes
) -> None:
    pieces = list(split_ranges(whole, spans))
    assert [piece for piece, _ in pieces] == sorted(piece for piece, _ in pieces)
    assert all(low < high for (low, high), _ in pieces)
    inside = [lies for (low, high), lies in pieces if low <= path < high]
    assert len(inside) == any(low <= path < high for low, high in whole)
    assert all(lies == any(low <= path < high for low, high in spans) for lies in inside)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.binary(max_size=2)), max_size=8))
def test_spans_reach_over_what_the_pages_do(pairs: list[tuple[bytes, bytes]]) -> None:
    pages = [PageRef("", "", Path(low), Path(max(low, high)), 1, 0, 1, 1) for low, high in pairs]
    spans = spans_of(pages)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))
    for page in pages:
        for path in (page.first, page.last):
            assert any(low <= path < high for low, high in spans)


def test_the_entry_helper_makes_valid_entries() -> None:
    made: Entry = entry("a")
    assert made.state != entry("a", executable=True).state

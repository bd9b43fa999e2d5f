"""The remembered selection: a machine that holds two experiments of many touches nothing else (P11, P12)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path as FsPath

import pytest

from manifest_sync.errors import Damaged, UsageError
from manifest_sync.model import Path
from manifest_sync.scope import Scope
from manifest_sync.selection import narrow, outermost
from tests.machines import Machine

MIRROR = {"delete_unknown": True, "max_delete": "100%"}


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    """A machine with five experiments, and a laptop that has pulled nothing yet."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for number in range(5):
        for name in ("a", "sub/b"):
            gpu.write(f"exp{number}/{name}", f"{number}{name}")
    gpu.push()
    return gpu, laptop


def names(machine: Machine) -> set[bytes]:
    return {entry.path for entry in machine.project().ls()}


def test_a_selection_bounds_every_command(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    everything = names(gpu)
    assert laptop.project().track(["exp1", "experiments/exp3/"]).selection == (b"exp1", b"exp3")
    assert laptop.pull("full").new == 4
    laptop.write("exp0/mine", "outside")
    laptop.write("exp1/mine", "inside")
    (laptop.root / "exp3/a").unlink()
    assert laptop.status().cases == {"new_here": [b"exp1/mine"], "deleted_here": [b"exp3/a"]}
    assert laptop.status().selection == [b"exp1", b"exp3"]
    with laptop.project().diff() as comparison:
        assert [found.path for found in comparison.differences] == [b"exp1/mine", b"exp3/a"]
    report = laptop.push("full", **MIRROR)
    assert (report.new, report.deleted, report.left) == (1, 1, {})
    assert names(gpu) == everything - {b"exp3/a"} | {b"exp1/mine"}
    gpu.write("exp4/there", "outside")
    gpu.push()
    for mode in ("new", "copy", "full"):
        pulled = laptop.pull(mode, **(MIRROR if mode == "full" else {}))
        assert (pulled.new, pulled.changed, pulled.deleted) == (0, 0, 0)
    assert laptop.project().sync().exit_code == 0
    assert laptop.project().pull_at("1", "full").new == 1, "only exp3/a comes back; exp1/mine goes"
    assert set(laptop.tree()) == {"exp0/mine", "exp1/a", "exp1/sub/b", "exp3/a", "exp3/sub/b"}


def test_only_narrows_and_never_leads_out(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.project().track(["exp1", "exp3/sub"])
    assert laptop.pull(only=["exp1/sub", "exp3"]).new == 2
    assert set(laptop.tree()) == {"exp1/sub/b", "exp3/sub/b"}
    for call in (laptop.pull, laptop.push, laptop.status):
        with pytest.raises(UsageError, match="exp2 is not tracked on this machine"):
            call(only=["exp1", "exp2"])
    found = laptop.command("pull", "--only", "exp2")
    assert (found.returncode, "`manifest-sync track exp2` selects it" in found.stderr) == (2, True)


@pytest.mark.parametrize("loss", ["selection", "index", "both"])
def test_losing_it_deletes_nothing(pair: tuple[Machine, Machine], loss: str) -> None:
    gpu, laptop = pair
    everything = names(gpu)
    laptop.pull("full")
    laptop.project().track(["exp1"])
    laptop.project().drop(["exp2"])
    # Freed by hand, before and after the selection was made smaller: no deletion either way.
    shutil.rmtree(laptop.root / "exp0")
    laptop.status()
    shutil.rmtree(laptop.root / "exp3")
    state = laptop.folder / ".manifest-sync"
    if loss in ("selection", "both"):
        (state / "selection").unlink()
    if loss in ("index", "both"):
        (state / "index.sqlite").unlink()
        laptop.project().rebuild_index()
        if loss == "index":
            assert laptop.status().selection == [b"exp1"]
            assert laptop.status().unchanged == 2
    assert laptop.push("full", max_delete="100%").deleted == 0
    assert names(gpu) == everything
    assert laptop.status().cases.get("deleted_here") is None


def test_a_smaller_selection_never_looks_like_a_deletion(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    everything = names(gpu)
    laptop.project().track(["exp1", "exp3"])
    laptop.pull()
    laptop.write("exp3/a", "changed and not sent")
    laptop.write("exp3/new", "not sent")
    assert laptop.status().cases == {"changed_here": [b"exp3/a"], "new_here": [b"exp3/new"]}
    report = laptop.project().untrack(["exp3"])
    assert (report.selection, report.unsent) == ((b"exp1",), 2)
    assert laptop.project().drop(["exp3"]).deleted == 1
    shutil.rmtree(laptop.root / "exp3")
    assert laptop.push("full").deleted == 0
    assert laptop.project().track(["exp3"]).lifted == 1
    assert laptop.status().cases == {"new_there": [b"exp3/a", b"exp3/sub/b"]}
    assert laptop.push("full").deleted == 0
    assert names(gpu) == everything
    assert laptop.pull().new == 2


def test_untrack_counts_what_no_run_has_looked_at(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.project().track(["exp1", "exp3"])
    laptop.pull()
    laptop.write("exp3/sub/new", "made since the pull")
    laptop.write("exp3/a", "changed since the pull")
    laptop.write("exp3/activations/x", "not the bucket's")
    assert laptop.project().untrack(["exp3"]).unsent == 2


def test_a_base_set_behind_its_back_is_forgotten(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.pull()
    selection = laptop.folder / ".manifest-sync/selection"
    selection.write_text('{"selected": ["exp1"]}')
    laptop.pull()
    selection.unlink()
    shutil.rmtree(laptop.root / "exp2")
    assert laptop.push("full", max_delete="100%").deleted == 0
    assert laptop.status().cases == {"new_there": [b"exp2/a", b"exp2/sub/b"]}
    assert len(names(gpu)) == 10


def test_tracking_what_was_dropped_brings_it_back(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.pull()
    laptop.project().drop(["exp1", "exp2/a"])
    report = laptop.project().track(["exp1"])
    assert (report.selection, report.lifted) == ((), 2), "everything stays selected"
    assert laptop.push("full", max_delete="100%").deleted == 0, "its absence is no deletion"
    assert (laptop.pull().new, laptop.status().dropped) == (2, [b"exp2/a"])
    assert laptop.status().cases == {}
    assert len(names(gpu)) == 10


@pytest.mark.parametrize("command", ["undo", "drop -n"])
def test_no_command_leaves_a_base_outside_the_selection(pair: tuple[Machine, Machine], command: str) -> None:
    """Else what is gone there would be deleted in the bucket as soon as everything is selected again."""
    gpu, _ = pair
    if command == "undo":
        assert gpu.project().drop(["exp3"]).deleted
    gpu.project().track(["exp1"])
    if command == "undo":
        assert gpu.project().undo().new
    else:
        gpu.project().drop(["exp3"], dry_run=True)
    shutil.rmtree(gpu.root / "exp3")
    gpu.project().track((), everything=True)
    assert gpu.push("full", max_delete="100%").deleted == 0


def test_what_cannot_be_left_out(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    project = laptop.project()
    with pytest.raises(UsageError, match="exp1 cannot be left out of everything"):
        project.untrack(["exp1"])
    project.track(["exp1", "exp2/sub"])
    with pytest.raises(UsageError, match="exp1/sub cannot be left out of exp1"):
        project.untrack(["exp1/sub"])
    with pytest.raises(UsageError, match="exp3 is not tracked"):
        project.untrack(["exp3"])
    with pytest.raises(UsageError, match="nothing tracked"):
        project.untrack(["exp1", "exp2"])
    assert project.untrack(["exp2"]).selection == (b"exp1",)
    assert project.track([], everything=True).selection == ()
    assert laptop.pull().new == 10


def test_a_selection_that_cannot_be_read_stops_the_run(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    for text in ("", "[]", '{"selected": ["../x"]}', '{"selected": [1]}', '{"selected": ["a"'):
        (laptop.folder / ".manifest-sync/selection").write_text(text)
        with pytest.raises(Damaged):
            laptop.pull()
    assert laptop.command("status").returncode == 7


def test_the_commands(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    assert laptop.command("track").stdout == "this machine tracks everything\n"
    assert laptop.command("track", "exp1", "exp2").stdout == "this machine tracks:\n  exp1\n  exp2\n"
    pulled = laptop.command("pull")
    assert "only what this machine tracks was looked at: exp1, exp2\n" in pulled.stdout
    assert json.loads(laptop.command("status", "--json").stdout)["selection"] == ["exp1", "exp2"]
    text = laptop.command("untrack", "exp2").stdout
    assert text == (
        "this machine tracks:\n  exp1\n"
        "`manifest-sync drop exp2` removes the copies here that the bucket holds\n"
    )
    found = json.loads(laptop.command("track", "--json").stdout)
    assert found == {
        "command": "track", "everything": False, "selection": ["exp1"], "lifted": 0, "unsent": 0
    }  # fmt: skip
    assert laptop.command("track", "--all", "exp1").returncode == 2


def test_paths_of_a_selection() -> None:
    a, b, ab, a_b = Path(b"a"), Path(b"b"), Path(b"a/b"), Path(b"a-b")
    assert outermost([ab, a_b, a, b, ab]) == (a, a_b, b)
    assert outermost([a, Path(b"")]) == ()
    assert narrow(Scope((), ("*.x",)), (a,)) == Scope((a,), ("*.x",))
    assert narrow(Scope((a, b)), (ab, b)) == Scope((ab, b))
    assert narrow(Scope((Path(b"a/b/c"),)), (ab,)).only == (b"a/b/c",)
    assert narrow(Scope((a,)), ()) == Scope((a,))
    with pytest.raises(UsageError):
        narrow(Scope((a_b,)), (a,))


def test_what_is_nowhere_is_named(pair: tuple[Machine, Machine]) -> None:
    """A typing error must not look like a run with nothing to do."""
    gpu, laptop = pair
    (laptop.root / "exp9").mkdir(parents=True)
    laptop.write("exp3/lora/w", "left out here, and not in the bucket")
    for command in ("push", "pull", "sync"):
        found = laptop.command(command, "--only", "exp1,exp9,expl,exp3/lora")
        assert found.returncode == 3
        assert "1 skipped:\n  expl: nothing is there, neither here nor in the bucket\n" in found.stdout
    found = laptop.command("pull", "--at", "1", "--only", "exp1,exp9,expl,exp3/lora", "--json")
    skipped = json.loads(found.stdout)["skipped"]
    assert (found.returncode, [item["path"] for item in skipped]) == (3, ["expl"])
    assert "expl: nothing is there" in laptop.command("diff", "--only", "exp1,expl").stderr
    assert "nothing is there" not in laptop.command("diff", "1", "--only", "exp1").stderr
    found = laptop.command("status", "--only", "exp1,exp9,expl,exp3/lora")
    assert (found.returncode, found.stderr) == (0, "expl: nothing is there, neither here nor in the bucket\n")
    names = "".join(f"no{number}\n" for number in range(8))
    (gpu.folder / "list").write_text(f"exp1/a\n{names}")
    assert "8 skipped:\n" in gpu.command("push", "-n", "--files-from", "list").stdout
    assert "expl: nothing is there" in gpu.command("push", "-q", "--only", "expl").stderr


@pytest.mark.parametrize("name", ["exp1/.git/config", "exp1/" + "x" * 300])
def test_a_name_that_no_path_has_is_refused(pair: tuple[Machine, Machine], name: str) -> None:
    gpu, _ = pair
    (gpu.folder / "list").write_text(f"exp1/a\n{name}\n")
    found = gpu.command("push", "--files-from", "list")
    assert (found.returncode, found.stderr.splitlines()[1]) == (2, "  leave it out")
    assert found.stderr.startswith(f"manifest-sync: '{name}' is never looked at: a component ")
    project = gpu.project()
    takers = (project.drop, project.restore, project.track, lambda only: project.status(only=only))
    for take in takers:
        with pytest.raises(UsageError, match="is never looked at"):
            take(["exp1/a", name])
    assert project.selection() == ()


def test_a_name_that_is_nowhere_is_tracked_with_a_word(pair: tuple[Machine, Machine]) -> None:
    """As far as that is known: what this machine has not looked at so far may well be there."""
    _, laptop = pair
    assert not laptop.command("track", "exp1", "expl").stderr  # never seen the bucket
    laptop.command("untrack", "expl")
    laptop.pull()
    assert not laptop.command("track", "exp2", "exp3/sub").stderr
    (laptop.root / "mine").mkdir()
    found = laptop.command("track", "mine", "expl", "exp3/sup")
    told = [line.partition(":")[0] for line in found.stderr.splitlines()]
    assert (found.returncode, told) == (0, ["expl", "exp3/sup"])
    assert "nothing is there" in found.stderr
    laptop.pull()
    (laptop.folder / ".manifest-sync/index.sqlite").unlink()
    assert not laptop.command("track", "exp9").stderr


def test_what_a_run_deletes_was_not_nowhere(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.pull()
    shutil.rmtree(gpu.root / "exp1")
    assert gpu.command("push", "--full", "--only", "exp1").returncode == 0
    assert laptop.command("pull", "--full", "--only", "exp1").returncode == 0
    assert gpu.command("push", "--full", "--only", "exp1").returncode == 3


def test_nothing_yet_at_what_is_tracked_is_only_a_word(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    laptop.command("track", "exp1", "later")
    found = laptop.command("pull")
    assert (found.returncode, "later: nothing is there" in found.stderr) == (0, True)

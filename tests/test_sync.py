"""``sync``: a pull and a push in one run, neither of which deletes anything."""

from __future__ import annotations

import json
from pathlib import Path as FsPath

import pytest

from tests.machines import Machine


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for name in ("exp1/a", "exp1/b", "exp2/c", "exp2/d"):
        gpu.write(name, name, mtime_ns=10**18)
    gpu.push()
    laptop.pull()
    gpu.write("exp1/a", "edited there")
    gpu.write("exp2/new there", "x")
    (gpu.root / "exp2/c").unlink()
    gpu.push("full")
    return gpu, laptop


def test_both_directions_and_no_deletion(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.write("exp1/b", "edited here")
    laptop.write("exp1/new here", "y")
    (laptop.root / "exp2/d").unlink()
    report = laptop.project().sync()
    assert (report.pull.new, report.pull.changed, report.pull.deleted) == (1, 1, 0)
    assert (report.push.new, report.push.changed, report.push.deleted) == (1, 1, 0)
    assert (report.left, report.exit_code) == ({"deleted_here": 1, "deleted_there": 1}, 0)
    assert set(laptop.tree()) == {"exp1/a", "exp1/b", "exp1/new here", "exp2/c", "exp2/new there"}
    assert report.pull.requests.get("PUT") is None
    assert report.push.requests["PUT"] >= 3
    gpu.pull("copy")
    assert set(gpu.tree()) == {"exp1/a", "exp1/b", "exp1/new here", "exp2/d", "exp2/new there"}
    assert laptop.project().sync().to_json()["push"]["requests"] == {"GET": 1}


def test_a_conflict_is_listed_once_and_stays(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.write("exp1/a", "edited here")
    laptop.write("exp1/b", "edited here")
    found = laptop.command("sync", "--json")
    report = json.loads(found.stdout)
    assert found.returncode == report["exit"] == 6
    assert report["conflicts"] == ["exp1/a"]
    assert (report["pull"]["new"], report["push"]["changed"]) == (1, 1), "the rest goes on"
    assert laptop.read("exp1/a") == "edited here"
    gpu.pull("copy")
    assert (gpu.read("exp1/a"), gpu.read("exp1/b")) == ("edited there", "edited here")
    text = laptop.command("sync").stdout
    assert text.count("exp1/a") == 1
    assert text.splitlines()[0].startswith("pull --copy: 0 new")
    assert text.splitlines()[1].startswith("push --copy: 0 new")


def test_the_scope_holds_for_both_halves(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    laptop.write("exp1/mine", "x")
    laptop.write("exp2/mine", "x")
    planned = laptop.command("sync", "-n", "--only", "exp1").stdout
    assert planned.splitlines()[0] == "download  exp1/a"
    assert "upload    exp1/mine" in planned
    assert "exp2" not in planned
    assert "not pulled" not in planned, "the pull would have brought them"
    assert laptop.read("exp1/a") == "exp1/a"
    laptop.write("exp1/b", "edited here")
    told = laptop.command("sync", "-n", "-v", "--only", "exp1").stdout.splitlines()
    assert [told[0], *told[2:4]] == [
        "download  exp1/a  (changed in the bucket)",
        "upload    exp1/b  (changed here)",
        "upload    exp1/mine  (new here)",
    ]
    report = laptop.project().sync(only=["exp1"])
    assert (report.pull.changed, report.push.new) == (1, 1)
    assert not (laptop.root / "exp2/new there").exists()
    assert {entry.path for entry in gpu.project().ls("exp2")} == {b"exp2/d", b"exp2/new there"}


def test_damage_that_only_the_pull_meets_decides_the_exit_code(
    pair: tuple[Machine, Machine], tmp_path: FsPath
) -> None:
    _, laptop = pair
    for pack in (tmp_path / "bucket/packs").rglob("*.pack"):
        pack.unlink()
    report = laptop.project().sync()
    assert (report.pull.exit_code, report.push.exit_code, report.exit_code) == (7, 0, 7)
    assert [path for path, _ in report.damaged] == [b"exp1/a", b"exp2/new there"]

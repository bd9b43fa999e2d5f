"""Conflicts that a person can settle: both sides shown, one taken, or both kept (P9)."""

from __future__ import annotations

import json
from pathlib import Path as FsPath

import pytest

from manifest_sync.model import Path
from manifest_sync.pagecut import is_boundary
from manifest_sync.plan import conflict_path
from tests.machines import Machine


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    """`both` is changed on both sides, `gone` deleted on the laptop and changed in the bucket."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for name in ("both.json", "gone", "kept"):
        gpu.write(name, "base")
    gpu.push()
    laptop.pull()
    gpu.write("both.json", "theirs")
    gpu.write("gone", "theirs")
    (gpu.root / "kept").unlink()
    gpu.push("full")
    laptop.write("both.json", "mine, longer")
    (laptop.root / "gone").unlink()
    laptop.write("kept", "mine")
    return gpu, laptop


def copies(machine: Machine) -> list[str]:
    return [path for path in machine.tree() if ".conflict-" in path]


def test_status_shows_both_sides(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    found = {conflict.path: conflict for conflict in laptop.status().conflicts}
    both = found[Path(b"both.json")]
    assert both.case == "edit_edit"
    assert both.local is not None
    assert both.remote is not None
    assert (both.local.size, both.remote.size) == (12, 6)
    assert both.remote.host
    assert both.remote.time.endswith("Z")
    assert found[Path(b"gone")].local is None
    assert found[Path(b"kept")].remote is None
    text = laptop.command("status").stdout
    assert "    here:   12 B, changed " in text
    assert "    here:   nothing" in text
    shown = json.loads(laptop.command("status", "--json").stdout)["conflicts"]
    assert [c["path"] for c in shown] == ["both.json", "gone", "kept"]


def test_pull_keeps_both_versions(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    report = laptop.pull("new", resolve="both")
    assert report.conflicts == []
    assert laptop.read("both.json") == "mine, longer"
    (copy,) = copies(laptop)
    assert copy.startswith("both.conflict-")
    assert copy.endswith(".json")
    assert laptop.read(copy) == "theirs"
    assert laptop.read("gone") == "theirs", "an edit survives a deletion"
    assert laptop.read("kept") == "mine"
    cases = laptop.status().cases
    assert cases == {"changed_here": [b"both.json"], "new_here": [copy.encode(), b"kept"]}
    laptop.push("copy")
    gpu.pull("copy")
    assert gpu.tree() == laptop.tree()
    assert not gpu.status().has_drift


def test_push_keeps_both_versions_in_the_bucket(pair: tuple[Machine, Machine]) -> None:
    gpu, laptop = pair
    report = laptop.push("new", resolve="both")
    assert (report.conflicts, report.exit_code) == ([], 0)
    assert laptop.read("both.json") == "mine, longer"
    assert copies(laptop) == [], "a push leaves the tree alone"
    assert laptop.push("full").deleted == 0
    gpu.pull("copy")
    (copy,) = copies(gpu)
    assert gpu.read(copy) == "theirs"
    assert gpu.read("both.json") == "mine, longer"
    laptop.pull("copy")
    assert laptop.tree() == gpu.tree()
    assert not laptop.status().has_drift


@pytest.fixture
def trio(tmp_path: FsPath) -> tuple[Machine, Machine, Machine]:
    bucket = str(tmp_path / "bucket")
    gpu, laptop, desk = (Machine(tmp_path / name, bucket) for name in ("gpu", "laptop", "desk"))
    return gpu, laptop, desk


def keep_a_copy(name: str, gpu: Machine, laptop: Machine, *others: Machine) -> str:
    """The laptop keeps the gpu's version of a file beside its own, and pushes this copy. The others have the
    file as it was before."""
    gpu.write(name, "base")
    gpu.push()
    for machine in (laptop, *others):
        machine.pull()
    laptop.write(name, "mine")
    gpu.write(name, "theirs")
    gpu.push("copy")
    laptop.pull("new", resolve="both")
    laptop.push("new")
    gpu.pull("new")
    (copy,) = copies(gpu)
    return copy


@pytest.mark.parametrize("is_edited", [False, True])
def test_a_copy_that_is_there_is_kept_once_unless_the_bucket_has_another(
    trio: tuple[Machine, Machine, Machine], is_edited: bool
) -> None:
    gpu, laptop, desk = trio
    copy = keep_a_copy("a", gpu, laptop, desk)
    desk.write("a", "the desk's")
    desk.pull("new")
    if is_edited:
        gpu.write(copy, "edited")
        gpu.push("copy")
    assert desk.push("new", resolve="both").exit_code == 0
    gpu.pull("copy")
    assert gpu.read("a") == "the desk's"
    expected = ["edited", "theirs"] if is_edited else ["theirs"]
    assert [gpu.read(path) for path in sorted(copies(gpu), key=len)] == expected


@pytest.mark.usefixtures("short_pages")
def test_a_push_of_a_part_sees_a_copy_in_a_page_that_it_need_not_look_at(
    trio: tuple[Machine, Machine, Machine],
) -> None:
    gpu, laptop, desk = trio
    name = next(name for name in map(str, range(100_000)) if is_boundary(name.encode(), 1))
    copy = keep_a_copy(name, gpu, laptop)
    gpu.write(copy, "edited")
    gpu.push("copy")
    desk.write(name, "the desk's")
    assert desk.push("new", resolve="both", only=[name]).exit_code == 0
    gpu.pull("copy")
    assert sorted(gpu.read(path) for path in gpu.tree()) == ["edited", "the desk's", "theirs"]


def test_an_undo_takes_the_copies_back(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    before, cases = laptop.tree(), laptop.status().cases
    laptop.pull("new", resolve="both")
    laptop.project().undo()
    assert (laptop.tree(), laptop.status().cases) == (before, cases)


def test_only_the_paths_named_are_settled(pair: tuple[Machine, Machine]) -> None:
    _, laptop = pair
    report = laptop.pull("new", resolve="both", resolve_paths=["both.json"])
    assert report.conflicts == [b"gone", b"kept"]
    assert len(copies(laptop)) == 1


@pytest.mark.parametrize(
    ("path", "host", "expected"),
    [
        ("a/b.json", "gpu-01", "a/b.conflict-gpu-01-20261120T101500Z.json"),
        ("a/b", "gpu 01/..", "a/b.conflict-gpu-01--20261120T101500Z"),
        (".hidden", "h", ".hidden.conflict-h-20261120T101500Z"),
        ("x.tar.gz", "", "x.tar.conflict-unknown-20261120T101500Z.gz"),
        ("n" * 255, "h", "n" * 227 + ".conflict-h-20261120T101500Z"),
    ],
)
def test_the_name_of_a_copy(path: str, host: str, expected: str) -> None:
    found = conflict_path(Path(path.encode()), host, "2026-11-20T10:15:00Z", lambda _: False)
    assert found.decode() == expected


def test_a_name_that_is_taken_gets_a_number() -> None:
    taken = {b"a.conflict-h-20261120T101500Z", b"a.conflict-h-20261120T101500Z-1"}
    found = conflict_path(Path(b"a"), "h", "2026-11-20T10:15:00Z", lambda p: p in taken)
    assert found == b"a.conflict-h-20261120T101500Z-2"

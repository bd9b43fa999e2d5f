"""In the midst of the steps: Ctrl-C right after one of them, and a command that only looks beside them (P8).

A kill there is `test_crash_points`; here the process lives on, and its own cleaning up must not throw away
what tells the next run where it stopped.
"""

from __future__ import annotations

import threading
from pathlib import Path as FsPath
from typing import Any

import pytest

from manifest_sync import statcache
from manifest_sync.errors import AccessDenied
from manifest_sync.index.index import Index
from manifest_sync.model import Path, State
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Worktree
from tests.machines import Machine

NAMES = ("exp/a", "exp/b", "exp/c")


@pytest.fixture
def pair(tmp_path: FsPath) -> tuple[Machine, Machine]:
    """Two machines; the first has changed three files and pushed them, the second has not pulled them."""
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    for content in ("old", "new"):
        for name in NAMES:
            gpu.write(name, f"{content} {name}")
        gpu.push("copy")
        if content == "old":
            laptop.pull()
    return gpu, laptop


def interrupt_after(patch: pytest.MonkeyPatch, method: str, count: int) -> None:
    """The ``count``-th call of a method of the worktree is carried out, and then Ctrl-C is typed."""
    real = getattr(Worktree, method)
    calls = 0

    def step(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(*args, **named)
        if calls == count:
            raise KeyboardInterrupt
        return result

    patch.setattr(Worktree, method, step)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_pull_that_is_interrupted_between_two_steps_is_settled(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    gpu, laptop = pair
    with monkeypatch.context() as patch:
        interrupt_after(patch, "replace", count)
        with pytest.raises(KeyboardInterrupt):
            laptop.pull("copy")
    cases = laptop.status().cases
    assert {case: len(paths) for case, paths in cases.items()} == (
        {"changed_there": 3 - count} if count < 3 else {}
    )
    gpu.write("exp/a", "newer")
    gpu.push("copy")
    # Taken for a change of this side, what was brought last would be sent over the newer one, or clash.
    report = laptop.project().sync()
    assert (report.exit_code, report.push.changed) == (0, 0)
    assert laptop.tree() == gpu.tree()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_undo_that_is_interrupted_between_two_steps_is_settled(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    _, laptop = pair
    laptop.pull("copy")
    with monkeypatch.context() as patch:
        interrupt_after(patch, "put_back", count)
        with pytest.raises(KeyboardInterrupt):
            laptop.project().undo()
    # What was put back is the bucket's change that is not here, and never a change of this side.
    assert set(laptop.status().cases) == {"changed_there"}
    assert len(laptop.status().cases["changed_there"]) == count
    assert laptop.push("copy").changed == 0
    assert [laptop.read(name).split()[0] for name in NAMES] == ["old"] * count + ["new"] * (3 - count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_drop_that_is_interrupted_between_two_steps_leaves_no_mark_on_what_is_here(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    gpu, _ = pair
    gpu.outwait()
    with monkeypatch.context() as patch:
        interrupt_after(patch, "remove", count)
        with pytest.raises(KeyboardInterrupt):
            gpu.project().drop(("exp",))
    left = [name for name in NAMES if (gpu.root / name).exists()]
    assert len(left) == 3 - count
    assert len(gpu.status().dropped) == count
    for name in left:
        (gpu.root / name).unlink()
    # The files that a drop never came to were deleted by the user: that counts.
    assert len(gpu.status().cases.get("deleted_here", [])) == len(left)
    assert gpu.project().restore(("exp",)).exit_code == 0
    assert [gpu.read(name).split()[0] for name in NAMES] == ["new"] * 3


def test_status_beside_a_pull_leaves_the_trash_of_the_pull_alone(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at the targets before the pull replaces them, and comes to act on that afterwards."""
    _, laptop = pair
    looked, pulled = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        try:
            laptop.status()
        except BaseException as error:  # noqa: BLE001  shown by the assertion below
            failures.append(error)
        finally:
            looked.set()

    watcher = threading.Thread(target=look)
    real_read, real_replace = statcache.read_state, Worktree.replace

    def read_state(ws: Workspace, path: Path) -> State | None:
        state = real_read(ws, path)
        if threading.current_thread() is watcher and path == b"exp/c":
            looked.set()
            assert pulled.wait(60)
        return state

    def replace(*args: Any, **named: Any) -> Any:
        if not watcher.ident:
            watcher.start()
            assert looked.wait(60)
        return real_replace(*args, **named)

    monkeypatch.setattr(statcache, "read_state", read_state)
    monkeypatch.setattr(Worktree, "replace", replace)
    laptop.pull("copy")
    pulled.set()
    watcher.join(60)
    assert not failures
    assert not watcher.is_alive()
    assert [laptop.read(name) for name in NAMES] == [f"new {name}" for name in NAMES]
    assert sum(len(run.files) for run in laptop.project().trash()) == 3
    assert laptop.project().undo().new == 3
    assert [laptop.read(name) for name in NAMES] == [f"old {name}" for name in NAMES]


def test_a_file_that_cannot_be_looked_at_is_settled_once_it_can(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, laptop = pair
    laptop.pull("copy")
    with monkeypatch.context() as patch:
        patch.setattr(Index, "put_landed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            laptop.project().undo()
    real = statcache.read_state

    def read_state(ws: Workspace, path: Path) -> State | None:
        if path == b"exp/a":
            raise AccessDenied("no permission")
        return real(ws, path)

    with monkeypatch.context() as patch:
        patch.setattr(statcache, "read_state", read_state)
        # The others are settled, as bringing back what the bucket has changed.
        assert laptop.status().cases["changed_there"] == [b"exp/b", b"exp/c"]
    assert laptop.status().cases == {"changed_there": [name.encode() for name in NAMES]}

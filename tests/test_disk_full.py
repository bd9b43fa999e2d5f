"""A disk that is full or fails at any moment (P5, P7, P8, P14): a clear error, nothing lost, and the same
command succeeds once there is space."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as FsPath

import pytest

from tests.conftest import Soak
from tests.crash_hooks import NEEDS_NO_SPACE, Plan
from tests.crash_operations import OPERATIONS
from tests.crash_points import (
    Done,
    Subject,
    check_carries_on,
    check_reader,
    check_whole,
    copy_state,
    failure_of,
    in_parallel,
    run,
    run_with,
    scratch,
    tree,
)

BY_NAME = {operation.name: operation for operation in OPERATIONS}
WHOLE = ("push", "pull over edits", "rebuild")
"""Of these every moment is tried in the quick half too, of the others some."""
SOME = 10


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with scratch() as folder:
        yield Subject(BY_NAME[request.param], folder)


def sample(subject: Subject, plans: list[Plan], soak: Soak) -> list[Plan]:
    name = subject.operation.name
    if name in WHOLE or soak.factor:
        return plans
    return soak.dice(name).sample(plans, min(SOME, len(plans)))


def full_points(subject: Subject) -> list[Plan]:
    """The disk is full from each event on that needs space; every other time it is the quota that is."""
    numbers = [
        event.number
        for event in subject.events
        if event.layer != "store" and event.name not in NEEDS_NO_SPACE
    ]
    errors = (errno.ENOSPC, errno.EDQUOT)
    return [Plan(number, "error", errors[number % 2], lasting=True) for number in numbers]


def failing_points(subject: Subject) -> list[Plan]:
    """Each event fails once; but for the removal of folders left empty, which is tried and no more."""
    events = [event for event in subject.events if event.layer != "store" and event.name != "rmdir"]
    return [Plan(event.number, "error", errno.EIO) for event in events]


def meet(subject: Subject, plan: Plan) -> str:
    """Run into the error, and check what is said and what is left; what does not hold, as text."""
    with subject.copy() as state:
        done = run_with(plan, state / "gpu", *subject.operation.argv)
        try:
            if done.code:
                paths = {*subject.before.trees["gpu"], *subject.struck.trees["gpu"], str(state)}
                check_told(done, paths, is_full=plan.lasting)
            else:
                assert tree(state / "gpu") == subject.struck.trees["gpu"], "exit 0, and not done"
            bucket = check_whole(subject, state)
            if bucket is not None and (state / "laptop").exists():
                check_reader(bucket, state / "laptop")
            check_carries_on(subject, state)
        except AssertionError as error:
            return f"{subject.describe(plan)}\n{failure_of(error)}"
    return ""


def check_told(done: Done, paths: set[str], *, is_full: bool) -> None:
    """One message: what happened, to what, and what to do; no traceback."""
    lines = done.err.strip().splitlines()
    assert done.code in (1, 5, 8), f"exit code {done.code}: {done.err}"
    told = [number for number, line in enumerate(lines) if line.startswith("manifest-sync: ")]
    assert len(told) == 1, done.err
    message, hint = lines[told[0]], " ".join(lines[told[0] + 1 :])
    for word in ("Traceback", "internal error", "Errno"):
        assert word not in done.err, done.err
    assert any(path in message for path in paths), f"no path is named: {done.err}"
    assert hint, f"nothing to do is named: {done.err}"
    if is_full:
        assert "full" in message or "space" in message or "quota" in message, done.err


@pytest.mark.soak
@pytest.mark.parametrize("subject", BY_NAME, indirect=True)
def test_the_disk_is_full_from_any_moment_on(subject: Subject, soak: Soak) -> None:
    plans = sample(subject, full_points(subject), soak)
    check_all(in_parallel(plans, lambda plan: meet(subject, plan)))


@pytest.mark.soak
@pytest.mark.parametrize("subject", BY_NAME, indirect=True)
def test_the_disk_fails_once_at_any_moment(subject: Subject, soak: Soak) -> None:
    plans = sample(subject, failing_points(subject), soak)
    check_all(in_parallel(plans, lambda plan: meet(subject, plan)))


def check_all(failures: list[str]) -> None:
    assert failures == [], f"{len(failures)} failures:\n" + "\n".join(failures[:20])


# --- a real one


class SmallDisk:
    """A filesystem of its own in memory, whose size is changed under the program's feet."""

    def __init__(self, folder: FsPath) -> None:
        self.folder = folder

    def leave(self, *, pages: int | None = None, files: int | None = None) -> None:
        """Leave only so many free pages of 4 KiB, or room for so many more files."""
        found = os.statvfs(self.folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        size = 256 << 20 if pages is None else used + pages * 4096
        inodes = 100_000 if files is None else found.f_files - found.f_ffree + files
        # A size of 0 would mean none at all.
        done = mount(self.folder, f"remount,size={max(size, 4096)},nr_inodes={inodes}")
        assert done.returncode == 0, done.stderr

    def free(self) -> None:
        self.leave()


def mount(folder: FsPath, options: str) -> subprocess.CompletedProcess[str]:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def small_disk(folder: FsPath) -> Iterator[SmallDisk]:
    folder.mkdir()
    done = mount(folder, "size=256m")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here, only the injected half ran: {done.stderr}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


LEVELS = [{"pages": n} for n in (*range(24), *range(24, 600, 48))] + [{"files": n} for n in range(12)]


@pytest.mark.parametrize("subject", WHOLE, indirect=True)
def test_a_disk_with_little_space(subject: Subject, tmp_path: FsPath) -> None:
    """Tree, index and bucket on one disk, with a little more space each time."""
    codes = set()
    for number, level in enumerate(LEVELS):
        with small_disk(tmp_path / f"disk{number}") as disk:
            state = copy_state(subject.prepared, disk.folder / "state")
            codes.add(_squeeze(subject, disk, state, level))
    assert codes >= {0, 1}


def test_a_bucket_on_a_full_disk(tmp_path: FsPath) -> None:
    """The tree and the index lie elsewhere."""
    with scratch() as folder:
        subject = Subject(BY_NAME["push"], folder)
        codes = set()
        for number, level in enumerate(LEVELS[::3]):
            with small_disk(tmp_path / f"disk{number}") as disk, subject.copy() as state:
                copy_state(state / "bucket", disk.folder / "bucket")
                (state / "bucket").rename(state / "elsewhere")
                (state / "bucket").symlink_to(disk.folder / "bucket")
                codes.add(_squeeze(subject, disk, state, level))
        assert codes == {0, 5}


def _squeeze(subject: Subject, disk: SmallDisk, state: FsPath, level: dict[str, int]) -> int:
    """Run with so much space left, then with enough; the first exit code."""
    disk.leave(**level)
    done = run(state / "gpu", *subject.operation.argv)
    try:
        if done.code:
            names = {str(state), str(disk.folder), *subject.before.trees["gpu"], *subject.struck.trees["gpu"]}
            check_told(done, names, is_full=True)
        else:
            assert tree(state / "gpu") == subject.struck.trees["gpu"], "exit 0, and not done"
        bucket = check_whole(subject, state)
        disk.free()
        if bucket is not None:
            check_reader(bucket, state / "laptop")
        check_carries_on(subject, state)
    except AssertionError as error:
        raise AssertionError(f"{level} left: {done.code} {done.err}\n{failure_of(error)}") from None
    return done.code

"""``watch`` without waiting: what holds still, what is looked at when, and what the loop makes of failures.

Every clock here is a number that the test moves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path as FsPath
from typing import Any, NoReturn

import pytest

from manifest_sync.backlog import LONGEST_WAIT, MOST_PATHS, Backlog, Batch, PushTimes
from manifest_sync.config import load_config
from manifest_sync.decide import run_options
from manifest_sync.errors import (
    AccessDenied,
    Contended,
    Damaged,
    ManifestSyncError,
    StoreUnavailable,
)
from manifest_sync.model import Path, Stat
from manifest_sync.ownership import Ownership
from manifest_sync.project import Project
from manifest_sync.push import push
from manifest_sync.report import RunReport, Silent
from manifest_sync.scope import Scope
from manifest_sync.selection import common
from manifest_sync.settle import Settle
from manifest_sync.watch import RESCAN_SECONDS, Watch, WatchOptions, WatchReport, hint_filter
from manifest_sync.worktree.events import Events, no_events
from tests.machines import Machine

SECOND = 1_000_000_000
HOUR = 3600 * SECOND


def stat(*, ctime: int, mtime: int = 0) -> Stat:
    return Stat(1, mtime, ctime, 1, 0o100644)


@pytest.mark.parametrize(
    ("age", "still"), [(0, False), (4 * SECOND, False), (5 * SECOND, True), (-1, False), (-HOUR, True)]
)
def test_a_file_holds_still_when_nothing_has_touched_it_for_a_while(age: int, still: bool) -> None:
    clock = 10**18
    assert Settle(5 * SECOND).is_at_rest(stat(ctime=clock - age), clock) is still
    # A program can set the mtime, so it says nothing ...
    assert Settle(5 * SECOND).is_at_rest(stat(ctime=clock, mtime=clock - HOUR), clock) is False
    # ... unless there is nothing better.
    by_mtime = Settle(5 * SECOND, trust_ctime=False)
    assert by_mtime.is_at_rest(stat(ctime=clock, mtime=clock - age), clock) is still


def paths(*names: str) -> set[Path]:
    return {Path(name.encode()) for name in names}


def test_a_path_comes_up_once_nothing_happened_to_it_for_a_while() -> None:
    backlog = Backlog(5)
    backlog.note(paths("slow.pt", "done.pt"), 0)
    backlog.note(paths("slow.pt"), 4)
    assert backlog.take(4.9) is None
    assert backlog.take(5) == Batch((Path(b"done.pt"),))
    assert backlog.take(8.9) is None
    assert backlog.take(9) == Batch((Path(b"slow.pt"),))
    assert backlog.take(99) is None


def test_a_file_that_grows_by_lines_comes_up_at_once() -> None:
    backlog = Backlog(5)
    backlog.note(paths("a.pt", "log.jsonl", "b.log"), 0)
    assert backlog.take(0) == Batch((Path(b"b.log"), Path(b"log.jsonl")))
    assert backlog.take(5) == Batch((Path(b"a.pt"),))


def test_too_many_paths_become_everything_and_nothing_more_is_kept() -> None:
    backlog = Backlog(5)
    for number in range(3 * MOST_PATHS):
        backlog.note(paths(f"{number}"), number / 1000)
    assert backlog.is_everything
    assert len(backlog) == 0
    assert backlog.take(5) is None
    # The writer goes on all the time, and does not keep it from being looked at.
    backlog.note(paths("again"), 7)
    backlog.note_everything(7)
    assert backlog.take(7.5) == Batch(None)
    assert backlog.take(99) is None


def test_what_could_not_be_pushed_comes_up_again_at_once_unless_it_changed() -> None:
    backlog = Backlog(5)
    backlog.note(paths("a", "b"), 0)
    batch = backlog.take(5)
    assert batch is not None
    backlog.note(paths("a"), 6)
    backlog.put_back(batch, 7)
    assert backlog.take(7) == Batch((Path(b"b"),))
    assert backlog.take(11) == Batch((Path(b"a"),))
    backlog.put_back(Batch(None), 20)
    assert backlog.take(20) == Batch(None)


def test_pushes_keep_their_distance_and_failures_make_it_grow() -> None:
    times = PushTimes(jitter=lambda ceiling: ceiling)
    assert times.may_push(0)
    times.succeeded(10, 60)
    assert not times.may_push(69.9)
    assert times.may_push(70)
    waits = []
    for _ in range(40):
        times.failed(0)
        waits.append(next(wait for wait in range(10**6) if times.may_push(wait)))
    assert waits[:5] == [5, 10, 20, 40, 80]
    assert waits[-1] == LONGEST_WAIT
    times.succeeded(0, 60)
    times.failed(0)
    assert times.may_push(5)


@dataclass
class World:
    """A clock, a source of hints, a push that answers as told, and a script of what happens when."""

    settle: float = 5.0
    interval: float = 60.0
    now: float = 1000.0
    why_none: str = ""
    stop_at: float = 10**9
    hints: list[tuple[float, Path]] = field(default_factory=list)
    missing: set[Path] = field(default_factory=set)
    answers: list[RunReport | Exception] = field(default_factory=list)
    pushed: list[tuple[float, tuple[Path, ...] | None]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    reported: list[RunReport] = field(default_factory=list)
    problems_told: list[RunReport] = field(default_factory=list)

    def at(self, seconds: float, *names: str) -> None:
        """Something happens to these paths so many seconds after the start."""
        self.hints += [(1000 + seconds, path) for path in paths(*names)]

    def take(self) -> tuple[set[Path], bool]:
        due = {path for when, path in self.hints if when <= self.now}
        self.hints = [pair for pair in self.hints if pair[0] > self.now]
        return due - {Path(b"")}, Path(b"") in due

    def exists(self, path: Path) -> bool:
        return path not in self.missing

    def published(self, report: RunReport) -> None:
        self.reported.append(report)

    def problems(self, report: RunReport) -> None:
        self.problems_told.append(report)

    def note(self, text: str) -> None:
        self.said.append(text)

    def push(self, wanted: tuple[Path, ...] | None) -> RunReport:
        self.pushed.append((self.now - 1000, wanted))
        answer = self.answers.pop(0) if self.answers else RunReport("push", "copy")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def run(self, seconds: float) -> WatchReport:
        self.stop_at = 1000 + seconds
        return Watch(
            WatchOptions(self.interval, self.settle),
            self.push,
            self,
            self,
            stopping=lambda: self.now >= self.stop_at,
            clock=lambda: self.now,
            wait=self.wait,
            jitter=lambda ceiling: ceiling,
        ).run()


def test_everything_first_then_what_came_to_rest_at_most_once_an_interval() -> None:
    world = World()
    world.at(3, "a.pt")
    world.at(70, "b.pt", "c.pt")
    world.at(73, "c.pt")
    world.at(120, "d.jsonl")
    world.run(200)
    a, b, c, d = (Path(name) for name in (b"a.pt", b"b.pt", b"c.pt", b"d.jsonl"))
    # 0: all; 60: a; b rests at 75 but the last push was at 60, so at 120, with c and the log; the end: all.
    assert world.pushed == [(0, None), (60, (a,)), (120, (b, c, d)), (200, None)]
    assert world.said == []


def test_a_slow_writer_causes_no_push_before_it_rests() -> None:
    world = World(interval=1)
    for second in range(1, 100):
        world.at(second, "slow.pt")
    world.run(110)
    assert world.pushed == [(0, None), (104, (Path(b"slow.pt"),)), (110, None)]


def test_what_was_found_restless_is_looked_at_again_without_another_event() -> None:
    young = (Path(b"young.pt"),)
    world = World(answers=[RunReport("push", "copy", waiting=list(young))])
    world.run(70)
    # Nothing was published, so this does not wait for the next minute ...
    assert world.pushed == [(0, None), (5, young), (70, None)]
    world = World(answers=[RunReport("push", "copy", waiting=list(young), published=True)])
    world.run(70)
    # ... and here something was.
    assert world.pushed == [(0, None), (60, young), (70, None)]


def test_a_deleted_file_is_no_reason_to_ask_the_bucket() -> None:
    world = World(missing=paths("gone.tmp"))
    world.at(1, "gone.tmp")
    world.run(100)
    assert world.pushed == [(0, None), (100, None)]


def test_an_outage_is_told_once_waited_out_and_loses_nothing() -> None:
    world = World()
    world.at(1, "a.pt")
    world.answers = [RunReport("push", "copy"), *[StoreUnavailable("the store cannot be reached")] * 4]
    world.run(300)
    a = (Path(b"a.pt"),)
    assert [when for when, _ in world.pushed] == [0, 60, 65, 75, 95, 135, 300]
    assert [wanted for _, wanted in world.pushed] == [None, a, a, a, a, a, None]
    assert world.said == [
        "the store cannot be reached; watching goes on, and it is tried again until it works",
        "it works again",
    ]


def test_an_outage_from_the_very_start_is_waited_out_too() -> None:
    world = World(answers=[StoreUnavailable("no network")])
    world.run(10)
    assert world.pushed == [(0, None), (5, None), (10, None)]


def test_another_run_holding_the_lock_is_told_of_only_when_it_lasts() -> None:
    world = World(answers=[Contended("locked")] * 3)
    world.run(100)
    assert world.said == []
    world = World(answers=[Contended("locked")] * 5)
    world.run(400)
    assert world.said == ["locked; watching goes on, and it is tried again until it works", "it works again"]
    # And the last push waits for it for a while.
    world = World(answers=[RunReport("push", "copy"), *[Contended("locked")] * 20])
    world.run(1)
    assert len(world.pushed) == 22


@pytest.mark.parametrize("error", [Damaged("torn"), AccessDenied("refused")])
def test_what_nobodys_patience_mends_ends_it(error: ManifestSyncError) -> None:
    with pytest.raises(type(error)):
        World(answers=[error]).run(100)


def test_credentials_that_expire_later_are_waited_for() -> None:
    world = World(answers=[RunReport("push", "copy"), AccessDenied("expired")])
    world.at(1, "a")
    world.run(70)
    assert world.said[0].startswith("expired; watching goes on")
    assert world.pushed[-1] == (70, None)


def test_a_last_push_that_fails_is_an_error() -> None:
    with pytest.raises(StoreUnavailable):
        World(answers=[RunReport("push", "copy"), StoreUnavailable("gone")]).run(1)


def test_the_end_waits_once_for_what_was_just_written() -> None:
    young = [Path(b"last.pt")]
    world = World(answers=[RunReport("push", "copy"), RunReport("push", "copy", waiting=young)])
    report = world.run(1)
    assert world.pushed == [(0, None), (1, None), (6, tuple(young))]
    assert report.exit_code == 0
    world = World(answers=[RunReport("push", "copy"), *[RunReport("push", "copy", waiting=young)] * 2])
    assert world.run(1).exit_code == 3


def test_a_conflict_is_told_once_until_it_is_settled_and_comes_again() -> None:
    torn = RunReport("push", "copy", conflicts=[Path(b"x")], skipped=[(Path(b"y"), "permission denied")])
    other = RunReport("push", "copy", conflicts=[Path(b"x"), Path(b"z")])
    world = World(why_none="it is on nfs4", answers=[torn, other, torn, RunReport("push", "copy"), torn])
    report = world.run(250)
    assert [(told.conflicts, told.skipped) for told in world.problems_told] == [
        ([Path(b"x")], [(Path(b"y"), "permission denied")]),
        ([Path(b"z")], []),
        ([], [(Path(b"y"), "permission denied")]),
        ([Path(b"x")], [(Path(b"y"), "permission denied")]),
    ]
    assert report.exit_code == 0
    assert World(answers=[torn, torn]).run(1).exit_code == 6


def test_without_events_everything_is_looked_at_every_interval() -> None:
    world = World(why_none="it is on nfs4", interval=10)
    world.run(35)
    assert [when for when, wanted in world.pushed if wanted is None] == [0, 10, 20, 30, 35]
    assert world.said == ["it is on nfs4: looking at everything every 10 seconds instead"]


def test_with_events_everything_is_looked_at_now_and_then() -> None:
    world = World()
    world.run(2 * RESCAN_SECONDS + 1)
    assert [when for when, _ in world.pushed] == [
        0,
        RESCAN_SECONDS,
        2 * RESCAN_SECONDS,
        2 * RESCAN_SECONDS + 1,
    ]


def test_only_what_a_push_would_send_is_noted() -> None:
    ownership = Ownership(["git *.py", "neither **/activations/"], {"loras": ["**/lora/"]})
    wanted = hint_filter(Scope((Path(b"exp/a"),), ("*.tmp",)), ownership)
    found = {
        name: wanted(Path(name.encode()))
        for name in (
            "exp/a/x.pt", "exp/a", "exp/b/x.pt", "exp/a/x.py", "exp/a/x.tmp", "exp/a/activations/1.pt",
            "exp/a/lora/w.pt", "exp/a/.manifest-sync/clock", "exp", "",
        )
    }  # fmt: skip
    assert {name: path for name, path in found.items() if path is not None} == {
        "exp/a/x.pt": b"exp/a/x.pt",
        "exp/a": b"exp/a",
        "exp": b"",
        "": b"",
    }


def test_events_are_not_asked_of_a_filesystem_that_has_none(tmp_path: FsPath) -> None:
    assert no_events(str(tmp_path), {"WATCHFILES_FORCE_POLLING": "1"}) == "WATCHFILES_FORCE_POLLING is set"
    assert no_events(str(tmp_path), {"WATCHFILES_FORCE_POLLING": "false"}) == ""
    source = Events(str(tmp_path), lambda path: path, "none here")
    with source:
        (tmp_path / "a").write_text("x")
        assert source.take() == (set(), False)


def seen_until(source: Events, wanted: Callable[[set[Path]], bool]) -> set[Path]:
    """The hints until they are what is wanted. Nothing is claimed about how long that takes."""
    found: set[Path] = set()
    give_up = time.monotonic() + 60
    while not wanted(found):
        assert time.monotonic() < give_up, found
        paths, everything = source.take()
        found |= paths | ({Path(b"")} if everything else set())
        time.sleep(0.02)
    return found


def test_the_system_tells_of_files_folders_and_renames(
    tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifest_sync.worktree.events._PAUSE_SECONDS", 0.2)
    monkeypatch.setattr("manifest_sync.worktree.events._TIMEOUT_MS", 300)
    root = tmp_path / "tree"
    odd = os.fsdecode(b"odd\xff.pt")
    with Events(str(root), lambda path: None if path.startswith(b"ignored") else path) as source:
        # The tree may come later, and then everything in it is new.
        assert source.take() == (set(), False)
        root.mkdir()
        (root / "early.pt").write_text("x")
        assert b"" in seen_until(source, lambda found: Path(b"") in found)
        (root / "ignored.tmp").write_text("x")
        (root / "a.tmp").write_text("x")
        (root / "a.tmp").rename(root / "a.pt")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "b.pt").write_text("x")
        (tmp_path / "made").rename(root / "moved in")
        found = seen_until(source, lambda found: paths("a.pt", "moved in") <= found)
        assert Path(b"ignored.tmp") not in found
        # A name that cannot be told of is told of all the same, and does not end it.
        (root / odd).write_text("x")
        seen_until(source, lambda found: Path(b"") in found)
        seen_until(source, lambda found: bool(found) and source.why_none == "")
        (root / "c.pt").write_text("x")
        seen_until(source, lambda found: bool({Path(b"c.pt"), Path(b"")} & found))
        # Another folder in its place, as after a new mount: everything.
        root.rename(tmp_path / "old")
        root.mkdir()
        seen_until(source, lambda found: Path(b"") in found)


@pytest.mark.parametrize(
    ("errors", "why"),
    [
        ([OSError('OS file watch limit reached. about ["/tree/x"]')], "(OS file watch limit reached)"),
        ([RuntimeError("Too many open files")] * 5, "(Too many open files)"),
        ([PermissionError("denied"), RuntimeError("odd"), OSError("limit")], "(limit)"),
    ],
)
def test_when_the_system_cannot_tell_it_says_why(
    tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch, errors: list[Exception], why: str
) -> None:
    def watch(*_: object, **__: object) -> NoReturn:
        raise errors.pop(0)

    monkeypatch.setattr("watchfiles.watch", watch)
    monkeypatch.setattr("manifest_sync.worktree.events._PAUSE_SECONDS", 0)
    with Events(str(tmp_path), lambda path: path) as source:
        seen_until(source, lambda found: bool(source.why_none))
    assert source.why_none.endswith(why)
    assert errors == []


def test_a_hint_reaches_what_it_has_in_common_with_the_selection() -> None:
    selected = (Path(b"exp/a"), Path(b"exp/b"))
    hints = [Path(name) for name in (b"exp/a/x.pt", b"exp/b", b"exp/c/y.pt", b"exp/aa", b"other")]
    assert common(hints, selected) == (b"exp/a/x.pt", b"exp/b")
    assert common([Path(b"exp")], selected) == selected
    assert common(hints, ()) == tuple(hints)


# What a push that sends only what holds still does with real files.


def settled_push(machine: Machine, settle: Settle, *, progress: Any = None) -> RunReport:
    config = load_config(str(machine.folder))
    options = run_options("push", "copy", config)
    with (
        Project.find(str(machine.folder), env={}, progress=progress) as project,
        project.workspace(()) as ws,
    ):
        return push(ws, replace(options, settle=settle))


BY_MTIME = Settle(HOUR, trust_ctime=False)
"""Tests can set an mtime, and no ctime."""


@pytest.fixture
def machine(tmp_path: FsPath) -> Machine:
    return Machine(tmp_path / "gpu", str(tmp_path / "bucket"))


def names(machine: Machine) -> list[str]:
    return [entry.path.decode() for entry in machine.project().ls()]


def test_only_what_holds_still_is_sent(machine: Machine) -> None:
    machine.write("exp/old.pt", "whole", mtime_ns=10**18)
    machine.write("exp/young.pt", "ha")
    report = settled_push(machine, BY_MTIME)
    assert (report.waiting, report.published, report.skipped) == ([Path(b"exp/young.pt")], True, [])
    assert names(machine) == ["exp/old.pt"]
    # By ctime, both were touched just now, whatever their mtime says.
    assert len(settled_push(machine, Settle(HOUR)).waiting) == 1
    report = settled_push(machine, Settle(0))
    assert (report.waiting, names(machine)) == ([], ["exp/old.pt", "exp/young.pt"])


def test_a_restless_file_is_not_even_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write("exp/a.pt", "one", mtime_ns=10**18)
    machine.push()
    machine.write("exp/a.pt", "two")
    machine.root.joinpath("exp/a.pt").chmod(0)
    monkeypatch.setattr("manifest_sync.worktree.Worktree.open_read", lambda self, *seen: pytest.fail("read"))
    monkeypatch.setattr("manifest_sync.worktree.Worktree.hash_file", lambda self, *seen: pytest.fail("read"))
    assert settled_push(machine, BY_MTIME).waiting == [Path(b"exp/a.pt")]


class Meddler(Silent):
    """Does something after the scan and before the first file is read."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self._meddle = meddle

    def begin(self, stage: str, files: int | None = None, bytes_: int | None = None) -> None:
        if stage == "transfer":
            self._meddle()


def test_a_file_whose_writer_begins_anew_after_the_scan_is_left(machine: Machine) -> None:
    machine.write("exp/a.pt", "first version", mtime_ns=10**18)
    machine.write("exp/b.pt", "b", mtime_ns=10**18)
    torn = Meddler(lambda: machine.write("exp/a.pt", "seco"))
    report = settled_push(machine, BY_MTIME, progress=torn)
    assert (report.waiting, names(machine)) == ([Path(b"exp/a.pt")], ["exp/b.pt"])
    gone = Meddler((machine.root / "exp/c.pt").unlink)
    machine.write("exp/a.pt", "second version", mtime_ns=10**18)
    machine.write("exp/c.pt", "c", mtime_ns=10**18)
    report = settled_push(machine, BY_MTIME, progress=gone)
    assert (report.skipped, names(machine)) == ([], ["exp/a.pt", "exp/b.pt"])


def test_a_log_is_sent_while_it_grows_but_no_half_line(machine: Machine) -> None:
    machine.write("exp/log.jsonl", '{"step": 1}\n')
    machine.write("exp/half.jsonl", '{"step": 1}\n{"st')
    machine.write("exp/empty.jsonl", "")
    report = settled_push(machine, BY_MTIME)
    assert report.waiting == [Path(b"exp/empty.jsonl"), Path(b"exp/half.jsonl")]
    assert names(machine) == ["exp/log.jsonl"]
    machine.write("exp/log.jsonl", '{"step": 1}\n{"step": 2}\n')

    def append(text: str) -> None:
        with (machine.root / "exp/log.jsonl").open("a") as file:
            file.write(text)

    report = settled_push(machine, BY_MTIME, progress=Meddler(lambda: append('{"step": 3}\n')))
    assert (report.changed, b"".join(machine.project().cat("exp/log.jsonl")).count(b"\n")) == (1, 3)
    append('{"step": 4}\n')
    report = settled_push(machine, BY_MTIME, progress=Meddler(lambda: append('{"st')))
    assert Path(b"exp/log.jsonl") in report.waiting
    assert b"".join(machine.project().cat("exp/log.jsonl")).count(b"\n") == 3

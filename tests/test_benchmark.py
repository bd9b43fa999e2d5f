"""The arithmetic of the benchmark: no time for who failed, medians of pairs, targets, a line with a rate."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.cases import CASES
from benchmarks.delayproxy import Line
from benchmarks.floors import FLOORS
from benchmarks.measure import Command, Failed, Launcher, Taken
from benchmarks.options import parse_options
from benchmarks.results import Results, Run
from benchmarks.server import Traffic
from benchmarks.targets import TARGETS, Target, Verdict, _verdict

SIZES = parse_options(["--quick"]).sizes
NOOP = "noop-push / loopback / files"


def run(tool: str, number: int, seconds: float | None, case: str = NOOP, **traffic: int) -> Run:
    taken = None if seconds is None else Taken(seconds, seconds, 50_000_000)
    requests = {"GET": traffic.get("get", 0), "PUT": traffic.get("put", 0)}
    seen = Traffic(requests, traffic.get("up", 0), traffic.get("down", 0))
    return Run(case, tool, number, "", taken, "" if taken else "exit 1", seen)


def results(*runs: Run) -> Results:
    found = Results()
    found.runs.extend(runs)
    return found


def verdict(target: Target, *runs: Run) -> Verdict:
    return _verdict(target, results(*runs), SIZES)


def test_a_ratio_is_the_median_of_pairs() -> None:
    ours, theirs = (1.0, 2.0, 4.0), (3.0, 20.0, 16.0)
    found = results(
        *(run("manifest-sync", n, seconds) for n, seconds in enumerate(ours)),
        *(run("rclone", n, seconds) for n, seconds in enumerate(theirs)),
    ).summary(NOOP, "rclone")
    assert (found.seconds, found.fastest, found.slowest, found.ratio) == (16, 3, 20, 4)


def test_who_failed_once_has_no_time() -> None:
    found = results(run("manifest-sync", 0, 1.0), run("s5cmd", 0, 2.0), run("s5cmd", 1, None))
    summary = found.summary(NOOP, "s5cmd")
    assert (summary.failure, summary.seconds, summary.ratio) == ("exit 1", 0, 0)


@pytest.mark.parametrize(("theirs", "is_met"), [(6.0, True), (4.0, False), (None, None)])
def test_faster_than_a_peer(theirs: float | None, is_met: bool | None) -> None:
    target = Target(NOOP, "faster", 5, ("rclone",))
    assert verdict(target, run("manifest-sync", 0, 1.0), run("rclone", 0, theirs)).is_met is is_met


@pytest.mark.parametrize(("floor", "is_met"), [(0.5, True), (0.3, False)])
def test_near_a_floor(floor: float, is_met: bool) -> None:
    target = Target(NOOP, "within", 3, ("find",))
    assert verdict(target, run("manifest-sync", 0, 1.0), run("find", 0, floor)).is_met is is_met


def test_one_slower_peer_does_not_hide_a_faster_one() -> None:
    target = Target(NOOP, "faster", 1, ("rclone", "aws"))
    runs = run("manifest-sync", 0, 1.0), run("rclone", 0, 0.9), run("aws", 0, 9.0)
    assert verdict(target, *runs).is_met is False


def test_limits_of_requests_bytes_and_memory() -> None:
    one = run("manifest-sync", 0, 1.0, get=1, put=4, up=1_000_000)
    wanted = {"requests": (5, 4), "puts": (4, 3), "uploaded": (1e6, 999_999), "peak": (50e6, 49e6)}
    for kind, (enough, too_little) in wanted.items():
        assert verdict(Target(NOOP, kind, enough), one).is_met is True, kind  # type: ignore[arg-type]
        assert verdict(Target(NOOP, kind, too_little), one).is_met is False, kind  # type: ignore[arg-type]
    assert verdict(Target(NOOP, "peak", 1), run("manifest-sync", 0, None)).is_met is None


def test_a_share_is_of_time_and_of_bytes() -> None:
    whole = "fresh-pull / loopback / files"
    target = Target("one-experiment / loopback / files", "share", 1 / 8, (whole,))
    full = run("manifest-sync", 0, 8.0, whole, down=8_000)
    for seconds, down, is_met in ((1.0, 1_000, True), (1.1, 1_000, False), (1.0, 1_100, False)):
        part = run("manifest-sync", 0, seconds, target.case, down=down)
        assert verdict(target, full, part).is_met is is_met


def test_growth_is_for_each_file() -> None:
    tenth = "noop-push / loopback / tenth"
    target = Target("noop-push / loopback / metadata", "growth", 1.3, (tenth,))
    for seconds, is_met in ((12.9, True), (13.2, False)):
        small, large = run("manifest-sync", 0, 1.0, tenth), run("manifest-sync", 0, seconds, target.case)
        assert verdict(target, small, large).is_met is is_met


def test_every_target_is_of_a_case_that_is_measured() -> None:
    cases = {case.name: case for case in CASES}
    for target in TARGETS:
        case = cases[target.case]
        if target.kind in ("share", "growth"):
            assert target.others[0] in cases
        if target.kind == "within":
            assert set(target.others) <= set(case.job.floors)
        if target.kind == "faster":
            assert case.peers
    assert {floor for case in CASES for floor in case.job.floors} == set(FLOORS)


def test_a_line_delays_and_keeps_to_its_rate() -> None:
    free, slow = Line(0.02, 0), Line(0.02, 1_000)
    assert free.arrival(5, 1_000_000) == 5.02
    assert slow.arrival(5, 500) == pytest.approx(5.52)
    assert slow.arrival(5.1, 500) == pytest.approx(6.02), "it waits for its turn"
    assert slow.arrival(9, 500) == pytest.approx(9.52)


def test_a_command_that_fails_or_takes_too_long_is_no_figure(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, {}, 0.3)
    hello = Command([sys.executable, "-I", "-S", "-c", "print('hello')"], tmp_path)
    taken = Launcher(tmp_path, {}, 60).run(hello)
    assert launcher.output() == "hello\n"
    assert taken.seconds > 0
    assert 1e6 < taken.peak < 40e6, "its own, not that of the process that runs the tests"
    with pytest.raises(Failed, match="exit 3: sorry"):
        Launcher(tmp_path, {}, 60).run(Command(["sh", "-c", "echo sorry >&2; exit 3"], tmp_path))
    with pytest.raises(Failed, match=r"took more than 0 s"):
        launcher.run(Command(["sleep", "60"], tmp_path))

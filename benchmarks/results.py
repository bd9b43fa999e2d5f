"""What was measured, as data: runs, and medians and ratios of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from benchmarks.measure import Taken
from benchmarks.options import OURS
from benchmarks.server import Traffic


@dataclass(frozen=True)
class Run:
    """One run of one tool (or floor) in one round of a case."""

    case: str
    tool: str
    round: int
    command: str
    taken: Taken | None
    """None when it failed, and ``failure`` says why."""
    failure: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    """As the server counted it."""
    proxy_cpu: float = 0
    """Processor seconds of the delay proxy meanwhile."""
    own_requests: dict[str, int] = field(default_factory=dict)
    """What manifest-sync itself reports with ``--json``."""


@dataclass(frozen=True)
class Summary:
    """All rounds of one tool in one case: the median of times, the largest of memory and traffic."""

    case: str
    tool: str
    rounds: int
    seconds: float
    fastest: float
    slowest: float
    cpu: float
    peak: int
    requests: dict[str, int]
    uploaded: int
    downloaded: int
    ratio: float
    """Median over the rounds of its time divided by manifest-sync's in the same round; 0: unknown."""
    proxy_load: float
    """The largest share of the time in which the proxy was busy."""
    failure: str
    command: str


class Results:
    """The runs of a benchmark, in the order in which they were made."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def summaries(self) -> list[Summary]:
        """One for each tool of each case, in the order of the first runs."""
        order = dict.fromkeys((run.case, run.tool) for run in self.runs)
        return [self.summary(case, tool) for case, tool in order]

    def summary(self, case: str, tool: str) -> Summary:
        """One tool in one case: a tool that failed in any round has failed."""
        runs = self._of(case, tool)
        failure = next((run.failure for run in runs if run.failure), "" if runs else "not run")
        taken = [run.taken for run in runs if run.taken is not None]
        command = runs[-1].command if runs else ""
        if failure or not taken:
            return Summary(case, tool, len(runs), 0, 0, 0, 0, 0, {}, 0, 0, 0, 0, failure, command)
        seconds = [one.seconds for one in taken]
        most = max(runs, key=lambda run: sum(run.traffic.requests.values()))
        return Summary(
            case,
            tool,
            len(runs),
            median(seconds),
            min(seconds),
            max(seconds),
            median(one.cpu for one in taken),
            max(one.peak for one in taken),
            most.traffic.requests,
            max(run.traffic.uploaded for run in runs),
            max(run.traffic.downloaded for run in runs),
            self._ratio(case, runs),
            max(run.proxy_cpu / run.taken.seconds for run in runs if run.taken is not None),
            "",
            command,
        )

    def _ratio(self, case: str, runs: Iterable[Run]) -> float:
        ours = {run.round: run.taken for run in self._of(case, OURS)}
        ratios = []
        for run in runs:
            mine = ours.get(run.round)
            if run.taken is not None and mine is not None:
                ratios.append(run.taken.seconds / mine.seconds)
        return median(ratios) if ratios else 0

    def _of(self, case: str, tool: str) -> list[Run]:
        return [run for run in self.runs if (run.case, run.tool) == (case, tool)]

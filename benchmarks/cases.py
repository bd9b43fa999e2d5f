"""What is measured: jobs, networks, and which job is done on which tree over which network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = Literal["many", "pair", "insert", "log"]
"""Of a tree: many small files; two big ones; one that grows in its middle; one that grows at its end."""
Operation = Literal["first push", "push", "push nothing", "pull", "pull part", "status", "rebuild"]
Change = Literal["", "overwrite", "one percent", "insert", "append"]
Size = Literal["files", "network", "tenth", "metadata", "fixed"]


@dataclass(frozen=True)
class Job:
    """One thing a user does, and what is done to the tree before it, once a round."""

    name: str
    title: str
    operation: Operation
    shape: Shape = "many"
    change: Change = ""
    floors: tuple[str, ...] = ()
    """Names in `benchmarks.floors`: what the disk, the processor or the network allows."""


@dataclass(frozen=True)
class Network:
    """Between tool and server: ``round_trip`` in seconds, ``rate`` in bytes a second each way (0: any)."""

    name: str
    round_trip: float = 0
    rate: int = 0


@dataclass(frozen=True)
class Case:
    """A job on a tree over a network."""

    job: Job
    network: Network
    size: Size
    peers: bool = True
    """Whether the other tools run as well; on the largest tree filling their buckets alone takes hours."""

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.job.name} / {self.network.name} / {self.size}"

    @property
    def is_long(self) -> bool:
        """Whether everything in a tree of many files moves: minutes for a tool that sends it one by one."""
        return self.job.shape == "many" and self.job.operation in ("first push", "pull")


JOBS = (
    Job("first-push", "first push", "first push", floors=("tar | zstd",)),
    Job("noop-push", "push with nothing to do", "push nothing", floors=("find",)),
    Job("overwrite", "one same-size overwrite", "push", change="overwrite", floors=("find",)),
    Job("one-percent", "1 % of the files overwritten", "push", change="one percent", floors=("find",)),
    Job("fresh-pull", "fresh pull", "pull", floors=("zstd | tar x", "cp")),
    Job("one-experiment", "one experiment of twelve on a new machine", "pull part"),
    Job("status", "what differs (status --offline)", "status", floors=("find",)),
    Job("rebuild-index", "rebuild-index", "rebuild", floors=("b3sum",)),
    Job("big-up", "two big files up", "first push", "pair", floors=("boto3 up", "cp")),
    Job("big-down", "two big files down", "pull", "pair", floors=("boto3 down", "cp")),
    Job("big-insert", "1 MiB inserted into a big file", "push", "insert", "insert", floors=("b3sum",)),
    Job("log-append", "1 MiB appended to a .jsonl", "push", "log", "append", floors=("b3sum",)),
)
NETWORKS = (Network("loopback"), Network("40ms", 0.04), Network("100mbit", 0.04, 12_500_000))
_JOB = {job.name: job for job in JOBS}
_LOOPBACK, _DELAYED, _SLOW = NETWORKS


def _case(job: str, network: Network, size: Size, *, peers: bool = True) -> Case:
    found = _JOB[job]
    return Case(found, network, size if found.shape == "many" else "fixed", peers)


CASES = (
    *(_case(job.name, _LOOPBACK, "files") for job in JOBS),
    *(_case(name, _DELAYED, "files") for name in ("noop-push", "overwrite")),
    *(
        _case(name, _DELAYED, "network")
        for name in ("first-push", "one-percent", "fresh-pull", "one-experiment")
    ),
    *(_case(name, _SLOW, "network") for name in ("first-push", "overwrite", "fresh-pull")),
    *(_case(name, _SLOW, "fixed") for name in ("big-insert", "log-append")),
    *(_case(name, _LOOPBACK, "tenth", peers=False) for name in ("noop-push", "overwrite")),
    *(_case(name, _LOOPBACK, "metadata", peers=False) for name in ("noop-push", "overwrite", "status")),
)

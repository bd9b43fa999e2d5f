"""The command line of the benchmark; needs nothing but the standard library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import CASES, JOBS, NETWORKS, Case, Size

TOOLS = ("manifest-sync", "rclone", "rclone-128", "s5cmd", "aws", "restic")
"""In the order of the tables; manifest-sync is what the others are compared with."""
OURS = TOOLS[0]


@dataclass(frozen=True)
class Options:
    """What to run, and how large."""

    cases: tuple[Case, ...]
    tools: tuple[str, ...]
    sizes: dict[Size, int]
    """Number of files of each kind of tree."""
    big_bytes: int
    """Size of each big file."""
    log_bytes: int
    rounds: int
    long_rounds: int
    """Of the jobs that move everything in a tree of many files."""
    timeout: float
    """Seconds after which one run counts as failed."""
    work: Path
    output: Path
    quick: bool


def parse_options(arguments: Sequence[str]) -> Options:
    """Read the command line; ends the process on ``--help`` and on mistakes."""
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small trees and one round: does it work at all?"
    )
    parser.add_argument(
        "--job", action="append", choices=[job.name for job in JOBS], help="only this; repeat"
    )
    parser.add_argument(
        "--tool", action="append", choices=TOOLS, help="only this beside manifest-sync; repeat"
    )
    parser.add_argument("--network", action="append", choices=[n.name for n in NETWORKS], help="repeat")
    parser.add_argument("--files", type=int, help="files of the tree (210,000)")
    parser.add_argument(
        "--network-files", type=int, help="files of the tree pushed over slow networks (20,000)"
    )
    parser.add_argument("--metadata-files", type=int, help="files of the largest tree (1,000,000)")
    parser.add_argument("--big-mb", type=int, help="size of each big file in MiB (1,024)")
    parser.add_argument("--rounds", type=int, help="default 5; 1 with --quick")
    parser.add_argument(
        "--long-rounds", type=int, help="of the jobs that move a whole tree of many files (as --rounds)"
    )
    parser.add_argument("--timeout", type=float, help="seconds for one run (7,200; 120 with --quick)")
    parser.add_argument("--work", type=Path, default=Path("build/benchmark"), help="default %(default)s")
    parser.add_argument("--output", type=Path, help="folder for the results (WORK/results)")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    files = given.files or (2_000 if quick else 210_000)
    metadata = given.metadata_files or (4_000 if quick else 1_000_000)
    work: Path = given.work.resolve()
    tools = TOOLS if given.tool is None else tuple(t for t in TOOLS if t in (OURS, *given.tool))
    cases = tuple(
        case
        for case in CASES
        if (given.job is None or case.job.name in given.job)
        and (given.network is None or case.network.name in given.network)
    )
    return Options(
        cases=cases,
        tools=tools,
        sizes={
            "files": files,
            "network": given.network_files or (500 if quick else 20_000),
            "tenth": max(metadata // 10, 1),
            "metadata": metadata,
            "fixed": 0,
        },
        big_bytes=(given.big_mb or (8 if quick else 1024)) << 20,
        log_bytes=(4 if quick else 256) << 20,
        rounds=given.rounds or (1 if quick else 5),
        long_rounds=given.long_rounds or given.rounds or (1 if quick else 5),
        timeout=given.timeout or (120 if quick else 7_200),
        work=work,
        output=(given.output or work / "results").resolve(),
        quick=quick,
    )

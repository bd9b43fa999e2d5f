"""Processes that push and collect beside one another and are killed, for tests/test_gc_concurrency.py.

Each is a driver that forks a child for every run, so that a run is a process of its own that SIGKILL can end
at any instant, without the start of an interpreter for each.

    python -m tests.racing_processes push FOLDER SEED TURNS LOG
    python -m tests.racing_processes collect FOLDER SEED STOP LOG
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from manifest_sync.errors import ManifestSyncError
from manifest_sync.project import Project

POOL = [random.Random(f"pool {number}").randbytes(3000) for number in range(12)]
"""Contents that all machines use, so that each finds what others have sent, and will delete."""
AGAIN = {5, 11}
"""Exit codes after which a person runs the same command again."""
KILLED = -signal.SIGKILL
_real_sleep = time.sleep


def main(command: str, folder: str, seed: str, end: str, log: str) -> None:
    """Run one driver to its end."""
    # Machines that lost a race wait for a second or more: here they come back at once and meet again.
    time.sleep = lambda seconds: _real_sleep(float(seconds) / 50)
    dice = random.Random(f"{command} {seed}")
    with open(log, "a", encoding="utf-8", buffering=1) as told:
        if command == "push":
            push_often(Path(folder), dice, int(end), lambda fact: print(json.dumps(fact), file=told))
        else:
            collect_on(Path(folder), dice, Path(end), lambda fact: print(json.dumps(fact), file=told))


def push_often(folder: Path, dice: random.Random, turns: int, tell: Callable[[Any], None]) -> None:
    """Change files and push them, until it ends well, again and again."""
    tree = folder / "experiments" / folder.name
    tree.mkdir(parents=True)
    for turn in range(turns):
        for number in range(3):
            (tree / f"{turn}-{number}").write_bytes(dice.choice(POOL) + dice.randbytes(dice.choice([0, 100])))
        standing = sorted(tree.iterdir())
        dice.choice(standing).write_bytes(f"{folder.name} {turn}".encode())
        dice.choice(standing).unlink()
        deaths = 0
        code: int | None = None
        while code != 0:
            code, result = run_in_child(lambda: push(folder), folder, dice, 0.5 if deaths < 3 else 0.0)
            deaths += code == KILLED
            if code not in AGAIN | {0, KILLED}:
                tell({"failed": code, "why": result})
                return
        tell({"acknowledged": result["snapshot"], "deaths": deaths})


def push(folder: Path) -> dict[str, Any]:
    with Project.find(str(folder)) as project:
        report = project.push("full")
    assert report.exit_code == 0, report
    return {"snapshot": report.snapshot}


def collect_on(folder: Path, dice: random.Random, stop: Path, tell: Callable[[Any], None]) -> None:
    """Collect everything that can be, until the file ``stop`` appears."""
    while not stop.exists():
        code, result = run_in_child(lambda: collect(folder), folder, dice, 0.2)
        if code not in AGAIN | {0, KILLED}:
            tell({"failed": code, "why": result})
            return
        if code == 0:
            tell(result)
        _real_sleep(dice.uniform(0, 0.2))


def collect(folder: Path) -> dict[str, Any]:
    with Project.find(str(folder)) as project:
        report = project.gc(keep_last=1, min_age=timedelta(0), apply=True)
    return {"collected": report.objects, "repacked": report.repacked}


def run_in_child(
    run: Callable[[], dict[str, Any]], folder: Path, dice: random.Random, chance: float
) -> tuple[int, Any]:
    """Fork and do ``run`` there; with this chance the child is killed before it ends. Code and result."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            found = run()
            code = 0
        except ManifestSyncError as error:
            found, code = {"error": error.message}, error.exit_code
        except BaseException as error:  # noqa: BLE001  whatever it is, the parent is told
            found = {"error": repr(error)}
        result.write_text(json.dumps(found))
        os._exit(code)
    if dice.random() < chance:
        _real_sleep(dice.uniform(0, 0.6) ** 2)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # A child may be killed when it has told its result already, and end as if it had not.
    return status, json.loads(result.read_text()) if status >= 0 else None


if __name__ == "__main__":
    main(*sys.argv[1:])

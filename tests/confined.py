"""Runs commands in small forked processes with limits, and measures what they used.

``python -m tests.confined`` is a server on its standard input and output: one JSON object a line asks for
some commands in a folder, one answers. It loads the program once and forks for every request, so that a
request costs milliseconds, its peak memory is its own, and whatever it does to its process ends with it.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FsPath
from typing import Any

import manifest_sync

ADDRESS_SPACE = 4 << 30
CPU_SECONDS = 60
WALL_SECONDS = 180
MAX_TEXT = 4000


@dataclass(frozen=True)
class Outcome:
    """What one command came to."""

    args: list[str]
    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Used:
    """What one request came to. ``signal`` is the one that ended it, 0 when none did."""

    outcomes: list[Outcome]
    peak_bytes: int
    signal: int


class Confined:
    """The client's side: starts the server and asks it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.confined"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=FsPath(__file__).parent.parent,
            # Each thread's own arena would only make the memory harder to compare.
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )

    def run(self, folder: FsPath, commands: Sequence[Sequence[str]]) -> Used:
        """Run ``commands`` one after the other in ``folder``, as the real command line would."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"folder": str(folder), "commands": [list(args) for args in commands]}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        outcomes = [Outcome(**outcome) for outcome in answer["outcomes"]]
        return Used(outcomes, answer["peak_bytes"], answer["signal"])

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def _serve() -> None:
    # What every request would otherwise load for itself; a folder as the bucket needs nothing of S3.
    for module in pkgutil.walk_packages(manifest_sync.__path__, "manifest_sync."):
        if "s3" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)
    importlib.import_module("sqlite_utils")
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        results = os.path.join(scratch, "results")
        child = os.fork()
        if child == 0:
            try:
                _confine()
                _run(request, scratch, results)
            finally:
                os._exit(0)
        status, usage = _wait(child)
        outcomes = []
        if os.path.exists(results):
            with open(results, encoding="utf-8") as file:
                outcomes = [json.loads(line) for line in file]
        return {
            "outcomes": outcomes,
            "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        }


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _wait(child: int) -> tuple[int, resource.struct_rusage]:
    give_up = time.monotonic() + WALL_SECONDS
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > give_up:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def _run(request: dict[str, Any], scratch: str, results: str) -> None:
    from manifest_sync.cli.main import main  # noqa: PLC0415

    os.chdir(request["folder"])
    with open(results, "a", encoding="utf-8") as file:
        for args in request["commands"]:
            paths = [os.path.join(scratch, name) for name in ("stdout", "stderr")]
            for descriptor, path in enumerate(paths, start=1):
                opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)
            code = main(args, standalone_mode=False)
            sys.stdout.flush()
            sys.stderr.flush()
            texts = []
            for path in paths:
                with open(path, encoding="utf-8", errors="replace") as output:
                    texts.append(output.read(MAX_TEXT))
            outcome = {"args": args, "code": code, "stdout": texts[0], "stderr": texts[1]}
            file.write(json.dumps(outcome) + "\n")
            file.flush()


if __name__ == "__main__":
    _serve()

"""Running one command as `launch` does, and telling success from failure."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Command:
    """A command line, where it runs, and what it has in its environment beside the usual."""

    words: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    succeeds: tuple[int, ...] = (0,)
    """Exit codes that mean that it did what it was asked."""

    @property
    def text(self) -> str:
        """For the report."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Taken:
    """Wall-clock and processor seconds, peak memory in bytes (of the largest process)."""

    seconds: float
    cpu: float
    peak: int


class Failed(Exception):
    """A tool did not do its job, and why: what it took is then no figure."""


class Launcher:
    """Runs commands one at a time; what they print is kept in one file until the next.

    Args:
        folder: for that file and the result.
        environment: all that a command sees of this process's environment.
        timeout: seconds after which a command is ended and has failed.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], timeout: float) -> None:
        self._result = folder / "result.json"
        self._output = folder / "stdout"
        self._errors = folder / "stderr"
        self._environment = dict(environment)
        self._timeout = timeout

    def run(self, command: Command) -> Taken:
        """Run to the end.

        Raises:
            Failed: another exit code than those that mean success, or too slow.
        """
        words = [sys.executable, "-I", "-S", str(LAUNCH), "--timeout", str(self._timeout), str(self._result)]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            subprocess.run(
                [*words, *command.words],
                cwd=command.folder,
                env={**self._environment, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                check=True,
            )
        found = json.loads(self._result.read_text("ascii"))
        code = found["exit"]
        if code not in command.succeeds:
            if code == -9 and found["seconds"] >= self._timeout:
                raise Failed(f"took more than {self._timeout:.0f} s")
            said = (self._errors.read_text(errors="replace") + self.output())[-400:].strip()
            raise Failed(f"exit {code}: {said}")
        return Taken(found["seconds"], found["cpu"], found["peak"])

    def output(self) -> str:
        """What the last command printed on stdout."""
        return self._output.read_text(errors="replace")

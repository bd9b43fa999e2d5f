"""Documents whose console blocks are run: the commands must work, and the output shown must be real.

A line ``NAME$ COMMAND`` is run by a shell in the folder of the machine NAME; the lines below it are what it
printed. `python -m tests.console_doc` writes the output of all of them anew, or of those that are named (see
`tests.guides`). What differs from run to run (ids, times, durations, sizes of what was compressed) is made
equal before the comparison, and so is the order of lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
PROMPT = re.compile(r"([a-z]+)\$ (.*)\Z")
WORLD = "/srv"
HOST = "ada"

_VARYING = (
    (re.compile(r"[0-9a-f]{12,64}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(Z|\.\d+)?)?"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? (s|ms|seconds?)\b"), "<duration>"),
    (re.compile(r"\b\d+(\.\d+)? ([KMG]i)?B\b"), "<size>"),
    (re.compile(r"\b\d+ requests?\b"), "<requests>"),
    (re.compile(r" +"), " "),
)
_FOREIGN = ("AWS_", "R2_", "RCLONE_", "MANIFEST_SYNC_", "XDG_", "GIT_")


def normal(text: str) -> list[str]:
    """The lines of an output without what varies, in a fixed order."""
    for pattern, placeholder in _VARYING:
        text = pattern.sub(placeholder, text)
    return sorted(line.rstrip() for line in text.splitlines())


def run(world: Path, machine: str, command: str) -> str:
    """What a command printed, stderr among it, with the folders and the host of the document."""
    folder = world / machine
    folder.mkdir(exist_ok=True)
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**inherited, "PATH": path, "HOME": str(world), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.replace(str(world), WORLD).replace(os.uname().nodename, HOST)


def commands(text: str) -> list[str]:
    """The commands of a document's sessions, without the names of the machines."""
    shown = [command for block in BLOCK.findall(text) for command, _ in _commands(block)]
    return [PROMPT.match(line).group(2) for line in shown]  # type: ignore[union-attr]


def replay(text: str, world: Path) -> list[tuple[str, str, str]]:
    """Run every command of a document in order: the command as shown, the output shown, the real output."""
    found = []
    for block in BLOCK.findall(text):
        for command, shown in _commands(block):
            machine, line = PROMPT.match(command).groups()  # type: ignore[union-attr]
            found.append((command, shown, run(world, machine, line.replace(WORLD, str(world)))))
    return found


def _commands(block: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in block.splitlines(keepends=True):
        if PROMPT.match(line.rstrip("\n")):
            found.append((line.rstrip("\n"), ""))
        else:
            command, shown = found[-1]
            found[-1] = (command, shown + line)
    return found


def check(document: Path, world: Path) -> int:
    """Run a document in a world that is made already; how many commands it has.

    Raises:
        AssertionError: a command printed something else than what the document shows.
    """
    steps = replay(document.read_text("utf-8"), world)
    for command, shown, real in steps:
        assert normal(shown) == normal(real), f"{command}\nprinted:\n{real}\nthe document shows:\n{shown}"
    return len(steps)


def rewrite(document: Path, make_world: Callable[[Path], None]) -> None:
    """Run a document's commands and put what they print below them."""
    text = document.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        make_world(world)
        outputs = iter(replay(text, world))

        def block(match: re.Match[str]) -> str:
            lines = []
            for command, _ in _commands(match[1]):
                _, _, real = next(outputs)
                lines.append(f"{command}\n{real.rstrip()}\n" if real.strip() else f"{command}\n")
            return "```console\n" + "".join(lines) + "```"

        document.write_text(BLOCK.sub(block, text), "utf-8")


if __name__ == "__main__":
    from tests.guides import rewrite_guides

    for written in rewrite_guides(sys.argv[1:]):
        sys.stdout.write(f"{written} was written anew\n")

"""What a person sees on a narrow terminal, without colour, and what goes into a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import UTC, timedelta, timezone
from pathlib import Path as FsPath

import pytest

from manifest_sync.cli.local_time import show_ns, show_recorded
from manifest_sync.cli.options import Settings
from manifest_sync.cli.status_output import print_status
from manifest_sync.cli.stdio import print_lines, write_stderr
from manifest_sync.cli.terminal import fold, fold_text, harmless, is_prose
from manifest_sync.model import Path
from manifest_sync.report import Conflict, Side, StatusReport
from tests.machines import Machine

WIDTH = 40


def test_sentences_are_broken_between_words_and_commands_are_not() -> None:
    line = "3 changed here; `manifest-sync push --copy` sends them"
    assert fold(line, WIDTH) == ["3 changed here;", "  `manifest-sync push --copy` sends them"]
    assert fold(line, 0) == [line]
    assert fold(line, len(line)) == [line]
    assert fold(f"  {line}", WIDTH, hang=4)[0] == "  3 changed here;"
    long = "in /a/folder/whose/name/is/longer/than/any/terminal/is/wide it is"
    assert fold(long, WIDTH) == [
        "in",
        "  /a/folder/whose/name/is/longer/than/any/terminal/is/wide",
        "  it is",
    ]


@pytest.mark.parametrize(
    ("line", "prose"),
    [
        ("push: 1 new, 0 changed", True),
        ("  `push --resolve local PATH` keeps this side", True),
        ("  exp1/a file with spaces.json", False),
        ("upload    exp1/a file with spaces.json", False),
        ("3  2026-11-25 01:42:02  undo 2: 20 files", False),
        ("    here:   12 B, changed 2026-11-25 01:42:02", False),
    ],
)
def test_paths_and_tables_are_left_as_they_are(line: str, prose: bool) -> None:
    assert is_prose(line) is prose
    assert (fold_text(f"{line}\nx", 20) == f"{line}\nx") is (not prose)


def test_nothing_that_someone_else_wrote_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert harmless("a\x1b[2J\x07b\x9b\nc é") == "a\\x1b[2J\\x07b\\x9b\nc é"
    print_lines(["a\x1bb"])
    write_stderr("a\x1bc")
    assert capsys.readouterr() == ("a\\x1bb\n", "a\\x1bc\n")
    evil = Side(1, 0, host="gpu\x1b[2J\nall is well", time="\x1b[31m")
    report = StatusReport(
        {"edit_edit": [Path(b"x")]}, conflicts=[Conflict(Path(b"x"), "edit_edit", None, evil)]
    )
    print_status(report, Settings())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nall is well" not in out


def test_people_get_their_own_time() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    assert show_ns(1_700_000_000_999_999_999, UTC) == "2023-11-14 22:13:20"
    assert show_ns(-1, east) == "1970-01-01 05:29:59"
    assert show_recorded("2026-11-20T12:00:00Z", east) == "2026-11-20 17:30:00"
    assert show_recorded("soon\x1b", east) == "soon\\x1b"


@pytest.fixture
def machine(tmp_path: FsPath) -> Machine:
    """With a conflict, and a file with a long name and one with an odd one."""
    bucket = str(tmp_path / "bucket")
    here, other = Machine(tmp_path / "here", bucket), Machine(tmp_path / "other", bucket)
    for one, text in ((here, "mine"), (other, "theirs")):
        one.write("both.json", text, mtime_ns=10**18)
    other.write("a-folder-with-a-long-name/a-file-with-a-long-name.json", "x")
    other.write("red\x1b[31m.json", "x")
    other.push()
    return here


def on_terminal(machine: Machine, *words: str) -> list[str]:
    """The lines of a command on a terminal that is narrow and shall have no colours."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "manifest_sync", *words],
        cwd=machine.folder,
        env={**env, "TERM": "xterm", "NO_COLOR": "1"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # what Linux says when nobody is left at the other end
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    process.wait()
    text = written.decode()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text), "colours"
    # A bar that was drawn and taken away again is no line.
    return [re.sub(r".*\r(\x1b\[[?0-9]*[A-Za-z])*", "", line) for line in text.split("\r\n")]


def test_a_narrow_terminal(machine: Machine) -> None:
    lines = on_terminal(machine, "status")
    wide = [line for line in lines if len(line) > WIDTH]
    assert all(line.startswith("  ") for line in wide), wide
    assert "  a-folder-with-a-long-name/a-file-with-a-long-name.json" in lines
    assert "  red\\x1b[31m.json" in lines
    assert "  side, `pull --resolve remote PATH`" in lines
    lines = on_terminal(machine, "push", "--full", "--new")
    assert lines == [
        "manifest-sync: --new and --full exclude",
        "  each other",
        "  use one of --new, --copy and --full",
        "",
    ]
    assert max(map(len, on_terminal(machine, "--help"))) <= WIDTH


def test_a_pipe_gets_whole_lines_and_nothing_else(machine: Machine) -> None:
    machine.env = {"COLUMNS": str(WIDTH)}
    found = machine.command("pull", "--copy")
    assert "\x1b" not in found.stdout + found.stderr
    assert "\r" not in found.stdout + found.stderr
    (headline,) = [line for line in found.stdout.splitlines() if line.startswith("pull --copy: ")]
    assert headline.endswith("; sequence 1")
    assert "`push --resolve local PATH` keeps this side, `pull --resolve remote PATH`" in found.stdout

"""Text for a terminal: nothing that someone else wrote moves its cursor, and sentences fit its width.

They are broken between words, and never within a command that is to be copied.
Paths, tables and whatever goes into a pipe or a file stay as they are: a terminal wraps a long path itself,
and what is copied from there is the path.
"""

from __future__ import annotations

import os
import re
import textwrap
from typing import IO

from manifest_sync.model import Path, display

_NARROWEST = 20
_COMMAND = re.compile(r"`[^`]*`")
_GLUE = "\0"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Lines without control characters, which would move the cursor or change the colours."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def display_text(text: str) -> str:
    """Text that someone else wrote, on one line and without control characters."""
    return display(Path(text.encode("utf-8", "surrogatepass")))


def columns_of(stream: IO[str]) -> int:
    """How wide the terminal of ``stream`` is; 0 when it is none, or too narrow to be one."""
    try:
        if not stream.isatty():
            return 0
        columns = int(os.environ.get("COLUMNS", "0"))
    except ValueError:
        columns = 0
    try:
        columns = columns if columns > 0 else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0
    return columns if columns >= _NARROWEST else 0


def is_prose(line: str) -> bool:
    """Whether a line of output is a sentence: not a path in a list, and no row of a table."""
    sentence = line.removeprefix("  ") if line.startswith("  `") else line
    return not sentence.startswith(" ") and "  " not in sentence


def fold(line: str, columns: int, *, hang: int = 2) -> list[str]:
    """The line in pieces that fit, as far as its words do.

    Args:
        columns: 0 for as long as it is.
        hang: how far all but the first piece are indented.
    """
    if not columns or len(line) <= columns:
        return [line]
    glued = _COMMAND.sub(lambda command: command[0].replace(" ", _GLUE), line)
    pieces = textwrap.wrap(
        glued,
        columns,
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return [piece.replace(_GLUE, " ") for piece in pieces]


def fold_text(text: str, columns: int) -> str:
    """Each sentence among the lines of a text in pieces that fit."""
    if not columns:
        return text
    lines = [fold(line, columns) if is_prose(line) else [line] for line in text.split("\n")]
    return "\n".join(piece for pieces in lines for piece in pieces)

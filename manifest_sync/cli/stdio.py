"""Writing to stdout and stderr: bytes, lines that fit a terminal, a JSON object, an error and its hint."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from manifest_sync.cli.terminal import columns_of, fold, fold_text, harmless
from manifest_sync.errors import ManifestSyncError


class OutputClosedError(Exception):
    """Whoever read our stdout went away; nothing more can be told."""


def write_bytes(data: bytes) -> None:
    """Write to stdout at once.

    Raises:
        OutputClosedError: the pipe is closed.
    """
    left = memoryview(data)
    try:
        while left:
            # With PYTHONUNBUFFERED this is the bare file, which may take less than it is given.
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def write_line(text: str) -> None:
    """One line on stdout; what the terminal cannot show is escaped instead of failing the run."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    write_bytes(text.encode(encoding, "backslashreplace") + b"\n")


def write_stderr(text: str, *, hang: int = -1) -> None:
    """One message on stderr; a stderr that nobody reads does not fail the run.

    Args:
        hang: the text is one line, and what does not fit goes on below it, so far indented; less than 0:
            sentences are folded, and what else is among the lines is not.
    """
    columns = columns_of(sys.stderr)
    text = harmless(text)
    text = fold_text(text, columns) if hang < 0 else "\n".join(fold(text, columns, hang=hang))
    try:
        click.echo(text.encode("utf-8", "backslashreplace"), err=True)
    except OSError:
        return


def print_lines(lines: Iterable[str]) -> None:
    """Lines for people on stdout; sentences among them are folded to fit a terminal."""
    text = "\n".join(lines)
    if text:
        write_line(fold_text(harmless(text), columns_of(sys.stdout)))


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout; odd bytes in names are escaped, as ``os.fsdecode`` writes them."""
    write_bytes(json.dumps(value).encode("ascii") + b"\n")


def print_error(error: ManifestSyncError) -> None:
    """What went wrong, and what to do about it, on stderr."""
    write_stderr(f"manifest-sync: {error.message}")
    if error.hint:
        write_stderr(f"  {error.hint}", hang=2)

"""What ``log`` and ``ls`` print."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, tzinfo
from itertools import chain
from typing import Any

from manifest_sync.cli.local_time import show_ns, show_time
from manifest_sync.cli.options import Settings
from manifest_sync.cli.stdio import write_bytes
from manifest_sync.cli.stream import shown_path, write_batches
from manifest_sync.cli.terminal import display_text
from manifest_sync.cli.words import human_size
from manifest_sync.errors import ManifestSyncError
from manifest_sync.history import LogRecord
from manifest_sync.manifest import Manifest
from manifest_sync.model import Entry, json_path
from manifest_sync.times import parse_rfc3339, rfc3339_ns
from manifest_sync.times import rfc3339 as show_utc

ID_DIGITS = 12


def print_entries(
    snapshot: Manifest,
    first: Entry | None,
    rest: Iterator[Entry],
    settings: Settings,
    *,
    with_details: bool,
    zone: tzinfo = UTC,
) -> None:
    """The listing of ``ls``, streamed: a million entries are never held at once."""
    entries = rest if first is None else chain([first], rest)
    if settings.json:
        settings.json_begun = True
        head = {"command": "ls", "sequence": snapshot.sequence, "snapshot": snapshot.snapshot, "entries": []}
        write_bytes(json.dumps(head)[:-2].encode("ascii"))
        try:
            write_batches(
                (b", " if number else b"") + json.dumps(entry_json(entry)).encode("ascii")
                for number, entry in enumerate(entries)
            )
        except ManifestSyncError as error:
            # The object is begun: the error becomes a part of it.
            told = {"error": error.code, "message": error.message, "hint": error.hint}
            write_bytes(b"], " + json.dumps(told)[1:].encode("ascii") + b"\n")
            raise
        write_bytes(b"]}\n")
        return
    write_batches(
        (_details(entry, zone) if with_details else b"") + shown_path(entry.path) + b"\n" for entry in entries
    )


def _details(entry: Entry, zone: tzinfo) -> bytes:
    return f"{entry.size:>12}  {show_ns(entry.mtime_ns, zone)}  {entry.hash.hex()[:16]}  ".encode("ascii")


def entry_json(entry: Entry) -> dict[str, Any]:
    """One entry of ``ls --json``; ``mode`` is octal text, as for ``chmod``."""
    return {
        "path": json_path(entry.path),
        "type": entry.type.value,
        "size": entry.size,
        "mtime": rfc3339_ns(entry.mtime_ns),
        "mtime_ns": entry.mtime_ns,
        "mode": f"{entry.mode:04o}",
        "hash": entry.hash.hex(),
        "host": entry.writer.host,
    }


def describe(snapshot: Manifest, zone: tzinfo) -> str:
    """A snapshot in half a line."""
    moment = parse_rfc3339(snapshot.time)
    when = "" if moment is None else f" of {show_time(moment, zone)}"
    return f"sequence {snapshot.sequence}{when} by {display_text(snapshot.host)}"


def record_json(record: LogRecord) -> dict[str, Any]:
    """One snapshot of ``log --json``; of one that cannot be read its place and ``problem``."""
    if record.problem:
        return {
            "sequence": record.sequence,
            "snapshot": record.id,
            "pins": list(record.pins),
            "problem": record.problem,
            "hint": record.hint,
        }
    return {
        "sequence": record.sequence,
        "snapshot": record.id,
        "time": None if record.time is None else show_utc(record.time),
        "host": record.host,
        "machine": record.machine,
        "message": record.message,
        "files": record.files,
        "bytes": record.bytes,
        "stored_bytes": record.stored_bytes,
        "files_change": record.files_change,
        "bytes_change": record.bytes_change,
        "gc": record.is_collection,
        "pins": list(record.pins),
    }


class LogLines:
    """The lines of ``log`` for people, cut to the terminal; a pipe gets one whole line a snapshot."""

    def __init__(self, zone: tzinfo, *, verbose: bool) -> None:
        self._zone = zone
        self._verbose = verbose
        self._columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        self._digits = 0

    def lines(self, record: LogRecord) -> Iterator[str]:
        """The lines of one snapshot."""
        self._digits = self._digits or len(str(record.sequence))
        place = f"{record.sequence:>{self._digits}}  {record.id[:ID_DIGITS]:<{ID_DIGITS}}"
        marks = "".join(f"[{display_text(mark)}] " for mark in _marks(record))
        if record.problem:
            yield f"{place}  {marks}{display_text(record.problem)}"
            return
        when = "(no time)" if record.time is None else show_time(record.time, self._zone)[:16]
        files = f"{record.files:>7,} {'file' if record.files == 1 else 'files':<5}"
        totals = f"{files} {_change(record):<6} {human_size(record.bytes):>8}"
        first, *more = display_lines(record.message) or [""]
        said = f"{display_text(record.host)}  {marks}{first}"
        yield from self._fitted(f"{place}  {when:<16}", totals, said.rstrip())
        if self._verbose:
            indent = " " * (self._digits + 2)
            yield from (f"{indent}{line}" for line in more)
            yield f"{indent}snapshot {record.id}, {human_size(record.stored_bytes)} stored in all"

    def _fitted(self, *parts: str) -> Iterator[str]:
        """One line if the terminal has room for the first two parts; else a line each, the last one cut."""
        line = "  ".join(parts)
        if not self._columns or len(line) <= self._columns:
            yield line
        elif len("  ".join(parts[:2])) + 10 <= self._columns:
            yield cut(line, self._columns)
        else:
            yield cut(parts[0], self._columns)
            indent = " " * (self._digits + 2)
            yield from (cut(indent + part.strip(), self._columns) for part in parts[1:] if part)


def _marks(record: LogRecord) -> Iterable[str]:
    if record.is_collection:
        yield "gc"
    for name in record.pins:
        yield f"pin: {name}" if name else "pin"


def _change(record: LogRecord) -> str:
    return f"{record.files_change:+,}" if record.files_change else ""


def cut(line: str, columns: int) -> str:
    """A line no longer than the terminal is wide."""
    return line if len(line) <= columns else line[: max(columns - 1, 0)] + "…"


def display_lines(text: str) -> list[str]:
    """The same for text of several lines."""
    return [display_text(line) for line in text.splitlines()]

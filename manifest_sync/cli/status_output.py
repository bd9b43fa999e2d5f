"""What ``status`` and ``trash`` print."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, tzinfo
from itertools import chain
from typing import TYPE_CHECKING, Any

from manifest_sync.cli.local_time import show_ns, show_recorded
from manifest_sync.cli.options import Settings
from manifest_sync.cli.output import (
    CASES,
    MOST_PATHS,
    RESOLVE,
    damage_lines,
    path_lines,
    selection_lines,
    skipped_lines,
)
from manifest_sync.cli.stdio import print_lines
from manifest_sync.cli.terminal import display_text
from manifest_sync.cli.words import counted, human_size, number
from manifest_sync.model import Path, display, json_path
from manifest_sync.report import Conflict, Side, StatusReport

if TYPE_CHECKING:
    from manifest_sync.trash import EmptyReport, RunTrash


def print_status(report: StatusReport, settings: Settings, zone: tzinfo = UTC) -> None:
    """The drift, one group a case, with the command that settles it."""
    sides = {conflict.path: conflict for conflict in report.conflicts}
    lines: list[str] = []
    conflict = False
    for case in chain(CASES, sorted(set(report.cases) - set(CASES))):
        paths = report.cases.get(case, [])
        if not paths:
            continue
        _, heading, way = CASES.get(case, ("", case, ""))
        conflict = conflict or heading.startswith("conflict")
        lines.append(f"{heading}: {number(len(paths))}{'; ' + way if way else ''}")
        lines += path_lines(paths, settings, lambda path: _with_sides(path, sides.get(path), zone))
    if conflict:
        lines.append(RESOLVE)
    lines += damage_lines(report.damaged, settings) + skipped_lines(report.skipped, settings)
    if report.two_owners:
        count = len(report.two_owners)
        lines.append(f"two owners, git and the bucket: {number(count)}; `owners` says why and what to do")
        lines += path_lines(report.two_owners, settings, display)
    if settings.quiet:
        print_lines(lines)
        return
    if report.dropped:
        count = len(report.dropped)
        lines.append(f"{number(count)} dropped here; `restore PATH` brings them back")
        if settings.verbose:
            lines += path_lines(report.dropped, settings, display)
    seen = "the bucket as it was last seen, " if report.offline else ""
    verdict = "" if report.has_drift else "no drift: "
    lines.append(f"{verdict}{number(report.unchanged)} unchanged; {seen}sequence {report.sequence}")
    lines += selection_lines(report.selection)
    if report.trash_files:
        lines.append(f"{number(report.trash_files)} in the trash, {human_size(report.trash_bytes)}")
    if report.trash_sole:
        lines.append("of these, the bucket as it is now does not hold:")
        lines += path_lines(report.trash_sole, settings, display)
    print_lines(lines)


def _with_sides(path: Path, conflict: Conflict | None, zone: tzinfo) -> str:
    if conflict is None:
        return display(path)
    here, there = _side(conflict.local, zone), _side(conflict.remote, zone)
    return f"{display(path)}\n    here:   {here}\n    bucket: {there}"


def _side(side: Side | None, zone: tzinfo) -> str:
    if side is None:
        return "nothing"
    text = f"{human_size(side.size)}, changed {show_ns(side.mtime_ns, zone)}"
    if not side.time:
        return text
    return f"{text}, sent by {display_text(side.host)} {show_recorded(side.time, zone)}"


def print_trash(runs: Sequence[RunTrash], settings: Settings, zone: tzinfo = UTC) -> None:
    """The runs, newest first, and the files of each; one without files only while it can be taken back."""
    lines: list[str] = []
    for run in runs:
        count = len(run.files)
        if run.undone and not count:
            continue
        undone = ", undone" if run.undone else ""
        size = f"{counted(count, 'file')}, {human_size(run.bytes)}"
        if not count:
            size = f"nothing is kept of it; `undo {run.header.run}` takes it back"
        lines.append(
            f"{run.header.run}  {show_recorded(run.header.time, zone)}  {run.header.command}: {size}{undone}"
        )
        shown = run.files if settings.verbose else run.files[:MOST_PATHS]
        lines += [f"  {'*' if kept.is_sole else ' '} {display(kept.path)}" for kept in shown]
        if len(shown) < count:
            lines.append(f"    and {number(count - len(shown))} more (-v lists all)")
    if any(kept.is_sole for run in runs for kept in run.files):
        lines.append("* the bucket as it is now does not hold this: it stays until `trash empty --sole`")
    print_lines(lines or ["the trash is empty"])


def trash_json(run: RunTrash) -> dict[str, Any]:
    """One run of ``trash list --json``."""
    return {
        "run": run.header.run,
        "command": run.header.command,
        "time": run.header.time,
        "undone": run.undone,
        "bytes": run.bytes,
        "files": [
            {"path": json_path(kept.path), "size": kept.size, "sole": kept.is_sole} for kept in run.files
        ],
    }


def print_empty(report: EmptyReport, settings: Settings) -> None:
    """What ``trash empty`` did."""
    lines = [f"{counted(report.files, 'file')} removed, {human_size(report.bytes)}"]
    if report.kept_sole:
        count = len(report.kept_sole)
        lines.append(f"{number(count)} kept: the bucket does not hold them (--sole removes them too)")
        lines += path_lines(report.kept_sole, settings, display)
    print_lines(lines)

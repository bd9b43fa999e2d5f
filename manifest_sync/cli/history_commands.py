"""``log``, ``ls``, ``cat`` and ``diff``: look back, and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from manifest_sync.cli.options import (
    SNAPSHOT,
    TREE_PATH,
    Names,
    Pattern,
    common_options,
    from_command_line,
    open_project,
    option,
    settings_of,
    split_names,
)
from manifest_sync.cli.output import skipped_lines
from manifest_sync.cli.stdio import write_bytes, write_line, write_stderr
from manifest_sync.errors import UsageError
from manifest_sync.model import json_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

    from manifest_sync.manifest import Manifest

AT_HELP = (
    "A sequence number, a prefix of an id, a pin, or a time ('2 days ago', 2026-11-20); NAME~2 goes 2 back."
)
_SHOWN = 20


@click.command()
@click.argument("path", type=TREE_PATH, default="")
@option("-n", "--count", type=click.IntRange(min=1), metavar="N", help=f"How many (default: {_SHOWN}).")
@option("--all", "everything", is_flag=True, help="All that are kept.")
@common_options
@click.pass_context
def log(ctx: click.Context, path: str, count: int | None, everything: bool) -> int:
    """List the snapshots of the bucket, newest first; with PATH those that changed a file there.

    A line has the sequence number, the id, the time, the files and bytes in the bucket then, how many
    files more or fewer than before, the host, and the message. -v shows whole ids and messages.
    """
    from manifest_sync.cli.history_output import LogLines, record_json  # noqa: PLC0415
    from manifest_sync.cli.stream import JsonLists  # noqa: PLC0415

    if everything and from_command_line(ctx, "count"):
        raise UsageError("-n and --all do not go together", "use one of them")
    settings = settings_of(ctx)
    hints: dict[str, None] = {}
    limit = None if everything else count or _SHOWN
    shown, has_older = 0, False
    with open_project(settings) as project, JsonLists("snapshots") as found:
        lines = LogLines(project.zone, verbose=settings.verbose)
        for record in project.log(limit, path):
            shown += 1
            has_older = record.has_older and shown == limit
            if record.problem:
                hints.setdefault(record.hint)
            if settings.json:
                found.add("snapshots", record_json(record))
            else:
                for line in lines.lines(record):
                    write_line(line)
        if settings.json:
            found.write(settings, {"command": "log", "has_older": has_older, "damaged": bool(hints)})
            return 7 if hints else 0
    for hint in hints:
        write_stderr(f"manifest-sync: damaged snapshots: {hint}")
    if path and not shown and not settings.quiet:
        write_stderr(f"no snapshot that is kept has anything at {path}")
    if has_older and not settings.quiet:
        write_stderr("older ones: -n N or --all")
    return 7 if hints else 0


@click.command()
@click.argument("path", type=TREE_PATH, default="")
@option("--at", type=SNAPSHOT, metavar="SNAPSHOT", default="", help=AT_HELP)
@option("-l", "--long", "with_details", is_flag=True, help="Size, time and hash before each path.")
@common_options
@click.pass_context
def ls(ctx: click.Context, path: str, at: str, with_details: bool) -> int:
    """List the files in the bucket, all or those at PATH, now or in an older snapshot."""
    from manifest_sync.cli.history_output import print_entries  # noqa: PLC0415

    settings = settings_of(ctx)
    with open_project(settings) as project, project.history() as history:
        snapshot = history.at(at)
        _say_which(at, snapshot, project.zone, quiet=settings.quiet)
        entries = history.ls(snapshot, project.scope([path] if path else []))
        # The first entry is fetched before anything is printed, so that a failure to reach the bucket
        # is still reported as one error object.
        first = next(entries, None)
        if first is None and path:
            raise history.not_there(snapshot, project.path(path))
        print_entries(snapshot, first, entries, settings, with_details=with_details, zone=project.zone)
    return 0


@click.command()
@click.argument("path", type=TREE_PATH)
@option("--at", type=SNAPSHOT, metavar="SNAPSHOT", default="", help=AT_HELP)
@common_options
@click.pass_context
def cat(ctx: click.Context, path: str, at: str) -> int:
    """Write one file of the bucket to stdout, as it is now or was in an older snapshot.

    Every byte is verified before it is written; of a symlink the target is printed.
    """
    settings = settings_of(ctx)
    if settings.json:
        raise UsageError(
            "cat writes a file's bytes, not JSON", f"`manifest-sync ls {path} --json` describes it"
        )
    with open_project(settings) as project, project.history() as history:
        snapshot = history.at(at)
        _say_which(at, snapshot, project.zone, quiet=settings.quiet)
        for piece in history.read(snapshot, project.path(path)):
            write_bytes(piece)
    return 0


@click.command()
@click.argument("a", type=SNAPSHOT, default="")
@click.argument("b", type=SNAPSHOT, default="")
@option("--only", multiple=True, type=Names(), help="A folder under the root; repeat, or use commas.")
@option("--exclude", multiple=True, type=Pattern(), metavar="PATTERN", help="Leave out what matches.")
@option("--with", "groups", multiple=True, type=Names(), help="A group that is else left out.")
@option("--exit-code", "use_exit_code", is_flag=True, help="Exit with 1 when anything differs.")
@common_options
@click.pass_context
def diff(
    ctx: click.Context,
    a: str,
    b: str,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    groups: tuple[str, ...],
    use_exit_code: bool,
) -> int:
    """List what snapshot B has otherwise than snapshot A.

    Without B: what the tree here has otherwise than A. Without both: than the bucket. Content, type and
    the executable bit are compared. -v shows sizes and times, before and after.
    """
    from manifest_sync.cli.diff_output import Tally, difference_json, difference_line, side_json  # noqa: PLC0415
    from manifest_sync.cli.stream import JsonLists, Spool, write_batches  # noqa: PLC0415

    settings = settings_of(ctx)
    names = split_names("--only", only)
    with_groups = split_names("--with", groups)
    tally = Tally()
    with JsonLists("added", "changed", "deleted") as lists, Spool() as spool:
        with (
            open_project(settings) as project,
            project.diff(a, b, only=names, exclude=exclude, groups=with_groups) as comparison,
        ):

            def lines() -> Iterator[bytes]:
                for difference in comparison.differences:
                    tally.add(difference)
                    yield difference_line(difference, project.zone, verbose=settings.verbose)

            if settings.json:
                for difference in comparison.differences:
                    tally.add(difference)
                    lists.add(difference.kind.value, difference_json(difference))
            elif b:
                write_batches(lines())
            else:
                # The lock is held here: what is printed could stand in a pager for hours.
                for line in lines():
                    spool.add(line)
            skipped = sorted(comparison.skipped.items())
            requests = dict(project.store().requests)
            summary = tally.line(comparison, project.zone)
        if settings.json:
            fields = {
                "command": "diff",
                "a": side_json(comparison.before),
                "b": side_json(comparison.after),
                "bytes_change": tally.bytes_change,
                "skipped": [{"path": json_path(path), "reason": reason} for path, reason in skipped],
                "requests": requests,
            }
            lists.write(settings, fields)
        else:
            spool.write()
    if not settings.json:
        if skipped:
            write_stderr("\n".join(skipped_lines(skipped, settings)))
        if not settings.quiet:
            write_stderr(summary)
    if use_exit_code and tally.counts:
        return 1
    return 3 if skipped else 0


def _say_which(at: str, snapshot: Manifest, zone: tzinfo, *, quiet: bool) -> None:
    """Which snapshot was meant, where that is not plain from the words."""
    from manifest_sync.cli.history_output import describe  # noqa: PLC0415

    if at and at != str(snapshot.sequence) and not quiet:
        write_stderr(f"{at}: {describe(snapshot, zone)}")

"""``gc``, ``pin`` and ``unpin``: what the bucket keeps, and what it lets go."""

from __future__ import annotations

from datetime import tzinfo
from typing import TYPE_CHECKING

import click

from manifest_sync.cli.local_time import show_time
from manifest_sync.cli.options import (
    SNAPSHOT,
    Settings,
    common_options,
    open_project,
    option,
    settings_of,
)
from manifest_sync.cli.output import MOST_PATHS
from manifest_sync.cli.stdio import print_json, print_lines
from manifest_sync.cli.words import counted, human_size
from manifest_sync.times import parse_age

if TYPE_CHECKING:
    from manifest_sync.gc.gc import GcReport
    from manifest_sync.pins import PinReport


@click.command()
@option(
    "--keep-last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the last N snapshots (default: 10, and those of 30 days).",
)
@option("--keep-within", metavar="AGE", help="Keep the snapshots younger than AGE, such as 30d.")
@option(
    "--min-age",
    metavar="AGE",
    default="24h",
    show_default=True,
    help="Leave what was written less long ago: a push that is under way may still use it.",
)
@option("--no-repack", is_flag=True, help="Leave packs as they are, however much of them is dead.")
@option("--apply", is_flag=True, help="Do it; without, only say what would be freed.")
@common_options
@click.pass_context
def gc(
    ctx: click.Context,
    keep_last: int | None,
    keep_within: str | None,
    min_age: str,
    no_repack: bool,
    apply: bool,
) -> int:
    """Free what no snapshot that is kept needs any more.

    Kept are the last 10 snapshots, those of the last 30 days, and pins. With --keep-last or --keep-within
    only what they name is kept, and pins.
    """
    settings = settings_of(ctx)
    within = None if keep_within is None else parse_age(keep_within)
    age = parse_age(min_age)
    with open_project(settings) as project:
        report = project.gc(
            keep_last=keep_last, keep_within=within, min_age=age, repack=not no_repack, apply=apply
        )
    if settings.json:
        print_json(report.to_json())
    elif not settings.quiet:
        print_lines(_gc_lines(report, settings, project.zone))
    return 0


def _gc_lines(report: GcReport, settings: Settings, zone: tzinfo) -> list[str]:
    lines = []
    dropped = report.dropped if settings.verbose else report.dropped[:MOST_PATHS]
    for member in dropped:
        time = "" if member.time is None else show_time(member.time, zone)[:16]
        lines.append(f"  {member.sequence:>6}  {time:16}  {member.snapshot[:12]}")
    if len(dropped) < len(report.dropped):
        lines.append(f"  and {len(report.dropped) - len(dropped):,} more (-v lists all)")
    if lines:
        verb = "would go" if report.dry_run else "went"
        lines.insert(0, f"{counted(len(report.dropped), 'snapshot')} {verb}:")
    if report.repacked:
        lines.append(
            f"{'would be ' if report.dry_run else ''}written anew: "
            f"{counted(report.repacked, 'mostly dead pack')}, {human_size(report.repacked_live)} used, "
            f"{human_size(report.repacked_dead)} not; the old ones go with the last snapshot that names them"
        )
    total = f"{counted(report.objects, 'object')}, {human_size(report.bytes)}"
    if report.dry_run:
        lines.append(f"dry run, gc: would free {total}; nothing was done, --apply does it")
    else:
        lines.append(f"gc: freed {total}; sequence {report.sequence}")
    if report.objects:
        kinds = [
            f"{counted(count, kind[:-1])} ({human_size(size)})"
            for kind, (count, size) in report.freed.items()
            if count
        ]
        lines.append(f"  {', '.join(kinds)}")
    if report.young:
        lines.append(f"{counted(report.young, 'unused object')} younger than --min-age: left for a later run")
    if report.more:
        lines.append("there is more than fits into one list: run gc again")
    oldest = report.kept[-1].sequence if report.kept else report.sequence
    pins = f", and {counted(report.pins, 'pin')}" if report.pins else ""
    lines.append(f"kept: {counted(len(report.kept), 'snapshot')} from sequence {oldest} on{pins}")
    return lines


@click.command()
@click.argument("snapshot", type=SNAPSHOT)
@option("--name", metavar="TEXT", default="", help="What to call it; --at takes the name too.")
@common_options
@click.pass_context
def pin(ctx: click.Context, snapshot: str, name: str) -> int:
    """Keep SNAPSHOT for ever.

    SNAPSHOT is a sequence number, a prefix of an id, or a time such as "2 days ago". No gc takes it until it
    is unpinned.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.pin(snapshot, name)
    _print_pins(report, settings)
    return 0


@click.command()
@click.argument("snapshot", type=SNAPSHOT)
@common_options
@click.pass_context
def unpin(ctx: click.Context, snapshot: str) -> int:
    """Let go of a pinned SNAPSHOT.

    SNAPSHOT is the pin's name, a sequence number or a prefix of an id. A later gc takes the snapshot if it is
    too old.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.unpin(snapshot)
    _print_pins(report, settings)
    return 0


def _print_pins(report: PinReport, settings: Settings) -> None:
    if settings.json:
        print_json(report.to_json())
        return
    if settings.quiet:
        return
    verb = "pinned" if report.command == "pin" else "unpinned"
    state = verb if report.changed else f"was {verb} already:"
    lines = [f"{state} sequence {report.pin.sequence} ({report.pin.snapshot[:12]})"]
    lines += [f"  {pin.sequence}  {pin.snapshot[:12]}  {pin.name}".rstrip() for pin in report.pins]
    print_lines(lines)

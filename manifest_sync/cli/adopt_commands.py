"""``adopt``: take over what other tools have put into a bucket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from manifest_sync.cli.options import (
    FOLDER,
    Message,
    Names,
    Pattern,
    Settings,
    common_options,
    open_project,
    option,
    settings_of,
    split_names,
)
from manifest_sync.cli.output import path_lines, skipped_lines
from manifest_sync.cli.stdio import print_json, print_lines, write_stderr
from manifest_sync.cli.words import counted, human_size, number
from manifest_sync.model import display

if TYPE_CHECKING:
    from manifest_sync.adopt.report import AdoptReport


@click.command()
@click.argument("url", type=FOLDER, metavar="URL")
@option("-n", "--dry-run", is_flag=True, help="Say what would be adopted, and what has to be read for it.")
@option("--only", multiple=True, type=Names(), help="A folder under the root; repeat, or use commas.")
@option("--with", "groups", multiple=True, type=Names(), help="A group that is else left out.")
@option("--exclude", multiple=True, type=Pattern(), help="Leave out, in gitignore syntax; repeat.")
@option("--message", type=Message(), metavar="TEXT", default="", help="Recorded with the snapshot.")
@common_options
@click.pass_context
def adopt(
    ctx: click.Context,
    url: str,
    dry_run: bool,
    only: tuple[str, ...],
    groups: tuple[str, ...],
    exclude: tuple[str, ...],
    message: str,
) -> int:
    """Take over the objects at URL where they lie.

    URL names what corresponds to the root: s3://BUCKET/PREFIX in the store of this project's bucket, an
    rclone remote there, or a folder if the bucket is one. Nothing is copied, changed or deleted there, now or
    later.

    A file that is here too is only read here; other objects are read once over the network. Run it again to
    take over what is new or changed there since.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.adopt(
            url,
            only=split_names("--only", only),
            exclude=list(exclude),
            groups=split_names("--with", groups),
            dry_run=dry_run,
            message=message,
            base=os.getcwd(),
        )
    if settings.json:
        print_json(report.to_json())
        return report.exit_code
    problems = _conflict_lines(report, settings) + skipped_lines(report.skipped, settings)
    if settings.quiet:
        if problems:
            write_stderr("\n".join(problems))
    else:
        print_lines([*_lines(report, settings), *problems])
    return report.exit_code


def _lines(report: AdoptReport, settings: Settings) -> list[str]:
    lines = []
    if report.dry_run:
        lines += path_lines(report.paths, settings, display)
    found = report.new + report.changed
    taken = f"{number(report.new)} new, {number(report.changed)} changed, {human_size(report.adopted_bytes)}"
    here = f"{number(report.matched)} of them here too"
    if report.dry_run:
        to_read = f"{number(report.to_read)} to be read from there ({human_size(report.to_read_bytes)})"
        lines.append(f"dry run, adopt: would be {taken}; {here}, {to_read}; nothing was done")
    elif not found:
        lines.append(f"adopt: nothing new there; sequence {report.sequence}")
    else:
        read = f"{number(report.read)} read from there ({human_size(report.bytes)})"
        requests = sum(report.requests.values())
        cost = f"{counted(requests, 'request')}, {report.seconds:.1f} s"
        lines.append(f"adopt: {taken}; {here}, {read}; {cost}; sequence {report.sequence}")
    left = [
        (report.unchanged, "in the bucket already"),
        (report.superseded, "changed or deleted by a push since they were adopted"),
        (report.excluded, "left out by rules, groups or what is tracked here"),
    ]
    lines += [f"{number(count)} {what}" for count, what in left if count]
    if report.differing:
        lines.append(
            f"{number(report.differing)} differ from the file here: `manifest-sync status` lists them, "
            "`push --resolve local` sends the files of here"
        )
    return lines


def _conflict_lines(report: AdoptReport, settings: Settings) -> list[str]:
    if not report.conflicts:
        return []
    count = len(report.conflicts)
    lines = [f"{number(count)} not adopted: the bucket has another file at the path, or a folder:"]
    lines += path_lines(report.conflicts, settings, display)
    return [*lines, "  remove it there, or the file in the bucket, and run adopt again"]

"""``track`` and ``untrack``: which part of the tree this machine looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from manifest_sync.cli.options import (
    TREE_PATH,
    Settings,
    common_options,
    open_project,
    option,
    settings_of,
)
from manifest_sync.cli.stdio import print_json, print_lines
from manifest_sync.cli.words import counted
from manifest_sync.model import display

if TYPE_CHECKING:
    from manifest_sync.tracking import TrackReport


@click.command()
@click.argument("paths", nargs=-1, type=TREE_PATH, metavar="[PATH]...")
@option("--all", "everything", is_flag=True, help="Look at everything again.")
@common_options
@click.pass_context
def track(ctx: click.Context, paths: tuple[str, ...], everything: bool) -> int:
    """Let this machine look at PATH; without PATH list what it looks at.

    The first PATH makes a selection: from then on push, pull, sync, status and diff here touch nothing else.
    More PATHs add to it. What was dropped of them comes back with the next pull.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.track(paths, everything=everything)
    _print(report, settings)
    return 0


@click.command()
@click.argument("paths", nargs=-1, type=TREE_PATH, required=True, metavar="PATH...")
@common_options
@click.pass_context
def untrack(ctx: click.Context, paths: tuple[str, ...]) -> int:
    """Let this machine no longer look at PATH. The files stay, here and in the bucket."""
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.untrack(paths)
    _print(report, settings)
    if not settings.json and not settings.quiet:
        print_lines([f"`manifest-sync drop {' '.join(paths)}` removes the copies here that the bucket holds"])
    return 0


def _print(report: TrackReport, settings: Settings) -> None:
    if settings.json:
        print_json(report.to_json())
        return
    lines = []
    if report.unsent:
        count = report.unsent
        lines.append(
            f"{counted(count, 'file')} no longer looked at and not in the bucket as here: "
            "`track` them again to push them"
        )
    if not settings.quiet:
        if report.selection:
            lines += ["this machine tracks:", *(f"  {display(path)}" for path in report.selection)]
        else:
            lines.append("this machine tracks everything")
        if report.lifted:
            count = report.lifted
            lines.append(f"{counted(count, 'dropped file')} will come back with the next `pull`")
    print_lines(lines)

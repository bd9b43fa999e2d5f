"""``restore``, ``undo``, ``drop`` and ``trash``: getting content back, and making room without losing any."""

from __future__ import annotations

import click

from manifest_sync.cli.options import (
    FOLDER,
    SNAPSHOT,
    TREE_PATH,
    common_options,
    open_project,
    option,
    settings_of,
)
from manifest_sync.cli.output import print_run
from manifest_sync.cli.status_output import print_empty, print_trash, trash_json
from manifest_sync.cli.stdio import print_json
from manifest_sync.model import json_path


@click.command()
@click.argument("paths", nargs=-1, type=TREE_PATH, required=True, metavar="PATH...")
@option(
    "--at",
    type=SNAPSHOT,
    metavar="SNAPSHOT",
    default="",
    help="A sequence number, id, or time (default: the head).",
)
@option(
    "--to",
    type=FOLDER,
    metavar="DIR",
    default="",
    help="Write the files below DIR instead of into the tree.",
)
@option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@common_options
@click.pass_context
def restore(ctx: click.Context, paths: tuple[str, ...], at: str, to: str, dry_run: bool) -> int:
    """Bring files back as a snapshot has them.

    What they replace goes to the trash; a later push sends them like any local edit. PATH is a file or a
    folder, relative to the root.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.restore(paths, at, to, dry_run=dry_run)
    print_run(report, settings)
    return report.exit_code


@click.command()
@click.argument("paths", nargs=-1, type=TREE_PATH, required=True, metavar="PATH...")
@option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@common_options
@click.pass_context
def drop(ctx: click.Context, paths: tuple[str, ...], dry_run: bool) -> int:
    """Free disk: remove local copies of what the bucket holds.

    That is no deletion: a push leaves the bucket as it is, and a pull skips them until `restore` brings them
    back. What differs from the bucket stays.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.drop(paths, dry_run=dry_run)
    print_run(report, settings)
    return report.exit_code


@click.command()
@click.argument("run", default="")
@common_options
@click.pass_context
def undo(ctx: click.Context, run: str) -> int:
    """Take back what a pull, restore or drop did here: the last one, or RUN.

    A file that has changed since is left as it is. The bucket is not touched. `trash list` shows the runs.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.undo(run)
    print_run(report, settings)
    return report.exit_code


@click.group()
def trash() -> None:
    """What pulls, restores and undos replaced or deleted here."""


@trash.command("list")
@common_options
@click.pass_context
def trash_list(ctx: click.Context) -> int:
    """List what is in the trash, by run, newest first; `*` marks what the bucket does not hold."""
    settings = settings_of(ctx)
    with open_project(settings) as project:
        runs = project.trash()
    if settings.json:
        print_json({"command": "trash list", "runs": [trash_json(run) for run in runs]})
    else:
        print_trash(runs, settings, project.zone)
    return 0


@trash.command("empty")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@option("--sole", is_flag=True, help="Also what the bucket does not hold: the last copy goes.")
@common_options
@click.pass_context
def trash_empty(ctx: click.Context, runs: tuple[str, ...], sole: bool) -> int:
    """Remove what is in the trash for good: all of it, or that of RUN.

    What the bucket does not hold stays unless --sole is given.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.empty_trash(runs, sole=sole)
    if settings.json:
        kept = [json_path(path) for path in report.kept_sole]
        found = {"command": "trash empty", "files": report.files, "bytes": report.bytes, "kept_sole": kept}
        print_json(found)
    else:
        print_empty(report, settings)
    return 0

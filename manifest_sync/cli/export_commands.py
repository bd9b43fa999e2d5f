"""``export``: plain files under their own paths, somewhere else."""

from __future__ import annotations

from typing import IO

import click

from manifest_sync.cli.options import (
    FOLDER,
    SNAPSHOT,
    Names,
    Pattern,
    common_options,
    open_project,
    option,
    settings_of,
    split_names,
)
from manifest_sync.cli.output import print_run
from manifest_sync.cli.sync_commands import read_paths


@click.command()
@click.argument("destination", type=FOLDER, metavar="DEST")
@option("--only", multiple=True, type=Names(), help="A folder under the root; repeat, or use commas.")
@option("--files-from", type=click.File("rb"), help="Paths, one a line; - reads stdin.")
@option("--exclude", multiple=True, type=Pattern(), help="Leave out, in gitignore syntax; repeat.")
@option(
    "--at",
    type=SNAPSHOT,
    metavar="SNAPSHOT",
    default="",
    help="A sequence number, id, or time (default: the head).",
)
@option("--prune", is_flag=True, help="Delete at DEST what is not among the files exported.")
@option("--max-delete", metavar="N|N%", help="How many deletions are meant (default: half).")
@option("--dest-endpoint", metavar="URL", default="", help="Of DEST, where it is not the project's.")
@option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@common_options
@click.pass_context
def export(
    ctx: click.Context,
    destination: str,
    only: tuple[str, ...],
    files_from: IO[bytes] | None,
    exclude: tuple[str, ...],
    at: str,
    prune: bool,
    max_delete: str | None,
    dest_endpoint: str,
    dry_run: bool,
) -> int:
    """Write files from the bucket to DEST as plain files, under their own paths.

    DEST is a folder, s3://bucket/prefix, or an rclone remote. What is there already is not written again.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.export(
            destination,
            only=split_names("--only", only),
            files_from=read_paths(files_from),
            exclude=exclude,
            at=at,
            prune=prune,
            max_delete=max_delete,
            dry_run=dry_run,
            endpoint_url=dest_endpoint,
        )
    print_run(report, settings)
    return report.exit_code

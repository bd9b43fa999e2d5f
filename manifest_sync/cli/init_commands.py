"""``init`` and ``rebuild-index``: start a project, and start its local state anew."""

from __future__ import annotations

import os

import click

from manifest_sync.cli.options import common_options, open_project, option, settings_of
from manifest_sync.cli.output import print_json, print_lines, print_run


@click.command()
@click.argument("bucket", envvar="MANIFEST_SYNC_BUCKET")
@option("--root", metavar="DIR", help="The folder to keep in the bucket (default: experiments).")
@option("--endpoint-url", metavar="URL", help="Where the store answers, when it is not AWS.")
@option("--single-writer", is_flag=True, help="Use a store without conditional writes: one machine pushes.")
@common_options
@click.pass_context
def init(
    ctx: click.Context, bucket: str, root: str | None, endpoint_url: str | None, single_writer: bool
) -> int:
    """Make this folder a project that keeps its data in BUCKET.

    BUCKET is s3://bucket/prefix, a folder, file:///folder, or remote:bucket/prefix with a remote of your
    rclone.conf. When there is a repository already, this folder joins it.
    """
    from manifest_sync.cli.progress import make_progress  # noqa: PLC0415
    from manifest_sync.project import Project  # noqa: PLC0415

    settings = settings_of(ctx)
    with make_progress(quiet=settings.quiet) as progress:
        report = Project.init(
            os.getcwd(),
            bucket,
            root=root,
            endpoint_url=endpoint_url,
            single_writer=single_writer,
            env=os.environ,
            progress=progress,
        )
    if settings.json:
        print_json(
            {
                "command": "init",
                "project": report.project_dir,
                "location": report.location,
                "created": report.created,
                "sequence": report.sequence,
                "rules": list(report.rules),
            }
        )
    elif not settings.quiet:
        did = (
            "made a repository in"
            if report.created
            else f"joined the repository (sequence {report.sequence}) in"
        )
        then = "`manifest-sync push`" if report.created else "`manifest-sync pull`"
        lines = [f"{did} {report.location}", f"project: {report.project_dir}"]
        if report.rules:
            lines += ["left out by the rules in manifest-sync.toml:", *(f"  {rule}" for rule in report.rules)]
        print_lines([*lines, f"next: look at manifest-sync.toml, then {then}"])
    return 0


@click.command("rebuild-index")
@common_options
@click.pass_context
def rebuild_index(ctx: click.Context) -> int:
    """Make the local index anew: read every file again and compare it with the bucket.

    What is the same on both sides counts as agreed; nothing is overwritten or deleted.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.rebuild_index()
    print_run(report, settings)
    return report.exit_code

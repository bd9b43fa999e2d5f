"""``init`` and ``rebuild-index``: start a project, and start its local state anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from manifest_sync.cli.options import FOLDER, common_options, open_project, option, settings_of
from manifest_sync.cli.output import print_run
from manifest_sync.cli.stdio import print_json, print_lines

if TYPE_CHECKING:
    from manifest_sync.cli.init_questions import Start
    from manifest_sync.initialize import InitReport
    from manifest_sync.proposal import Proposal


@click.command()
@click.argument("bucket", type=FOLDER, metavar="[BUCKET]", envvar="MANIFEST_SYNC_BUCKET", required=False)
@option("--root", metavar="DIR", help="The folder to keep in the bucket (default: experiments).")
@option("--endpoint-url", metavar="URL", help="Where the store answers, when it is not AWS.")
@option("--single-writer", is_flag=True, help="Use a store without conditional writes: one machine pushes.")
@common_options
@click.pass_context
def init(
    ctx: click.Context, bucket: str | None, root: str | None, endpoint_url: str | None, single_writer: bool
) -> int:
    """Make this folder a project that keeps its data in BUCKET.

    BUCKET is s3://bucket/prefix, a folder, file:///folder, or remote:bucket/prefix with a remote of your
    rclone.conf. When there is a repository already, this folder joins it. In a folder that has a
    manifest-sync.toml, BUCKET can be left out.

    The place is tried before anything is written here: what the key may do, and whether of several writers
    that race for one object one wins. Rules are proposed for manifest-sync.toml, and shown with what they
    leave out of the tree that is here.

    On a terminal you are asked whether to write them, and for what is missing: bucket, endpoint, root, and
    a key where none is found. A key that you type can be kept in the .env here; it goes nowhere else.
    """
    from manifest_sync.cli.init_questions import Start, accept_rules, ask_and_start, may_ask  # noqa: PLC0415
    from manifest_sync.cli.progress import make_progress  # noqa: PLC0415
    from manifest_sync.project import Project  # noqa: PLC0415

    settings = settings_of(ctx)
    directory = os.getcwd()
    answers: dict[Proposal, bool] = {}

    def accept(proposal: Proposal) -> bool:
        if proposal not in answers:
            answers[proposal] = accept_rules(proposal)
        return answers[proposal]

    def run(start: Start) -> InitReport:
        with make_progress(quiet=settings.quiet) as progress:
            return Project.init(
                directory,
                start.bucket,
                root=start.root,
                endpoint_url=start.endpoint_url,
                single_writer=single_writer,
                keys=start.keys if start.keep else None,
                env={**start.keys, **os.environ},
                progress=progress,
                accept=accept if may_ask(settings) else None,
            )

    start = Start(bucket, root, endpoint_url)
    if may_ask(settings):
        report, start = ask_and_start(directory, start, os.environ, run)
    else:
        report = run(start)
    if settings.json:
        print_json(
            {
                "command": "init",
                "project": report.project_dir,
                "location": report.location,
                "created": report.created,
                "sequence": report.sequence,
                "rules": list(report.rules),
                "selected": report.selected.to_json() if report.selected else None,
                "rights": asdict(report.rights) if report.rights else None,
            }
        )
    elif not settings.quiet:
        print_lines(_init_lines(report, start))
    return 0


def _init_lines(report: InitReport, start: Start) -> Iterator[str]:
    yield (
        f"made a repository in {report.location}"
        if report.created
        else f"joined the repository (sequence {report.sequence}) in {report.location}"
    )
    yield f"project: {report.project_dir}"
    if report.rights is not None:
        yield f"this key: {report.rights.describe()}"
    if report.saved:
        yield f"the key is in .env; written: {', '.join(report.saved)}"
    elif start.keys:
        yield "the key is kept nowhere: set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY for the next command"
    if report.rules:
        counts = {one.rule: one.describe() for one in report.selected.left_out} if report.selected else {}
        yield "left out by the rules in manifest-sync.toml:"
        for rule in report.rules:
            count = counts.pop(" ".join(rule.split()), "")
            yield f"  {rule:<28} {count}".rstrip()
        yield from (f"  {rule:<28} {count}" for rule, count in counts.items())
    then = "`manifest-sync push`" if report.created else "`manifest-sync pull`"
    yield f"next: look at manifest-sync.toml, then {then}"


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

"""``status``: look, and change nothing."""

from __future__ import annotations

import click

from manifest_sync.cli.options import Names, common_options, open_project, option, settings_of, split_names
from manifest_sync.cli.status_output import print_status
from manifest_sync.cli.stdio import print_json


@click.command()
@option("--offline", is_flag=True, help="Compare with the bucket as it was last seen; send no request.")
@option("--exit-code", "use_exit_code", is_flag=True, help="Exit with 1 when anything differs.")
@option("--only", multiple=True, type=Names(), help="A folder under the root; repeat, or use commas.")
@option("--with", "groups", multiple=True, type=Names(), help="A group that is else left out.")
@common_options
@click.pass_context
def status(
    ctx: click.Context,
    offline: bool,
    use_exit_code: bool,
    only: tuple[str, ...],
    groups: tuple[str, ...],
) -> int:
    """Show what differs between here and the bucket."""
    settings = settings_of(ctx)
    names = split_names("--only", only)
    with_groups = split_names("--with", groups)
    with open_project(settings) as project:
        report = project.status(offline=offline, only=names, groups=with_groups)
    if settings.json:
        print_json(report.to_json())
    else:
        print_status(report, settings, project.zone)
    if report.damaged:
        return 7
    if use_exit_code and report.has_drift:
        return 1
    return 3 if report.skipped else 0

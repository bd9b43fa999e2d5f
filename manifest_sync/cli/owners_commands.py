"""``owners``: who keeps a path, and what nobody or everybody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from manifest_sync.cli.options import (
    TREE_PATH,
    Names,
    common_options,
    open_project,
    option,
    settings_of,
    split_names,
)
from manifest_sync.cli.output import damage_lines, path_lines, skipped_lines
from manifest_sync.cli.stdio import print_json, print_lines
from manifest_sync.cli.words import number
from manifest_sync.config import CONFIG_NAME
from manifest_sync.errors import UsageError
from manifest_sync.model import display

if TYPE_CHECKING:
    from manifest_sync.cli.options import Settings
    from manifest_sync.owners import Explained, OwnersReport

_OWNERS = {"git": "git's", "bucket": "the bucket's", "neither": "nobody's"}


@click.command()
@click.argument("paths", nargs=-1, type=TREE_PATH, metavar="[PATH]...")
@option("--only", multiple=True, type=Names(), help="A folder under the root; repeat, or use commas.")
@option("--with", "groups", multiple=True, type=Names(), help="A group that counts as asked for.")
@option("--offline", is_flag=True, help="Take the bucket as it was last seen; send no request.")
@option("--exit-code", "use_exit_code", is_flag=True, help="Exit with 1 when a file has two owners.")
@common_options
@click.pass_context
def owners(
    ctx: click.Context,
    paths: tuple[str, ...],
    only: tuple[str, ...],
    groups: tuple[str, ...],
    offline: bool,
    use_exit_code: bool,
) -> int:
    """Say who owns PATH and by which rule: git, the bucket or nobody.

    Without PATH: list the files that both git and the bucket own, and those that nobody keeps.
    """
    settings = settings_of(ctx)
    names, with_groups = split_names("--only", only), split_names("--with", groups)
    if paths:
        if names or use_exit_code or offline:
            raise UsageError("PATH goes with no option but --with", "leave out PATH to list files")
        with open_project(settings) as project:
            found = project.explain(paths, with_groups)
        if settings.json:
            print_json({"command": "owners", "paths": [one.to_json() for one in found]})
        else:
            print_lines(_explanation(one) for one in found)
        return 0
    if with_groups:
        raise UsageError("--with goes with PATH", "what a group holds is the bucket's in any case")
    with open_project(settings) as project:
        report = project.owners(only=names, offline=offline)
    if settings.json:
        print_json(report.to_json())
    else:
        print_lines(_lists(report, settings))
    return report.exit_code or int(use_exit_code and bool(report.two_owners))


def _explanation(found: Explained) -> str:
    from manifest_sync.ownership import RESERVED_RULE, TRACKED_RULE  # noqa: PLC0415

    verdict = found.verdict
    name = (display(found.path) or ".") + ("/" if found.folder and found.path else "")
    parts = [f"{name}: {_OWNERS[verdict.owner]}"]
    if verdict.rule == TRACKED_RULE:
        parts[0] += "; git tracks it"
    elif verdict.rule == RESERVED_RULE:
        parts[0] += "; the name is reserved"
    elif found.line:
        parts[0] += f', by "{verdict.rule}" ({CONFIG_NAME}, line {found.line})'
    else:
        parts[0] += f"; {verdict.rule}"
    above = f" for {display(found.decided_at)}/" if found.decided_at != found.path else ""
    if verdict.group:
        parts.append(f"in the group {verdict.group}{above}: left out unless --with {verdict.group}")
    else:
        parts[0] += above
    if verdict.owner == "git" and not found.tracked and not found.folder:
        parts.append("git does not track it")
    if verdict.owner != "git" and found.tracked:
        parts.append("git tracks it too")
    if verdict.owner != "bucket" and found.in_bucket:
        parts.append("the bucket holds it too")
    if not found.here and found.path:
        parts.append("nothing is there now" if not found.in_bucket else "it is not here")
    return "; ".join(parts)


def _lists(report: OwnersReport, settings: Settings) -> list[str]:
    lines: list[str] = []
    for heading, found, advice in (
        (
            "two owners",
            report.two_owners,
            "push and pull leave what is git's alone, so the bucket's version only gets old; "
            "`git rm --cached PATH`, or another rule, gives it back to the bucket",
        ),
        (
            "no owner",
            report.no_owner,
            "nobody keeps these: `git add` what git should keep, or change the rules",
        ),
    ):
        reasons = dict.fromkeys(reason for _, reason in found)
        for reason in reasons:
            paths = [path for path, why in found if why == reason]
            if not settings.quiet or heading == "two owners":
                lines.append(f"{heading}, {number(len(paths))}: {reason}")
                lines += path_lines(paths, settings, display)
        if reasons and not settings.quiet:
            lines.append(f"  {advice}")
    lines += damage_lines(report.damaged, settings) + skipped_lines(report.skipped, settings)
    if not lines and not settings.quiet:
        lines.append("every file has one owner")
    return lines

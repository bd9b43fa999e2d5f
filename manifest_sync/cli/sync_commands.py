"""``push``, ``pull`` and ``sync``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from manifest_sync.cli.options import (
    SNAPSHOT,
    TREE_PATH,
    Message,
    Names,
    Pattern,
    common_options,
    from_command_line,
    open_project,
    option,
    settings_of,
    split_names,
    with_options,
)
from manifest_sync.cli.output import print_run, print_sync
from manifest_sync.cli.verify_commands import run_repair
from manifest_sync.config import MODES
from manifest_sync.errors import UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SCOPE = (
    option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    option("--only", multiple=True, type=Names(), help="A folder under the root; repeat, or use commas."),
    option("--files-from", type=click.File("rb"), help="Paths, one a line; - reads stdin."),
    option("--with", "groups", multiple=True, type=Names(), help="A group that is else left out."),
    option("--exclude", multiple=True, type=Pattern(), help="Leave out, in gitignore syntax; repeat."),
)
_SHARED = (
    option("--new", is_flag=True, help="Only files that are new (the default)."),
    option("--copy", is_flag=True, help="New and changed files; deletes nothing."),
    option("--full", is_flag=True, help="New and changed files, and deletions."),
    option("--checksum", is_flag=True, help="Read every local file again; alone it means --full."),
    *_SCOPE,
    option(
        "--resolve",
        type=click.Choice(["local", "remote", "both"]),
        help="Settle conflicts, or those at PATH, for one side, or keep both versions.",
    ),
    option("--delete-unknown", is_flag=True, help="With --full: an exact mirror."),
    option("--max-delete", metavar="N|N%", help="How many deletions are meant (default: half)."),
)


_REPAIR = """\
With --repair no change is sent: what `verify` finds missing or damaged is written again, from the files,
the trash and the caches here. Run it on each machine that may have some of it; an ordinary push follows
when you want one.

A lost page is a list of some files. With --drop-lost the current state lets go of the pages that are not
kept here either, and the files of them that are here are sent again. Try --repair on every other machine
first, for one that keeps the page loses nothing, and use --drop-lost where the files are newest. Other
machines then see what is missing here as deleted: `push --resolve local FOLDER` there sends it again.
"""


def _shared_options(command: _Command) -> _Command:
    return with_options(_SHARED)(
        click.argument("paths", nargs=-1, type=TREE_PATH, metavar="[PATH]...")(command)
    )


@click.command(epilog=_REPAIR)
@_shared_options
@option("--message", type=Message(), metavar="TEXT", default="", help="Recorded with the snapshot.")
@option("--repair", is_flag=True, help="Upload what is missing or damaged in the bucket, and nothing else.")
@option("--read-data", is_flag=True, help="With --repair: look for damage by reading every byte.")
@option("--drop-lost", is_flag=True, help="With --repair: give up lists of files that no machine keeps.")
@common_options
@click.pass_context
def push(
    ctx: click.Context, /, message: str, repair: bool, read_data: bool, drop_lost: bool, **given: Any
) -> int:
    """Send this side's changes to the bucket.

    New files only, unless a flag or the configuration asks for more. Never undoes what another machine did:
    what both changed is a conflict, and stays until --resolve settles it, for all of them or those at PATH.
    """
    if repair:
        refuse_beside_repair(ctx, given)
        return run_repair(
            ctx, read_data=read_data, drop_lost=drop_lost, dry_run=given["dry_run"], message=message
        )
    if drop_lost:
        raise UsageError("--drop-lost goes with --repair", "see `manifest-sync push --help`")
    if read_data:
        raise UsageError(
            "--read-data goes with --repair", "to look only, use `manifest-sync verify --read-data`"
        )
    return _run(ctx, "push", given, message=message)


@click.command()
@_shared_options
@option("--restore-deleted", is_flag=True, help="Bring back files that were deleted here.")
@option(
    "--at",
    type=SNAPSHOT,
    metavar="SNAPSHOT",
    default="",
    help="Make the tree like an earlier state of the bucket.",
)
@common_options
@click.pass_context
def pull(ctx: click.Context, /, restore_deleted: bool, at: str, **given: Any) -> int:
    """Bring the bucket's changes here.

    New files only, unless a flag or the configuration asks for more. What it replaces or deletes goes to the
    trash first. What both sides changed is a conflict, and stays until --resolve settles it, for all of them
    or those at PATH.
    """
    if at:
        return _pull_at(ctx, at, given, restore_deleted=restore_deleted)
    return _run(ctx, "pull", given, restore_deleted=restore_deleted)


@click.command()
@with_options(_SCOPE)
@option("--checksum", is_flag=True, help="Read every local file again.")
@option("--message", type=Message(), metavar="TEXT", default="", help="Recorded with the snapshot.")
@common_options
@click.pass_context
def sync(ctx: click.Context, /, checksum: bool, message: str, **given: Any) -> int:
    """Pull, then push: what is new or changed on either side comes to the other.

    It is `pull --copy` followed by `push --copy`: nothing is deleted on either side, and what both changed is
    a conflict, which is listed and stays.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.sync(
            **_scope_options(given), list_actions=settings.verbose, checksum=checksum, message=message
        )
    print_sync(report, settings)
    return report.exit_code


def _scope_options(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "dry_run": given["dry_run"],
        "only": split_names("--only", given["only"]),
        "files_from": read_paths(given["files_from"]),
        "groups": split_names("--with", given["groups"]),
        "exclude": list(given["exclude"]),
    }


def _run(ctx: click.Context, command: str, given: dict[str, Any], **own: Any) -> int:
    settings = settings_of(ctx)
    options = {
        "mode": choose_mode(ctx, given),
        "checksum": given["checksum"],
        **_scope_options(given),
        "resolve": given["resolve"],
        "resolve_paths": list(given["paths"]),
        "delete_unknown": given["delete_unknown"],
        "max_delete": given["max_delete"],
        "list_actions": settings.verbose,
        **own,
    }
    if given["paths"] and not given["resolve"]:
        raise UsageError(
            f"{given['paths'][0]}: paths go with --resolve",
            f"to {command} only some folders, use --only NAME",
        )
    with open_project(settings) as project:
        report = project.push(**options) if command == "push" else project.pull(**options)
    print_run(report, settings)
    return report.exit_code


def refuse_beside_repair(ctx: click.Context, given: dict[str, Any]) -> None:
    """--repair looks at everything and sends no changes, so nothing may choose among them.

    Raises:
        UsageError: an option that would was typed.
    """
    typed = [name for name in given if name != "dry_run" and from_command_line(ctx, name) and given[name]]
    if typed:
        name = "PATH" if typed[0] == "paths" else f"--{typed[0].replace('_', '-')}"
        raise UsageError(
            f"{name} and --repair exclude each other",
            "--repair sends no changes; run an ordinary push after it",
        )


def _pull_at(ctx: click.Context, at: str, given: dict[str, Any], *, restore_deleted: bool) -> int:
    settings = settings_of(ctx)
    for name, value in (
        ("--resolve", given["resolve"]),
        ("--restore-deleted", restore_deleted),
        ("--checksum", given["checksum"]),
    ):
        if value:
            raise UsageError(
                f"{name} and --at exclude each other", "--at compares with a snapshot, not the base"
            )
    with open_project(settings) as project:
        report = project.pull_at(
            at,
            choose_mode(ctx, given),
            only=[*split_names("--only", given["only"]), *read_paths(given["files_from"])],
            exclude=list(given["exclude"]),
            groups=split_names("--with", given["groups"]),
            delete_unknown=given["delete_unknown"],
            dry_run=given["dry_run"],
            max_delete=given["max_delete"],
        )
    print_run(report, settings)
    return report.exit_code


def choose_mode(ctx: click.Context, given: dict[str, Any]) -> str | None:
    """The mode asked for, None for the configured one; a typed flag outdoes the environment.

    Raises:
        UsageError: more than one.
    """
    asked = [mode for mode in MODES if given[mode]]
    typed = [mode for mode in asked if from_command_line(ctx, mode)]
    chosen = typed or asked
    if len(chosen) > 1:
        names = " and ".join(f"--{mode}" for mode in chosen)
        raise UsageError(f"{names} exclude each other", "use one of --new, --copy and --full")
    if chosen:
        return chosen[0]
    return "full" if given["checksum"] else None


def read_paths(file: IO[bytes] | None) -> list[str]:
    """The paths in ``file``, one a line, or between NULs when there are any (``find -print0``).

    Raises:
        UsageError: there is none, which must not come to mean everything.
    """
    if file is None:
        return []
    data = file.read()
    lines = data.split(b"\0") if b"\0" in data else [li.removesuffix(b"\r") for li in data.split(b"\n")]
    paths = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise UsageError("--files-from names no path", "leave it out to select everything")
    return paths

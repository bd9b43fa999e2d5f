"""docs/cli.md is made from the help of the commands: ``python -m tests.cli_doc``, or ``make docs``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from manifest_sync.cli.main import main

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """\
# The command line

Made from `manifest-sync COMMAND --help` by `make docs`; edit the help, not this page.

Commands work from any folder inside the project. Results go to stdout; progress, warnings and notes go to
stderr, bars only to a terminal. Every option can be set in the environment too: `--max-delete` is
`MANIFEST_SYNC_MAX_DELETE`. An AGE is a number and a unit: `90m`, `36h`, `30d`, `2w`, `0s`. A SNAPSHOT is a
sequence number, the beginning of an id, the name of a pin, or a time (`2026-11-20`, `2 days ago`). What
`--json` prints is described in [json.md](json.md).
"""
EXIT_CODES = """\
## Exit codes

| code | meaning |
|---|---|
| 0 | all that was selected is done, or there was nothing to do |
| 1 | another failure; with `--exit-code`: there is a difference, or a file has two owners |
| 2 | the command line, the environment or the configuration is wrong |
| 3 | done, but some files were skipped (unreadable, changing), or nothing is at a name that was asked for |
| 5 | the store failed for now; try again |
| 6 | there are conflicts, or an overwrite was refused; nothing was lost |
| 7 | damaged, unknown or rolled-back state |
| 8 | a safety limit stopped it; nothing was done |
| 10 | there is no repository there |
| 11 | the race for the head was lost too often, or another process holds the local lock |
| 12 | credentials or permissions were refused |
| 130 | interrupted |
"""
COMMON = {"json", "quiet", "verbose", "debug", "accept_rollback", "jobs", "bwlimit"}
"""Options that may stand before and behind the name of a command: described once."""


def render() -> str:
    """The document as it should be."""
    top = click.Context(main, info_name="manifest-sync")
    common = [option for option in main.params if option.name in COMMON]
    parts = [HEAD, "## Options of every command\n", *_options(common, top)]
    for context in _commands(top):
        command = context.command
        level = "##" if context.parent is top else "###"
        parts.append(f"\n{level} {context.command_path.removeprefix('manifest-sync ')}\n")
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts.append(f"```\n{usage}\n```\n")
        parts.append(_prose(command.help or ""))
        own = [param for param in command.params if param.name not in COMMON]
        parts += _options(own, context)
        if command.epilog:
            parts.append(f"\n{_prose(command.epilog)}")
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*parts, "", EXIT_CODES]))


def _commands(parent: click.Context) -> Iterator[click.Context]:
    group = parent.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=parent)
        yield context
        if isinstance(command, click.Group):
            yield from _commands(context)


def _prose(text: str) -> str:
    """A help text as paragraphs; what stands behind a form feed is for readers of the code."""
    text = inspect.cleandoc(text.split("\f", maxsplit=1)[0]).replace("\b\n", "")
    return f"{text}\n"


def _options(params: list[click.Parameter], context: click.Context) -> list[str]:
    rows = []
    for param in params:
        record = param.get_help_record(context) if isinstance(param, click.Option) else None
        if record is not None:
            names, meaning = (_cell(text) for text in record)
            rows.append(f"| `{names}` | {meaning} |")
    return ["| option | meaning |\n|---|---|", *rows] if rows else []


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    DOCUMENT.write_text(render(), "utf-8")
    sys.stdout.write(f"{DOCUMENT} was written anew\n")

"""``watch``: push as files come to rest, until a signal stops it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from manifest_sync.cli.local_time import show_time
from manifest_sync.cli.options import (
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
from manifest_sync.cli.output import action_lines, path_lines, problem_lines
from manifest_sync.cli.stdio import print_json, print_lines, write_stderr
from manifest_sync.cli.words import human_size, number
from manifest_sync.errors import UsageError
from manifest_sync.model import display, json_path
from manifest_sync.report import RunReport
from manifest_sync.times import parse_age, rfc3339

if TYPE_CHECKING:
    from manifest_sync.project import Project

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@option("--new", is_flag=True, help="Only files that are new.")
@option("--copy", is_flag=True, help="New and changed files (the default); deletes nothing.")
@option("--only", multiple=True, type=Names(), help="A folder under the root; repeat, or use commas.")
@option("--with", "groups", multiple=True, type=Names(), help="A group that is else left out.")
@option("--exclude", multiple=True, type=Pattern(), help="Leave out, in gitignore syntax; repeat.")
@option("--interval", metavar="AGE", default="60s", show_default=True, help="Push no more often than this.")
@option(
    "--settle",
    metavar="AGE",
    default="5s",
    show_default=True,
    help="Send a file when nothing has touched it for so long.",
)
@option("--message", type=Message(), metavar="TEXT", default="", help="Recorded with each snapshot.")
@common_options
@click.pass_context
def watch(ctx: click.Context, /, interval: str, settle: str, message: str, **given: Any) -> int:
    """Push new and changed files as they come to rest, until it is stopped.

    For a machine that may vanish: start it beside the training run. It looks at everything first, then at
    what changes. A file that is being written is left until nothing has touched it for --settle; .jsonl,
    .ndjson and .log files are sent as they grow. Nothing is deleted; conflicts are reported and left. While
    the bucket cannot be reached it goes on and tries again.

    SIGTERM, SIGINT (Ctrl-C) and SIGHUP end it with a last push; a second one ends it at once. The exit code
    is that of the last push: 0 when all that is there is in the bucket, 3 when a file never came to rest.

    With --json it prints one JSON object for each snapshot that it publishes, a line each.
    """
    if given["new"] and given["copy"]:
        raise UsageError("--new and --copy exclude each other", "use one of them")
    settings = settings_of(ctx)
    from manifest_sync.watch import WatchOptions  # noqa: PLC0415

    options = WatchOptions(parse_age(interval).total_seconds(), parse_age(settle).total_seconds())
    with open_project(settings, hushed=not settings.verbose) as project, _stopping() as stop:
        if not settings.quiet:
            write_stderr(
                f"watching {project.root}: what has not been touched for {settle} is pushed, "
                f"every {interval} at most; Ctrl-C or SIGTERM ends it with a last push"
            )
        report = project.watch(
            options,
            _Teller(project, settings),
            lambda: stop.is_asked,
            mode="new" if given["new"] else "copy",
            only=split_names("--only", given["only"]),
            groups=split_names("--with", given["groups"]),
            exclude=list(given["exclude"]),
            message=message,
        )
    if report.last.waiting:
        lines = [f"{number(len(report.last.waiting))} not sent, because they were still changing:"]
        write_stderr("\n".join(lines + path_lines(report.last.waiting, settings, display)))
    return report.exit_code


class _Stop:
    """Whether a signal has asked to stop. The second one interrupts whatever is going on."""

    is_asked = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """The handler; it runs in the main thread, between two steps of whatever that does."""
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """Take the signals that ask a program to stop, as far as they are not ignored (``nohup``)."""
    stop = _Stop()
    before = {asked: signal.getsignal(asked) for asked in _SIGNALS}
    taken = [asked for asked in _SIGNALS if before[asked] is not signal.SIG_IGN]
    for asked in taken:
        signal.signal(asked, stop)
    try:
        yield stop
    finally:
        for asked in taken:
            signal.signal(asked, before[asked])


class _Teller:
    """Prints what a watch tells: a line a snapshot on stdout, all else on stderr."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings

    def published(self, report: RunReport) -> None:
        """See `watch.Teller`."""
        now = self._project.now()
        if self._settings.json:
            waiting = [json_path(path) for path in report.waiting]
            print_json({**report.to_json(), "command": "watch", "time": rfc3339(now), "waiting": waiting})
        elif not self._settings.quiet:
            stored = f", {human_size(report.bytes)} ({human_size(report.stored_bytes)} stored)"
            print_lines(
                [
                    *(action_lines(report, self._settings) if self._settings.verbose else ()),
                    f"{show_time(now, self._project.zone)}  {number(report.new)} new, "
                    f"{number(report.changed)} changed{stored}; sequence {report.sequence}",
                ]
            )

    def problems(self, report: RunReport) -> None:
        """See `watch.Teller`."""
        write_stderr("\n".join(problem_lines(report, self._settings)))

    def note(self, text: str) -> None:
        """See `watch.Teller`; with ``--quiet`` too, because only what goes wrong is told."""
        write_stderr(f"{show_time(self._project.now(), self._project.zone)}  {text}", hang=2)

"""What all commands share: the environment as options, the common flags, opening the project.

Nothing here imports the project itself at start-up, so that ``--help`` stays instant.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from manifest_sync.errors import UsageError
from manifest_sync.model import DEFAULT_JOBS, MAX_MESSAGE

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from manifest_sync.project import Project

ENV_PREFIX = "MANIFEST_SYNC_"

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """The common options of one run."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    accept_rollback: bool = False
    jobs: int = 0
    bwlimit: str = "0"
    json_begun: bool = False
    """Part of a JSON object is on stdout already, so an error can no longer be printed there."""


class Option(click.Option):
    """An option that ``MANIFEST_SYNC_<NAME>`` sets too, whichever command it belongs to."""

    def __init__(self, param_decls: Sequence[str] | None = None, **attrs: Any) -> None:
        super().__init__(param_decls, **attrs)
        if self.envvar is None:
            longest = max(self.opts, key=len)
            self.envvar = ENV_PREFIX + longest.lstrip("-").replace("-", "_").upper()


class Names(click.types.StringParamType):
    """A name of which the command line takes several: repeated, or with commas between."""

    name = "name"
    envvar_list_splitter = ","

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        param: click.Parameter,
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        """Groups of the configuration, or paths."""
        from manifest_sync.cli import complete  # noqa: PLC0415

        return (complete.groups if param.name == "groups" else complete.path_lists)(incomplete)


class Completed(click.types.StringParamType):
    """Text that a shell completes with what a function of `complete` finds."""

    def __init__(self, function: str) -> None:
        self._function = function

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        """What is found."""
        from manifest_sync.cli import complete  # noqa: PLC0415

        items: list[CompletionItem[str]] = getattr(complete, self._function)(incomplete)
        return items


TREE_PATH = Completed("paths")
SNAPSHOT = Completed("snapshots")
FOLDER = Completed("folders")


class Pattern(click.types.StringParamType):
    """A pattern in gitignore syntax; in the environment one a line, because patterns hold anything else."""

    name = "pattern"
    envvar_list_splitter = "\n"


class Message(click.types.StringParamType):
    """A text recorded with a snapshot: whether it can be is learned before anything is sent."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, as it is."""
        text = str(super().convert(value, param, ctx))
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("it is not UTF-8", param, ctx)
        if len(text) > MAX_MESSAGE:
            self.fail(f"it has {len(text):,} characters, and at most {MAX_MESSAGE:,} are kept", param, ctx)
        return text


def option(*names: str, **attrs: Any) -> Callable[[_Command], _Command]:
    """``click.option`` for an `Option`."""
    return click.option(*names, cls=Option, **attrs)


def with_options(options: Sequence[Callable[[Any], Any]]) -> Callable[[_Command], _Command]:
    """A decorator that adds ``options`` to a command, in the order in which its help lists them."""

    def decorate(command: _Command) -> _Command:
        for add in reversed(options):
            command = add(command)
        return command

    return decorate


def split_names(option_name: str, values: Sequence[str]) -> list[str]:
    """The names in ``values``, commas taken apart.

    Raises:
        UsageError: an option was given and names nothing, which must not come to mean everything.
    """
    names = [name.strip() for value in values for name in value.split(",")]
    found = [name for name in names if name]
    if values and not found:
        raise UsageError(f"{option_name} was given without a name", f"leave {option_name} out to select all")
    return found


def from_command_line(ctx: click.Context, name: str) -> bool:
    """Whether the parameter was typed, not taken from the environment or the default."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    settings = ctx.find_root().ensure_object(Settings)
    assert param.name is not None
    # The group parses first; after it, only what was typed behind the command may change a setting.
    if ctx.parent is None or from_command_line(ctx, param.name):
        setattr(settings, param.name, value)


_COMMON = (
    option("--json", is_flag=True, expose_value=False, callback=_store, help="Print one JSON object."),
    option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_store, help="Say only what went wrong."
    ),
    option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_store,
        help="List every path, and why it travels.",
    ),
    option("--debug", is_flag=True, expose_value=False, callback=_store, help="Show tracebacks."),
    option(
        "--accept-rollback",
        is_flag=True,
        expose_value=False,
        callback=_store,
        help="Go on although the bucket is older than what this machine saw last.",
    ),
    option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        default=None,
        expose_value=False,
        callback=lambda ctx, param, value: _store(ctx, param, value or 0),
        help=f"Requests under way at once (default: {DEFAULT_JOBS}).",
    ),
    option(
        "--bwlimit",
        metavar="RATE",
        default="0",
        expose_value=False,
        callback=_store,
        help="Bytes a second for all transfers together, such as 10M or 1.5MiB/s.",
    ),
)


def common_options(command: _Command) -> _Command:
    """Add the options that may stand before and behind the name of a command."""
    return with_options(_COMMON)(command)


def settings_of(ctx: click.Context) -> Settings:
    """The common options of this run."""
    settings = ctx.find_root().ensure_object(Settings)
    assert isinstance(settings, Settings)
    return settings


@contextmanager
def open_project(settings: Settings, *, hushed: bool = False) -> Iterator[Project]:
    """The project that the working folder lies in, with bars while it works; closed afterwards.

    Args:
        hushed: show no notes, only bars.
    """
    from manifest_sync.cli.local_time import LocalZone  # noqa: PLC0415
    from manifest_sync.cli.progress import make_progress  # noqa: PLC0415
    from manifest_sync.project import Project  # noqa: PLC0415
    from manifest_sync.stores.pace import parse_rate  # noqa: PLC0415

    with (
        make_progress(quiet=settings.quiet, hushed=hushed) as progress,
        Project.find(
            env=os.environ,
            progress=progress,
            jobs=settings.jobs,
            accept_rollback=settings.accept_rollback,
            zone=LocalZone(),
            bwlimit=parse_rate(settings.bwlimit),
        ) as project,
    ):
        yield project

"""The command ``manifest-sync``: its group, and the one place where an error becomes a message and a code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from gc import freeze, set_threshold
from typing import Any

import click

from manifest_sync.cli.adopt_commands import adopt
from manifest_sync.cli.completion_commands import completion
from manifest_sync.cli.doctor_commands import doctor
from manifest_sync.cli.export_commands import export
from manifest_sync.cli.gc_commands import gc, pin, unpin
from manifest_sync.cli.history_commands import cat, diff, log, ls
from manifest_sync.cli.init_commands import init, rebuild_index
from manifest_sync.cli.inspect_commands import status
from manifest_sync.cli.options import ENV_PREFIX, Settings, common_options
from manifest_sync.cli.owners_commands import owners
from manifest_sync.cli.recover_commands import drop, restore, trash, undo
from manifest_sync.cli.stdio import OutputClosedError, print_error, write_line, write_stderr
from manifest_sync.cli.sync_commands import pull, push, sync
from manifest_sync.cli.terminal import columns_of
from manifest_sync.cli.track_commands import track, untrack
from manifest_sync.cli.verify_commands import verify
from manifest_sync.cli.watch_commands import watch
from manifest_sync.errors import AccessDenied, Interrupted, ManifestSyncError, UsageError

_SAFE = {
    "push": "the bucket holds either the old snapshot or the new one, whole; what was uploaded is kept",
    "pull": "every file is whole, old or new, and nothing was lost",
    "sync": "every file is whole, old or new, nothing was lost, and the bucket holds a whole snapshot",
    "export": "every exported file is whole, old or new, and the tree and the bucket are as they were",
    "restore": "every file is whole, old or new, and nothing was lost",
    "undo": "every file is whole, old or new, and nothing was lost",
    "drop": "what was removed is in the bucket, and nothing was lost",
    "adopt": "the bucket holds either the old snapshot or the new one, whole; what was read is remembered",
    "gc": "every snapshot that is kept is whole; what was not deleted yet goes with the next gc",
    "pin": "the bucket holds the old pins or the new ones",
    "unpin": "the bucket holds the old pins or the new ones",
    "watch": "the bucket holds a whole snapshot; what was uploaded since is kept",
    "rebuild-index": "no file and nothing in the bucket was changed",
}
_CLICKS_LEAST = 52
_COLLECT_AFTER = 50_000
_RUN_AGAIN = "run the same command again to carry on"


class Main(click.Group):
    """A group that ends every run, good or bad, with an exit code of the table in docs/cli.md."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C becomes an error that says what is safe."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            safe = _SAFE.get(ctx.invoked_subcommand or "", "nothing was changed")
            raise Interrupted(f"interrupted: {safe}", _RUN_AGAIN) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit; without ``standalone_mode`` return the exit code instead."""
        words = sys.argv[1:] if args is None else list(args)
        settings = Settings()
        if args is None:
            # The process is this command's own. A run over a big tree holds millions of objects and makes
            # hardly any cycles: to look for some as often as Python does by default takes a tenth of its
            # time.
            set_threshold(_COLLECT_AFTER)
        try:
            code = super().main(
                args=words,
                prog_name=prog_name or "manifest-sync",
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                obj=settings,
                **_narrow(),
                **extra,
            )
        except OutputClosedError:
            _silence_stdout()
            code = 1
        except (click.Abort, KeyboardInterrupt):
            code = _fail(Interrupted("interrupted: nothing was changed", _RUN_AGAIN), settings, words)
        except click.exceptions.NoArgsIsHelpError as error:
            if _wants_json(settings, words):
                code = _fail(UsageError("a command is missing", _see_help(error)), settings, words)
            else:
                write_stderr(error.ctx.get_help())
                code = UsageError.exit_code
        except click.ClickException as error:
            code = _fail(_usage_error(error), settings, words)
        except Exception as error:  # noqa: BLE001  the last resort: no traceback reaches a user
            code = _fail(error, settings, words)
        code = code if isinstance(code, int) else 0
        if args is None:
            # Everything goes with the process; before that Python would look for cycles in all that boto3
            # has loaded, for a twentieth of a second.
            freeze()
        if standalone_mode:
            sys.exit(code)
        return code


def _fail(error: Exception, settings: Settings, words: Sequence[str]) -> int:
    """Tell of ``error`` and return its exit code."""
    told = _to_told(error)
    if settings.debug or "--debug" in words:
        write_stderr("".join(traceback.format_exception(error)).rstrip())
    try:
        if _wants_json(settings, words) and not settings.json_begun:
            write_line(json.dumps({"error": told.code, "message": told.message, "hint": told.hint}))
        else:
            print_error(told)
    except OutputClosedError:
        _silence_stdout()
    return told.exit_code


def _wants_json(settings: Settings, words: Sequence[str]) -> bool:
    # A command line that could not be parsed has not set the settings yet.
    return settings.json or "--json" in words


def _to_told(error: Exception) -> ManifestSyncError:
    """The error as a user is told of it."""
    if isinstance(error, ManifestSyncError):
        return error
    if isinstance(error, OSError) and error.strerror:
        kind = AccessDenied if isinstance(error, PermissionError) else ManifestSyncError
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return kind(f"{place}{error.strerror}", "put that right, then run the same command again")
    if isinstance(error, MemoryError):
        return ManifestSyncError("out of memory", "try again with fewer --jobs")
    text = " ".join(str(error).split())[:200]
    return ManifestSyncError(
        f"internal error: {type(error).__name__}{': ' + text if text else ''}",
        "run again with --debug, and report what it prints",
    )


def _usage_error(error: click.ClickException) -> UsageError:
    return UsageError(error.format_message(), _see_help(error))


def _see_help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "manifest-sync"
    return f"see `{path} --help`"


def _narrow() -> dict[str, int]:
    """How wide help is on a terminal that is narrower than what click takes for the least."""
    columns = columns_of(sys.stdout)
    return {"terminal_width": columns - 1} if 0 < columns < _CLICKS_LEAST else {}


def _silence_stdout() -> None:
    """The reader went away (``| head``): keep the interpreter's last flush from complaining."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, descriptor)
    os.close(devnull)


@click.group(
    cls=Main,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Every option can be set in the environment too: --max-delete is {ENV_PREFIX}MAX_DELETE.",
)
@click.version_option(package_name="manifest-sync", prog_name="manifest-sync")
@common_options
def main() -> None:
    """Keep a big tree of experiment data the same on many machines and in one bucket."""


_COMMANDS = (
    init,
    push,
    pull,
    sync,
    watch,
    status,
    owners,
    export,
    log,
    diff,
    ls,
    cat,
    gc,
    pin,
    unpin,
    verify,
    rebuild_index,
    doctor,
    restore,
    undo,
    drop,
    track,
    untrack,
    trash,
    adopt,
    completion,
)
for _command in _COMMANDS:
    main.add_command(_command)

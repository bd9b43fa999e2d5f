"""docs/cli.md is current, and says what there is to say."""

from __future__ import annotations

import re

import click
import pytest

from manifest_sync import errors
from manifest_sync.cli.main import main
from tests.cli_doc import COMMON, DOCUMENT, EXIT_CODES, render


def test_the_document_is_current() -> None:
    shown = DOCUMENT.read_text("utf-8") if DOCUMENT.exists() else ""
    if shown != render():
        pytest.fail("docs/cli.md is not what the help says: run `make docs` (python -m tests.cli_doc)")


def test_every_exit_code_has_its_row() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", EXIT_CODES, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, errors.ManifestSyncError)}
    assert documented == raised | {0, 3}


def test_every_command_and_option_explains_itself() -> None:
    def walk(command: click.Command) -> None:
        assert command.help, command.name
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, (command.name, param.name)
        for child in getattr(command, "commands", {}).values():
            walk(child)

    walk(main)
    shown = {param.name for param in main.params}
    assert shown >= COMMON - {"bwlimit"}

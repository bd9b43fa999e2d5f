"""The walk-through in docs/recovery.md is run as it stands there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.console_doc import check
from tests.guides import DOCS, recovery


def test_the_document_is_true(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.fail("bash is needed to run the document's commands")
    recovery(tmp_path)
    assert check(DOCS / "recovery.md", tmp_path) > 15

"""The walk-through in docs/recovery.md is run as it stands there."""

from __future__ import annotations

import json
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from manifest_sync.project import Project
from tests.console_doc import normal, replay
from tests.machines import Machine

DOCUMENT = Path(__file__).parent.parent / "docs" / "recovery.md"
EXPERIMENTS = 12
FILES = 20


class Dated(Project):
    """A project whose clock shows the day that is chosen."""

    days_ago = 0

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=self.days_ago)


def make_world(world: Path) -> None:
    """Two machines in sync on one bucket; each experiment was pushed on a day of its own, the last today."""
    bucket = str(world / "bucket")
    gpu, laptop = Machine(world / "gpu", bucket), Machine(world / "laptop", bucket)
    dice = random.Random(1)
    for number in range(EXPERIMENTS):
        for file in range(FILES):
            result = {"step": file, "loss": dice.random(), "scores": [dice.random() for _ in range(30)]}
            gpu.write(f"exp{number:02}/{file:02}.json", json.dumps(result))
        project = Dated.find(str(gpu.folder), env={})
        project.days_ago = EXPERIMENTS - 1 - number
        project.push(message=f"experiment {number:02}")
    laptop.pull()


def test_the_document_is_true(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.fail("bash is needed to run the document's commands")
    make_world(tmp_path)
    steps = replay(DOCUMENT.read_text("utf-8"), tmp_path)
    assert len(steps) > 15
    for command, shown, real in steps:
        assert normal(shown) == normal(real), f"{command}\nprinted:\n{real}\nthe document shows:\n{shown}"

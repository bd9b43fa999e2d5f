"""The guides in docs/: their sessions are run as they stand there; no flag of the old scripts is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.console_doc import check, commands
from tests.guides import DOCS, GUIDES, Guide

MOVING = (DOCS / "moving-from-rclone.md").read_text("utf-8")
COMMAND = re.compile(r"`(manifest-sync [^`]+)`")
PAGES_OF_THEIR_OWN = {"doctor", "watch"}

SCRIPTS = """
r2_push.sh, r2_push.sh --copy, r2_push.sh --full, r2_push.sh --checksum, r2_push.sh --turbo
r2_pull.sh, r2_pull.sh --copy, r2_pull.sh --full, r2_pull.sh --checksum, NEVER_RUN_sync_pull.sh
--only exp01, --only=exp01, --only archive/old, --all, --dry-run, --packed, --no-packed
--include-loras, --checkpoints, --include-trajectories, --include-archive
setup_r2.sh, r2_config.sh, sync_push.sh, railway_sync_r2.sh, railway_pull_r2.sh, r2_migrate_packed.sh
projection_bundles.py, --ignore-existing, --size-only, --checksum, --modify-window, --local-no-check-updated
--fast-list, --no-traverse, --checkers, --transfers, --s3-upload-concurrency, --s3-chunk-size, --buffer-size
--retries, --low-level-retries, --retries-sleep, --copy-links, --skip-links, --exclude, --filter, --progress
--stats
"""
"""The scripts with their modes and flags, and the flags of rclone that they use."""


@pytest.mark.parametrize(
    "guide", [one for one in GUIDES if one.name != "recovery.md"], ids=lambda one: one.name
)
def test_the_sessions_are_true(guide: Guide, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if guide.s3:
        guide.make_world(tmp_path, request.getfixturevalue("seaweed_http"))
    else:
        guide.make_world(tmp_path)
    assert check(guide.document, tmp_path) > 10


def test_every_mode_and_flag_of_the_scripts_has_its_row() -> None:
    named = [row.split("|")[1] for row in _rows(MOVING)]
    for old in re.split(r"[,\n]\s*", SCRIPTS.strip()):
        assert any(re.search(rf"`{re.escape(old)}(?! --|[-\w,])", cell) for cell in named), (
            f"no row for {old}"
        )


def test_every_command_of_a_row_is_tried_in_a_session() -> None:
    tried = [
        set(command.split())
        for guide in GUIDES
        for line in commands(guide.document.read_text("utf-8"))
        for command in re.split(r"&&|;|\|", line)
    ]
    named = [found for row in _rows(MOVING) for found in COMMAND.findall(row)]
    assert len(named) > 20
    for command in named:
        words = command.split()
        if words[1] not in PAGES_OF_THEIR_OWN:
            assert any(set(words) <= line for line in tried), f"{command} is in no session"


def _rows(text: str) -> list[str]:
    """The rows of all tables, without their heads."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [
        row
        for row in rows
        if not re.match(r"\|[-|]+\|$", row) and not row.startswith(("| script", "| rclone |"))
    ]

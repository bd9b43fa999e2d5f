"""docs/promises.md names tests and seeded bugs that exist, and leaves no promise and no seeded bug out."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mutations import MUTATIONS

TESTS = Path(__file__).parent
DOCUMENT = (TESTS.parent / "docs" / "promises.md").read_text("utf-8")
ROWS = {
    number: (held_by, bugs)
    for number, held_by, bugs in re.findall(
        r"^\| \*\*(P\d+)\*\* \|.*\| ([^|]*) \| ([^|]*) \|$", DOCUMENT, re.M
    )
}


def test_every_promise_has_its_tests_and_its_bugs() -> None:
    assert list(ROWS) == [f"P{number}" for number in range(1, 19)]
    for number, (held_by, bugs) in ROWS.items():
        files = re.findall(r"`(test_\w+\.py)`", held_by)
        assert files, number
        for name in files:
            assert (TESTS / name).exists(), f"{number} names {name}, which does not exist"
        assert re.findall(r"`([a-z0-9-]+)`", bugs), f"{number} has no seeded bug"


def test_every_seeded_bug_stands_under_its_promise() -> None:
    named = {bug for _, bugs in ROWS.values() for bug in re.findall(r"`([a-z0-9-]+)`", bugs)}
    assert named == {mutation.name for mutation in MUTATIONS}
    for mutation in MUTATIONS:
        assert f"`{mutation.name}`" in ROWS[mutation.promise][1], mutation.name

"""A run that dies at any moment (P1, P5, P7, P8): at every write to the disk and to the index and at every
call of the store, found by counting, not by a list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash_operations import OPERATIONS
from tests.crash_points import Operation, Subject, in_parallel, scratch, strike

NAMES = [operation.name for operation in OPERATIONS]


@pytest.fixture(scope="module", params=OPERATIONS, ids=NAMES)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    operation: Operation = request.param
    with scratch() as folder:
        yield Subject(operation, folder)


def check_all(failures: list[str]) -> None:
    assert failures == [], f"{len(failures)} failures:\n" + "\n".join(failures[:20])


def test_killed_at_every_write(subject: Subject) -> None:
    """SIGKILL before each change of the disk or the index, half-way through each write, and at the end."""
    check_all(in_parallel(subject.points(), lambda plan: strike(subject, plan)))


def test_every_reply_lost(subject: Subject) -> None:
    """The call took effect, nothing was heard of it, and the process lives on: it may not guess."""
    check_all(in_parallel(subject.lost_replies(), lambda plan: strike(subject, plan)))

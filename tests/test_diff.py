"""The three-way table, written out; the numbers are those of `diff.py`. See `test_planner_exhaustive.py`."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from manifest_sync.diff import NUMBERS, Case, clashes, classify, needs_hash
from manifest_sync.errors import SafetyLimit, UsageError
from manifest_sync.model import UNREAD, Path, State
from manifest_sync.plan import MODES, Policy, Verb, check_deletions, check_limit, iter_actions, summarize


class Triple(NamedTuple):
    path: Path
    local: State | None
    base: State | None
    remote: State | None


A, B, C = (State(kind + b"\0" * 31) for kind in (b"fa", b"fb", b"fc"))

TABLE = [  # local, base, remote, case, then push new/copy/full, pull new/copy/full
    (A, A, A, 1, ". . .", ". . ."),
    (A, None, None, 2, "upload upload upload", ". . leave"),
    (B, A, A, 3, ". upload upload", ". . download"),
    (None, A, A, 4, ". . delete", ". . download"),
    (None, None, A, 5, ". . leave", "download download download"),
    (A, A, B, 6, ". . .", ". download download"),
    (A, A, None, 7, ". . .", ". . trash"),
    (B, A, B, 8, "record record record", "record record record"),
    (A, None, A, 8, "record record record", "record record record"),
    (B, A, C, 9, "conflict conflict conflict", "conflict conflict conflict"),
    (B, None, C, 9, "conflict conflict conflict", "conflict conflict conflict"),
    (None, A, B, 10, "conflict conflict conflict", "conflict conflict conflict"),
    (B, A, None, 11, "conflict conflict conflict", "conflict conflict conflict"),
    (None, A, None, 12, "record record record", "record record record"),
]


@pytest.mark.parametrize("row", TABLE, ids=[f"case{row[3]}" for row in TABLE])
def test_table(row: tuple[State | None, State | None, State | None, int, str, str]) -> None:
    local, base, remote, number, push, pull = row
    case = classify(local, base, remote)
    assert NUMBERS[case] == number
    for command, verbs in (("push", push), ("pull", pull)):
        for mode, verb in zip(MODES, verbs.split(), strict=True):
            wanted = {".": "leave" if number != 1 else "nothing"}.get(verb, verb)
            triple = Triple(Path(b"p"), local, base, remote)
            assert Policy(command, mode).decide(case, triple).value == wanted, (command, mode)


def test_an_unread_file_must_be_hashed_unless_it_is_new() -> None:
    assert not needs_hash(UNREAD, None, None)
    assert classify(UNREAD, None, None) is Case.NEW_HERE
    for base, remote in ((A, None), (None, A), (A, A)):
        assert needs_hash(UNREAD, base, remote)
        with pytest.raises(ValueError, match="hashed"):
            classify(UNREAD, base, remote)


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ([b"a", b"a/b"], {b"a", b"a/b"}),
        ([b"a", b"a-b", b"a.b", b"a/b", b"a0"], {b"a", b"a/b"}),
        ([b"a", b"a/b/c", b"ab"], {b"a", b"a/b/c"}),
        ([b"a", b"ab", b"b/a"], set()),
        ([b"a", b"a!", b"a!/x", b"a/x"], {b"a", b"a!", b"a!/x", b"a/x"}),
    ],
)
def test_clashes(paths: list[bytes], found: set[bytes]) -> None:
    assert clashes(Path(p) for p in paths) == found


def test_a_file_replaced_by_a_folder_goes_through_only_where_both_changes_do() -> None:
    rows = [Triple(Path(b"a"), None, A, A), Triple(Path(b"a/b"), B, None, None)]
    verbs = {
        mode: [
            str(action)
            for action in iter_actions(
                rows, Policy("push", mode), summarize(lambda: rows, Policy("push", mode)).clashing
            )
        ]
        for mode in MODES
    }
    assert verbs["copy"] == ["conflict  a", "conflict  a/b"]
    assert verbs["full"] == ["delete    a", "upload    a/b"]


def test_what_is_left_is_counted() -> None:
    rows = [Triple(Path(b"a"), B, A, A), Triple(Path(b"b"), None, A, A), Triple(Path(b"c"), A, None, None)]
    summary = summarize(lambda: rows, Policy("push", "new"))
    assert summary.left == {"changed_here": 1, "deleted_here": 1}
    assert summary.verbs[Verb.UPLOAD] == 1
    assert summary.acts


@pytest.mark.parametrize(
    ("deletions", "in_scope", "limit", "stopped"),
    [
        (10, 10, None, False),
        (11, 20, None, True),
        (11, 22, None, False),
        (5, 100, "4", True),
        (5, 100, "5%", False),
        (6, 100, "5%", True),
        (1, 1, "0", True),
    ],
)
def test_deletion_guard(deletions: int, in_scope: int, limit: str | None, stopped: bool) -> None:
    if stopped:
        with pytest.raises(SafetyLimit, match="nothing was done"):
            check_deletions(deletions, in_scope, limit)
    else:
        check_deletions(deletions, in_scope, limit)


def test_a_policy_refuses_what_does_not_go_together() -> None:
    with pytest.raises(UsageError, match="--full"):
        Policy("push", "copy", delete_unknown=True)


@pytest.mark.parametrize("limit", ["many", "-1", "", "%", "1.5", "5 %"])
def test_a_limit_that_is_no_number_is_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="--max-delete"):
        check_limit(limit)
    with pytest.raises(UsageError, match="--max-delete"):
        check_deletions(1, 1, limit)

"""Which snapshots a collection keeps: the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from manifest_sync.gc.retention import Member, Retention, parse_retention

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def chain(*links: str) -> list[Member]:
    """``"3"``: a snapshot three days old; ``"3g"``: a collection's own; ``"3r"``: a repack; ``"?"``: no time.

    Newest first, as retention takes them.
    """
    fence = 0
    made = []
    for sequence, text in enumerate(reversed(links)):
        fence += text.endswith("g")
        days = text.rstrip("gr")
        time = None if days == "?" else NOW - timedelta(days=int(days))
        made.append(Member(sequence, f"{sequence:032x}", time, fence, is_repack=text.endswith("r")))
    return made[::-1]


def within(days: int) -> timedelta:
    return timedelta(days=days)


@pytest.mark.parametrize(
    ("keep_last", "keep_within", "links", "kept"),
    [
        # by count
        (1, None, ["0", "1", "2"], 1),
        (2, None, ["0", "1", "2"], 2),
        (5, None, ["0", "1", "2"], 3),
        (1, None, ["0"], 1),
        # a collection's own snapshot does not count, wherever it stands
        (1, None, ["0g", "1", "2"], 2),
        (1, None, ["0g", "0g", "1", "2"], 3),
        (2, None, ["0", "1g", "2", "3"], 3),
        (2, None, ["0", "1", "2g", "3"], 2),
        (3, None, ["0", "1g", "2", "3g", "4", "5"], 5),
        # a repack counts in the place of what it repacked, with or without collections between
        (1, None, ["0r", "1", "2"], 1),
        (2, None, ["0r", "1", "2", "3"], 3),
        (2, None, ["0g", "0r", "1", "2", "3"], 4),
        (2, None, ["0g", "0r", "0g", "0r", "1", "2", "3"], 6),
        (2, None, ["0r", "0g", "1", "2", "3"], 4),
        (1, None, ["0g", "0r", "1"], 2),
        # by age
        (1, within(30), ["0", "10", "29", "31", "40"], 3),
        (1, within(30), ["31", "40"], 1),
        (1, within(30), ["30", "31"], 1),
        (1, within(0), ["0", "1"], 1),
        # the larger of both rules
        (4, within(30), ["0", "10", "31", "40", "50"], 4),
        (1, within(30), ["0", "10", "29", "40", "50"], 3),
        # a clock that is behind: a snapshot is as young as its youngest ancestor
        (1, within(30), ["0", "100", "29", "40"], 3),
        (1, within(30), ["500", "400", "5", "40"], 3),
        # a clock that is ahead
        (1, within(30), ["0", "-400", "50"], 2),
        # a time that cannot be read proves nothing by itself
        (1, within(30), ["?", "?", "5", "40"], 3),
        (1, within(30), ["?", "40"], 1),
        # a collection's snapshot is kept for its age as any other
        (1, within(30), ["0", "10g", "40"], 2),
    ],
)
def test_the_newest_part_of_the_chain_is_kept(
    keep_last: int, keep_within: timedelta | None, links: list[str], kept: int
) -> None:
    assert Retention(keep_last, keep_within).count(chain(*links), NOW) == kept


@pytest.mark.parametrize(
    ("keep_last", "keep_within", "links", "settled"),
    [
        (1, None, ["0", "1"], True),
        (1, None, ["0"], False),  # it may be a collection's own
        (1, None, ["0g", "1"], False),
        (1, None, ["0g", "1", "2"], True),
        (2, None, ["0", "1"], False),
        (2, None, ["0", "1", "2"], True),
        (2, None, ["0r", "1", "2"], False),
        (2, None, ["0r", "1", "2", "3"], True),
        (1, within(1), ["0", "40", "50"], False),  # clocks may be wrong further back
    ],
)
def test_when_the_rest_of_the_chain_does_not_matter(
    keep_last: int, keep_within: timedelta | None, links: list[str], settled: bool
) -> None:
    assert Retention(keep_last, keep_within).is_settled(chain(*links)) is settled


def test_the_defaults_are_ten_and_thirty_days() -> None:
    old = [str(40 + n) for n in range(20)]
    assert parse_retention(None, None).count(chain(*old), NOW) == 10
    assert parse_retention(None, None).count(chain("0", *["29"] * 15, *old), NOW) == 16


def test_who_names_one_rule_gets_that_one_alone() -> None:
    links = chain("0", "1", "2", *(str(40 + n) for n in range(20)))
    assert parse_retention(1, None).count(links, NOW) == 1
    assert parse_retention(None, timedelta(days=2)).count(links, NOW) == 3
    assert parse_retention(2, timedelta(days=1)).count(links, NOW) == 2

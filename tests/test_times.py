"""Times as people write them, on both sides of a change to summer time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manifest_sync.cli.local_time import LocalZone, show_time
from manifest_sync.errors import UsageError
from manifest_sync.times import parse_age, parse_rfc3339, parse_when, rfc3339

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=BERLIN)


@pytest.fixture
def berlin_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("now", "2026-11-24T11:00:00"),
        ("  NOW ", "2026-11-24T11:00:00"),
        ("yesterday", "2026-11-23T11:00:00"),
        ("2 days ago", "2026-11-22T11:00:00"),
        ("2  Days\tago", "2026-11-22T11:00:00"),
        ("an hour ago", "2026-11-24T10:00:00"),
        ("a week ago", "2026-11-17T11:00:00"),
        ("1 second ago", "2026-11-24T10:59:59"),
        ("90 minutes ago", "2026-11-24T09:30:00"),
        ("3 months ago", "2026-08-26T11:00:00"),
        ("1 year ago", "2025-11-24T11:00:00"),
        ("36h", "2026-11-22T23:00:00"),
        ("36h ago", "2026-11-22T23:00:00"),
        ("0s", "2026-11-24T11:00:00"),
        ("2w", "2026-11-10T11:00:00"),
        # A date is its last moment, in the offset that held on that day and not today's.
        ("2026-11-20", "2026-11-20T22:59:59.999999"),
        ("2026-07-01", "2026-07-01T21:59:59.999999"),
        ("2026-10-25", "2026-10-25T22:59:59.999999"),
        ("2026-07-01 10:00", "2026-07-01T08:00:00"),
        ("2026-11-20 10:00:30", "2026-11-20T09:00:30"),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00"),
        ("2026-11-20t10:00:00z", "2026-11-20T10:00:00"),
        ("2026-11-20T10:00:00-05:00", "2026-11-20T15:00:00"),
    ],
)
def test_a_moment_that_a_person_names(text: str, utc: str) -> None:
    assert parse_when(text, NOW) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "12", "20261120", "٢٠٢٦", "soon", "2 days", "days ago", "-2 days ago", "2 fortnights ago",
        "2026-13-01", "2026-02-30", "2026-11-20 25:00", "24.11.2026", "999999999 years ago", "999999999w",
        "0001-01-01T00:00:00+23:00", "9999-12-31", "9999-12-31T23:59:59-23:00", "2 days ago ago",
        "٣ days ago",
    ],
)  # fmt: skip
def test_what_is_no_time_is_none_and_no_error(text: str) -> None:
    assert parse_when(text, NOW) is None


@given(st.text(max_size=30) | st.from_regex(r"[0-9 \-:tzTZ+.aghourdys]{0,30}", fullmatch=True))
def test_any_text_is_a_moment_or_none(text: str) -> None:
    found = parse_when(text, NOW)
    assert found is None or found.utcoffset() == timedelta(0)


def test_hours_are_hours_also_over_a_change_of_the_clocks() -> None:
    morning_after = datetime(2026, 10, 25, 8, 0, tzinfo=BERLIN)  # 07:00 UTC; the night had an hour more
    assert parse_when("10 hours ago", morning_after) == datetime(2026, 10, 24, 21, 0, tzinfo=UTC)


def test_ages() -> None:
    assert [parse_age(text) for text in ("36h", " 30d ", "0s", "90 m", "2w")] == [
        timedelta(hours=36), timedelta(days=30), timedelta(0), timedelta(minutes=90), timedelta(weeks=2)
    ]  # fmt: skip
    for text in ("", "30", "d", "-1d", "1.5h", "1y", "٣d", "9999999999d", "999999999w"):
        with pytest.raises(UsageError, match="is not an age") as failed:
            parse_age(text)
        assert "36h" in failed.value.hint


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-11-20T12:00:00Z", datetime(2026, 11, 20, 12, tzinfo=UTC)),
        ("2026-11-20T12:00:00+02:00", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        ("2026-11-20T12:00:00", datetime(2026, 11, 20, 12, tzinfo=UTC)),
        ("", None),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:00", None),
    ],
)
def test_times_in_manifests(text: str, utc: datetime | None) -> None:
    assert parse_rfc3339(text) == utc


def test_an_early_year_has_four_digits() -> None:
    assert rfc3339(datetime(26, 11, 20, tzinfo=UTC)) == "0026-11-20T00:00:00Z"


def test_rfc3339_is_utc_to_the_second() -> None:
    assert rfc3339(datetime(2026, 7, 1, 12, 0, 0, 999_999, tzinfo=BERLIN)) == "2026-07-01T10:00:00Z"


def test_the_local_zone_knows_summer_time(berlin_machine: None) -> None:
    zone = LocalZone()
    now = datetime(2026, 11, 24, 12, 0, tzinfo=zone)
    for text in ("2026-07-01", "2026-11-20", "2026-07-01 10:00", "2 days ago"):
        assert parse_when(text, now) == parse_when(text, NOW)
    assert show_time(datetime(2026, 7, 1, 10, 0, tzinfo=UTC), zone) == "2026-07-01 12:00:00"
    assert show_time(datetime(2026, 11, 1, 10, 0, tzinfo=UTC), zone) == "2026-11-01 11:00:00"
    assert datetime(2026, 7, 1, tzinfo=zone).tzname() == "CEST"


@example(1792891800)  # the second half past two of the night on which summer time ends
@given(st.integers(631_152_000, 2_051_222_400))
def test_the_local_zone_agrees_with_the_time_zone_data(seconds: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        universal = datetime.fromtimestamp(seconds, UTC)
        found, expected = universal.astimezone(LocalZone()), universal.astimezone(BERLIN)
        assert (found.replace(tzinfo=None), found.fold) == (expected.replace(tzinfo=None), expected.fold)
        assert found.astimezone(UTC) == universal
    time.tzset()


def test_a_time_beyond_the_zone_is_shown_in_utc(berlin_machine: None) -> None:
    assert show_time(datetime.min.replace(tzinfo=timezone(timedelta(hours=-23))), LocalZone()).endswith("Z")

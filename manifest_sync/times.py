"""Times as people and manifests write them. Pure: the present comes in as an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from manifest_sync.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"([0-9]{1,9})\s*([smhdw])")
_AGO = re.compile(r"([0-9]{1,9}|an?)\s+(second|minute|hour|day|week|month|year)s?\s+ago")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_AGO_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 30 * 86_400,
    "year": 365 * 86_400,
}


def rfc3339(moment: datetime) -> str:
    """``2026-11-20T12:00:00Z``: UTC, to the second."""
    # Not strftime, which gives a year before 1000 fewer than four digits.
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def rfc3339_ns(nanoseconds: int) -> str:
    """The same of nanoseconds since 1970, as files have them; before 1970 they are negative."""
    return rfc3339(datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC))


def parse_rfc3339(text: str) -> datetime | None:
    """The moment that a manifest names, None when it is none: times are for people, nothing hangs on them."""
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def parse_age(text: str) -> timedelta:
    """A length of time such as ``36h``, ``30d``, ``90m``, ``2w``, ``0s``.

    Raises:
        UsageError: it is none.
    """
    found = _AGE.fullmatch(text.strip())
    try:
        if found:
            return timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    except OverflowError:
        pass
    raise UsageError(f"{text!r} is not an age", "write it like 36h, 30d or 0s (s, m, h, d, w)")


def parse_when(text: str, now: datetime) -> datetime | None:
    """The moment that a person names, in UTC; None when the text is no time.

    Understood are ``now``, ``2 days ago`` and ages (``36h``, ``36h ago``), ``yesterday`` (24 hours ago), a
    date (its last moment, so that what was pushed on that day is in), and a date with a time. What has no
    zone is in that of ``now``. A number alone is never a time.
    """
    text = " ".join(text.lower().split())
    if text.isdecimal():
        return None
    try:
        return _parse_when(text, now)
    except (ValueError, OverflowError, OSError, UsageError):
        return None


def _parse_when(text: str, now: datetime) -> datetime:
    zone: tzinfo = now.tzinfo or UTC
    present = now.replace(tzinfo=zone).astimezone(UTC)
    if text == "now":
        return present
    if text == "yesterday":
        return present - timedelta(days=1)
    ago = _AGO.fullmatch(text)
    if ago:
        count = int(ago[1]) if ago[1].isdigit() else 1
        return present - timedelta(seconds=count * _AGO_SECONDS[ago[2]])
    age = text.removesuffix(" ago")
    if _AGE.fullmatch(age):
        return present - parse_age(age)
    if _DATE.fullmatch(text):
        following = datetime.fromisoformat(text) + timedelta(days=1)
        return following.replace(tzinfo=zone).astimezone(UTC) - timedelta(microseconds=1)
    found = datetime.fromisoformat(text.upper())
    return (found if found.tzinfo is not None else found.replace(tzinfo=zone)).astimezone(UTC)

"""This machine's own time zone: what a person means by a time without one, and how times are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from manifest_sync.model import Path, display
from manifest_sync.times import parse_rfc3339, rfc3339


class LocalZone(tzinfo):
    """The system's zone with its changes to summer time, which ``datetime.astimezone()`` alone forgets:
    a date in July is meant in July's offset, also when it is typed in November."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """See `tzinfo`."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:  # noqa: ARG002
        """See `tzinfo`; not known apart from the offset."""
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        """See `tzinfo`."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """See `tzinfo`."""
        universal = moment.replace(tzinfo=UTC)
        local = universal.astimezone().replace(tzinfo=None)
        if local.astimezone() != universal:  # the hour that summer time's end repeats
            local = local.replace(fold=1)
        return local.replace(tzinfo=self)


def show_ns(nanoseconds: int, zone: tzinfo) -> str:
    """The same of nanoseconds since 1970, as files have them."""
    return show_time(datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC), zone)


def show_recorded(text: str, zone: tzinfo) -> str:
    """The same of a time as someone wrote it down; if it is none, what stands there."""
    moment = parse_rfc3339(text)
    return display(Path(text.encode("utf-8", "surrogatepass"))) if moment is None else show_time(moment, zone)


def show_time(moment: datetime, zone: tzinfo) -> str:
    """``2026-11-20 13:00:00`` in ``zone``; UTC and marked so where the zone has no such time."""
    try:
        return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return rfc3339(moment)

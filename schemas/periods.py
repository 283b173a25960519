"""Billing periods: hours, days, weeks, months and years of a named time zone, and all of time.

A period is named by its start. It is a pure function of kind, zone and instant, so that nothing needs
to be reset when one ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from doortab.schemas import instants

PeriodKind = Literal["hour", "day", "week", "month", "year", "total"]
KINDS: tuple[PeriodKind, ...] = ("hour", "day", "week", "month", "year", "total")

QUARTER_HOUR = 900 * instants.SECOND
"""Every zone's offset since 1972 is a whole number of quarter hours, so all instants of one share their periods."""


class Period(NamedTuple):
    """Half-open, in instants. Of all time, ``end`` is the last instant that an event may have."""

    start: int
    end: int


ALL_TIME = Period(0, instants.LATEST)


NOT_ZONES = ("localtime", "posix", "right/", "Factory", "SystemV/", "leap", "tzdata")
"""Files beside the zones on many machines. They are no names that another machine, or DuckDB, knows."""


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The zone of that IANA name.

    Raises:
        ValueError: there is none.
    """
    try:
        if not name.startswith(NOT_ZONES):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise ValueError(f"{name!r} is not a time zone; write an IANA name such as Europe/Berlin or UTC")


@lru_cache(maxsize=65_536)
def _of_quarter(kind: PeriodKind, zone_name: str, quarter: int) -> Period:
    if kind == "total":
        return ALL_TIME
    local = instants.moment(quarter * QUARTER_HOUR).astimezone(zone(zone_name))
    if kind == "hour":
        # Reckoned back from the instant: the wall clock shows one hour twice in autumn, and skips one in spring.
        # (Where clocks move by half an hour, as on Lord Howe Island, two hours of the year overlap.)
        begin = (quarter * 15 - local.minute) * 60 * instants.SECOND
        return Period(begin, begin + 3600 * instants.SECOND)
    begin_day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    start, end = _days(kind, begin_day)
    if quarter * QUARTER_HOUR >= instants.of(end):
        # What has begun goes on, though the clocks went back over its midnight: in Goose Bay at 00:01, until 2011.
        start, end = _days(kind, end)
    return Period(instants.of(start), instants.of(end))


def _days(kind: PeriodKind, day: datetime) -> tuple[datetime, datetime]:
    if kind == "day":
        return day, _plus_days(day, 1)
    if kind == "week":
        monday = _plus_days(day, -day.weekday())
        return monday, _plus_days(monday, 7)
    if kind == "month":
        first = day.replace(day=1)
        return first, _plus_days(first, 32).replace(day=1)
    first = day.replace(month=1, day=1)
    return first, first.replace(year=first.year + 1)


def _plus_days(day: datetime, days: int) -> datetime:
    # Arithmetic on the wall clock: a day across a change of the clocks has 23 or 25 hours.
    return (day.replace(tzinfo=None) + timedelta(days=days)).replace(tzinfo=day.tzinfo)


def period_of(kind: PeriodKind, zone_name: str, instant: int) -> Period:
    """The period of that kind that holds the instant."""
    return _of_quarter(kind, zone_name, instant // QUARTER_HOUR)


def periods_between(kind: PeriodKind, zone_name: str, start: int, end: int) -> Iterator[Period]:
    """The periods that touch [start, end), in order."""
    period = period_of(kind, zone_name, start)
    while period.start < end:
        yield period
        period = period_of(kind, zone_name, period.end)


def parse_period(words: str | None, zone_name: str, now: int) -> Period:
    """The period a person means: ``2026``, ``2026-03``, ``2026-03-10``, ``FROM..TO`` (half-open), or this month.

    Raises:
        ValueError: it is none of these.
    """
    zone(zone_name)
    if not words:
        return period_of("month", zone_name, now)
    if ".." in words:
        first, _, last = words.partition("..")
        if not first or not last:
            raise ValueError(f"period {words!r} has no {'end' if first else 'beginning'}; write FROM..TO, half-open")
        period = Period(_boundary(first, zone_name), _boundary(last, zone_name))
        if period.start == period.end:
            raise ValueError(f"period {words!r} is empty, for TO is not in it; write FROM..TO with a later TO")
        if period.start > period.end:
            raise ValueError(f"period {words!r} ends before it begins; write FROM..TO, half-open")
        return period
    kinds: dict[int, PeriodKind] = {4: "year", 7: "month", 10: "day"}
    kind = kinds.get(len(words))
    if kind is None:
        raise ValueError(f"{words!r} is not a period; write 2026, 2026-03, 2026-03-10 or FROM..TO")
    inside = _boundary(words, zone_name)
    try:
        return period_of(kind, zone_name, inside)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{words!r} is beyond every calendar; write 2026, 2026-03 or 2026-03-10") from error


def _boundary(words: str, zone_name: str) -> int:
    try:
        if len(words) > 10:
            return instants.parse(words)
        moment = datetime.fromisoformat((words + "-01-01")[:10] if len(words) == 4 else (words + "-01")[:10])
        return instants.of(moment.replace(tzinfo=zone(zone_name)).astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{words!r} is not a date or instant ({error}); write 2026-03-10") from error

"""Periods: where hours, days, weeks, months and years begin and end in a time zone."""

from __future__ import annotations

import itertools
import re
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doortab.schemas import instants, periods
from doortab.schemas.periods import Period, PeriodKind

pytestmark = pytest.mark.promises("R8")

HOUR = 3600 * instants.SECOND
KINDS: list[PeriodKind] = ["hour", "day", "week", "month", "year"]
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Havana",  # goes back over midnight
    "Atlantic/Azores",  # so does this one
    "Asia/Kolkata",  # half an hour beside the others
    "Asia/Kathmandu",  # and a quarter
    "Pacific/Chatham",  # a quarter, with summer time
    "Africa/Cairo",  # begins summer at midnight: that day has no 00:00
    "Pacific/Apia",  # had no 30 December 2011
    "America/Sao_Paulo",
]
kind = st.sampled_from(KINDS)
zone = st.sampled_from(ZONES)
moment = st.integers(instants.EARLIEST, instants.LATEST - 1)


def at(text: str) -> int:
    return instants.parse(text)


def hours(kind: PeriodKind, zone: str, text: str) -> int | float:
    period = periods.period_of(kind, zone, at(text))
    return (period.end - period.start) / HOUR


@pytest.mark.parametrize(
    ("kind", "zone", "inside", "start", "end"),
    [
        ("hour", "UTC", "2026-03-10T08:59:59.999999Z", "2026-03-10T08:00:00Z", "2026-03-10T09:00:00Z"),
        ("hour", "Asia/Kolkata", "2026-03-10T08:00:00Z", "2026-03-10T07:30:00Z", "2026-03-10T08:30:00Z"),
        ("hour", "Asia/Kathmandu", "2026-03-10T08:00:00Z", "2026-03-10T07:15:00Z", "2026-03-10T08:15:00Z"),
        ("day", "Europe/Berlin", "2026-03-10T22:59:59Z", "2026-03-09T23:00:00Z", "2026-03-10T23:00:00Z"),
        ("day", "Europe/Berlin", "2026-03-10T23:00:00Z", "2026-03-10T23:00:00Z", "2026-03-11T23:00:00Z"),
        ("day", "America/Havana", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ("day", "Africa/Cairo", "2026-04-24T12:00:00Z", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"),
        ("day", "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
        ("day", "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
        ("day", "America/Goose_Bay", "2009-11-01T02:59:59Z", "2009-10-31T03:00:00Z", "2009-11-01T03:00:00Z"),
        ("day", "America/Goose_Bay", "2009-11-01T03:30:00Z", "2009-11-01T03:00:00Z", "2009-11-02T04:00:00Z"),
        ("month", "America/Goose_Bay", "2009-11-01T03:01:00Z", "2009-11-01T03:00:00Z", "2009-12-01T04:00:00Z"),
        ("month", "America/Goose_Bay", "2009-11-01T03:59:00Z", "2009-11-01T03:00:00Z", "2009-12-01T04:00:00Z"),
        ("week", "UTC", "2026-01-01T00:00:00Z", "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"),
        ("week", "UTC", "2027-01-03T23:59:59Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"),
        ("month", "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ("month", "UTC", "2026-02-28T23:59:59Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("month", "Europe/Berlin", "2026-03-31T21:59:59Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
        ("month", "America/New_York", "2026-11-01T04:00:00Z", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"),
        ("year", "UTC", "2026-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("year", "Asia/Kolkata", "2026-12-31T18:30:00Z", "2026-12-31T18:30:00Z", "2027-12-31T18:30:00Z"),
    ],
)
def test_a_period_begins_and_ends_by_the_clock_on_the_wall(
    kind: PeriodKind, zone: str, inside: str, start: str, end: str
) -> None:
    found = periods.period_of(kind, zone, at(inside))

    assert [instants.text(found.start), instants.text(found.end)] == [start, end]


def test_a_day_on_which_the_clocks_change_has_23_or_25_hours() -> None:
    assert hours("day", "Europe/Berlin", "2026-03-29T12:00:00Z") == 23
    assert hours("day", "Europe/Berlin", "2026-10-25T12:00:00Z") == 25
    assert hours("day", "Europe/Berlin", "2026-10-26T12:00:00Z") == 24
    assert hours("week", "Europe/Berlin", "2026-03-29T12:00:00Z") == 7 * 24 - 1
    assert hours("month", "Europe/Berlin", "2026-10-25T12:00:00Z") == 31 * 24 + 1


@pytest.mark.parametrize(("year", "days"), [(2024, 366), (2026, 365), (2000, 366), (2096, 366)])
def test_a_leap_year_has_a_day_more(year: int, days: int) -> None:
    assert hours("year", "UTC", f"{year}-06-01T00:00:00Z") == days * 24


def test_all_of_time_is_one_period() -> None:
    assert periods.period_of("total", "Asia/Kolkata", at("2026-03-10T08:00:00Z")) == periods.ALL_TIME


@given(kind, zone, moment)
@example("day", "America/Goose_Bay", 1_257_046_200_000_000)  # 23:30 on 31 October 2009, when 1 November had begun
@example("day", "America/Havana", 1_793_508_000_000_000)  # the second 00:30 of 1 November 2026
@example("hour", "Pacific/Chatham", 1_775_311_200_000_000)  # the quarter hour after the clocks went back in 2026
@example("hour", "Europe/Berlin", 1_792_891_800_000_000)  # the second 02:30 of 25 October 2026
def test_an_instant_lies_in_its_period(kind: PeriodKind, zone: str, instant: int) -> None:
    period = periods.period_of(kind, zone, instant)

    assert period.start <= instant < period.end
    assert periods.period_of(kind, zone, period.start) == period
    assert periods.period_of(kind, zone, period.end - 1) == period


@given(kind, zone, moment)
def test_periods_tile_time_without_gap_or_overlap(kind: PeriodKind, zone: str, instant: int) -> None:
    period = periods.period_of(kind, zone, instant)

    assert periods.period_of(kind, zone, period.end).start == period.end
    assert periods.period_of(kind, zone, period.start - 1).end == period.start


@given(zone, moment)
def test_a_day_begins_with_the_first_instant_of_its_date(zone: str, instant: int) -> None:
    there = ZoneInfo(zone)

    def local(of: int) -> date:
        return instants.moment(of).astimezone(there).date()

    day = periods.period_of("day", zone, instant)

    assert local(day.start) == local(instant) == local(day.end - 1)
    assert local(day.start - 1) < local(instant) < local(day.end)


@given(zone, moment)
def test_months_are_made_of_days_and_years_of_months(zone: str, instant: int) -> None:
    for inner, outer in (("day", "week"), ("day", "month"), ("month", "year")):
        small = periods.period_of(inner, zone, instant)  # type: ignore[arg-type]
        large = periods.period_of(outer, zone, instant)  # type: ignore[arg-type]

        assert large.start <= small.start < small.end <= large.end


@given(zone, moment)
def test_a_week_is_that_of_iso_8601(zone: str, instant: int) -> None:
    week = periods.period_of("week", zone, instant)
    there = ZoneInfo(zone)

    first, inside = (instants.moment(of).astimezone(there) for of in (week.start, instant))

    assert first.isocalendar()[:2] == inside.isocalendar()[:2]
    assert first.weekday() in (0, 1)  # Tuesday, where a Monday was left out


@given(kind, zone, moment, st.integers(1, 3))
def test_the_periods_between_two_instants_are_listed_in_order(
    kind: PeriodKind, zone: str, start: int, count: int
) -> None:
    end = start + count * {"hour": HOUR, "day": 24 * HOUR, "week": 168 * HOUR}.get(kind, 400 * 24 * HOUR)

    found = list(periods.periods_between(kind, zone, start, end))

    assert found[0] == periods.period_of(kind, zone, start)
    assert found[-1] == periods.period_of(kind, zone, end - 1)
    assert all(one.end == other.start for one, other in itertools.pairwise(found))


def test_hours_go_on_where_clocks_move_by_half_an_hour() -> None:
    day = periods.period_of("day", "Australia/Lord_Howe", at("2026-04-05T00:00:00Z"))

    found = list(periods.periods_between("hour", "Australia/Lord_Howe", day.start, day.end))

    assert found[-1].end >= day.end
    assert all(period.end - period.start == HOUR for period in found)


# ------------------------------------------------------------------------------- what people write

NOW = instants.parse("2026-11-23T08:00:00Z")


@pytest.mark.parametrize(
    ("words", "zone", "start", "end"),
    [
        (None, "UTC", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("", "Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
        ("2026", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("2026-03", "Europe/Berlin", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
        ("2026-03-10", "Asia/Kolkata", "2026-03-09T18:30:00Z", "2026-03-10T18:30:00Z"),
        ("2026-03-10..2026-03-12", "UTC", "2026-03-10T00:00:00Z", "2026-03-12T00:00:00Z"),
        ("2026-03..2027", "UTC", "2026-03-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("2026-03-10T08:00:00Z..2026-03-10T09:30:00+01:00", "UTC", "2026-03-10T08:00:00Z", "2026-03-10T08:30:00Z"),
    ],
)
def test_a_period_is_understood_as_people_write_it(words: str | None, zone: str, start: str, end: str) -> None:
    found = periods.parse_period(words, zone, NOW)

    assert [instants.text(found.start), instants.text(found.end)] == [start, end]


@pytest.mark.parametrize(
    "words",
    [
        "2026-13",
        "2026-02-30",
        "26",
        "march",
        "2026-W10",
        "2026-3",
        "0000",
        "9999",
        "9999-12",
        "9999-12-31",
        "2026-03-10T08:00:00Z",
        "..",
        "2026-03-10..",
        "2026-03-10..2026-03-10",
        "2026-03-12..2026-03-10",
        "2026-03-10T08:00..2026-03-11",
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_any_other_words_are_refused_with_the_way_to_write_them(words: str, zone: str) -> None:
    with pytest.raises(ValueError, match=r"write 20|write FROM"):
        periods.parse_period(words, zone, NOW)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("2026-11..", "period '2026-11..' has no end;"),
        ("..2026-11", "period '..2026-11' has no beginning;"),
        ("2026-11-01..2026-11-01", "period '2026-11-01..2026-11-01' is empty,"),
        ("2026-11-02..2026-11-01", "period '2026-11-02..2026-11-01' ends before it begins;"),
    ],
)
def test_what_is_wrong_with_a_span_is_said_in_the_words_that_were_written(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        periods.parse_period(words, "UTC", NOW)


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{4}(-[0-9]{2}){0,2}(\.\.[0-9]{4}(-[0-9]{2}){0,2})?", fullmatch=True))
def test_no_words_lead_to_anything_but_a_period_or_a_value_error(words: str) -> None:
    try:
        found = periods.parse_period(words, "Europe/Berlin", NOW)
    except ValueError:
        return
    assert found.start < found.end


@pytest.mark.parametrize(
    "name", ["Mars/Base", "", "localtime", "posixrules", "right/UTC", "posix/UTC", "../UTC", "a\0b"]
)
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone; write"):
        periods.zone(name)


def test_a_period_is_a_start_and_an_end() -> None:
    assert Period(1, 2) == (1, 2)
    assert datetime(2026, 1, 1, tzinfo=periods.zone("UTC")).utcoffset() is not None

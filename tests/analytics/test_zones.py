"""The database and Python agree on where hours, days, weeks, months and years begin."""

from __future__ import annotations

import random
import zoneinfo
from collections.abc import Iterator
from datetime import timedelta

import duckdb
import pytest

from doortab.analytics.zones import local_bucket, repeated_midnights
from doortab.schemas import instants, periods
from tests.schemas.test_periods import KINDS

DAY = 86_400 * instants.SECOND
QUARTER = DAY // 96
SOME_YEARS = (2005, 2012, 2026, 2061)
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "Africa/Cairo",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "America/St_Johns",  # until 2011 its clocks went back a minute past midnight
    "America/Goose_Bay",
    "America/Moncton",
]


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    yield connection
    connection.close()


def interesting(zone: str, random: random.Random) -> list[int]:
    """Instants of the whole century, and more of them around the hours in which the clocks change."""
    found = [random.randrange(instants.EARLIEST, instants.LATEST) for _ in range(1000)]
    there = periods.zone(zone)
    for year in SOME_YEARS:
        start = instants.parse(f"{year}-01-01T00:00:00Z")
        offsets: list[timedelta | None] = [
            instants.moment(start + day * DAY).astimezone(there).utcoffset() for day in range(366)
        ]
        changes = [start + day * DAY for day in range(365) if offsets[day] != offsets[day + 1]]
        found += [random.randrange(at + n * QUARTER, at + (n + 1) * QUARTER) for at in changes for n in range(-96, 192)]
    return [at for at in found if instants.EARLIEST <= at < instants.LATEST]


@pytest.mark.parametrize("zone", ZONES)
def test_a_bucket_of_the_database_is_a_period(database: duckdb.DuckDBPyConnection, zone: str) -> None:
    times = interesting(zone, random.Random(7))
    buckets = ", ".join(local_bucket(kind, zone) for kind in KINDS)

    rows = database.execute(
        f"SELECT {buckets} FROM (SELECT make_timestamp(unnest(?::BIGINT[])) AS time)", [times]
    ).fetchall()

    wrong = [
        (kind, instants.text(at), instants.text(start))
        for at, row in zip(times, rows, strict=True)
        for kind, start in zip(KINDS, row, strict=True)
        if start != periods.period_of(kind, zone, at).start
    ]
    assert wrong == []


def test_the_database_knows_every_zone_that_a_plan_may_name(database: duckdb.DuckDBPyConnection) -> None:
    known = {name for (name,) in database.execute("SELECT name FROM pg_timezone_names()").fetchall()}
    ours = {name for name in zoneinfo.available_timezones() if not name.startswith(periods.NOT_ZONES)}

    assert sorted(ours - known) == []


def test_few_zones_have_a_day_with_two_midnights() -> None:
    hour = 3600 * instants.SECOND

    assert repeated_midnights("America/Havana") == (hour,)
    assert repeated_midnights("Europe/Berlin") == ()
    assert repeated_midnights("UTC") == ()

"""Days, hours and months of a time zone, in the database's words."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache

from doortab.analytics.cells import literal
from doortab.schemas.periods import PeriodKind, zone

NOON = timedelta(hours=12)
UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Z", "GMT", "Etc/GMT"})


def local_bucket(kind: PeriodKind, zone_name: str) -> str:
    """The SQL of the instant (in microseconds) at which the event's hour, day, week, month or year begins there."""
    if kind == "total":
        return "0"
    if zone_name in UTC_NAMES:
        return f"epoch_us(date_trunc('{kind}', time))"
    name = literal(zone_name)
    local = f"timezone({name}, timezone('UTC', time))"
    if kind == "hour":
        # Reckoned back from the event, for the wall clock shows one hour twice in autumn.
        return f"epoch_us(time) - (epoch_us({local}) - epoch_us(date_trunc('hour', {local})))"
    shifts = repeated_midnights(zone_name)
    midnight = f"date_trunc('{kind}', {local})"
    begin = _first(midnight, name, shifts)
    if not shifts:
        return begin
    # What has begun goes on, though the clocks went back over its midnight: in Goose Bay at 00:01, until 2011.
    following = _first(f"({midnight} + INTERVAL 1 {kind})", name, shifts)
    return f"CASE WHEN epoch_us(time) >= {following} THEN {following} ELSE {begin} END"


def _first(midnight: str, zone_literal: str, shifts: tuple[int, ...]) -> str:
    """The SQL of the instant (in microseconds) at which the clocks there first show the midnight."""
    begin = f"timezone({zone_literal}, {midnight})"
    earlier = [f"{begin} - to_microseconds({shift})" for shift in shifts]
    whens = [f"WHEN timezone({zone_literal}, {first}) = {midnight} THEN {first}" for first in earlier]
    return f"epoch_us(CASE {' '.join(whens)} ELSE {begin} END)" if whens else f"epoch_us({begin})"


@lru_cache(maxsize=64)
def repeated_midnights(zone_name: str) -> tuple[int, ...]:
    """By how much (in microseconds) clocks there ever go back over midnight.

    Such a day begins at the first of its two midnights, while DuckDB takes a time of day that comes twice
    for the second. Havana and the Azores have one each autumn.
    """
    there = zone(zone_name)
    shifts = set()
    midnight = datetime(2000, 1, 1, tzinfo=there)
    while midnight.year < 2100:
        # Arithmetic on the wall clock. Where nothing changed by noon, midnight came once.
        before, midnight = midnight, midnight + timedelta(days=1)
        if (before + NOON).utcoffset() != (midnight + NOON).utcoffset():
            for first in (before, midnight):
                gone_back = _offset(first) - _offset(first.replace(fold=1))
                if gone_back > timedelta():
                    shifts.add(gone_back // timedelta(microseconds=1))
    return tuple(sorted(shifts))


def _offset(moment: datetime) -> timedelta:
    offset = moment.utcoffset()
    assert offset is not None
    return offset

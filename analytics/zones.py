"""Days, hours and months of a time zone, in the database's words."""

from __future__ import annotations

from doortab.analytics.cells import literal
from doortab.schemas.periods import PeriodKind

UTC_NAMES = frozenset({"UTC", "Etc/UTC", "Z", "GMT", "Etc/GMT"})


def local_bucket(kind: PeriodKind, zone_name: str) -> str:
    """The SQL of the instant (in microseconds) at which the event's hour, day, week, month or year begins there."""
    if kind == "total":
        return "0"
    if zone_name in UTC_NAMES:
        return f"epoch_us(date_trunc('{kind}', time))"
    zone = literal(zone_name)
    local = f"timezone({zone}, timezone('UTC', time))"
    if kind == "hour":
        # Reckoned back from the event, for the wall clock shows one hour twice in autumn.
        return f"epoch_us(time) - (epoch_us({local}) - epoch_us(date_trunc('hour', {local})))"
    return f"epoch_us(timezone({zone}, date_trunc('{kind}', {local})))"

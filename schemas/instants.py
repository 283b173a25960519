"""Instants: whole microseconds since 1970 in UTC, and their RFC 3339 text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

Microseconds = int

SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * SECOND
LATEST = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""Events outside this range are refused: nobody is billed for the year 9999."""

_from_iso = datetime.fromisoformat


def parse(text: str) -> Microseconds:
    """The instant that RFC 3339 text names; what is finer than a microsecond is cut off.

    Raises:
        ValueError: not RFC 3339, no zone, or no such date.
    """
    if text[10:11] in ("t", " "):
        text = text.upper().replace(" ", "T", 1)
    if text[4:5] != "-" or text[7:8] != "-" or text[10:11] != "T" or text[16:17] != ":":
        raise ValueError(f"{text!r} is not RFC 3339; write 2026-11-23T08:00:00Z")
    moment = _from_iso(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; end it with Z or an offset such as +01:00")
    # A double holds microseconds exactly until the year 2255.
    return round(moment.timestamp() * 1e6)


def text(instant: Microseconds) -> str:
    """RFC 3339 text in UTC; microseconds stand only where they are not zero."""
    return moment(instant).isoformat().replace("+00:00", "Z")


def moment(instant: Microseconds) -> datetime:
    """The instant as an aware ``datetime`` in UTC."""
    return EPOCH + timedelta(microseconds=instant)


def of(moment: datetime) -> Microseconds:
    """The instant of an aware ``datetime``, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)

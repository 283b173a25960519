"""Instants: whole microseconds since 1970 in UTC, and their RFC 3339 text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

Microseconds = int

SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * SECOND
LATEST = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""Events outside this range are refused: nobody is billed for the year 9999."""

_from_iso = datetime.fromisoformat
# What Python's versions take beside RFC 3339 differs, and a ledger must not read its log otherwise after an upgrade.
_rfc_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,32})?(Z|z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?\Z",
    re.ASCII,
).match


def parse(text: str) -> Microseconds:
    """The instant that RFC 3339 text names; what is finer than a microsecond is cut off.

    Raises:
        ValueError: not RFC 3339, no zone, or no such date.
    """
    match = _rfc_3339(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not RFC 3339; write 2026-11-23T08:00:00Z")
    if match[1] is None:
        raise ValueError(f"{text!r} has no time zone; end it with Z or an offset such as +01:00")
    try:
        moment = _from_iso(text if match[1] != "z" else text.upper())
    except ValueError as error:
        raise ValueError(f"{text!r} names no date or time: {error}") from None
    # A double holds the microseconds of these centuries exactly, and of others closely enough to refuse them.
    return round(moment.timestamp() * 1e6)


_USUAL = b"0000-00-00T00:00:00.000000Z"
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)


def parse_all(texts: Sequence[str]) -> list[Microseconds]:
    """The instants of many texts. In the usual form, to the microsecond in UTC, each minute is looked up once.

    Raises:
        ValueError: as ``parse`` does.
    """
    joined = "".join(texts).encode(errors="replace").translate(_AS_ZEROS)
    if joined != _USUAL * len(texts) or set(map(len, texts)) != {len(_USUAL)}:
        return [parse(text) for text in texts]
    after = [int(text[17:19] + text[20:26]) for text in texts]
    if max(after) >= 60 * SECOND:
        return [parse(text) for text in texts]
    minutes = [text[:17] for text in texts]
    begins = {minute: parse(minute + "00Z") for minute in set(minutes)}
    return [begins[minute] + more for minute, more in zip(minutes, after, strict=True)]


def text(instant: Microseconds) -> str:
    """RFC 3339 text in UTC; microseconds stand only where they are not zero."""
    return moment(instant).isoformat().replace("+00:00", "Z")


def moment(instant: Microseconds) -> datetime:
    """The instant as an aware ``datetime`` in UTC."""
    return EPOCH + timedelta(microseconds=instant)


def of(moment: datetime) -> Microseconds:
    """The instant of an aware ``datetime``, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)

"""Bytes to events and back. The only place where a record becomes an event, or is rejected.

A record holds one event or a JSON array of them. Whole arrays are checked at once, in one pass of a
typed decoder; when that fails, each element is looked at alone, so that a bad event never takes its
neighbours along. Records of one event each are joined to an array first. Nothing here raises on bytes,
whatever they are, and an event is read the same alone and in an array.

Where JSON leaves something open: of two fields with one name in one object the last counts; objects
nest at most ``events.MAX_DEPTH`` deep; no text holds the character U+0000, which no database and no sheet takes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import groupby, repeat
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from doortab.schemas import instants, unusual
from doortab.schemas.elements import split
from doortab.schemas.events import MAX_EVENT_BYTES, MAX_PLAIN, Event, Name, Usage
from doortab.schemas.log import Record
from doortab.schemas.unusual import NUL, UNREADABLE
from doortab.schemas.unusual import Unreadable as Unreadable


class PlainUsage(Usage, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Usage whose quantities are all small whole numbers, as nearly all are."""

    units: dict[Name, Annotated[int, Meta(ge=0, le=MAX_PLAIN)]] = msgspec.field(default_factory=dict)  # type: ignore[assignment]


class PlainEvent(Event, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """An event with such data: the decoder that knows no other kind of quantity says so at no cost."""

    data: PlainUsage


BACKSLASH = b"\\"
"""A single byte is found ten times as fast as a text, and most records hold none."""

RUN = 128
"""So many records of one event are read at once; if one of them is bad, they all are read again, one by one."""

_ONE = range(1)

ParseAll = Callable[[Sequence[str]], list[int]]

KEPT_BYTES = 65_536
"""So much of a rejected value is kept; of a longer one the beginning."""

_events = msgspec.json.Decoder(list[Event], float_hook=Decimal)
_event = msgspec.json.Decoder(Event, float_hook=Decimal)
_plain_events = msgspec.json.Decoder(list[PlainEvent], float_hook=Decimal)
_plain_event = msgspec.json.Decoder(PlainEvent, float_hook=Decimal)
_anything = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder()


class Rejected(msgspec.Struct, frozen=True):
    """A record, or one event of it, that cannot be billed, and why.

    ``reason`` is a word to count by, ``detail`` a sentence for people. ``raw`` is what stood there, at
    most ``KEPT_BYTES`` of it; ``size`` is how many bytes it had.
    """

    topic: str
    partition: int
    offset: int
    index: int
    reason: str
    detail: str
    raw: bytes
    size: int


class Span(NamedTuple):
    """Where a run of events came from: one record, which the log received at instant ``logged``.

    ``indices`` are their places in the record; its events are numbered from ``first`` on here.
    """

    partition: int
    offset: int
    logged: int
    first: int
    indices: Sequence[int]


class Decoded:
    """Events of a batch of records, with their instants in ``times``, and what was rejected.

    ``spans`` say where they came from. ``rest`` holds, by the event's number here, what its data held
    beyond the usage fields, as canonical JSON. ``plain`` says that every quantity is a whole number.
    """

    __slots__ = ("_firsts", "events", "plain", "rejected", "rest", "spans", "times")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.times: list[int] = []
        self.spans: list[Span] = []
        self._firsts: list[int] = []
        self.rest: dict[int, str] = {}
        self.rejected: list[Rejected] = []
        self.plain = True

    def span_of(self, number: int) -> Span:
        """The span in which event ``number`` stands."""
        return self.spans[bisect_right(self._firsts, number) - 1]

    def place_of(self, number: int) -> tuple[int, int, int]:
        """Partition, offset and index in the record of event ``number``."""
        span = self.span_of(number)
        return span.partition, span.offset, span.indices[number - span.first]

    def add(self, record: Record, events: Sequence[Event], times: Sequence[int], indices: Sequence[int]) -> None:
        """Takes events of a record."""
        first = len(self.events)
        self.events += events
        self.times += times
        self._firsts.append(first)
        self.spans.append(Span(record.partition, record.offset, record.timestamp_ms * 1000, first, indices))

    def add_singles(self, records: Sequence[Record], events: Sequence[Event], times: Sequence[int]) -> None:
        """Takes as many events as records, one of each."""
        first = len(self.events)
        self.events += events
        self.times += times
        self._firsts += range(first, first + len(records))
        self.spans += [
            Span(record.partition, record.offset, record.timestamp_ms * 1000, number, _ONE)
            for number, record in enumerate(records, first)
        ]


def decode(records: Iterable[Record], parse_all: ParseAll = instants.parse_all) -> Decoded:
    """All events of the records, in order. An event without a time gets that of its record.

    ``parse_all`` reads many times at once, as ``instants.parse`` reads each.
    """
    decoded = Decoded()
    for run in _runs(records):
        if len(run) > 1 and _decode_run(run, decoded, parse_all):
            continue
        for record in run:
            if _decode_whole(record, decoded, _plain_events.decode, _plain_event.decode, parse_all):
                continue
            decoded.plain = False
            if not _decode_whole(record, decoded, _events.decode, _event.decode, parse_all):
                _decode_each(record, decoded)
    return decoded


def _runs(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    """The records in order: those that look like one event some at once, others alone."""
    for is_single, group in groupby(records, _looks_single):
        if not is_single:
            yield from ([record] for record in group)
            continue
        run = list(group)
        yield from (run[first : first + RUN] for first in range(0, len(run), RUN))


def _looks_single(record: Record) -> bool:
    value = record.value
    return value is not None and value[:1] == b"{" and len(value) <= MAX_EVENT_BYTES


def _decode_run(records: Sequence[Record], decoded: Decoded, parse_all: ParseAll) -> bool:
    """Takes records of one event each in one pass; False when they need to be looked at one by one.

    Joined, bytes that are no event alone could make one with their neighbours. They do not: every record
    begins with a brace, and in plain events a comma, a line break and a brace are JSON nowhere but between
    two elements of the array, since texts hold no line breaks, after a comma in an object comes a name, and
    they have no arrays. So each record holds one element at least, and with as many as records, just one.
    """
    value = b"[" + b",\n".join([record.value or b"" for record in records]) + b"]"
    if BACKSLASH in value and NUL in value:
        return False
    try:
        events = _plain_events.decode(value)
        times = _times(events, [record.timestamp_ms * 1000 for record in records], parse_all)
    except (*UNREADABLE, ValueError):
        return False
    if len(events) != len(records) or times is None:
        return False
    decoded.add_singles(records, events, times)
    return True


def _decode_whole(
    record: Record,
    decoded: Decoded,
    many: Callable[[bytes], Sequence[Event]],
    one: Callable[[bytes], Event],
    parse_all: ParseAll,
) -> bool:
    """Takes a record in one pass; False when it needs to be looked at more closely."""
    value = record.value
    if value is None or len(value) > MAX_EVENT_BYTES or (BACKSLASH in value and NUL in value):
        return False
    try:
        events = many(value) if value[:1] == b"[" else [one(value)]
        times = _times(events, repeat(record.timestamp_ms * 1000), parse_all)
    except (*UNREADABLE, ValueError):
        return False
    if not events or times is None:
        return False
    decoded.add(record, events, times, range(len(events)))
    return True


def _times(events: Sequence[Event], stamps: Iterable[int], parse_all: ParseAll) -> Sequence[int] | None:
    """The instants of the events, by default those at which the log received them; None if one is out of range.

    Raises:
        ValueError: one is not readable.
    """
    texts = [event.time for event in events if event.time is not None]
    if len(texts) == len(events):
        times: Sequence[int] = parse_all(texts)
    else:
        pairs = zip(events, stamps, strict=False)
        times = [stamp if event.time is None else instants.parse(event.time) for event, stamp in pairs]
    if times and (min(times) < instants.EARLIEST or max(times) >= instants.LATEST):
        return None
    return times


def _decode_each(record: Record, decoded: Decoded) -> None:
    try:
        elements = split(record.value)
    except Unreadable as why:
        decoded.rejected.append(reject(record, 0, record.value or b"", why))
        return
    events: list[Event] = []
    times: list[int] = []
    indices: list[int] = []
    first = len(decoded.events)
    for index, element in enumerate(elements):
        try:
            event, time, rest = decode_event(element, record.timestamp_ms * 1000)
        except Unreadable as why:
            decoded.rejected.append(reject(record, index, element, why))
            continue
        if rest is not None:
            decoded.rest[first + len(events)] = rest
        events.append(event)
        times.append(time)
        indices.append(index)
    if events:
        decoded.add(record, events, times, indices)


def reject(record: Record, index: int, raw: bytes, why: Unreadable) -> Rejected:
    """The rejection of one event of a record."""
    return Rejected(
        record.topic, record.partition, record.offset, index, why.reason, why.detail, raw[:KEPT_BYTES], len(raw)
    )


def decode_event(raw: bytes, received: int) -> tuple[Event, int, str | None]:
    """One event, its instant, and what its data held beyond the usage fields, as canonical JSON.

    ``received`` is the instant that counts when the event names none.

    Raises:
        Unreadable: it is not an event, or breaks a rule of one.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise Unreadable("too_large", f"{len(raw)} bytes; an event may have {MAX_EVENT_BYTES}: shorten its data")
    try:
        event, rest = (_event.decode(raw), None) if NUL not in raw else unusual.read(raw)
    except UNREADABLE:
        event, rest = unusual.read(raw)
    return event, _instant(event.time, received), rest


def _instant(text: str | None, received: int) -> int:
    try:
        instant = received if text is None else instants.parse(text)
    except ValueError as error:
        raise Unreadable("invalid_time", f"time: {error}") from None
    if not instants.EARLIEST <= instant < instants.LATEST:
        shown = f"time {text!r}" if text is not None else f"the log's own time, {received} µs since 1970,"
        raise Unreadable("time_out_of_range", f"{shown} is not between the years 2000 and 2100")
    return instant


def decode_rest(text: str) -> dict[str, Any]:
    """What an event's data held beyond the usage fields, numbers with a fraction as decimals."""
    rest: dict[str, Any] = _anything.decode(text)
    return rest


def encode(event: Event) -> bytes:
    """The event as JSON."""
    return _encoder.encode(event)


def join(events: Sequence[bytes]) -> bytes:
    """The value of a record that holds these encoded events: the event itself, or an array."""
    return events[0] if len(events) == 1 else b"[" + b",".join(events) + b"]"

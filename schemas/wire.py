"""Bytes to events and back. The only place where a record becomes an event, or is rejected.

A record holds one event or a JSON array of them. Whole arrays are checked at once, in one pass of a
typed decoder; when that fails, each element is looked at alone, so that a bad event never takes its
neighbours along. Nothing here raises on bytes, whatever they are, and an event is read the same alone
and in an array.

Where JSON leaves something open: of two fields with one name in one object the last counts; objects
nest at most ``events.MAX_DEPTH`` deep; no text holds the character U+0000, which no database and no sheet takes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from doortab.schemas import instants, unusual
from doortab.schemas.events import MAX_EVENT_BYTES, MAX_PLAIN, Event, Name, Usage
from doortab.schemas.log import Record
from doortab.schemas.unusual import NUL, UNREADABLE, unreadable
from doortab.schemas.unusual import Unreadable as Unreadable


class PlainUsage(Usage, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Usage whose quantities are all small whole numbers, as nearly all are."""

    units: dict[Name, Annotated[int, Meta(ge=0, le=MAX_PLAIN)]] = msgspec.field(default_factory=dict)  # type: ignore[assignment]


class PlainEvent(Event, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """An event with such data: the decoder that knows no other kind of quantity says so at no cost."""

    data: PlainUsage


WHITESPACE = b" \t\r\n"
BACKSLASH = b"\\"
"""A single byte is found ten times as fast as a text, and most records hold none."""

ParseAll = Callable[[Sequence[str]], list[int]]

KEPT_BYTES = 65_536
"""So much of a rejected value is kept; of a longer one the beginning."""

_events = msgspec.json.Decoder(list[Event], float_hook=Decimal)
_event = msgspec.json.Decoder(Event, float_hook=Decimal)
_plain_events = msgspec.json.Decoder(list[PlainEvent], float_hook=Decimal)
_plain_event = msgspec.json.Decoder(PlainEvent, float_hook=Decimal)
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder()
_token = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)


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


def decode(records: Iterable[Record], parse_all: ParseAll = instants.parse_all) -> Decoded:
    """All events of the records, in order. An event without a time gets that of its record.

    ``parse_all`` reads many times at once, as ``instants.parse`` reads each.
    """
    decoded = Decoded()
    for record in records:
        if _decode_whole(record, decoded, _plain_events.decode, _plain_event.decode, parse_all):
            continue
        decoded.plain = False
        if not _decode_whole(record, decoded, _events.decode, _event.decode, parse_all):
            _decode_each(record, decoded)
    return decoded


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
        stamp = record.timestamp_ms * 1000
        texts = [e.time for e in events if e.time is not None]
        if len(texts) == len(events):
            times = parse_all(texts)
        else:
            times = [stamp if e.time is None else instants.parse(e.time) for e in events]
    except (*UNREADABLE, ValueError):
        return False
    if not events or min(times) < instants.EARLIEST or max(times) >= instants.LATEST:
        return False
    decoded.add(record, events, times, range(len(events)))
    return True


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


def split(value: bytes | None) -> Sequence[bytes]:
    """The bytes of each event in a record: its elements, if it is an array.

    Raises:
        Unreadable: it holds no events.
    """
    if value is None:
        raise Unreadable("null_value", "the record has no value; publish a CloudEvent or an array of them")
    if value.lstrip(WHITESPACE)[:1] != b"[":
        return [value]
    try:
        elements = [bytes(element) for element in _elements.decode(value)]
    except UNREADABLE as error:
        elements = _split_broken(value)
        if not elements:
            raise unreadable(error) from None
    if not elements:
        raise Unreadable("empty_batch", "the array holds no event")
    return elements


def _split_broken(array: bytes) -> list[bytes]:
    """The elements of an array that is no JSON because of what stands inside one of them, such as NaN.

    Empty if its brackets and quotes do not match, so that nobody can tell where an element ends.
    """
    closing: list[bytes] = []
    elements: list[bytes] = []
    start = 0
    for match in _token.finditer(array):
        token = match[0]
        if token in (b"[", b"{"):
            start = start if closing else match.end()
            closing.append(b"]" if token == b"[" else b"}")
        elif token == b"," and len(closing) == 1:
            elements.append(array[start : match.start()].strip(WHITESPACE))
            start = match.end()
        elif token in (b"]", b"}"):
            if not closing or closing.pop() != token:
                return []
            if not closing:
                elements.append(array[start : match.start()].strip(WHITESPACE))
                return [] if array[match.end() :].strip(WHITESPACE) else elements
        elif token == b'"':
            return []
    return []


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

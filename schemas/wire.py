"""Bytes to events and back. The only place where a record becomes an event, or is rejected.

A record holds one event or a JSON array of them. Whole arrays are checked at once, in one pass of a
typed decoder; when that fails, each element is looked at alone, so that a bad event never takes its
neighbours along. Nothing here raises on bytes, whatever they are.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from doortab.schemas import instants
from doortab.schemas.events import (
    DECIMAL_TEXT,
    MAX_DIGITS,
    MAX_EVENT_BYTES,
    MAX_PLAIN,
    REQUEST_VALIDATED,
    Event,
    Name,
    Usage,
)
from doortab.schemas.log import Record


class PlainUsage(Usage, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Usage whose quantities are all small whole numbers, as nearly all are."""

    units: dict[Name, Annotated[int, Meta(ge=0, le=MAX_PLAIN)]] = {}  # type: ignore[assignment]


class PlainEvent(Event, gc=False, omit_defaults=True):
    """An event with such data: the decoder that knows no other kind of quantity says so at no cost."""

    data: PlainUsage


KEPT_BYTES = 65_536
"""So much of a rejected value is kept; of a longer one the beginning."""

_events = msgspec.json.Decoder(list[Event], float_hook=Decimal)
_event = msgspec.json.Decoder(Event, float_hook=Decimal)
_plain_events = msgspec.json.Decoder(list[PlainEvent], float_hook=Decimal)
_plain_event = msgspec.json.Decoder(PlainEvent, float_hook=Decimal)
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder()
_canonical = msgspec.json.Encoder(order="deterministic", decimal_format="number")
_decimal_text = re.compile(DECIMAL_TEXT)
_USAGE_FIELDS = frozenset(Usage.__struct_fields__)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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


class Unreadable(Exception):
    """Why one event is rejected. Never leaves this module's callers as an error: it becomes a ``Rejected``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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

    def add(self, record: Record, events: list[Event], times: list[int], indices: Sequence[int]) -> None:
        """Takes events of a record."""
        first = len(self.events)
        self.events += events
        self.times += times
        self._firsts.append(first)
        self.spans.append(Span(record.partition, record.offset, record.timestamp_ms * 1000, first, indices))


def decode(records: Iterable[Record]) -> Decoded:
    """All events of the records, in order. An event without a time gets that of its record."""
    decoded = Decoded()
    for record in records:
        if _decode_whole(record, decoded, _plain_events, _plain_event):
            continue
        decoded.plain = False
        if not _decode_whole(record, decoded, _events, _event):
            _decode_each(record, decoded)
    return decoded


def _decode_whole(
    record: Record, decoded: Decoded, many: msgspec.json.Decoder[list[Event]], one: msgspec.json.Decoder[Event]
) -> bool:
    """Takes a record in one pass; False when it needs to be looked at more closely."""
    value = record.value
    if value is None or len(value) > MAX_EVENT_BYTES:
        return False
    try:
        events = many.decode(value) if value[:1] == b"[" else [one.decode(value)]
        stamp = record.timestamp_ms * 1000
        times = [stamp if e.time is None else instants.parse(e.time) for e in events]
    except (*_UNREADABLE, ValueError, OverflowError):
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
    events, times, indices = [], [], []
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
    if value.lstrip(b" \t\r\n")[:1] != b"[":
        return [value]
    try:
        elements = [bytes(element) for element in _elements.decode(value)]
    except _UNREADABLE as error:
        raise _unreadable(error) from None
    if not elements:
        raise Unreadable("empty_batch", "the array holds no event")
    return elements


def decode_event(raw: bytes, received: int) -> tuple[Event, int, str | None]:
    """One event, its instant, and what its data held beyond the usage fields, as canonical JSON.

    ``received`` is the instant that counts when the event names none.

    Raises:
        Unreadable: it is not an event, or breaks a rule of one.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise Unreadable("too_large", f"{len(raw)} bytes; an event may have {MAX_EVENT_BYTES}: shorten its data")
    try:
        event, rest = _event.decode(raw), None
    except _UNREADABLE:
        event, rest = _decode_loosely(raw)
    return event, _instant(event.time, received), rest


def _instant(text: str | None, received: int) -> int:
    if text is None:
        return received
    try:
        instant = instants.parse(text)
    except (ValueError, OverflowError) as error:
        raise Unreadable("invalid_time", f"time {text[:64]!r}: {error}") from None
    if not instants.EARLIEST <= instant < instants.LATEST:
        raise Unreadable("time_out_of_range", f"time {text[:64]!r} is not between the years 2000 and 2100")
    return instant


def _unreadable(error: Exception) -> Unreadable:
    if isinstance(error, UnicodeDecodeError):
        return Unreadable("bad_utf8", f"not UTF-8: {error.reason} at byte {error.start}")
    if isinstance(error, RecursionError):
        return Unreadable("too_deep", "nested too deeply; data is an object of a few levels")
    return Unreadable("bad_json", f"not JSON: {error}")


def _decode_loosely(raw: bytes) -> tuple[Event, str | None]:
    """An event whose data is more than, or other than, the usage fields: another type, extra fields, big numbers."""
    try:
        whole = _anything.decode(raw)
    except _UNREADABLE as error:
        raise _unreadable(error) from None
    if not isinstance(whole, dict):
        raise Unreadable("not_an_event", "not a JSON object; an event is a CloudEvent 1.0 in structured mode")
    if whole.get("specversion") != "1.0":
        raise Unreadable("unknown_version", f'specversion {_show(whole.get("specversion"))}; write "1.0"')
    kind = str(whole.get("datacontenttype") or "application/json").split(";")[0].strip().lower()
    if "data_base64" in whole or not (kind.endswith("/json") or kind.endswith("+json")):
        raise Unreadable("not_json_data", f"datacontenttype {_show(kind)}; data must be a JSON object")
    whole["datacontenttype"] = None
    data = whole.get("data")
    if data is None and whole.get("type") != REQUEST_VALIDATED:
        data = {}
    if not isinstance(data, dict):
        raise Unreadable("invalid_event", f"data is {_show(data)}; it must be a JSON object")
    usage, rest = _usage(data, strict=whole.get("type") == REQUEST_VALIDATED)
    whole["data"] = usage
    try:
        event = msgspec.convert(whole, Event)
    except (msgspec.ValidationError, ValueError) as error:
        raise Unreadable("invalid_event", str(error)) from None
    return event, _canonical.encode(rest).decode() if rest else None


def _usage(data: dict[str, Any], strict: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits data into usage fields and the rest. Only ``request.validated`` is bound to ours being right:
    another type may use the same names for something else."""
    usage: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in data.items():
        if name not in _USAGE_FIELDS:
            rest[name] = value
            continue
        try:
            usage[name] = _field(name, value)
        except Unreadable:
            if strict:
                raise
            rest[name] = value
    return usage, rest


def _field(name: str, value: Any) -> Any:
    if name == "units":
        return {unit: _quantity(unit, quantity) for unit, quantity in _object(name, value).items()}
    if name == "dimensions":
        dimensions = {k: _dimension(k, v) for k, v in _object(name, value).items()}
        return {k: v for k, v in dimensions.items() if v is not None}
    try:
        msgspec.convert({name: value}, Usage)
    except (msgspec.ValidationError, ValueError) as error:
        raise Unreadable("invalid_event", f"data.{name} is {_show(value)}: {error}") from None
    return value


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable("invalid_event", f"data.{name} is {_show(value)}; it must be a JSON object")
    return value


def _quantity(unit: str, value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= MAX_PLAIN:
            return value
        if value > 0 and len(digits := _digits(value)) <= MAX_DIGITS:
            return digits
    if isinstance(value, str) and _decimal_text.match(value):
        return value
    raise Unreadable(
        "invalid_quantity",
        f"data.units.{unit[:64]} is {_show(value)}; a quantity is a whole number, not negative, or decimal text",
    )


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python will write
        return "a number of thousands of digits"


def _dimension(name: str, value: Any) -> str | None:
    match value:
        case str() | None:
            return value
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
    raise Unreadable("invalid_event", f"data.dimensions.{name[:64]} is {_show(value)}; a dimension is text")


def _show(value: Any) -> str:
    try:
        return _canonical.encode(value).decode()[:80]
    except (ValueError, TypeError, RecursionError):
        return type(value).__name__


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

"""Events that are more than plain usage, or other than it: foreign types, extra data, big numbers, mistakes.

Read slowly, field by field, so that whatever is wrong with one is said with its place, its value and the
way out. ``schemas.wire`` comes here with what its typed decoders do not take.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import msgspec

from doortab.schemas.events import DECIMAL_TEXT, MAX_DEPTH, MAX_DIGITS, MAX_PLAIN, REQUEST_VALIDATED, Event, Usage

# ArithmeticError is how Decimal refuses an exponent of twenty digits.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError)

NUL = b"\\u0000"
"""How U+0000 stands in JSON, where it has to be escaped."""

_anything = msgspec.json.Decoder(float_hook=Decimal)
_canonical = msgspec.json.Encoder(order="deterministic", decimal_format="number")
_decimal_text = re.compile(DECIMAL_TEXT)
_USAGE_FIELDS = frozenset(Usage.__struct_fields__)
_EVENT_FIELDS = Event.__struct_fields__
_NAMES = ("account", "key")


class Unreadable(Exception):
    """Why one event is rejected. Never leaves this module's callers as an error: it becomes a ``Rejected``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def unreadable(error: Exception) -> Unreadable:
    """Why bytes are not JSON, from what the decoder raised."""
    if isinstance(error, UnicodeDecodeError):
        return Unreadable("bad_utf8", f"not UTF-8: {error.reason} at byte {error.start}")
    if isinstance(error, RecursionError):
        return _too_deep()
    return Unreadable("bad_json", f"not JSON: {error}")


def _too_deep() -> Unreadable:
    return Unreadable("too_deep", f"nested more than {MAX_DEPTH} levels deep; flatten its data")


def _check_texts(value: Any, depth: int) -> None:
    """Refuses what nests too deeply, and U+0000 in any text."""
    if depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, str):
        if "\0" in value:
            raise Unreadable("invalid_text", f"{_show(value)} holds the character U+0000; leave it out")
    elif isinstance(value, dict):
        for name, element in value.items():
            _check_texts(name, depth)
            _check_texts(element, depth + isinstance(element, dict | list))
    elif isinstance(value, list):
        for element in value:
            _check_texts(element, depth + isinstance(element, dict | list))


def read(raw: bytes) -> tuple[Event, str | None]:
    """The event, and what its data held beyond the usage fields, as canonical JSON.

    Raises:
        Unreadable: it is not an event, or breaks a rule of one.
    """
    try:
        whole = _anything.decode(raw)
    except UNREADABLE as error:
        raise unreadable(error) from None
    if not isinstance(whole, dict):
        raise Unreadable("not_an_event", "not a JSON object; an event is a CloudEvent 1.0 in structured mode")
    if NUL in raw or raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _check_texts(whole, 1)
    if whole.get("specversion") != "1.0":
        raise Unreadable("unknown_version", f'specversion {_show(whole.get("specversion"))}; write "1.0"')
    kind = str(whole.get("datacontenttype") or "application/json").split(";")[0].strip().lower()
    if "data_base64" in whole or not kind.endswith(("/json", "+json")):
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
        event = msgspec.convert({name: whole[name] for name in _EVENT_FIELDS if name in whole}, Event)
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
    if value is None or (name in _NAMES and isinstance(value, str) and 0 < len(value) <= 256):
        return value
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
    except (ValueError, TypeError, OverflowError):
        return type(value).__name__

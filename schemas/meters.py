"""Meters: named measurements over usage events, and the paths and conditions they read.

A path names a place inside an event's data: ``units.NAME``, ``dimensions.NAME``, one of the usage
fields (``account``, ``key``, ``operation``, ``verdict``, ``reason``), or else a place in the rest of
the data, dots between the levels (``$.a.b`` and ``a.b`` are the same).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import msgspec

from doortab.schemas import money
from doortab.schemas.events import DECIMAL_TEXT, MAX_DIGITS, Event

Aggregation = Literal["count", "sum", "min", "max", "avg", "unique", "latest"]
AGGREGATIONS: tuple[Aggregation, ...] = ("count", "sum", "min", "max", "avg", "unique", "latest")
ADDITIVE: frozenset[Aggregation] = frozenset({"count", "sum"})
"""Whose whole is the sum of its parts. Only these can be charged event by event."""

NUMERIC: frozenset[Aggregation] = frozenset({"sum", "min", "max", "avg"})
"""Which need a number to read."""

FIELDS = ("account", "key", "operation", "verdict", "reason")

_decimal_text = re.compile(DECIMAL_TEXT)
_TOO_LARGE = 10**MAX_DIGITS


class Path(msgspec.Struct, frozen=True):
    """A place inside an event's data. ``root`` is units, dimensions, field or rest."""

    root: Literal["units", "dimensions", "field", "rest"]
    name: str


def path(text: str) -> Path:
    """The path that text names.

    Raises:
        ValueError: it names no place.
    """
    text = text.removeprefix("$.").removeprefix("data.")
    root, dot, name = text.partition(".")
    if not text or (dot and not name):
        raise ValueError(f"{text!r} is not a path; write units.input_tokens or dimensions.model")
    if root == "units" and dot:
        return Path("units", name)
    if root == "dimensions" and dot:
        return Path("dimensions", name)
    if text in FIELDS:
        return Path("field", text)
    return Path("rest", text)


def read(where: Path, event: Event, rest: Mapping[str, Any]) -> Any:
    """What stands at the path: text, a number, or None."""
    match where.root:
        case "units":
            used = event.data.units.get(where.name)
            # As a number, so that the text 5.0 equals 5 here as it does in the store's column.
            return Decimal(used) if isinstance(used, str) else used
        case "dimensions":
            return event.data.dimensions.get(where.name)
        case "field":
            return getattr(event.data, where.name)
    value: Any = rest
    for step in where.name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def quantity(value: Any) -> int | None:
    """A number as a whole number of 10^-24, or None: true is not a number, and neither is NaN.

    Nor is a number with more digits before the point than a quantity may have. Unlike a unit, a value in the
    rest of the data may be negative, or a JSON number with a fraction; what is finer than 10^-24 is cut off.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value * money.QUANTITY_ONE if abs(value) < _TOO_LARGE else None
    if isinstance(value, Decimal):
        return _scaled(value)
    if isinstance(value, str) and _decimal_text.match(value.removeprefix("-")):
        return money.scaled(value, money.QUANTITY_DECIMALS)
    return None


def _scaled(value: Decimal) -> int | None:
    if not value:
        return 0
    if not value.is_finite() or value.adjusted() >= MAX_DIGITS:
        return None
    sign, digits, exponent = value.as_tuple()
    shift = int(exponent) + money.QUANTITY_DECIMALS
    kept = digits[: max(0, len(digits) + min(0, shift))]
    number: int = int("".join(map(str, kept)) or "0") * 10 ** max(0, shift)
    return -number if sign else number


Operator = Literal["eq", "ne", "lt", "lte", "gt", "gte"]
OPERATORS: tuple[Operator, ...] = ("eq", "ne", "lt", "lte", "gt", "gte")


class Condition(msgspec.Struct, frozen=True, order=True):
    """What an event must show at a path: one of ``values`` (text), or a comparison with a number or text."""

    path: str
    operator: Literal["in", "eq", "ne", "lt", "lte", "gt", "gte"]
    values: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        """Whether what stands at the path meets the condition. Nothing there meets only ``ne``."""
        if value is None:
            return self.operator == "ne"
        if self.operator == "in":
            return any(_equal(value, v) for v in self.values)
        if self.operator in ("eq", "ne"):
            return _equal(value, self.values[0]) == (self.operator == "eq")
        left, right = quantity(value), quantity(self.values[0])
        if left is None or right is None:
            return False
        return {"lt": left < right, "lte": left <= right, "gt": left > right, "gte": left >= right}[self.operator]


def _equal(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == ("true" if value else "false")
    if isinstance(value, str):
        return value == wanted
    number = quantity(value)
    return number is not None and number == quantity(wanted)


class Meter(msgspec.Struct, frozen=True):
    """A named measurement: events of type ``event`` that meet ``where``, their ``value`` aggregated."""

    name: str
    event: str
    aggregation: Aggregation
    value: str | None = None
    where: tuple[Condition, ...] = ()
    group_by: tuple[str, ...] = ()

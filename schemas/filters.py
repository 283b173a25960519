"""Filters: the ``where`` tables of meters and charges, as conditions on events.

``{ "dimensions.model" = "gpt-4", "units.input_tokens" = { lte = 200000 } }``: an event must meet them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from doortab.schemas import meters

Where = dict[str, Any]


def conditions(where: Where) -> tuple[meters.Condition, ...]:
    """The conditions of a ``where`` table, in a canonical order.

    Raises:
        ValueError: a path or comparison that is not one.
    """
    return tuple(sorted(c for path, wanted in where.items() for c in _conditions(path, wanted)))


def _conditions(path: str, wanted: Any) -> Iterable[meters.Condition]:
    meters.path(path)
    path = path.removeprefix("data.").removeprefix("$.")
    if not isinstance(wanted, dict):
        values = wanted if isinstance(wanted, list) else [wanted]
        if not values:
            raise ValueError(f"where {path!r} is an empty list, which no event meets; write a value or leave it out")
        yield meters.Condition(path, "in", tuple(sorted({_condition_text(path, v) for v in values})))
        return
    if not wanted:
        raise ValueError(f"where {path!r} says nothing; write a value, a list or {{ lte = 200000 }}")
    for operator, value in wanted.items():
        if operator not in meters.OPERATORS:
            raise ValueError(f"where {path!r}: {operator!r} is not one of {', '.join(meters.OPERATORS)}")
        text = _condition_text(path, value)
        if operator not in ("eq", "ne") and meters.quantity(text) is None:
            raise ValueError(f'where {path!r}: {operator} compares numbers, and {text[:80]!r} is none; write "200000"')
        # One way to say a thing, so that two charges with the same filter are seen to have it.
        yield meters.Condition(path, "in" if operator == "eq" else operator, (text,))


def _condition_text(path: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return str(value)
    raise ValueError(f"where {path!r} compares with {value!r}; write text, a whole number or decimal text")

"""Bounds: the usual test of a charge, that a unit's quantity is above or below a whole number."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

from doortab.schemas import meters, money

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


class Bound(NamedTuple):
    """The usual test: that a unit's quantity compares so with a whole number."""

    unit: str
    operator: str
    limit: int

    def holds(self, value: int) -> bool:
        """Whether the quantity passes."""
        return _COMPARE[self.operator](value, self.limit)

    def holds_between(self, least: int, most: int) -> bool | None:
        """Whether every quantity in that range passes (True), or none does (False); None where some may."""
        if self.operator in ("eq", "ne") and least < most:
            return None if least <= self.limit <= most else self.operator == "ne"
        passes = self.holds(least)
        return passes if passes == self.holds(most) else None


def bound_of(tests: Sequence[tuple[meters.Path, meters.Condition]]) -> Bound | None:
    """The tests, if there is one, of a unit against a whole number."""
    if len(tests) != 1 or tests[0][0].root != "units" or tests[0][1].operator == "in":
        return None
    path, condition = tests[0]
    limit = meters.quantity(condition.values[0])
    if limit is None or limit % money.QUANTITY_ONE:
        return None
    return Bound(path.name, condition.operator, limit // money.QUANTITY_ONE)

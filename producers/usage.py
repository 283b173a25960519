"""What a request uses, while it runs: the service adds to it, and one event says it all at the end."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from doortab.producers.eventtext import Quantity, free_text, quantity, sound_name
from doortab.schemas.errors import UsageError

MAX_UNITS = 200
MAX_DIMENSIONS = 40
"""So many at most, so that the event always fits: what was used must not get lost at the end for its length."""


class Usage:
    """Units and dimensions of one request. What breaks a rule is refused when it is added, not when it is too late.

    ``billable`` set to False charges nothing; set to True it charges even a request that failed.
    """

    __slots__ = ("billable", "dimensions", "units")

    def __init__(self, units: Mapping[str, Quantity] | None = None) -> None:
        self.units: dict[str, int | Decimal] = {}
        self.dimensions: dict[str, str] = {}
        self.billable: bool | None = None
        if units:
            self.add(units)

    def add(self, facts: Mapping[str, Quantity] | None = None, /, **more: Quantity) -> None:
        """Adds numbers to units, and sets dimensions to texts: ``usage.add(tokens=1834, model="m-large")``.

        Names that are no Python names come in a mapping.

        Raises:
            UsageError: which rule a value breaks, and the way out; nothing was added then.
        """
        units, dimensions = dict(self.units), dict(self.dimensions)
        for fact, value in {**(facts or {}), **more}.items():
            sound_name("name", fact)
            if isinstance(value, str):
                dimensions[fact] = free_text(fact, value)
                continue
            quantity(fact, value)
            units[fact] = units.get(fact, 0) + value
            quantity(fact, units[fact])
        if len(units) > MAX_UNITS or len(dimensions) > MAX_DIMENSIONS:
            raise UsageError(
                f"{len(units)} units and {len(dimensions)} dimensions; an event has {MAX_UNITS} and {MAX_DIMENSIONS} "
                "at most: a unit is something that is counted, a dimension something to group by"
            )
        self.units, self.dimensions = units, dimensions

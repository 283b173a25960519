"""Events to rows: the columns that the store keeps of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from doortab.consumers.dedupe import Digests
from doortab.schemas.batch import Rows
from doortab.schemas.events import MAX_PLAIN, Event, is_billable

RoomFor = Callable[[str, set[str]], set[str]]
"""Of the names of units or dimensions, those that have a column in the store or may get one."""


def rows_of(
    fresh: Sequence[int],
    events: Sequence[Event],
    times: Sequence[int],
    accounts: Sequence[str],
    rest: Mapping[int, str],
    places: Sequence[tuple[int, int, int]],
    logged: Sequence[int],
    digests: Digests,
    room_for: RoomFor,
) -> Rows:
    """The rows of the events numbered in ``fresh``, in that order."""
    chosen = [events[i] for i in fresh] if len(fresh) < len(events) else events
    data = [event.data for event in chosen]
    units, dimensions = _columns(data, room_for)
    return Rows(
        digest=digests[fresh].tolist() if len(fresh) < len(events) else digests.tolist(),
        source=[e.source for e in chosen],
        id=[e.id for e in chosen],
        type=[e.type for e in chosen],
        subject=[e.subject for e in chosen],
        time=[times[i] for i in fresh],
        account=[accounts[i] for i in fresh],
        key=[d.key for d in data],
        allowed=[d.verdict == "allowed" for d in data],
        reason=[d.reason for d in data],
        billable=[is_billable(d) for d in data],
        operation=[d.operation for d in data],
        units={name: [_plain(d.units.get(name)) for d in data] for name in sorted(units)},
        dimensions={name: [d.dimensions.get(name) for d in data] for name in sorted(dimensions)},
        more=_more(data, units, dimensions),
        rest=[rest.get(i) for i in fresh],
        part=[places[i][0] for i in fresh],
        off=[places[i][1] for i in fresh],
        idx=[places[i][2] for i in fresh],
        logged=[logged[i] for i in fresh],
    )


def _columns(data: Sequence[Any], room_for: RoomFor) -> tuple[set[str], set[str]]:
    # Most events of a batch have the same few shapes: look at each shape once.
    unit_shapes = {tuple(d.units) for d in data}
    dimension_shapes = {tuple(d.dimensions) for d in data}
    units = {name for shape in unit_shapes for name in shape}
    dimensions = {name for shape in dimension_shapes for name in shape}
    return room_for("units", units), room_for("dimensions", dimensions)


def _plain(value: int | str | None) -> int | None:
    return value if value.__class__ is int else whole(value)


def whole(value: int | str | None) -> int | None:
    """The quantity as a whole number that a column can hold, or None."""
    if value is None or isinstance(value, int):
        return value
    digits, _, fraction = value.partition(".")
    number = int(digits)
    return number if number <= MAX_PLAIN and not fraction.strip("0") else None


def _more(data: Sequence[Any], units: set[str], dimensions: set[str]) -> list[str | None]:
    """What does not fit the columns, by event. Nothing, nearly always, so that is looked at first."""
    texts = [i for i, d in enumerate(data) if any(v.__class__ is not int for v in d.units.values())]
    strange = [i for i, d in enumerate(data) if not (d.units.keys() <= units and d.dimensions.keys() <= dimensions)]
    more: list[str | None] = [None] * len(data)
    for i in {*texts, *strange}:
        kept_units = {k: str(v) for k, v in data[i].units.items() if k not in units or whole(v) is None}
        kept_dimensions = {k: v for k, v in data[i].dimensions.items() if k not in dimensions}
        kept = {name: part for name, part in (("units", kept_units), ("dimensions", kept_dimensions)) if part}
        more[i] = msgspec.json.encode(kept, order="deterministic").decode() if kept else None
    return more

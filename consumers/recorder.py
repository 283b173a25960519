"""Events to rows: the columns that the store keeps of a batch.

Columns are made whole, with as little as possible done for each event: most batches hold events of one
shape, all of whose quantities are small whole numbers, and those are turned over in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from doortab.consumers.dedupe import Digests
from doortab.schemas.batch import Rows
from doortab.schemas.events import MAX_PLAIN, Usage
from doortab.schemas.wire import Decoded

RoomFor = Callable[[str, set[str]], set[str]]
"""Of the names of units or dimensions, those that have a column in the store or may get one."""

Whole = npt.NDArray[np.int64]


class Places:
    """Where each event of a batch stands in the log, and when the log received it, as columns."""

    def __init__(self, decoded: Decoded) -> None:
        spans = decoded.spans
        counts = [len(span.indices) for span in spans]
        self.part: Whole = np.repeat(np.array([span.partition for span in spans], np.int64), counts)
        self.off: Whole = np.repeat(np.array([span.offset for span in spans], np.int64), counts)
        self.logged: Whole = np.repeat(np.array([span.logged for span in spans], np.int64), counts)
        self.idx: Whole = np.concatenate(
            [np.asarray(span.indices, np.int64) for span in spans] or [np.zeros(0, np.int64)]
        )


def rows_of(
    fresh: Sequence[int],
    decoded: Decoded,
    accounts: Sequence[str],
    billable: npt.NDArray[np.bool_],
    places: Places,
    digests: Digests,
    room_for: RoomFor,
) -> Rows:
    """The rows of the events numbered in ``fresh``, in that order."""
    whole_batch = len(fresh) == len(decoded.events)
    chosen = np.asarray(fresh, np.int64)

    def column(values: Any) -> Any:
        if whole_batch:
            return values
        return values[chosen] if isinstance(values, np.ndarray) else [values[i] for i in fresh]

    events = column(decoded.events)
    data = [event.data for event in events]
    units, dimensions, more = _quantities(data, room_for, decoded.plain)
    return Rows(
        digest=column(digests),
        source=[e.source for e in events],
        id=[e.id for e in events],
        type=[e.type for e in events],
        subject=[e.subject for e in events],
        time=column(decoded.times),
        account=column(accounts),
        key=[d.key for d in data],
        allowed=[d.verdict == "allowed" for d in data],
        reason=[d.reason for d in data],
        billable=column(billable),
        operation=[d.operation for d in data],
        units=units,
        dimensions=dimensions,
        more=more,
        rest=[decoded.rest.get(i) for i in fresh] if decoded.rest else [None] * len(events),
        part=column(places.part),
        off=column(places.off),
        idx=column(places.idx),
        logged=column(places.logged),
    )


def _quantities(
    data: Sequence[Usage], room_for: RoomFor, plain: bool
) -> tuple[dict[str, Sequence[int | None]], dict[str, Sequence[str | None]], Sequence[str | None]]:
    """The columns of units and dimensions, and what does not fit them."""
    unit_shapes = {tuple(d.units) for d in data}
    dimension_shapes = {tuple(d.dimensions) for d in data}
    units = room_for("units", {name for shape in unit_shapes for name in shape})
    dimensions = room_for("dimensions", {name for shape in dimension_shapes for name in shape})
    fits = all(units.issuperset(shape) for shape in unit_shapes)
    fits = fits and all(dimensions.issuperset(shape) for shape in dimension_shapes)
    more: Sequence[str | None] = [None] * len(data) if plain and fits else [_more(d, units, dimensions) for d in data]
    texts = _turned([d.dimensions for d in data], dimension_shapes, dimensions)
    if plain:
        return _turned([d.units for d in data], unit_shapes, units), texts, more
    return {name: [whole(d.units.get(name)) for d in data] for name in sorted(units)}, texts, more


def _turned(
    rows: Sequence[Mapping[str, Any]], shapes: set[tuple[str, ...]], names: set[str]
) -> dict[str, Sequence[Any]]:
    """Mappings as columns. Of one shape all together, else name by name."""
    if len(shapes) == 1 and rows:
        (shape,) = shapes
        turned = dict(zip(shape, zip(*(row.values() for row in rows), strict=True), strict=True))
        return {name: turned[name] for name in sorted(names)}
    return {name: [row.get(name) for row in rows] for name in sorted(names)}


def whole(value: int | str | None) -> int | None:
    """The quantity as a whole number that a column can hold, or None."""
    if value is None or isinstance(value, int):
        return value
    digits, _, fraction = value.partition(".")
    number = int(digits)
    return number if number <= MAX_PLAIN and not fraction.strip("0") else None


def _more(data: Usage, units: set[str], dimensions: set[str]) -> str | None:
    """What of an event does not fit the columns."""
    kept_units = {k: str(v) for k, v in data.units.items() if k not in units or whole(v) is None}
    kept_dimensions = {k: v for k, v in data.dimensions.items() if k not in dimensions}
    kept = {name: part for name, part in (("units", kept_units), ("dimensions", kept_dimensions)) if part}
    return msgspec.json.encode(kept, order="deterministic").decode() if kept else None

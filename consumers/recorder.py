"""Events to rows: the columns that the store keeps of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from doortab.consumers.columns import Columns, Texts
from doortab.consumers.tabulation import more_of
from doortab.schemas.batch import Rows

RoomFor = Callable[[str, set[str]], set[str]]
"""Of the names of units or dimensions, those that have a column in the store or may get one."""

AS_THEY_ARE = ("digest", "source", "id", "type", "subject", "time", "key", "allowed", "reason", "operation")
PLACES = ("part", "off", "idx", "logged")


def rows_of(fresh: Sequence[int], columns: Columns, accounts: Texts, room_for: RoomFor) -> Rows:
    """The rows of the events numbered in ``fresh``, in that order, billed to ``accounts``."""
    units, dimensions, more = _with_room(columns, room_for)
    names = [*AS_THEY_ARE, "rest", *PLACES]
    table: dict[str, Any] = {name: columns.table.column(name) for name in names}
    table |= {"account": accounts.arrow(), "billable": pa.array(columns.billable), "more": more}
    table |= {f"units.{name}": column for name, column in units.items()}
    table |= {f"dimensions.{name}": column for name, column in dimensions.items()}
    if len(fresh) < len(columns):
        chosen = pa.table(table).take(pa.array(np.asarray(fresh, np.int64)))
        table = {name: chosen.column(name) for name in table}
    return Rows(
        units={name: table.pop(f"units.{name}") for name in units},
        dimensions={name: table.pop(f"dimensions.{name}") for name in dimensions},
        **table,
    )


def _with_room(columns: Columns, room_for: RoomFor) -> tuple[dict[str, pa.Array], dict[str, pa.Array], Any]:
    """The units and dimensions that have room in the store, and for each event what has none."""
    units = room_for("units", set(columns.units))
    dimensions = room_for("dimensions", set(columns.dimensions))
    homeless = [columns.units.keys() - units, columns.dimensions.keys() - dimensions]
    more = columns.table.column("more")
    if any(homeless):
        more = pa.array(
            [more_of(event.data, units, dimensions) for event in columns.picked(range(len(columns))).values()],
            pa.string(),
        )
    return (
        {name: column for name, column in sorted(columns.units.items()) if name in units},
        {name: column for name, column in sorted(columns.dimensions.items()) if name in dimensions},
        more,
    )

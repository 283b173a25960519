"""Events to rows: the columns that the store keeps of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from doortab.consumers.columns import Columns, Texts
from doortab.consumers.tabulation import MAX_NAMES, more_of, whole
from doortab.schemas.batch import Rows

RoomFor = Callable[[str, set[str]], set[str]]
"""Of the names of units or dimensions, those that have a column in the store or may get one."""

AS_THEY_ARE = ("digest", "source", "id", "type", "subject", "time", "key", "allowed", "reason", "operation")
PLACES = ("part", "off", "idx", "logged")


class _More(msgspec.Struct):
    """What of an event stands in no column."""

    units: dict[str, str] = {}
    dimensions: dict[str, str] = {}


_decoder = msgspec.json.Decoder(_More)


def rows_of(fresh: Sequence[int], columns: Columns, accounts: Texts, room_for: RoomFor) -> Rows:
    """The rows of the events numbered in ``fresh``, in that order, billed to ``accounts``."""
    table: dict[str, Any] = {name: columns.table.column(name) for name in [*AS_THEY_ARE, "rest", *PLACES, "more"]}
    table |= {"account": accounts.arrow(), "billable": pa.array(columns.billable)}
    table |= {f"units.{name}": column for name, column in columns.units.items()}
    table |= {f"dimensions.{name}": column for name, column in columns.dimensions.items()}
    if len(fresh) < len(columns):
        chosen = pa.table(table).take(pa.array(np.asarray(fresh, np.int64)))
        table = {name: chosen.column(name) for name in table}
    units = {name: table.pop(f"units.{name}") for name in columns.units}
    dimensions = {name: table.pop(f"dimensions.{name}") for name in columns.dimensions}
    held = _with_room(fresh, columns, _Held(units, dimensions, table.pop("more")), room_for)
    return Rows(units=held.units, dimensions=held.dimensions, more=held.more, **table)


class _Held(NamedTuple):
    """The units and dimensions of the rows to be, and what stands in none of their columns."""

    units: dict[str, Any]
    dimensions: dict[str, Any]
    more: Any


def _with_room(fresh: Sequence[int], columns: Columns, held: _Held, room_for: RoomFor) -> _Held:
    """The same with the columns that have room in the store, and no others.

    Only names that the rows hold ask for room, not those of duplicates and conflicts, which are not stored: so the
    columns of a store follow from its rows. And what has a column does not stand in ``more``, as it may where a
    batch has more names than ``tabulation`` makes columns of.
    """
    told_units, told = _told(held, len(fresh))
    units = _arranged("units", held.units, told_units, len(fresh), room_for)
    dimensions = _arranged("dimensions", held.dimensions, told, len(fresh), room_for)
    more = held.more
    if units.must_move or dimensions.must_move:
        data = [event.data for event in columns.picked(fresh).values()]
        more = pa.array([more_of(one, units.room, dimensions.room) for one in data], pa.string())
        for name in units.moved:
            units.kept[name] = pa.array([whole(one.units.get(name)) for one in data], pa.int64())
        for name in dimensions.moved:
            dimensions.kept[name] = pa.array([one.dimensions.get(name) for one in data], pa.string())
    return _Held(dict(sorted(units.kept.items())), dict(sorted(dimensions.kept.items())), more)


def _told(held: _Held, rows: int) -> tuple[dict[str, bool], dict[str, bool]]:
    """The units and the dimensions that ``more`` names, and whether a column could hold any of what it says.

    Mostly it holds fractions only, and their units have columns: those are passed over.
    """
    if held.more.null_count == rows:
        return {}, {}
    if max(len(held.units), len(held.dimensions)) < MAX_NAMES:
        empty = held.units.keys() - _names(held.units, rows)
        return {name: False for name in empty if _is_named(held.more, name)}, {}
    units: dict[str, bool] = {}
    dimensions: dict[str, bool] = {}
    for text in held.more.drop_null().to_pylist():
        one = _decoder.decode(text)
        dimensions |= dict.fromkeys(one.dimensions, True)
        for name, value in one.units.items():
            units[name] = units.get(name, False) or whole(value) is not None
    return units, dimensions


def _is_named(more: Any, unit: str) -> bool:
    found = more.filter(pc.match_substring(more, msgspec.json.encode(unit).decode()))
    return any(unit in _decoder.decode(text.as_py()).units for text in found)


def _names(columns: dict[str, Any], rows: int) -> set[str]:
    return {name for name, column in columns.items() if column.null_count < rows}


class _Arranged(NamedTuple):
    """Names with room, their columns as they are, those that move out of ``more``, and whether any moves at all."""

    room: set[str]
    kept: dict[str, Any]
    moved: set[str]
    must_move: bool


def _arranged(root: str, columns: dict[str, Any], told: dict[str, bool], rows: int, room_for: RoomFor) -> _Arranged:
    have = _names(columns, rows)
    room = room_for(root, have | told.keys())
    moved = {name for name, fits in told.items() if fits and name in room}
    # A unit of which there are fractions only gets its column too.
    kept = {name: columns[name] if name in have else pa.nulls(rows, pa.int64()) for name in room - moved}
    return _Arranged(room, kept, moved, bool(moved or have - room))

"""Cells: sums of events that agree in everything a price or a heading can depend on.

The database adds up, Python prices: a cell is a row of one grouped query, and there are few of them.
Rows whose quantities have no column of their own, or whose meters read the rest of the data, are
taken one by one instead (``single_events``) and go through the very functions that the ledger uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from doortab.analytics.tables import quoted
from doortab.schemas import instants, meters, money, wire
from doortab.schemas.events import MAX_PLAIN, Event, Usage
from doortab.schemas.periods import Period
from doortab.schemas.tariff import Line, Tariff

Read = Callable[[str], list[Any]]
Columns = dict[tuple[str, str], str]

_MOST = MAX_PLAIN * money.QUANTITY_ONE


class Heading(NamedTuple):
    """What rows are grouped by: its name in the report, and the SQL that gives its value."""

    name: str
    sql: str


class Cell(NamedTuple):
    """A group of events. ``instant`` is one at which the same prices are in force as at all of theirs.

    ``flags`` holds, by test, whether they meet it; ``units`` sums, in whole units.
    """

    heads: tuple[Any, ...]
    account: str
    type: str
    texts: dict[meters.Path, str | None]
    flags: dict[tuple[meters.Path, meters.Condition], bool]
    instant: int
    billable: bool
    events: int
    allowed: int
    units: dict[str, int]

    def meets(self, line: Line) -> bool:
        """Whether its events are of the line's type and meet all its conditions."""
        return (
            line.meter.event == self.type
            and all(condition.holds(self.texts[path]) for path, condition in line.fixed)
            and all(self.flags[test] for test in line.tests)
        )

    def quantity(self, line: Line) -> int:
        """What its events add to the line's meter, of 10^-24."""
        if line.source is None:
            return self.events * money.QUANTITY_ONE
        return self.units.get(line.source.name, 0) * money.QUANTITY_ONE if line.source.root == "units" else 0


class Single(NamedTuple):
    """Equal events outside the columns, ``copies`` of them."""

    heads: tuple[Any, ...]
    account: str
    instant: int
    event: Event
    rest: dict[str, Any]
    billable: bool
    copies: int


class Selection:
    """Which rows, grouped how, to be priced by which tariff."""

    def __init__(
        self,
        columns: Columns,
        tariff: Tariff,
        headings: Sequence[Heading],
        period: Period | None = None,
        condition: str = "true",
        source: str = "usage",
    ) -> None:
        self.columns = columns
        self.tariff = tariff
        self.headings = list(headings)
        self.source = source
        lines = [line for plan in tariff.plans.values() for line in plan.lines]
        self.extra_lines: list[Line] = []
        self.lines = lines
        within = f"time >= {timestamp(period.start)} AND time < {timestamp(period.end)}" if period else "true"
        self.base = condition
        self.condition = f"({within}) AND ({condition})"
        self.edges = sorted(
            {
                row.since
                for line in lines
                for row in line.rows
                if row.since > 0 and (period is None or period.start < row.since < period.end)
            }
        )
        self.start = period.start if period else instants.EARLIEST

    def with_meters(self, names: Iterable[str], line_of: Callable[[meters.Meter], Line]) -> Selection:
        """The same, with lines that measure these meters as well."""
        self.extra_lines = [line_of(self.tariff.meters[name]) for name in names]
        return self

    @property
    def all_lines(self) -> list[Line]:
        """The lines whose conditions must be told apart."""
        return self.lines + self.extra_lines

    def column(self, path: meters.Path) -> str:
        """The SQL of what stands at a path other than the rest."""
        if path.root == "field":
            return "CASE WHEN allowed THEN 'allowed' ELSE 'refused' END" if path.name == "verdict" else path.name
        name = self.columns.get((path.root, path.name))
        return quoted(name) if name is not None else "NULL"

    @property
    def singled_out(self) -> str:
        """The SQL condition of rows that are taken one by one."""
        types = sorted({line.meter.event for line in self.all_lines if _reads_rest(line)})
        reading = f" OR (rest IS NOT NULL AND type IN ({', '.join(map(literal, types))}))" if types else ""
        return f"(more IS NOT NULL{reading})"

    @property
    def segment(self) -> str:
        """The SQL of the number of price changes before the event."""
        whens = " + ".join(f"(time >= {timestamp(edge)})::INTEGER" for edge in self.edges)
        return whens or "0"

    def instant_of(self, segment: int) -> int:
        """An instant at which the prices of the segment are in force."""
        return self.edges[segment - 1] if segment else self.start


def _reads_rest(line: Line) -> bool:
    paths = [path for path, _ in line.tests] + ([line.source] if line.source else [])
    return any(path.root == "rest" for path in paths)


def cells(read: Read, selection: Selection) -> Iterator[Cell]:
    """The cells of the selection."""
    texts = sorted({p for line in selection.all_lines for p, _ in line.fixed}, key=lambda p: (p.root, p.name))
    tests = sorted(
        {test for line in selection.all_lines for test in line.tests}, key=lambda t: (t[0].root, t[0].name, t[1])
    )
    units = [name for root, name in selection.columns if root == "units"]
    groups = [
        *(h.sql for h in selection.headings),
        "account",
        "type",
        "billable",
        selection.segment,
        *(selection.column(path) for path in texts),
        *(_test_sql(selection, path, condition) for path, condition in tests),
    ]
    sums = [f"sum({quoted(selection.columns['units', unit])})" for unit in units]
    aggregates = ["count(*)", "count(*) FILTER (allowed)", *sums]
    named = [f"{sql} AS g{i}" for i, sql in enumerate(groups)]
    query = (
        f"SELECT {', '.join([*named, *aggregates])} FROM {selection.source} "
        f"WHERE {selection.condition} AND NOT {selection.singled_out} "
        f"GROUP BY {', '.join(f'g{i}' for i in range(len(groups)))}"
    )
    n, t = len(selection.headings), len(texts)
    for row in read(query):
        account, kind, billable, segment = row[n : n + 4]
        rest = row[n + 4 :]
        totals = rest[t + len(tests) :]
        yield Cell(
            heads=tuple(row[:n]),
            account=account,
            type=kind,
            texts=dict(zip(texts, rest[:t], strict=True)),
            flags=dict(zip(tests, rest[t : t + len(tests)], strict=True)),
            instant=selection.instant_of(segment),
            billable=billable,
            events=totals[0],
            allowed=totals[1],
            units={unit: total for unit, total in zip(units, totals[2:], strict=True) if total is not None},
        )


def single_events(read: Read, selection: Selection, only: str | None = None, order: str = "") -> Iterator[Single]:
    """The events outside the columns, or with ``only`` those that meet that SQL condition, equal ones together."""
    special = list(selection.columns.items())
    plain = ["account", "type", "subject", "key", "allowed", "reason", "operation", "billable", "more", "rest"]
    fields = [*plain, *(quoted(column) for _, column in special)]
    heads = [h.sql for h in selection.headings]
    condition = f"{selection.condition} AND {only or selection.singled_out}"
    listed = ", ".join([*heads, selection.segment, *fields])
    tail = f"ORDER BY {order}" if order else "GROUP BY ALL"
    count = "1" if order else "count(*)"
    n = len(heads)
    for row in read(f"SELECT {listed}, {count} FROM {selection.source} WHERE {condition} {tail}"):
        found = dict(zip(plain, row[n + 1 :], strict=False))
        values = row[n + 1 + len(plain) : -1]
        event = _event(found, [(root, name, v) for ((root, name), _), v in zip(special, values, strict=True)])
        rest = wire.decode_rest(found["rest"]) if found["rest"] else {}
        yield Single(
            tuple(row[:n]), found["account"], selection.instant_of(row[n]), event, rest, found["billable"], row[-1]
        )


def _event(found: dict[str, Any], values: list[tuple[str, str, Any]]) -> Event:
    units = {name: value for root, name, value in values if root == "units" and value is not None}
    dimensions = {name: value for root, name, value in values if root == "dimensions" and value is not None}
    more = msgspec.json.decode(found["more"]) if found["more"] else {}
    data = Usage(
        account=found["account"],
        key=found["key"],
        verdict="allowed" if found["allowed"] else "refused",
        reason=found["reason"],
        billable=found["billable"],
        operation=found["operation"],
        units=units | more.get("units", {}),
        dimensions=dimensions | more.get("dimensions", {}),
    )
    return Event("1.0", "", "", found["type"], data, subject=found["subject"])


def _test_sql(selection: Selection, path: meters.Path, condition: meters.Condition) -> str:
    """The SQL of a test on a unit; on the rest, of rows that have none worth reading, it is a constant."""
    if path.root != "units":
        return "true" if condition.holds(None) else "false"
    numbers = [number for value in condition.values if (number := meters.quantity(value)) is not None]
    test = _compare_sql(selection.column(path), condition.operator, numbers)
    return f"coalesce({test}, {'true' if condition.operator == 'ne' else 'false'})"


def _compare_sql(column: str, operator: str, numbers: list[int]) -> str:
    """The SQL of a comparison of a column of whole numbers, itself of whole numbers: no decimals overflow in it."""
    if operator in ("in", "eq", "ne"):
        whole = [str(n // money.QUANTITY_ONE) for n in numbers if n % money.QUANTITY_ONE == 0 and n <= _MOST]
        test = f"{column} IN ({', '.join(whole)})" if whole else "false"
        return f"NOT ({test})" if operator == "ne" else test
    if not numbers:
        return "false"
    bound = max(-money.QUANTITY_ONE, min(numbers[0], _MOST + money.QUANTITY_ONE))
    down, up = bound // money.QUANTITY_ONE, -(-bound // money.QUANTITY_ONE)
    return {
        "lt": f"{column} < {up}",
        "lte": f"{column} <= {down}",
        "gt": f"{column} > {down}",
        "gte": f"{column} >= {up}",
    }[operator]


def timestamp(instant: int) -> str:
    """The SQL of an instant."""
    return f"make_timestamp({instant})"


def literal(text: str) -> str:
    """The SQL of a text."""
    quoted_text = "'" + text.replace("'", "''") + "'"
    # DuckDB's parser ends a statement at U+0000.
    return "(" + quoted_text.replace("\0", "' || chr(0) || '") + ")" if "\0" in text else quoted_text

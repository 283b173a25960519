"""A report in the hands of people: a data frame, Parquet, CSV, a table on the terminal.

All take the report as its JSON, so that it does not matter whether it was made here or came from a
running ledger. Counts are whole numbers, quantities and amounts exact decimals; pandas gets them as
Arrow types and is loaded only where a data frame is asked for.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pyarrow as pa

from doortab.analytics import decimals, durable
from doortab.analytics.plaintext import cell, printable
from doortab.schemas import money

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("events", "allowed", "refused", "billable")
TOTAL = "total"

Told = Mapping[str, Any]
"""A report as ``Report.as_json`` tells it."""


def frame(told: Told) -> pd.DataFrame:
    """The rows as a data frame, without the total: text, whole numbers and exact decimals, in Arrow's types."""
    import pandas as pd

    made: pd.DataFrame = table(told).to_pandas(types_mapper=pd.ArrowDtype)
    return made


def table(told: Told) -> pa.Table:
    """The rows as Arrow, without the total."""
    rows: Sequence[Told] = told["rows"]
    units = _units(told)
    columns = {}
    for name in _columns(told, units):
        values = [_value(row, name) for row in rows]
        columns[name] = _array(name, units, values)
    return pa.table(columns)


def write_parquet(told: Told, path: str | os.PathLike[str]) -> None:
    """Writes the rows, without the total, to a file that appears only when it is whole."""
    durable.write(Path(path), parquet(told))


def parquet(told: Told) -> bytes:
    """The rows, without the total, as the content of a Parquet file."""
    import pyarrow.parquet as pq

    period = {f"doortab.{name}": value for name, value in told["period"].items()}
    sink = pa.BufferOutputStream()
    pq.write_table(table(told).replace_schema_metadata(period), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_csv(told: Told, stream: TextIO) -> None:
    """Writes a header, the rows and, last, the total: one column a heading, counts, ``units.NAME``, amount.

    Text that a spreadsheet would calculate with gets a leading ``'``. Where several currencies were
    paid, the total of the counts is followed by a line for the amount of each.
    """
    columns = _columns(told, _units(told))
    headings = columns[: columns.index("currency")]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([cell(name) for name in columns])
    for row in told["rows"]:
        writer.writerow([_cell(row, name, name in headings) for name in columns])
    for row in _totals(told):
        label = dict.fromkeys(headings[:1], TOTAL)
        writer.writerow([label.get(name) or _cell(row, name, name in headings) for name in columns])


LEFT_OUT = ("allowed", "billable")
"""Counts that a terminal has no room for; ``events`` and ``refused`` say nearly the same, other formats have all."""


def write_table(told: Told, stream: TextIO) -> None:
    """Writes the report for a terminal: the rows, the total, and the control equation in words."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    every = _columns(told, _units(told))
    headings = every[: every.index("currency")]
    columns = [name for name in every if name not in LEFT_OUT]
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        text = name in headings or name == "currency"
        title = Text(printable(name.removeprefix("units.")))
        wide = min(12, max([len(name), *(len(_shown(row, name)) for row in told["rows"])])) if text else None
        shown.add_column(title, justify="left" if text else "right", overflow="fold", no_wrap=not text, min_width=wide)
    rows: list[tuple[Told, dict[str, str]]] = [(row, {}) for row in told["rows"]]
    rows += [(row, dict.fromkeys(headings[:1], TOTAL)) for row in _totals(told)]
    for number, (row, label) in enumerate(rows):
        shown.add_row(
            *(Text(label.get(name) or printable(_shown(row, name))) for name in columns),
            end_section=number == len(told["rows"]) - 1,
        )
    wide = None if stream.isatty() else 10_000
    console = Console(file=stream, width=wide, highlight=False, markup=False, emoji=False, soft_wrap=wide is not None)
    period = told["period"]
    console.print(f"{period['from']} until before {period['to']} ({period['timezone']})", end="\n\n")
    console.print(shown)
    console.print(f"\n{control_line(told['control'])}")


def control_line(control: Mapping[str, str]) -> str:
    """The control equation as a sentence."""
    number = {name: f"{int(value):,}" for name, value in control.items()}
    sum_of = (
        f"{number['records']} events = {number['billed']} billed + {number['not_billable']} not billable"
        f" + {number['duplicates']} duplicates + {number['rejected']} rejected"
    )
    return f"control: {sum_of} + {number['unexplained']} unexplained"


def _units(told: Told) -> list[str]:
    """Every unit that a row or the total has, in order."""
    return sorted({unit for row in (*told["rows"], told["total"]) for unit in row.get("units", {})})


def _columns(told: Told, units: Sequence[str]) -> list[str]:
    """The columns, in order. What stands before the currency in a row are its headings."""
    first = next(iter(told["rows"]), told["total"])
    names = list(first)
    headings = names[: names.index("currency")]
    figures = ["quantity"] if "quantity" in first else [*COUNTS, *(f"units.{unit}" for unit in units)]
    return [*headings, "currency", *figures, "amount"]


def _value(row: Told, name: str) -> str | None:
    """What the row has in that column, as text."""
    if name in row:
        found: str | None = row[name]
        return found
    root, _, unit = name.partition(".")
    units: Mapping[str, str] = row.get("units", {})
    return units.get(unit) if root == "units" else None


def _array(name: str, units: Sequence[str], values: Sequence[str | None]) -> pa.Array:
    if name in COUNTS:
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    if name == "amount":
        return decimals.amounts([None if value is None else money.amount(value) for value in values])
    if name == "quantity" or (name.startswith("units.") and name.removeprefix("units.") in units):
        return decimals.quantities([None if value is None else money.quantity(value) for value in values])
    return pa.array(values, pa.string())


def _cell(row: Told, name: str, is_text: bool) -> str:
    value = _value(row, name)
    if value is None:
        return ""
    return cell(value) if is_text else value


def _shown(row: Told, name: str) -> str:
    value = _value(row, name)
    if value is None:
        return "" if name != "key" else "–"
    return f"{int(value):,}" if name in COUNTS else value


def _totals(told: Told) -> Iterator[Told]:
    total = told["total"]
    yield total
    for currency, amount in total.get("amounts", {}).items():
        yield {"currency": currency, "amount": amount}

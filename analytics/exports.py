"""The canonical exports: what the store says, in one order and one spelling.

The store is a pure function of the log, and this is how that is proved: two stores of one log give the
same bytes, in whatever batches, by however many threads and in whatever order of partitions they were
made. What differs between such stores without meaning anything is left out: the numbers of rows and
batches, and when they were committed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from doortab.analytics import durable, tables
from doortab.analytics.cells import Columns, Read, literal
from doortab.analytics.reading import columns_of, one_moment
from doortab.analytics.store import MAX_COLUMNS
from doortab.analytics.stored import LATEST_COUNTERS
from doortab.analytics.tables import quoted
from doortab.schemas import money
from doortab.schemas.events import MAX_PLAIN

SUMS = "SHA256SUMS"
LINE = 3
"""In a row of the overflow, so many columns say where the event stood."""


class Export(NamedTuple):
    """A file: the names of its columns, the SQL of each, where from, and in which order."""

    name: str
    columns: Sequence[tuple[str, str]]
    source: str
    order: str


def write_exports(read: Read, directory: Path) -> dict[str, str]:
    """Writes every export into the directory, with their sums, and returns the SHA-256 of each by its name.

    ``sha256sum -c SHA256SUMS`` checks them. A name stands for a whole file: it appears when it is done.
    """
    directory.mkdir(parents=True, exist_ok=True)
    overflow = directory / ".overflow.parquet"
    with one_moment(read):
        exports = [_usage(read, columns_of(read), overflow), *_PLAIN]
        sums = {export.name: _write(read, export, directory) for export in exports}
    overflow.unlink(missing_ok=True)
    listed = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (directory / SUMS).write_text(listed, encoding="utf-8")
    return sums


_INSTANT = "%Y-%m-%dT%H:%M:%S.%fZ"
_VOLATILE = {"seq", "batch", "committed"}


def _plain(name: str, types: dict[str, pa.DataType], source: str, order: str) -> Export:
    columns = [(column, _spelled(quoted(column), kind)) for column, kind in types.items() if column not in _VOLATILE]
    return Export(name, columns, source, order)


def _spelled(column: str, kind: pa.DataType) -> str:
    """The SQL of the column in the spelling that every version of DuckDB agrees on."""
    if pa.types.is_timestamp(kind):
        return f"strftime({column}, {literal(_INSTANT)})"
    return f"hex({column})" if pa.types.is_binary(kind) else column


_REVOCATIONS = [("id", "id"), ("key", "decode(key)"), ("value", "decode(value)")]
_PLAIN = (
    _plain("counters.csv", tables.COUNTERS, f"({LATEST_COUNTERS})", "subject, measure, period, start"),
    _plain("decisions.csv", tables.DECISIONS, "decisions", "id, batch"),
    Export("revocations.csv", _REVOCATIONS, "outbox WHERE topic = 'revocations'", "id, batch"),
    _plain("rejected.csv", tables.REJECTED, "rejected", "topic, part, off, idx, reason"),
)


def _write(read: Read, export: Export, directory: Path) -> str:
    """Writes one export. The header is ours: DuckDB would not have two columns that differ in case only."""
    body, draft = directory / f".{export.name}.body", directory / f".{export.name}.draft"
    selected = ", ".join(f"{sql} AS c{number}" for number, (_, sql) in enumerate(export.columns))
    read(
        f"COPY (SELECT {selected} FROM {export.source} ORDER BY {export.order}) "
        f"TO {literal(str(body))} (FORMAT csv, HEADER false, FORCE_QUOTE *)"
    )
    header = ",".join(quoted(name) for name, _ in export.columns)
    with draft.open("wb") as file, body.open("rb") as lines:
        file.write(f"{header}\n".encode())
        shutil.copyfileobj(lines, file, durable.CHUNK)
    body.unlink()
    draft.replace(directory / export.name)
    return durable.sha256(directory / export.name)


def _usage(read: Read, columns: Columns, overflow: Path) -> Export:
    kinds = {name: kind for name, kind in tables.USAGE.items() if name not in _VOLATILE}
    fixed = [(name, _spelled(f"u.{quoted(name)}", kind)) for name, kind in kinds.items() if name != "more"]
    named = _Names.of(read, columns)
    if not named.crowded:
        special = [(f"{root}.{name}", f"u.{quoted(columns[root, name])}") for root, name in named.kept]
        return Export("usage.csv", [*fixed, *special, ("more", "u.more")], "usage AS u", "u.part, u.off, u.idx")
    _write_overflow(read, columns, named, overflow)
    special = [
        (f"{root}.{name}", f"u.{quoted(columns[root, name])}" if (root, name) in columns else f"o.c{number}")
        for number, (root, name) in enumerate(named.kept)
    ]
    return Export(
        "usage.csv",
        [*fixed, *special, ("more", "o.more")],
        f"usage AS u LEFT JOIN {literal(str(overflow))} AS o ON (u.part, u.off, u.idx) = (o.part, o.off, o.idx)",
        "u.part, u.off, u.idx",
    )


class _Names(NamedTuple):
    """The units and dimensions that get a column in the export.

    The store gives columns to those that came first; with more names than columns that depends on how
    the log was read. The export gives them to those that come first in the alphabet.
    """

    kept: list[tuple[str, str]]
    crowded: bool

    @classmethod
    def of(cls, read: Read, columns: Columns) -> _Names:
        kept: list[tuple[str, str]] = []
        crowded = False
        for root in ("units", "dimensions"):
            query = f"SELECT DISTINCT unnest(json_keys(more, '$.{root}')) FROM usage WHERE more IS NOT NULL"
            names = {name for kind, name in columns if kind == root} | {row[0] for row in read(query)}
            crowded = crowded or len(names) > MAX_COLUMNS[root]
            kept += [(root, name) for name in sorted(names)[: MAX_COLUMNS[root]]]
        return cls(kept, crowded)


def _write_overflow(read: Read, columns: Columns, named: _Names, path: Path) -> None:
    """Writes, for the events that have a name without a column here or there, what the export has of them."""
    moved = [place for place in columns if place not in named.kept]
    fields = ["part", "off", "idx", "more", *(quoted(columns[place]) for place in moved)]
    strange = " OR ".join(f"{field} IS NOT NULL" for field in fields[LINE:])
    found: dict[str, list[Any]] = {name: [] for name in ("part", "off", "idx", "more")}
    found |= {f"c{number}": [] for number, place in enumerate(named.kept) if place not in columns}
    for part, off, idx, more, *values in read(f"SELECT {', '.join(fields)} FROM usage WHERE {strange}"):
        told = _together(more, dict(zip(moved, values, strict=True)))
        for name, value in (("part", part), ("off", off), ("idx", idx)):
            found[name].append(value)
        for number, place in enumerate(named.kept):
            if place not in columns:
                held = _held(place, told.get(place))
                found[f"c{number}"].append(held)
                if held is not None:
                    del told[place]
        units = {name: text for (root, name), text in told.items() if root == "units"}
        found["more"].append(_more_of(units, {n: text for (root, n), text in told.items() if root == "dimensions"}))
    types = {"part": pa.int32(), "off": pa.int64(), "idx": pa.int32()}
    pq.write_table(pa.table({name: pa.array(v, types.get(name, pa.string())) for name, v in found.items()}), path)


def _together(more: str | None, values: dict[tuple[str, str], Any]) -> dict[tuple[str, str], str]:
    """All that stands outside the export's columns, as text spelled in one way."""
    parts: dict[str, dict[str, str]] = msgspec.json.decode(more) if more else {}
    told = {(root, name): text for root, texts in parts.items() for name, text in texts.items()}
    told |= {place: str(value) for place, value in values.items() if value is not None}
    return {
        (root, name): money.quantity_text(money.quantity(text)) if root == "units" else text
        for (root, name), text in told.items()
    }


def _held(place: tuple[str, str], text: str | None) -> str | None:
    """What a column holds of it: every text of a dimension, and whole numbers that are not too large."""
    if text is None or place[0] == "dimensions":
        return text
    return text if "." not in text and int(text) <= MAX_PLAIN else None


def _more_of(units: dict[str, str], dimensions: dict[str, str]) -> str | None:
    """The JSON of the quantities and dimensions that have no column."""
    kept = {name: part for name, part in (("units", units), ("dimensions", dimensions)) if part}
    return msgspec.json.encode(kept, order="deterministic").decode() if kept else None

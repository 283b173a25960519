"""The tables of the store, and how a batch becomes columns for them.

One file, no primary key, no index, no foreign key: the rows are found by their order, and every index
would be one more thing that can break. Rows are only ever appended, except when a maintenance run
compacts the counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from doortab.schemas.batch import Batch, Rows

FORMAT = 2
"""The store's format. A newer one is refused in words; an older one is migrated."""

_TIME = pa.timestamp("us")

USAGE = {
    "seq": pa.int64(),
    "digest": pa.uint64(),
    "source": pa.string(),
    "id": pa.string(),
    "type": pa.string(),
    "subject": pa.string(),
    "time": _TIME,
    "account": pa.string(),
    "key": pa.string(),
    "allowed": pa.bool_(),
    "reason": pa.string(),
    "billable": pa.bool_(),
    "operation": pa.string(),
    "more": pa.string(),
    "rest": pa.string(),
    "part": pa.int32(),
    "off": pa.int64(),
    "idx": pa.int32(),
    "logged": _TIME,
}
REJECTED = {
    "topic": pa.string(),
    "part": pa.int32(),
    "off": pa.int64(),
    "idx": pa.int32(),
    "reason": pa.string(),
    "detail": pa.string(),
    "raw": pa.binary(),
    "size": pa.int64(),
    "batch": pa.int64(),
}
COUNTERS = {
    "subject": pa.string(),
    "measure": pa.string(),
    "period": pa.string(),
    "start": _TIME,
    "value": pa.string(),
    "batch": pa.int64(),
}
DECISIONS = {
    "id": pa.string(),
    "cap": pa.string(),
    "subject": pa.string(),
    "account": pa.string(),
    "key": pa.string(),
    "measure": pa.string(),
    "period": pa.string(),
    "start": _TIME,
    "end": _TIME,
    "percent": pa.int32(),
    "limit": pa.string(),
    "value": pa.string(),
    "currency": pa.string(),
    "hard": pa.bool_(),
    "at": _TIME,
    "event_source": pa.string(),
    "event_id": pa.string(),
    "event_time": _TIME,
    "part": pa.int32(),
    "off": pa.int64(),
    "idx": pa.int32(),
    "batch": pa.int64(),
}
OUTBOX = {
    "id": pa.string(),
    "topic": pa.string(),
    "key": pa.binary(),
    "value": pa.binary(),
    "batch": pa.int64(),
}
PUBLISHED = {"id": pa.string()}
COMMITS = {
    "batch": pa.int64(),
    "epoch": pa.int64(),
    "part": pa.int32(),
    "first": pa.int64(),
    "next": pa.int64(),
    "events": pa.int64(),
    "billed": pa.int64(),
    "not_billable": pa.int64(),
    "duplicates": pa.int64(),
    "rejected": pa.int64(),
    "committed": _TIME,
}
ADOPTED = {"part": pa.int32(), "catalog_offset": pa.int64(), "batch": pa.int64()}
COLUMNS = {"root": pa.string(), "name": pa.string(), "column_name": pa.string()}
SEALS = {
    "kind": pa.string(),
    "batch": pa.int64(),
    "part": pa.int32(),
    "first": pa.int64(),
    "next": pa.int64(),
    "low": pa.int64(),
    "high": pa.int64(),
    "rows": pa.int64(),
    "hash": pa.uint64(),
}
META = {"name": pa.string(), "value": pa.string()}

TABLES: dict[str, dict[str, pa.DataType]] = {
    "usage": USAGE,
    "rejected": REJECTED,
    "counters": COUNTERS,
    "decisions": DECISIONS,
    "outbox": OUTBOX,
    "published": PUBLISHED,
    "commits": COMMITS,
    "adopted": ADOPTED,
    "usage_columns": COLUMNS,
    "seals": SEALS,
    "meta": META,
}

_SQL_TYPES = {
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint64(): "UBIGINT",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    _TIME: "TIMESTAMP",
}


def create_statements() -> list[str]:
    """The SQL that makes every table."""
    return [create_statement(table) for table in TABLES]


def create_statement(table: str) -> str:
    """The SQL that makes the table."""
    columns = (f"{quoted(name)} {_SQL_TYPES[kind]}" for name, kind in TABLES[table].items())
    return f"CREATE TABLE {table} ({', '.join(columns)})"


def quoted(identifier: str) -> str:
    """The identifier as SQL writes any text as one."""
    return '"' + identifier.replace('"', '""') + '"'


def arrow(table: str, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Columns as Arrow, in the types of the table. Instants stand as whole microseconds."""
    types = TABLES[table]
    return pa.table({name: _array(values, types[name]) for name, values in columns.items()})


def _array(values: Any, kind: pa.DataType) -> Any:
    """Values as Arrow, in the type of their column. What comes as Arrow stays as it is, text coded or not."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        coded = pa.types.is_dictionary(values.type)
        return values if coded or values.type == kind else values.cast(kind)
    if kind == _TIME:
        return pa.array(values, pa.int64()).cast(_TIME)
    return pa.array(values, kind)


def usage_arrow(rows: Rows, first_seq: int, column_names: Mapping[tuple[str, str], str]) -> pa.Table:
    """The rows as Arrow, numbered from ``first_seq``, with their unit and dimension columns."""
    table = {name: _array(getattr(rows, name), kind) for name, kind in USAGE.items() if name != "seq"}
    table["seq"] = pa.array(np.arange(first_seq, first_seq + len(rows)))
    for unit, whole in rows.units.items():
        table[column_names["units", unit]] = _array(whole, pa.int64())
    for dimension, texts in rows.dimensions.items():
        table[column_names["dimensions", dimension]] = _array(texts, pa.string())
    return pa.table(table)


def batch_tables(batch: Batch, number: int, epoch: int, now: int) -> dict[str, pa.Table]:
    """Everything of a batch but its usage rows, by table, where there is any."""
    rejected, counters = batch.rejected, batch.counters
    columns: dict[str, dict[str, Sequence[Any]]] = {
        "rejected": {
            "topic": [r.topic for r in rejected],
            "part": [r.partition for r in rejected],
            "off": [r.offset for r in rejected],
            "idx": [r.index for r in rejected],
            "reason": [r.reason for r in rejected],
            "detail": [r.detail for r in rejected],
            "raw": [r.raw for r in rejected],
            "size": [r.size for r in rejected],
            "batch": [number] * len(rejected),
        },
        "counters": {
            "subject": [k.subject for k in counters],
            "measure": [k.measure for k in counters],
            "period": [k.period for k in counters],
            "start": [k.start for k in counters],
            "value": list(counters.values()),
            "batch": [number] * len(counters),
        },
        "decisions": _decision_columns(batch, number),
        "outbox": {
            "id": [m.id for m in batch.messages],
            "topic": [m.topic for m in batch.messages],
            "key": [m.key for m in batch.messages],
            "value": [m.value for m in batch.messages],
            "batch": [number] * len(batch.messages),
        },
        "adopted": {
            "part": list(batch.adopted),
            "catalog_offset": list(batch.adopted.values()),
            "batch": [number] * len(batch.adopted),
        },
        "commits": _commit_columns(batch, number, epoch, now),
    }
    return {name: arrow(name, table) for name, table in columns.items() if len(next(iter(table.values())))}


def _decision_columns(batch: Batch, number: int) -> dict[str, Sequence[Any]]:
    decisions = batch.decisions
    places = [d.place or (None, None, None) for d in decisions]
    plain = [name for name in DECISIONS if name not in ("part", "off", "idx", "batch")]
    return {
        **{name: [getattr(d, name) for d in decisions] for name in plain},
        "part": [p[0] for p in places],
        "off": [p[1] for p in places],
        "idx": [p[2] for p in places],
        "batch": [number] * len(decisions),
    }


def _commit_columns(batch: Batch, number: int, epoch: int, now: int) -> dict[str, Sequence[Any]]:
    # A batch that moved no partition is a commit all the same: it is read back by its number.
    progress = batch.progress
    fixed: dict[str, Sequence[Any]] = {
        "batch": [number] * max(1, len(progress)),
        "epoch": [epoch] * max(1, len(progress)),
        "committed": [now] * max(1, len(progress)),
    }
    names = ("events", "billed", "not_billable", "duplicates", "rejected", "first", "next")
    moved: dict[str, Sequence[Any]] = {name: [getattr(p, name) for p in progress] or [0] for name in names}
    return fixed | moved | {"part": [p.partition for p in progress] or [-1]}

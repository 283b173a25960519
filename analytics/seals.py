"""Seals: what every commit wrote, as counts and checksums, so that a row that is changed later shows.

A row's hash covers all its columns, and the checksum of many rows is the exclusive or of their hashes. So
one grouped query over a whole table compares with what its commits wrote, in any order and in any pieces,
and only where that differs is the piece looked for. Measured on one core: 0.15 µs a row.

The hashes are DuckDB's. Another DuckDB may hash otherwise: the store notes which one sealed it, and is
sealed anew by the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from doortab.analytics.cells import Columns, Read, literal
from doortab.analytics.tables import TABLES, quoted

SEALED = ("usage", "rejected", "counters", "decisions", "outbox", "adopted", "commits")
"""The tables that are sealed. What else there is (``published``, ``meta``, the names of columns) moves no money."""

KEEP = 2_000
MERGE_FROM = 50_000
MERGED = 1_000
"""With so many seals, all but the newest are merged, so many commits into one."""

CHUNK = 50_000
"""Rows of usage that are sealed as one where nobody knows which commits they came in."""
BEFORE_ALL = 1_000_000_000


class Sums(NamedTuple):
    """Rows and checksum of a table's partition."""

    rows: int
    hash: int


class Piece(NamedTuple):
    """Where a table is not as it was written: the offsets, and how many rows were written and are there."""

    table: str
    partition: int
    first: int | None
    next: int | None
    written: int
    there: int


def row_hash(table: str, columns: Columns) -> str:
    """The SQL of a row's hash. A unit or dimension that is not there adds nothing: it may get its column later."""
    fixed = ", ".join(quoted(name) for name in TABLES[table])
    if table != "usage":
        return f"hash({fixed})"
    special = "0::UBIGINT"
    for (root, name), column in sorted(columns.items()):
        held = f"hash({literal(f'{root}.{name}')}, {quoted(column)})"
        special = f"xor({special}, CASE WHEN {quoted(column)} IS NULL THEN 0::UBIGINT ELSE {held} END)"
    return f"hash({fixed}, {special})"


def sealing(tables: Iterable[str], columns: Columns, number: int, first_seq: int) -> str:
    """The SQL that seals what batch ``number`` wrote into these tables."""
    pieces = []
    for table in tables:
        batch, where = ("batch", f"batch = {number}") if table != "usage" else (str(number), f"seq >= {first_seq}")
        pieces.append(_selection(table, columns, batch, where, "ALL"))
    return f"INSERT INTO seals BY NAME {' UNION ALL '.join(pieces)}"


def sealing_anew(table: str, columns: Columns) -> str:
    """The SQL that seals a whole table as it is."""
    # Rows of usage do not say which batch they came in: they get numbers of their own, below all others.
    batch = "batch" if table != "usage" else f"seq // {CHUNK} - {BEFORE_ALL}"
    return f"INSERT INTO seals BY NAME {_selection(table, columns, batch, 'true', 'ALL')}"


def merging() -> str:
    """The SQL of all seals with the old ones merged."""
    old = f"batch < (SELECT max(batch) FROM seals) - {KEEP}"
    return (
        "SELECT kind, max(batch) AS batch, part, min(first) AS first, max(next) AS next, min(low) AS low, "
        "max(high) AS high, sum(rows)::BIGINT AS rows, bit_xor(hash) AS hash FROM seals "
        f"GROUP BY kind, part, CASE WHEN {old} THEN NULL ELSE batch END, batch // {MERGED}"
    )


def sums(read: Read, table: str, columns: Columns) -> dict[int, Sums]:
    """Rows and checksum of the table as it is, by partition; -1 stands for none."""
    part = _part(table)
    rows = read(f"SELECT {part}, count(*), bit_xor({row_hash(table, columns)}) FROM {table} GROUP BY ALL")
    return {row[0]: Sums(*row[1:]) for row in rows}


def sealed(read: Read, table: str) -> dict[int, Sums]:
    """The same as it was written."""
    rows = read(f"SELECT part, sum(rows), bit_xor(hash) FROM seals WHERE kind = {literal(table)} GROUP BY part")
    return {row[0]: Sums(int(row[1]), row[2]) for row in rows}


def altered(read: Read, columns: Columns) -> list[Piece]:
    """Every piece of every table that is not as it was written."""
    found = []
    for table in SEALED:
        if not hold(read, table, columns):
            found += _pieces(read, table, columns)
    return found


def hold(read: Read, table: str, columns: Columns) -> bool:
    """Whether the table is as it was written."""
    return sums(read, table, columns) == sealed(read, table)


def _pieces(read: Read, table: str, columns: Columns) -> list[Piece]:
    """Looks for the pieces: each row belongs to the last seal of its partition that begins before it."""
    key = "seq" if table == "usage" else "batch"
    rows = read(
        f"WITH s AS (SELECT * FROM seals WHERE kind = {literal(table)}), "
        f"t AS (SELECT {_part(table)} AS part, {key} AS key, {row_hash(table, columns)} AS h FROM {table}), "
        "f AS (SELECT t.part, s.low, count(*) AS rows, bit_xor(h) AS hash "
        "FROM t ASOF LEFT JOIN s ON t.part = s.part AND t.key >= s.low GROUP BY ALL) "
        "SELECT coalesce(s.part, f.part), s.first, s.next, coalesce(s.rows, 0), coalesce(f.rows, 0) "
        "FROM s FULL JOIN f ON s.part = f.part AND s.low = f.low "
        "WHERE f.rows IS DISTINCT FROM s.rows OR f.hash IS DISTINCT FROM s.hash ORDER BY ALL"
    )
    return [Piece(table, *row) for row in rows]


def _part(table: str) -> str:
    return "coalesce(part, -1)" if "part" in TABLES[table] else "-1"


_RANGES: Mapping[str, tuple[str, str]] = {
    "usage": ("min(off)", "max(off) + 1"),
    "rejected": ("min(off)", "max(off) + 1"),
    "decisions": ("min(off)", "max(off) + 1"),
    "commits": ("min(first)", "max(next)"),
}


def _selection(table: str, columns: Columns, batch: str, where: str, group: str) -> str:
    first, after = _RANGES.get(table, ("NULL::BIGINT", "NULL::BIGINT"))
    key = "seq" if table == "usage" else "batch"
    return (
        f"SELECT {literal(table)} AS kind, {batch} AS batch, {_part(table)}::INTEGER AS part, {first} AS first, "
        f"{after} AS next, min({key}) AS low, max({key}) AS high, count(*) AS rows, "
        f"bit_xor({row_hash(table, columns)}) AS hash FROM {table} WHERE {where} GROUP BY {group}"
    )

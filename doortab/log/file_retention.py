"""What a file log may forget: a little with each append, so that nothing ever has to be cleaned up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from doortab.log.file_database import Table
from doortab.log.rules import COMPACTION_LAG_MS

EXPIRED_PER_APPEND = 64


def forget(connection: sqlite3.Connection, table: Table, keys: Iterable[bytes | None], now_ms: int) -> None:
    """Deletes what compaction and retention allow; called within the transaction that appended ``keys``.

    The newest record of a partition always stays: it is what the next offset is derived from.
    """
    if table.compacted:
        for key in keys:
            if key is not None:
                _compact(connection, table, key, now_ms - COMPACTION_LAG_MS)
    if table.retention_ms >= 0:
        _expire(connection, table, now_ms - table.retention_ms)


def _compact(connection: sqlite3.Connection, table: Table, key: bytes, before_ms: int) -> None:
    """Two old ones for each new one: the older versions of a key melt away, and no append pays much."""
    versions = connection.execute(
        f"SELECT offset, timestamp_ms FROM {table.name} WHERE key = ? ORDER BY offset LIMIT 3", (key,)
    ).fetchall()
    for offset, timestamp_ms in versions[:-1]:
        if timestamp_ms < before_ms:
            connection.execute(f"DELETE FROM {table.name} WHERE offset = ?", (offset,))


def _expire(connection: sqlite3.Connection, table: Table, before_ms: int) -> None:
    oldest = connection.execute(
        f"SELECT offset, timestamp_ms FROM {table.name} ORDER BY offset LIMIT ?", (EXPIRED_PER_APPEND,)
    ).fetchall()
    kept = next((offset for offset, timestamp_ms in oldest if timestamp_ms >= before_ms), oldest[-1][0])
    if kept != oldest[0][0]:
        connection.execute(f"DELETE FROM {table.name} WHERE offset < ?", (kept,))
        connection.execute("UPDATE partitions SET begin = ? WHERE number = ?", (kept, table.number))

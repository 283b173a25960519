"""Appends to the file log: the threads of a process share transactions, the processes take turns."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from doortab.log.file_database import BUSY_SECONDS, WAL_BYTES, FileDatabase, Table, meaning_of
from doortab.log.file_lock import TurnLock
from doortab.log.file_retention import forget
from doortab.log.file_session import FileSession, NotYet
from doortab.log.forking import ForkGate
from doortab.log.stamps import Stamps
from doortab.schemas.errors import DoortabError, LogUnavailable
from doortab.schemas.log import Entry
from doortab.schemas.topics import Topic

# One transaction holds at most this much (and at least one request), so that readers never wait long.
GROUP_BYTES = 32 * 1024 * 1024
# How long an append waits for readers, once in a hundred megabytes, when they keep the file from shrinking.
SHORTEN_SECONDS = 1.0


class Append:
    """One caller's entries on their way into the log."""

    def __init__(self, tables: Sequence[Table], entries: Sequence[Entry]) -> None:
        self.tables = tables
        self.entries = entries
        self.bytes = sum(len(entry.key or b"") + len(entry.value or b"") for entry in entries)
        self.offsets: list[int] | None = None
        self.error: DoortabError | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is in the log, or failed."""
        return self.offsets is not None or self.error is not None


class FileWriter:
    """Group commit: whoever gets the writer's chair takes along all who wait behind it.

    One fsync then serves many callers, which is what makes many small appends fast.
    """

    def __init__(self, database: FileDatabase, gate: ForkGate, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._session = FileSession(database, gate)
        self._database = database
        self._turns = TurnLock(database.directory)
        self._gate = gate
        self.renew()

    def renew(self) -> None:
        """After a fork, in the child: other threads' requests are theirs."""
        self._chair = threading.Lock()
        self._queue: deque[Append] = deque()
        self._queue_lock = threading.Lock()
        self._ends: dict[int, int] = {}
        self._stamps = Stamps()
        self._seen_version: int | None = None
        self._wal_limit = 8 * WAL_BYTES
        self._session.renew()

    def append(self, request: Append, timeout_seconds: float) -> list[int]:
        """The offsets of the request's entries, once they are on the disk.

        Raises:
            LogUnavailable: not within the time, or the disk is full.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._queue_lock:
            self._queue.append(request)
        try:
            while not request.is_done:
                if not self._chair.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                    raise LogUnavailable(
                        f"{self._database.directory}: other threads were writing until the time was up"
                    )
                try:
                    if not request.is_done:
                        self._write_group(deadline)
                finally:
                    self._chair.release()
        finally:
            self._withdraw(request)
        if request.error is not None:
            raise request.error
        assert request.offsets is not None
        return request.offsets

    def _withdraw(self, request: Append) -> None:
        with self._queue_lock:
            if request in self._queue:
                self._queue.remove(request)

    def create_topics(self, topics: Sequence[Topic], timeout_seconds: float) -> None:
        """Creates those that do not exist by now.

        Raises:
            LogUnavailable: not within the time, or the disk is full.
        """
        with self._chair:
            self._transact(lambda connection: _create(connection, topics), time.monotonic() + timeout_seconds)

    def _write_group(self, deadline: float) -> None:
        """Writes the first requests in the queue; those that fail are told, the others remain."""
        group: list[Append] = []
        results: list[list[int]] = []

        def insert_all(connection: sqlite3.Connection) -> None:
            group.extend(self._take())  # only now, so that whoever came while we waited is in it
            self._refresh(connection)
            written = {table.topic for request in group for table in request.tables}
            stamp_ms = self._stamps.next(written, int(self._clock() * 1000))
            results.extend(self._insert(connection, request, stamp_ms) for request in group)

        try:
            self._transact(insert_all, deadline)
        except BaseException as error:
            self._seen_version = None
            reason = error if isinstance(error, DoortabError) else LogUnavailable(f"writing was interrupted: {error!r}")
            for request in group:
                request.error = reason
            if not group or reason is not error:
                raise
            return
        for request, offsets in zip(group, results, strict=True):
            request.offsets = offsets

    def _transact(self, body: Callable[[sqlite3.Connection], None], deadline: float) -> None:
        """Runs ``body`` in a transaction, under the lock; waits for both, but never runs it twice."""

        def work(connection: sqlite3.Connection) -> None:
            if not self._turns.try_acquire():
                raise NotYet
            try:
                self._database.check_in_place()
                connection.execute("BEGIN IMMEDIATE")
                self._finish(connection, body)
            finally:
                self._turns.release()

        try:
            self._session.run(work, deadline)
        finally:
            with self._gate.using():
                self._turns.give_up()

    def _finish(self, connection: sqlite3.Connection, body: Callable[[sqlite3.Connection], None]) -> None:
        try:
            body(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            meaning = meaning_of(error, self._database.directory) if isinstance(error, sqlite3.Error) else None
            if meaning is not None:
                raise meaning from error  # not SQLite's own error: that one might be taken for "busy, try again"
            raise
        self._shorten(connection)

    def _take(self) -> list[Append]:
        group: list[Append] = []
        size = 0
        with self._queue_lock:
            while self._queue and (not group or size + self._queue[0].bytes <= GROUP_BYTES):
                group.append(self._queue.popleft())
                size += group[-1].bytes
        return group

    def _refresh(self, connection: sqlite3.Connection) -> None:
        """Reads where the partitions end, unless nobody but us has written since."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._seen_version:
            return
        self._ends.clear()
        for table in _all_tables(connection):
            row = connection.execute(
                f"SELECT offset, timestamp_ms FROM {table.name} ORDER BY offset DESC LIMIT 1"
            ).fetchone()
            self._ends[table.number] = row[0] + 1 if row else 0
            if row:
                self._stamps.saw(table.topic, row[1])
        self._seen_version = version

    def _insert(self, connection: sqlite3.Connection, request: Append, now_ms: int) -> list[int]:
        offsets: list[int] = []
        rows: dict[Table, list[tuple[int, int, bytes | None, bytes | None]]] = {}
        for table, entry in zip(request.tables, request.entries, strict=True):
            offset = self._ends.get(table.number, 0)
            self._ends[table.number] = offset + 1
            rows.setdefault(table, []).append((offset, now_ms, entry.key, entry.value))
            offsets.append(offset)
        for table, values in rows.items():
            connection.executemany(f"INSERT INTO {table.name} VALUES (?, ?, ?, ?)", values)
            forget(connection, table, {key for _, _, key, _ in values}, now_ms)
        return offsets

    def _shorten(self, connection: sqlite3.Connection) -> None:
        """Readers that never pause keep the write-ahead log growing; then they must wait a moment for once."""
        if self._database.wal_bytes() <= self._wal_limit:
            return
        with suppress(sqlite3.Error):  # the append is done and must not fail any more
            connection.execute(f"PRAGMA busy_timeout={int(SHORTEN_SECONDS * 1000)}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
        self._wal_limit = max(8 * WAL_BYTES, 2 * self._database.wal_bytes())

    def close_connections(self) -> None:
        """Before a fork, and at the end."""
        self._seen_version = None
        self._session.close()
        self._turns.close()


def _create(connection: sqlite3.Connection, topics: Sequence[Topic]) -> None:
    for topic in topics:
        if connection.execute("SELECT 1 FROM partitions WHERE topic = ?", (topic.name,)).fetchone():
            continue  # another process was faster
        for partition in range(topic.partitions):
            (number,) = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM partitions").fetchone()
            table = Table(number, topic.name, topic.compacted, topic.retention_ms)
            connection.execute(
                "INSERT INTO partitions (number, topic, partition, compacted, retention_ms) VALUES (?, ?, ?, ?, ?)",
                (number, topic.name, partition, topic.compacted, topic.retention_ms),
            )
            connection.execute(
                f"CREATE TABLE {table.name}"
                " (offset INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB)"
            )
            if topic.compacted:
                connection.execute(f"CREATE INDEX keys_{number} ON {table.name} (key)")


def _all_tables(connection: sqlite3.Connection) -> list[Table]:
    rows = connection.execute("SELECT number, topic, compacted, retention_ms FROM partitions")
    return [Table(number, topic, bool(compacted), retention_ms) for number, topic, compacted, retention_ms in rows]

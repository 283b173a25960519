"""Reads a file log, and notices within some milliseconds when another process has appended."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping

from doortab.log.file_bell import Bell, Ear
from doortab.log.file_database import FileDatabase, Table
from doortab.log.file_session import FileSession
from doortab.log.forking import ForkGate
from doortab.log.rules import start_of
from doortab.schemas.log import Record, TopicPartition

# How long a poll puts up with a busy file, whatever its own time-out: only crash recovery takes so long.
BUSY_SECONDS = 10.0


class FileReader:
    """A reader of some partitions, with a connection and positions of its own."""

    def __init__(
        self,
        database: FileDatabase,
        gate: ForkGate,
        bell: Bell,
        table_of: Callable[[TopicPartition], Table],
        positions: Mapping[TopicPartition, int],
    ) -> None:
        self.session = FileSession(database, gate)
        self._database = database
        self._bell = bell
        self._ear: Ear | None = None
        self._table_of = table_of
        self._tables: dict[TopicPartition, Table] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._unchecked: set[TopicPartition] = set()
        self._turn = 0
        self._woken = False
        self._seen_version = 0
        self.seek(positions)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Goes on from these offsets; partitions that were not assigned are added."""
        for place, position in positions.items():
            self._tables[place] = self._table_of(place)
            self._positions[place] = position
            self._unchecked.add(place)

    def wake(self) -> None:
        """Makes a waiting ``poll`` return at once, or the next one if none waits."""
        self._woken = True
        if (ear := self._ear) is not None:
            ear.poke()

    def close(self) -> None:
        """Frees the connection; never raises."""
        self.session.close()
        self._drop_ear()

    def renew(self) -> None:
        """After a fork, in the child: what the parent listens with is the parent's."""
        self.session.renew()
        self._drop_ear()

    def _drop_ear(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> list[Record]:
        """What has come; see the port.

        Raises:
            LogUnavailable: the file could not be read.
            PositionOutOfRange: the log does not hold what should be read next.
        """
        started = time.monotonic()
        ear = self._ear = self._ear or Ear(self._bell)  # before reading, so that nothing is missed
        while True:
            records = self.session.run(lambda c: self._read(c, max_records, max_bytes), started + BUSY_SECONDS)
            if records or self._woken or time.monotonic() >= started + timeout_seconds:
                self._woken = False
                return records
            self._database.check_in_place()
            self._wait(ear, started + timeout_seconds)

    def _wait(self, ear: Ear, deadline: float) -> None:
        """Until somebody has appended or wakes us."""
        while (left := deadline - time.monotonic()) > 0:
            if ear.listen(min(left, ear.look_seconds)):
                return
            if self.session.run(_version, time.monotonic() + BUSY_SECONDS) != self._seen_version:
                return

    def _read(self, connection: sqlite3.Connection, max_records: int, max_bytes: int) -> list[Record]:
        """Partition by partition, each time beginning with another one, so that none waits for ever."""
        self._seen_version = _version(connection)
        records: list[Record] = []
        places = list(self._positions)
        self._turn += 1
        for index in range(len(places)):
            place = places[(self._turn + index) % len(places)]
            self._check(connection, place)
            max_bytes -= self._read_partition(connection, place, records, max_records, max_bytes)
            if len(records) >= max_records or max_bytes <= 0:
                break
        for record in records:
            self._positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
        return records

    def _read_partition(
        self,
        connection: sqlite3.Connection,
        place: TopicPartition,
        records: list[Record],
        max_records: int,
        max_bytes: int,
    ) -> int:
        """Adds what fits, the very first record always; returns its bytes."""
        topic, partition = place
        read_bytes = 0
        rows = connection.execute(
            f"SELECT offset, timestamp_ms, key, value FROM {self._tables[place].name}"
            " WHERE offset >= ? ORDER BY offset LIMIT ?",
            (self._positions[place], max_records - len(records)),
        )
        for offset, timestamp_ms, key, value in rows:
            size = len(key or b"") + len(value or b"")
            if records and read_bytes + size > max_bytes:
                break
            records.append(Record(topic, partition, offset, timestamp_ms, key, value))
            read_bytes += size
        rows.close()  # ends the read transaction, which otherwise would keep the write-ahead log growing
        return read_bytes

    def _check(self, connection: sqlite3.Connection, place: TopicPartition) -> None:
        """That the position is one which the log holds: once after a seek, each time where retention deletes."""
        table = self._tables[place]
        if place not in self._unchecked and table.retention_ms < 0:
            return
        begin, end = bounds(connection, table)
        self._positions[place] = start_of(place, self._positions[place], begin, end)
        self._unchecked.discard(place)


def bounds(connection: sqlite3.Connection, table: Table) -> tuple[int, int]:
    """The earliest offset kept, and the one that the next record gets."""
    (begin,) = connection.execute("SELECT begin FROM partitions WHERE number = ?", (table.number,)).fetchone()
    (last,) = connection.execute(f"SELECT max(offset) FROM {table.name}").fetchone()
    return begin, begin if last is None else last + 1


def _version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection has written."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version

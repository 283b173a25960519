"""The embedded log: one SQLite file in WAL mode, for many processes and threads of one machine.

Acknowledged means on the disk. Who kills which process when does not matter: the file is as good as
SQLite is, and what was not acknowledged is there whole or not at all.

The directory holds ``log.sqlite3`` (with ``-wal`` and ``-shm`` while in use; they belong together when it is
copied) and three empty files: two locks and a bell.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from doortab.log.file_bell import Bell
from doortab.log.file_database import FileDatabase, Table
from doortab.log.file_reader import FileReader, bounds
from doortab.log.file_session import FileSession
from doortab.log.file_writer import Append, FileWriter
from doortab.log.forking import ForkGate
from doortab.log.rules import check_entries, check_partition
from doortab.schemas.log import Entry, TopicPartition
from doortab.schemas.topics import Topic

T = TypeVar("T")

# How long questions about topics and offsets put up with a busy file.
QUESTION_SECONDS = 30.0


class FileLog:
    """A log in a directory of this machine. Threads may share it; it may also be used on both sides of a fork."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        """Creates the directory and the file if need be.

        ``clock`` gives seconds since 1970, for the records' time stamps.

        Raises:
            LogUnavailable: the directory cannot be written.
            UsageError: a newer doortab, or another program, wrote the file.
            LogDamaged: the file is not readable.
        """
        self._database = FileDatabase(directory)
        self._gate = ForkGate(self._close_connections, self._renew)
        self._bell = Bell(directory)
        self._questions = FileSession(self._database, self._gate)
        self._writer = FileWriter(self._database, self._gate, clock)
        self._readers: WeakSet[FileReader] = WeakSet()
        self._tables: dict[TopicPartition, Table] = {}
        self._ask(lambda connection: None)

    def ensure_topics(self, topics: Iterable[Topic]) -> None:
        """Creates the topics that are missing; existing ones stay as they are.

        Raises:
            LogUnavailable: the file could not be written.
        """
        missing = [topic for topic in topics if not self.partition_count(topic.name)]
        if missing:
            self._writer.create_topics(missing, QUESTION_SECONDS)

    def partition_count(self, topic: str) -> int:
        """How many partitions the topic has now; 0 when there is no such topic."""
        return len(self._tables_of(topic))

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        """Appends all entries in one transaction, and returns their offsets once they are on the disk.

        Raises:
            LogUnavailable: not within the time, or the disk is full.
            UsageError: no such topic or partition, or a record larger than the log takes.
        """
        tables = self._tables_of(topic)
        check_entries(topic, entries, len(tables), bool(tables) and tables[0].compacted)
        if not entries:
            return []
        offsets = self._writer.append(Append([tables[entry.partition] for entry in entries], entries), timeout_seconds)
        self._bell.ring()
        return offsets

    def reader(self, positions: Mapping[TopicPartition, int]) -> FileReader:
        """A reader of just these partitions, from these offsets on (0 means the earliest kept).

        Raises:
            UsageError: no such topic or partition.
        """
        reader = FileReader(self._database, self._gate, self._bell, self._table_of, positions)
        self._readers.add(reader)
        return reader

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset of the earliest record still kept; nothing when there is no such topic."""
        return {partition: begin for partition, (begin, _) in self._bounds(topic).items()}

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset that the next record will get; nothing when there is no such topic."""
        return {partition: end for partition, (_, end) in self._bounds(topic).items()}

    def close(self) -> None:
        """Frees what the log and its readers hold; never raises."""
        self._database.closed = True
        self._close_connections()
        for reader in list(self._readers):
            reader.close()

    def _bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        tables = self._tables_of(topic)
        return self._ask(lambda c: {partition: bounds(c, table) for partition, table in enumerate(tables)})

    def _table_of(self, place: TopicPartition) -> Table:
        tables = self._tables_of(place.topic)
        check_partition(place.topic, place.partition, len(tables))
        return tables[place.partition]

    def _tables_of(self, topic: str) -> list[Table]:
        """The tables of a topic by partition; asked once, since a topic never changes."""
        if TopicPartition(topic, 0) not in self._tables:
            self._tables.update(self._ask(_read_tables))
        tables: list[Table] = []
        while table := self._tables.get(TopicPartition(topic, len(tables))):
            tables.append(table)
        return tables

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        return self._questions.run(question, time.monotonic() + QUESTION_SECONDS)

    def _close_connections(self) -> None:
        self._writer.close_connections()
        self._questions.close()
        for reader in list(self._readers):
            reader.session.close()

    def _renew(self) -> None:
        self._writer.renew()
        self._questions.renew()
        for reader in list(self._readers):
            reader.renew()


def _read_tables(connection: sqlite3.Connection) -> dict[TopicPartition, Table]:
    rows = connection.execute("SELECT topic, partition, number, compacted, retention_ms FROM partitions")
    return {
        TopicPartition(topic, partition): Table(number, topic, bool(compacted), retention_ms)
        for topic, partition, number, compacted, retention_ms in rows
    }

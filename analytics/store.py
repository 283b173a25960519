"""The store: the ledger's DuckDB file, opened by one process, written by one thread.

Every batch is one transaction: rows, rejections, counters, decisions, messages and positions, all or
nothing. After the commit the commit row is read back, for DuckDB 2.0 can commit an aborted
transaction without a word. Whatever fails in between leaves the last commit as it was; the caller
reads ``resume`` again and goes on from there.

Readers use ``cursor()``, one a thread, and ``fetchall()``: a result that is not read to its end keeps
its transaction open.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from doortab.analytics import opening, seals, stored, tables
from doortab.analytics.recount import owners, recount
from doortab.analytics.stored import LATEST_COUNTERS
from doortab.analytics.tables import quoted
from doortab.analytics.trail import Head, Trail, follow, last_commit, note_gaps
from doortab.schemas.batch import Batch, CounterKey, Decision, Message, Resumed, Rows, StoredEvent
from doortab.schemas.errors import StoreDamaged
from doortab.schemas.tariff import Tariff

MAX_COLUMNS = {"units": 64, "dimensions": 64}
"""So many units and dimensions get a column of their own; those that come later share one as JSON."""

COMPACT_FACTOR = 4
COMPACT_MINIMUM = 100_000


class Store:
    """The open store. Use ``Store.open``."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        clock: Callable[[], int],
        trail: Trail | None = None,
    ) -> None:
        self.path = path
        with opening.in_words(path):
            self.name = opening.meta(connection)["store"]
            """What tells it from every other store."""
            self._columns = opening.columns_of(connection)
        self._connection = connection
        self._clock = clock
        self._trail = trail
        self._identity = opening.identity(path)
        self._positions: dict[int, int] = {}
        self._epoch = 0
        self._next_batch = 0
        self._next_seq = 0
        self._counter_rows = 0
        self._seal_rows = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        threads: int = 1,
        memory_limit: str = "4GB",
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        trail: Trail | None = None,
    ) -> Store:
        """Opens the store, or makes an empty one. Commits are noted in the trail, if there is one.

        Raises:
            StoreBusy: another process has it open.
            StoreDamaged: DuckDB cannot read it, or a newer doortab wrote it.
        """
        made = not path.exists()
        connection = opening.open_file(path, opening.options(threads, memory_limit))
        try:
            store = cls(connection, path, clock, trail)
            if trail is not None:
                follow(trail, store._read, store.name, made=made, now=clock())
        except BaseException:
            connection.close()
            raise
        return store

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same store, for one thread to read with."""
        return self._connection.cursor()

    def resume(self) -> Resumed:
        """Takes ownership: a new epoch, and where to go on from."""
        read = self._read
        with opening.in_words(self.path):
            self._columns = opening.columns_of(self._connection)
        self._next_batch = read("SELECT coalesce(max(batch), 0) + 1 FROM commits")[0][0]
        self._epoch = read("SELECT coalesce(max(epoch), 0) + 1 FROM commits")[0][0]
        self._next_seq = read("SELECT coalesce(max(seq), -1) + 1 FROM usage")[0][0]
        self._counter_rows = read("SELECT count(*) FROM counters")[0][0]
        self._seal_rows = read("SELECT count(*) FROM seals")[0][0]
        self._positions = dict(read("SELECT part, max(next) FROM commits WHERE part >= 0 GROUP BY part"))
        counters = read(f"SELECT subject, measure, period, epoch_us(start), value FROM ({LATEST_COUNTERS})")
        return Resumed(
            positions=dict(self._positions),
            counters={CounterKey(*row[:4]): row[4] for row in counters},
            adopted=dict(read("SELECT part, max(catalog_offset) FROM adopted GROUP BY part")),
            next_seq=self._next_seq,
            epoch=self._epoch,
        )

    def digests(self) -> npt.NDArray[np.uint64]:
        """The digest of every row, in row order."""
        with opening.in_words(self.path):
            found = self._connection.execute("SELECT digest FROM usage ORDER BY seq").fetchnumpy()["digest"]
        return np.asarray(found, dtype=np.uint64)

    def write(self, batch: Batch) -> Iterator[str]:
        """Commits the batch, yielding a name after each step. It is durable once ``committed`` was yielded.

        Raises:
            StoreDamaged: DuckDB gave up, or the commit is not there; reopen the store.
        """
        connection, number, now = self._connection, self._next_batch, self._clock()
        try:
            connection.execute("BEGIN")
            yield "began"
            self._add_columns(batch.rows)
            if len(batch.rows):
                self._insert("usage", tables.usage_arrow(batch.rows, self._next_seq, self._columns))
            yield "rows"
            written = ["usage"] if len(batch.rows) else []
            for table, columns in tables.batch_tables(batch, number, self._epoch, now).items():
                self._insert(table, columns)
                written.append(table)
                yield table
            connection.execute(seals.sealing(written, self._columns, number, self._next_seq))
            yield "sealed"
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, duckdb.Error):
                raise opening.damaged(self.path, error) from error
            raise
        if not self._read(f"SELECT 1 FROM commits WHERE batch = {number} LIMIT 1"):
            raise StoreDamaged(f"commit {number} of {self.path} is not in the store; restart the ledger")
        self._next_batch += 1
        self._next_seq += len(batch.rows)
        self._counter_rows += len(batch.counters)
        self._seal_rows += len(written) + len(batch.progress)
        self._positions |= {step.partition: step.next for step in batch.progress}
        if self._trail is not None:
            self._trail.mark(Head(store=self.name, batch=number, committed=now, next=self._positions))
        yield "committed"

    def find(self, digests: Sequence[int], low: int, high: int) -> list[StoredEvent]:
        """The rows numbered from ``low`` until before ``high`` that have one of the digests."""
        wanted = ", ".join(map(str, digests))
        return stored.events(self._read, self._columns, f"seq >= {low} AND seq < {high} AND digest IN ({wanted})")

    def pending(self) -> list[Message]:
        """The messages that were committed and are not known to be in the log, in the order of their causes."""
        return stored.messages(self._read)

    def published(self, ids: Sequence[str]) -> None:
        """Notes that these messages are in the log."""
        self._insert("published", tables.arrow("published", {"id": ids}))

    def recount(self, tariff: Tariff, partition: int, lineages: Mapping[str, str]) -> dict[CounterKey, int]:
        """Every counter of the accounts and keys that have events in the partition, reckoned anew from the rows."""
        return recount(self._read, self._columns, tariff, partition, lineages)

    def owners(self, partition: int, lineages: Mapping[str, str]) -> dict[str, str]:
        """Whose the accounts and lineages are that have events in the partition: the account, by subject."""
        return owners(self._read, partition, lineages)

    def unreadable(self) -> set[tuple[str, int, int]]:
        """Topic, partition and offset of what was rejected in other topics than usage."""
        return stored.unreadable(self._read)

    def decided(self) -> list[Decision]:
        """Every decision, in the order they were made."""
        return stored.decisions(self._read)

    def compact(self) -> bool:
        """Keeps only the latest value of each counter, once most are outdated, and merges old seals.

        True when it did either. Counters that are not as they were written stay as they are.
        """
        return self._compact_counters() or self._merge_seals()

    def _compact_counters(self) -> bool:
        if self._counter_rows < COMPACT_MINIMUM:
            return False
        live = self._read(f"SELECT count(*) FROM ({LATEST_COUNTERS})")[0][0]
        if self._counter_rows < COMPACT_FACTOR * live:
            return False
        with self._transaction() as execute:
            # Else a counter that was altered would be sealed as it is now. The audit tells it.
            is_whole = seals.hold(self._read, "counters", self._columns)
            if is_whole:
                execute(f"CREATE OR REPLACE TABLE counters AS {LATEST_COUNTERS}")
                execute("DELETE FROM seals WHERE kind = 'counters'")
                execute(seals.sealing_anew("counters", self._columns))
        # Where they are not, they are not looked at again before as many have come.
        self._counter_rows = live if is_whole else 0
        return is_whole

    def _merge_seals(self) -> bool:
        if self._seal_rows < seals.MERGE_FROM:
            return False
        with self._transaction() as execute:
            execute(f"CREATE OR REPLACE TABLE seals AS {seals.merging()}")
        # What is left may still be many; it is not looked at again before as many have come.
        self._seal_rows = 0
        return True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Callable[[str], object]]:
        try:
            with opening.in_words(self.path):
                self._connection.execute("BEGIN")
                yield self._connection.execute
                self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def checkpoint(self) -> None:
        """Brings the write-ahead log into the file, unless somebody reads what it would replace."""
        with opening.in_words(self.path), contextlib.suppress(duckdb.TransactionException):
            self._connection.execute("CHECKPOINT")

    def close(self) -> None:
        """Closes the file; what was committed is in it."""
        self._connection.close()
        if self._trail is not None:
            self._trail.close()

    def works(self) -> bool:
        """Whether it still answers: DuckDB gives up on a file for good after some failures of the disk."""
        try:
            self._connection.execute("SELECT 1 FROM meta LIMIT 1").fetchall()
        except duckdb.Error:
            return False
        return True

    def in_place(self) -> bool:
        """Whether the file under the store's name is still the one that was opened."""
        return opening.identity(self.path) == self._identity

    def compare_with_log(self, begins: Mapping[int, int]) -> None:
        """Notes in the trail what the log no longer holds and the store does not hold yet."""
        if self._trail is not None:
            note_gaps(self._trail, last_commit(self._read, self.name), begins, self._clock())

    @property
    def columns(self) -> dict[tuple[str, str], str]:
        """The column of each unit and dimension, by (``units`` or ``dimensions``, name)."""
        return dict(self._columns)

    def room_for(self, root: str, names: set[str]) -> set[str]:
        """Which of the names have a column, or may get one."""
        known = {name for kind, name in self._columns if kind == root}
        new = sorted(names - known)[: max(0, MAX_COLUMNS[root] - len(known))]
        return (names & known) | set(new)

    def _add_columns(self, rows: Rows) -> None:
        wanted = [("units", name, "BIGINT") for name in rows.units]
        wanted += [("dimensions", name, "VARCHAR") for name in rows.dimensions]
        taken = {column.lower() for column in self._columns.values()}
        for root, name, kind in sorted(wanted):
            if (root, name) in self._columns:
                continue
            # DuckDB's identifiers do not tell upper from lower case; ours do.
            column = f"{root}.{name}"
            while column.lower() in taken:
                column += "'"
            taken.add(column.lower())
            self._connection.execute(f"ALTER TABLE usage ADD COLUMN {quoted(column)} {kind}")
            self._insert(
                "usage_columns",
                tables.arrow("usage_columns", {"root": [root], "name": [name], "column_name": [column]}),
            )
            self._columns[root, name] = column

    def _insert(self, table: str, columns: Any) -> None:
        self._connection.register("incoming", columns)
        self._connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        self._connection.unregister("incoming")

    def _read(self, query: str) -> list[Any]:
        with opening.in_words(self.path):
            return self._connection.execute(query).fetchall()

    def _roll_back(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error:
            # The transaction is gone already, or the whole instance is; either way nothing of it stays.
            return
        self._columns = opening.columns_of(self._connection)

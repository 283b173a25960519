"""A small installation to ask questions of: events go into a log in memory, and a worker fills a store from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from doortab.analytics.cells import Read
from doortab.analytics.report import report
from doortab.analytics.store import Store
from doortab.consumers.worker import Worker
from doortab.log.memory import MemoryLog
from doortab.schemas import catalog, instants, periods, topics, wire
from doortab.schemas.log import Entry, Log
from doortab.schemas.tariff import NO_TARIFF, Tariff

START = instants.parse("2026-11-01T00:00:00Z")
HOUR = 3600 * instants.SECOND

CATALOG = """
default_plan = "llm"

[[meters]]
name = "requests"
event = "request.validated"
aggregation = "sum"
value = "units.requests"

[[meters]]
name = "tokens"
event = "request.validated"
aggregation = "sum"
value = "units.tokens"

[[plans]]
name = "llm"
currency = "USD"

[[plans.charges]]
meter = "tokens"
model = "per_unit"
unit = "0.00001"

[[caps]]
subject = "key:*"
amount = "1.00"
period = "month"
thresholds = [50]
hard = true
"""

_encoder = msgspec.json.Encoder()


class Clock:
    """Microseconds that move only when told to."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def seconds(self) -> float:
        return self.now / 1e6


class Installation:
    """Log, worker and store. ``add`` puts events into the log, ``fold`` brings them into the store."""

    def __init__(
        self,
        directory: Path,
        words: str | None = CATALOG,
        *,
        log: Log | None = None,
        threads: int = 2,
        records: int = 200,
    ) -> None:
        self.clock = Clock()
        self.log: Log = log or MemoryLog(self.clock.seconds, waits=False)
        self.log.ensure_topics(topics.topics())
        self.tariff = NO_TARIFF
        self._ids = itertools.count()
        if words is not None:
            self.apply(words)
        self.store = Store.open(directory / "usage.duckdb", threads=threads, clock=self.clock)
        self._worker: Worker | None = None
        self._records = records

    def apply(self, words: str) -> None:
        """Publishes the catalog."""
        parsed = catalog.parse(words)
        self.tariff = Tariff(parsed)
        self.log.append(topics.CATALOG, [Entry(0, b"catalog", catalog.encode(parsed))])

    def event(self, time: int, key: str | None = "key_1", account: str = "acct_1", **data: Any) -> dict[str, Any]:
        """A usage event of one request, unless ``data`` says otherwise."""
        data = {"units": {"requests": 1}} | data
        number = next(self._ids)
        return {
            "specversion": "1.0",
            "id": f"e{number}",
            "source": "test",
            "type": "request.validated",
            "time": instants.text(time),
            "data": {"account": account, **({"key": key} if key is not None else {}), **data},
        }

    def add(self, events: Sequence[Mapping[str, Any]], each: int = 200) -> None:
        """Appends the events, each in the partition of its account, ``each`` to a record."""
        by_partition: dict[int, list[bytes]] = {}
        for event in events:
            partition = topics.partition_of(event["data"]["account"].encode(), topics.USAGE_PARTITIONS)
            by_partition.setdefault(partition, []).append(_encoder.encode(event))
        for partition, texts in by_partition.items():
            pieces = [wire.join(texts[i : i + each]) for i in range(0, len(texts), each)]
            self.log.append(topics.USAGE, [Entry(partition, None, piece) for piece in pieces])

    def fold(self) -> None:
        """Brings all that the log holds into the store."""
        while len(list(self.turn())) > 1:
            pass

    def turn(self) -> Iterator[str]:
        """One turn of the worker, by steps."""
        if self._worker is None:
            self._worker = Worker(self.log, self.store, max_records=self._records)
        return self._worker.turn(0.0)

    def reader(self) -> Read:
        """A function that answers SQL."""
        cursor = self.store.cursor()

        def read(query: str) -> list[Any]:
            return cursor.execute(query).fetchall()

        return read

    def report(self, *by: str) -> dict[str, Any]:
        """The report over all time, as its JSON."""
        return report(self.reader(), self.tariff, periods.ALL_TIME, by).as_json()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self.store.close()
        self.log.close()

"""Reads assigned partitions from Kafka, and does not believe silence.

A consumer of kafka-python whose broker hangs returns nothing, without an error. So when nothing has come for
a while the end of the log is asked for over another connection: if there is more to read, the consumer is
replaced and goes on from the same positions; if nobody answers, the caller is told.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPartition
from kafka.errors import LogTruncationError, OffsetOutOfRangeError

from doortab.log.kafka_client import Clients, end, inherit
from doortab.log.kafka_inside import read_plainly
from doortab.log.rules import PositionOutOfRange, start_of
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.log import Record, TopicPartition

DOUBT_SECONDS = 1.0
"""After so long without a record the end of the log is asked for, while the last answer was none or a bad one."""
PATIENCE_SECONDS = 3.0
"""How much longer than its time-out a poll may take to find out that no broker answers."""
FETCH_BYTES = 24_000_000
"""So much is fetched while the caller works on what was fetched before: what a turn of the ledger takes at most."""
LEAST_FETCH_BYTES = 1_000_000
"""On a line that does not bring more within a request's time. A record that is larger comes all the same, alone."""
SLICE_SECONDS = 0.05
"""How long ``wake`` may have to wait: a poll of kafka-python cannot be woken, so it is kept short."""

_CONSUMER_SETTINGS: dict[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    "key_deserializer": None,
    "value_deserializer": None,
    "isolation_level": "read_uncommitted",
    "check_crcs": True,
    "fetch_min_bytes": 1,
    "fetch_max_wait_ms": 500,
    "metrics_enabled": False,
}

Bounds = Callable[[Collection[TopicPartition], float], Mapping[TopicPartition, tuple[int, int]]]


class KafkaReader:
    """A reader of some partitions. Its positions are its own: a consumer only fetches for it."""

    def __init__(self, clients: Clients, prefix: str, bounds: Bounds, positions: Mapping[TopicPartition, int]) -> None:
        """``bounds`` asks for the first and the next offset of partitions, over another connection."""
        self._clients = clients
        self._silence_seconds = clients.patience.silence_seconds
        self._prefix = prefix
        self._bounds = bounds
        self._positions: dict[TopicPartition, int] = dict(positions)
        self._fetch_bytes = FETCH_BYTES
        self._fetched: deque[Record] = deque()
        self._fetched_bytes = 0
        self._consumer: Any = None
        self._is_assigned = False
        self._ids: dict[str, object] = {}
        self._pid = os.getpid()
        self._woken = False
        self._closed = False
        self._look_at = 0.0
        self._strikes = 0

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Goes on from these offsets; partitions that were not assigned are added."""
        self._positions.update(positions)
        self._forget()
        self._is_assigned = False

    def wake(self) -> None:
        """Makes a waiting ``poll`` return within 50 ms, or the next one at once if none waits."""
        self._woken = True

    def close(self) -> None:
        """Frees the consumer; never raises."""
        self._closed = True
        self._drop_consumer()

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> list[Record]:
        """What has come; see the port.

        Raises:
            LogUnavailable: no broker answers, or nothing comes although the log holds more.
            PositionOutOfRange: the log does not hold what should be read next.
            UsageError: no such topic or partition.
        """
        if self._closed:
            raise UsageError("the reader is closed")
        deadline = time.monotonic() + timeout_seconds
        if self._fetched and self._fetched_bytes < max_bytes and len(self._fetched) < max_records:
            self._gather(max_records, 0.0)  # the rest of a fetch: with the next, or every other batch would be small
        while not self._fetched:
            self._gather(max_records, min(SLICE_SECONDS, max(0.0, deadline - time.monotonic())))
            if not self._fetched and time.monotonic() >= self._look_at:
                self._look()
            if self._woken or time.monotonic() >= deadline:
                break
        self._woken = False
        return self._take(max_records, max_bytes)

    def _take(self, max_records: int, max_bytes: int) -> list[Record]:
        count = len(self._fetched)
        if self._fetched_bytes > max_bytes or count > max_records:
            count = self._count(max_records, max_bytes)
        records = [self._fetched.popleft() for _ in range(count)]
        self._fetched_bytes -= sum(map(_size_of, records))
        nexts = {(record.topic, record.partition): record.offset + 1 for record in records}
        self._positions.update({TopicPartition(*place): offset for place, offset in nexts.items()})
        return records

    def _count(self, max_records: int, max_bytes: int) -> int:
        """How many of what was fetched fit; one always does."""
        count = 0
        for record in self._fetched:
            max_bytes -= _size_of(record)
            if count == max_records or (count and max_bytes < 0):
                break
            count += 1
        return count

    def _gather(self, max_records: int, timeout_seconds: float) -> None:
        self._ensure_consumer()
        if self._fetch(max_records, timeout_seconds):
            self._look_at, self._strikes = time.monotonic() + self._silence_seconds, 0

    def _fetch(self, max_records: int, timeout_seconds: float) -> bool:
        """Asks the consumer once, and says whether anything has come; any error of its costs it its place."""
        try:
            batches = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000), max_records=max_records)
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            self._drop_consumer()
            self._starts()  # says which offset, and what the log holds
            raise PositionOutOfRange(f"Kafka does not hold what should be read next: {error!r}") from error
        except Exception as error:  # whatever it is: kafka-python's next poll might never return
            self._drop_consumer()
            self._clients.replaced += 1
            self._look_at = time.monotonic() + DOUBT_SECONDS
            raise LogUnavailable(f"reading from Kafka failed: {error!r}") from error
        self._check_ids()
        for records in batches.values():
            self._fetched.extend(records)
            self._fetched_bytes += sum(map(_size_of, records))
        return bool(batches)

    def _check_ids(self) -> None:
        """A topic made anew while this reader had a place in the old one: the place means nothing in the new one."""
        cluster = self._consumer._client.cluster  # a seam into the library: it moves in 3.1, see the pin
        for name in {self._prefix + place.topic for place in self._positions}:
            found = cluster.topic_id(name)
            if found is not None and self._ids.setdefault(name, found) != found:
                self._drop_consumer()
                raise PositionOutOfRange(
                    f"topic {name!r} was deleted and made anew (it was {self._ids[name]} and is {found}): "
                    f"its offsets mean other records now"
                )

    def _look(self) -> None:
        """Nothing has come for a while: is there nothing, or is the consumer deaf?"""
        self._look_at = time.monotonic() + DOUBT_SECONDS
        behind = [
            f"{place.topic}/{place.partition} is at {self._position(place)} of {end_offset}"
            for place, (_, end_offset) in self._bounds(self._positions, PATIENCE_SECONDS).items()
            if self._position(place) < end_offset
        ]
        if not behind:
            self._look_at, self._strikes = time.monotonic() + self._silence_seconds, 0
            return
        self._drop_consumer()
        self._clients.replaced += 1
        self._fetch_bytes = max(LEAST_FETCH_BYTES, self._fetch_bytes // 2)  # it may be that a slow line took too long
        self._strikes += 1
        self._look_at = time.monotonic() + self._silence_seconds
        if self._strikes > 1:
            raise LogUnavailable(f"Kafka delivers nothing although it holds more: {', '.join(behind)}")

    def _position(self, place: TopicPartition) -> int:
        """Where the consumer stands: past the last record, where compaction has left a gap behind it."""
        position: int | None = self._consumer.position(self._kafka_name(place), timeout_ms=100)
        return max(position or 0, self._positions[place])

    def _ensure_consumer(self) -> None:
        if self._consumer is not None and self._pid != os.getpid():
            self._drop_consumer()
        if self._consumer is not None and self._is_assigned:
            return
        self._positions.update(self._starts())
        if self._consumer is None:
            self._pid = os.getpid()
            sizes = {"fetch_max_bytes": self._fetch_bytes, "max_partition_fetch_bytes": self._fetch_bytes // 3}
            self._consumer = self._clients.make(KafkaConsumer, _CONSUMER_SETTINGS | sizes, PATIENCE_SECONDS)
            read_plainly(self._consumer, self._prefix)
        self._consumer.assign([self._kafka_name(place) for place in self._positions])
        for place, position in self._positions.items():
            self._consumer.seek(self._kafka_name(place), position)
        self._is_assigned = True
        self._look_at = time.monotonic() + self._silence_seconds

    def _starts(self) -> dict[TopicPartition, int]:
        """Where reading starts, as checked against what the log holds."""
        return {
            place: start_of(place, self._positions[place], begin, end_offset)
            for place, (begin, end_offset) in self._bounds(self._positions, PATIENCE_SECONDS).items()
        }

    def _kafka_name(self, place: TopicPartition) -> Any:
        return KafkaPartition(self._prefix + place.topic, place.partition)

    def _forget(self) -> None:
        self._fetched.clear()
        self._fetched_bytes = 0

    def _drop_consumer(self) -> None:
        """What it had fetched is fetched again: positions move only with what the caller got."""
        consumer, self._consumer = self._consumer, None
        self._forget()
        self._is_assigned = False
        if consumer is None:
            return
        if self._pid != os.getpid():
            inherit(consumer)
        else:
            end(lambda: consumer.close(autocommit=False, timeout_ms=1000))


def _size_of(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"")

"""The log as everybody sees it: partitions of records, appended durably, read by offset.

The port. Its adapters stand in ``doortab/log`` (Kafka, file, simulated) and pass one set of
contract tests. Records are bytes: nobody below this line knows what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from doortab.schemas.topics import Topic


class TopicPartition(NamedTuple):
    """One ordered sequence of records."""

    topic: str
    partition: int


class Entry(NamedTuple):
    """A record before the log has it: the partition it goes to, key and value."""

    partition: int
    key: bytes | None
    value: bytes | None


class Record(NamedTuple):
    """A record in the log. ``timestamp_ms`` is when the log received it (UTC, milliseconds since 1970)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@runtime_checkable
class Identified(Protocol):
    """A log whose topics have an id besides their name, which another topic of that name does not have."""

    def identity(self, topic: str) -> str | None:
        """The topic's id; None where the log does not say."""
        ...


@runtime_checkable
class Supervised(Protocol):
    """A log whose clients are thrown away and replaced when they fail, or fall silent."""

    @property
    def clients_replaced(self) -> int:
        """How many were."""
        ...

    @property
    def threads_leaked(self) -> int:
        """Threads of theirs that did not end; a process that collects them should be restarted."""
        ...


class Reader(Protocol):
    """Reads assigned partitions from given offsets. One thread owns it; only ``wake`` may come from another."""

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> list[Record]:
        """What has come, at most so much, waiting at most so long for the first record.

        Within a partition in offset order, without repetition. At least one record is returned when
        one is there, however large. An empty list means nothing came; it never means an error.

        Raises:
            LogUnavailable: the log could not be reached, or did not move although it holds more.
        """
        ...

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Goes on from these offsets; partitions that were not assigned are added."""
        ...

    def wake(self) -> None:
        """Makes a waiting ``poll`` return at once. Callable from any thread."""
        ...

    def close(self) -> None:
        """Frees what the reader holds; never raises."""
        ...


class Log(Protocol):
    """A durable log. Threads may share it; a process that forks must open its own."""

    def ensure_topics(self, topics: Iterable[Topic]) -> None:
        """Creates the topics that are missing; existing ones stay as they are.

        Raises:
            LogUnavailable: the log could not be reached.
        """
        ...

    def partition_count(self, topic: str) -> int:
        """How many partitions the topic has now; 0 when there is no such topic."""
        ...

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        """Appends all entries and returns their offsets, one each, once they are durable.

        Order is kept within a partition for one call. When it raises, any part of the entries may be
        in the log all the same: send the same bytes again, ids make that harmless.

        Raises:
            LogUnavailable: no acknowledgement in time.
            UsageError: no such topic or partition, or a record larger than the log takes.
        """
        ...

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """A reader of just these partitions, from these offsets on (0 means the earliest kept)."""
        ...

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset of the earliest record still kept (or of the next, if none is)."""
        ...

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset that the next record will get."""
        ...

    def close(self) -> None:
        """Frees what the log holds; never raises."""
        ...

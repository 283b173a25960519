"""A log in this process' memory, with faults to switch on: what the simulator and quick tests run on.

Deterministic: no randomness and no threads of its own. Whoever wants faults gives ``fault``, a function that
is asked at every append; the rest (unreachable, frozen, forgotten, compacted) is set from outside.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto

from doortab.log.rules import check_entries, check_partition, start_of
from doortab.log.stamps import Stamps
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.log import Entry, Record, TopicPartition
from doortab.schemas.topics import Topic


class Fault(Enum):
    """What becomes of an append."""

    NONE = auto()
    FAILED = auto()  # nothing is in the log, and the caller is told
    ACKNOWLEDGEMENT_LOST = auto()  # everything is in the log, and the caller is told that it failed
    HALF = auto()  # the first half is in the log, and the caller is told that it failed
    LATE = auto()  # the caller is told that it failed, and ``deliver_late`` puts it into the log
    DOUBLED = auto()  # everything is in the log twice, and acknowledged once


class MemoryLog:
    """The port, held in lists. Several readers and threads may share it."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        fault: Callable[[str, Sequence[Entry]], Fault] | None = None,
        waits: bool = True,
    ) -> None:
        """``clock`` gives seconds since 1970. A log that never ``waits`` answers an empty poll at once."""
        self.unreachable = False
        """Switch: every call raises LogUnavailable."""
        self.frozen: set[TopicPartition] = set()
        """Switch: readers get nothing from these partitions, though the log holds more."""
        self.changed = threading.Condition()
        self.waits = waits
        self._clock = clock
        self._fault = fault
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._compacted: set[str] = set()
        self._late: list[tuple[str, list[Entry]]] = []
        self.stamps = Stamps()
        self._closed = False

    def ensure_topics(self, topics: Iterable[Topic]) -> None:
        """Creates the topics that are missing; existing ones stay as they are."""
        self.check_reachable()
        with self.changed:
            for topic in topics:
                if not self.partition_count(topic.name):
                    self.grow(topic.name, topic.partitions)
                    self._compacted.update([topic.name] if topic.compacted else [])

    def partition_count(self, topic: str) -> int:
        """How many partitions the topic has now; 0 when there is no such topic."""
        return len(self._of(topic))

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        """Appends all entries and returns their offsets; faults see to it that this is not always true.

        Raises:
            LogUnavailable: a fault says so.
            UsageError: no such topic or partition, or a record larger than the log takes.
        """
        self.check_reachable()
        check_entries(topic, entries, self.partition_count(topic), topic in self._compacted)
        fault = self._fault(topic, entries) if self._fault else Fault.NONE
        if fault is Fault.LATE:
            self._late.append((topic, list(entries)))
        if fault in (Fault.FAILED, Fault.LATE):
            raise LogUnavailable("simulated: the append failed")
        offsets = self._put(topic, entries[: len(entries) // 2] if fault is Fault.HALF else entries)
        if fault is Fault.DOUBLED:
            self._put(topic, entries)
        if fault in (Fault.ACKNOWLEDGEMENT_LOST, Fault.HALF):
            raise LogUnavailable("simulated: the acknowledgement was lost")
        return offsets

    def reader(self, positions: Mapping[TopicPartition, int]) -> MemoryReader:
        """A reader of just these partitions, from these offsets on (0 means the earliest kept).

        Raises:
            UsageError: no such topic or partition.
        """
        return MemoryReader(self, positions)

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset of the earliest record still kept."""
        self.check_reachable()
        return {place.partition: held.begin for place, held in self._of(topic).items()}

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset that the next record will get."""
        self.check_reachable()
        return {place.partition: held.end for place, held in self._of(topic).items()}

    def close(self) -> None:
        """No more appends; never raises."""
        self._closed = True

    def deliver_late(self) -> None:
        """Puts what was ``LATE`` into the log, in the order of the calls."""
        late, self._late = self._late, []
        for topic, entries in late:
            self._put(topic, entries)

    def grow(self, topic: str, partitions: int) -> None:
        """Gives the topic this many partitions, if it has fewer."""
        for partition in range(partitions):
            self._partitions.setdefault(TopicPartition(topic, partition), _Partition())

    def forget(self, place: TopicPartition, before: int) -> None:
        """Retention: deletes the records before this offset."""
        held = self.held(place)
        held.begin = min(max(held.begin, before), held.end)
        del held.records[: held.index(held.begin)]

    def compact(self, place: TopicPartition) -> None:
        """Keeps only the newest record of each key, with the offset it had."""
        held = self.held(place)
        newest = {record.key: record for record in held.records}
        held.records[:] = [record for record in held.records if newest[record.key] is record]

    def held(self, place: TopicPartition) -> _Partition:
        """A partition's records; an unknown one is refused as everywhere."""
        check_partition(place.topic, place.partition, self.partition_count(place.topic))
        return self._partitions[place]

    def check_reachable(self) -> None:
        """Raises LogUnavailable while the switch is on, and UsageError once the log is closed."""
        if self._closed:
            raise UsageError("the log is closed")
        if self.unreachable:
            raise LogUnavailable("simulated: the log is unreachable")

    def _of(self, topic: str) -> dict[TopicPartition, _Partition]:
        return {place: held for place, held in self._partitions.items() if place.topic == topic}

    def _put(self, topic: str, entries: Iterable[Entry]) -> list[int]:
        offsets: list[int] = []
        with self.changed:
            stamp_ms = self.stamps.next({topic}, int(self._clock() * 1000))
            for partition, key, value in entries:
                held = self._partitions[TopicPartition(topic, partition)]
                offsets.append(held.end)
                held.records.append(Record(topic, partition, held.end, stamp_ms, key, value))
                held.end += 1
            self.changed.notify_all()
        return offsets


class _Partition:
    """Records in offset order; with gaps, once it was compacted."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.begin = 0
        self.end = 0

    def index(self, offset: int) -> int:
        """Where the first record at or after the offset stands."""
        return bisect_left(self.records, offset, key=lambda record: record.offset)


class MemoryReader:
    """Reads a memory log."""

    def __init__(self, log: MemoryLog, positions: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._positions: dict[TopicPartition, int] = {}
        self._turn = 0
        self._woken = False
        self._closed = False
        self.seek(positions)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Goes on from these offsets; partitions that were not assigned are added."""
        for place in positions:
            self._log.held(place)
        self._positions.update(positions)

    def wake(self) -> None:
        """Makes a waiting ``poll`` return at once, or the next one if none waits."""
        with self._log.changed:
            self._woken = True
            self._log.changed.notify_all()

    def close(self) -> None:
        """No more polls; never raises."""
        self._closed = True

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> list[Record]:
        """What has come; see the port.

        Raises:
            LogUnavailable: the switch is on.
            PositionOutOfRange: the log does not hold what should be read next.
        """
        if self._closed:
            raise UsageError("the reader is closed")
        deadline = time.monotonic() + (timeout_seconds if self._log.waits else 0.0)
        with self._log.changed:
            while True:
                self._log.check_reachable()
                records = self._read(max_records, max_bytes)
                left = deadline - time.monotonic()
                if records or self._woken or left <= 0:
                    self._woken = False
                    return records
                self._log.changed.wait(left)

    def _read(self, max_records: int, max_bytes: int) -> list[Record]:
        records: list[Record] = []
        places = list(self._positions)
        self._turn += 1
        for index in range(len(places)):
            place = places[(self._turn + index) % len(places)]
            held = self._log.held(place)
            position = start_of(place, self._positions[place], held.begin, held.end)
            first = len(held.records) if place in self._log.frozen else held.index(position)
            for record in held.records[first : first + max_records - len(records)]:
                max_bytes -= len(record.key or b"") + len(record.value or b"")
                if records and max_bytes < 0:
                    return records
                records.append(record)
                self._positions[place] = record.offset + 1
        return records

"""What every log refuses, in the same words: sizes, partitions, positions."""

from __future__ import annotations

from collections.abc import Sequence

from doortab.schemas.errors import DoortabError, UsageError
from doortab.schemas.log import Entry, TopicPartition

MAX_RECORD_BYTES = 4_000_000
"""Key and value together. Below 4 MiB, so that Kafka's framing still fits into its 4 MiB limit."""

COMPACTION_LAG_MS = 3_600_000
"""A superseded record of a compacted topic stays for an hour, so that readers and people see recent history."""


class PositionOutOfRange(DoortabError):
    """The log does not hold the offset that should be read next: records are missing, or another log is there.

    A reader never jumps over a gap by itself. The caller decides: rebuild, or seek to what is kept.
    """


class LogDamaged(DoortabError):
    """The log's file is not readable as a log; restore it from a copy."""


def check_partition(topic: str, partition: int, partitions: int) -> None:
    """Refuses a partition that is not there.

    Raises:
        UsageError: no such topic, or fewer partitions.
    """
    if partitions == 0:
        raise UsageError(f"no topic {topic!r} in this log; ensure_topics creates it")
    if not 0 <= partition < partitions:
        raise UsageError(f"topic {topic!r} has partitions 0 to {partitions - 1}, not {partition}")


def check_entries(
    topic: str, entries: Sequence[Entry], partitions: int, compacted: bool, limit_bytes: int = MAX_RECORD_BYTES
) -> None:
    """Refuses what the log does not take, before anything is sent.

    Raises:
        UsageError: no such topic or partition, a record that is too large or empty, or no key where one is needed.
    """
    check_partition(topic, 0, partitions)
    for entry in entries:
        check_partition(topic, entry.partition, partitions)
        if entry.key is None and (compacted or entry.value is None):
            raise UsageError(
                f"a record for {topic!r} needs a key" + (": the topic is compacted" if compacted else " or a value")
            )
        size = _size(topic, entry.key) + _size(topic, entry.value)
        if size > limit_bytes:
            raise UsageError(
                f"a record for {topic!r} has {size} bytes; the topic takes {limit_bytes}: put fewer events into it"
            )


def _size(topic: str, part: bytes | None) -> int:
    if part is None:
        return 0
    if type(part) is not bytes:
        raise UsageError(f"key and value of a record for {topic!r} must be bytes or None, not {type(part).__name__}")
    return len(part)


def start_of(place: TopicPartition, position: int, begin: int, end: int) -> int:
    """Where reading starts, if the log holds ``begin`` to ``end`` (exclusive). 0 means the earliest kept.

    >>> start_of(TopicPartition("usage", 0), 0, 40, 90)
    40

    Raises:
        PositionOutOfRange: the position lies before what is kept or after what was ever written.
    """
    if position == 0:
        return begin
    if begin <= position <= end:
        return position
    reason = (
        "retention has deleted it" if position < begin else "the log is shorter: is it another log, or an older copy?"
    )
    raise PositionOutOfRange(
        f"{place.topic}/{place.partition}: offset {position} should be read next, "
        f"but the log holds {begin} to {end}; {reason}"
    )

"""Reading a topic up to the end that it has now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Log, TopicPartition


def read_to_end(
    log: Log,
    topic: str,
    offsets: Mapping[TopicPartition, int],
    take: Callable[[bytes | None], None],
    *,
    clock: Callable[[], int],
    timeout_seconds: float,
) -> dict[TopicPartition, int]:
    """Takes the value of every record from the offsets on, and returns where it got to. ``clock`` gives nanoseconds.

    Raises:
        LogUnavailable: the log could not be read to its end in time.
    """
    ends = {TopicPartition(topic, number): end for number, end in log.end_offsets(topic).items()}
    begins = log.begin_offsets(topic)
    at = {place: max(offsets.get(place, 0), begins[place.partition]) for place in ends}
    deadline = clock() + int(timeout_seconds * 1e9)
    reader = log.reader(at)
    try:
        while any(at[place] < end for place, end in ends.items()):
            for record in reader.poll(5_000, 4_000_000, 1.0):
                take(record.value)
                at[TopicPartition(record.topic, record.partition)] = record.offset + 1
            if clock() > deadline:
                raise LogUnavailable(f"topic {topic!r} was not read to its end in {timeout_seconds:g} s; try again")
    finally:
        reader.close()
    return at

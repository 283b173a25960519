"""The faults that the simulator switches on."""

from __future__ import annotations

import pytest

from doortab.log.memory import Fault, MemoryLog
from doortab.log.rules import PositionOutOfRange
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry, TopicPartition
from tests.log.conftest import FIRST, PLAIN, SHORT
from tests.log.test_contract import BYTES, numbered, values


def log_with(fault: Fault) -> MemoryLog:
    """A log whose first append has this fault."""
    faults = iter([fault])
    log = MemoryLog(lambda: 5.0, lambda topic, entries: next(faults, Fault.NONE), waits=False)
    log.ensure_topics([PLAIN])
    return log


def held(log: MemoryLog) -> list[int]:
    return values(log.reader({FIRST: 0}).poll(100, BYTES, 0.0))


@pytest.mark.parametrize(
    ("fault", "in_the_log"),
    [
        (Fault.FAILED, []),
        (Fault.ACKNOWLEDGEMENT_LOST, [0, 1, 2, 3]),
        (Fault.HALF, [0, 1]),
        (Fault.LATE, []),
    ],
)
def test_a_fault_tells_the_caller_that_it_failed_and_leaves_this_in_the_log(
    fault: Fault, in_the_log: list[int]
) -> None:
    log = log_with(fault)

    with pytest.raises(LogUnavailable):
        log.append("plain", numbered(0, 4))

    assert held(log) == in_the_log
    log.append("plain", numbered(9, 1))
    assert held(log) == [*in_the_log, 9]


def test_a_late_append_arrives_when_it_is_told_to() -> None:
    log = log_with(Fault.LATE)
    with pytest.raises(LogUnavailable):
        log.append("plain", numbered(0, 2))
    log.append("plain", numbered(0, 2))

    log.deliver_late()
    log.deliver_late()

    assert held(log) == [0, 1, 0, 1]


def test_a_doubled_append_is_acknowledged_once() -> None:
    log = log_with(Fault.DOUBLED)

    assert log.append("plain", numbered(0, 2)) == [0, 1]

    assert held(log) == [0, 1, 0, 1]


def test_an_unreachable_log_raises_everywhere_and_loses_nothing() -> None:
    log = log_with(Fault.NONE)
    log.append("plain", numbered(0, 1))
    reader = log.reader({FIRST: 0})
    log.unreachable = True

    for call in (
        lambda: log.append("plain", numbered(1, 1)),
        lambda: log.end_offsets("plain"),
        lambda: log.ensure_topics([PLAIN]),
        lambda: reader.poll(10, BYTES, 0.0),
    ):
        with pytest.raises(LogUnavailable):
            call()

    log.unreachable = False
    assert values(reader.poll(10, BYTES, 0.0)) == [0]


def test_a_frozen_partition_delivers_nothing_until_it_thaws() -> None:
    log = log_with(Fault.NONE)
    log.append("plain", [*numbered(0, 1), *numbered(1, 1, partition=1)])
    reader = log.reader({FIRST: 0, TopicPartition("plain", 1): 0})
    log.frozen.add(FIRST)

    assert values(reader.poll(10, BYTES, 0.0)) == [1]
    log.frozen.clear()
    assert values(reader.poll(10, BYTES, 0.0)) == [0]


def test_retention_moves_the_beginning_and_a_reader_behind_it_is_told() -> None:
    log = log_with(Fault.NONE)
    log.append("plain", numbered(0, 5))
    behind = log.reader({FIRST: 1})

    log.forget(FIRST, 3)

    assert log.begin_offsets("plain") == {0: 3, 1: 0}
    assert held(log) == [3, 4]
    with pytest.raises(PositionOutOfRange, match="retention"):
        behind.poll(10, BYTES, 0.0)


def test_compaction_leaves_gaps_and_the_newest_of_each_key() -> None:
    log = log_with(Fault.NONE)
    log.append("plain", [Entry(0, b"a", b"0"), Entry(0, b"b", b"1"), Entry(0, b"a", b"2")])

    log.compact(FIRST)

    assert [record.offset for record in log.reader({FIRST: 0}).poll(10, BYTES, 0.0)] == [1, 2]
    assert log.end_offsets("plain") == {0: 3, 1: 0}


def test_a_topic_may_grow() -> None:
    log = log_with(Fault.NONE)

    log.grow("plain", 4)

    assert log.partition_count("plain") == 4
    assert log.append("plain", numbered(0, 1, partition=3)) == [0]


def test_time_stamps_come_from_the_clock_and_never_run_backwards() -> None:
    seconds = iter([5.0, 3.0, 7.5])
    log = MemoryLog(lambda: next(seconds), waits=False)
    log.ensure_topics([PLAIN])

    for number in range(3):
        log.append("plain", numbered(number, 1))

    stamps = [record.timestamp_ms for record in log.reader({FIRST: 0}).poll(10, BYTES, 0.0)]
    assert stamps == [5000, 5000, 7500]


def test_time_stamps_say_which_of_two_topics_came_first() -> None:
    log = MemoryLog(lambda: 5.0, waits=False)
    log.ensure_topics([PLAIN, SHORT])

    for number, topic in enumerate(["plain", "plain", "short", "plain"]):
        log.append(topic, numbered(number, 1))

    stamps = [record.timestamp_ms for record in log.reader({FIRST: 0}).poll(10, BYTES, 0.0)]
    assert stamps == [5000, 5000, 5002]

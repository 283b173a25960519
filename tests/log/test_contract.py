"""What every log promises, whichever it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest

from doortab.log.rules import MAX_RECORD_BYTES, PositionOutOfRange
from doortab.schemas.errors import UsageError
from doortab.schemas.log import Entry, Log, Reader, Record, TopicPartition
from doortab.schemas.topics import Topic
from tests.log.conftest import COMPACTED, FIRST, PLAIN, SECOND, SOON_SECONDS

BYTES = 64 * 1024 * 1024


def read(reader: Reader, count: int, max_records: int = 1000, max_bytes: int = BYTES) -> list[Record]:
    """So many records, or fewer when they do not come in time."""
    records: list[Record] = []
    deadline = time.monotonic() + SOON_SECONDS
    while len(records) < count and time.monotonic() < deadline:
        records += reader.poll(max_records, max_bytes, 0.5)
    return records


def read_log(log: Log, positions: Mapping[TopicPartition, int], count: int) -> list[Record]:
    reader = log.reader(positions)
    try:
        return read(reader, count)
    finally:
        reader.close()


def numbered(first: int, count: int, partition: int = 0) -> list[Entry]:
    return [Entry(partition, b"key", str(number).encode()) for number in range(first, first + count)]


def values(records: list[Record]) -> list[int]:
    return [int(record.value or b"") for record in records]


def test_what_is_appended_is_read_with_its_topic_partition_offset_and_time(log: Log) -> None:
    before_ms = int(time.time() * 1000)

    offsets = log.append("plain", [Entry(1, b"key", b"value")])

    (record,) = read_log(log, {SECOND: 0}, 1)
    assert offsets == [0]
    assert record == Record("plain", 1, 0, record.timestamp_ms, b"key", b"value")
    assert before_ms - 2000 <= record.timestamp_ms <= int(time.time() * 1000) + 2000


def test_a_batch_gets_contiguous_offsets_and_keeps_its_order(log: Log) -> None:
    log.append("plain", numbered(0, 3))

    offsets = log.append("plain", numbered(3, 500))

    assert offsets == list(range(3, 503))
    records = read_log(log, {FIRST: 0}, 503)
    assert values(records) == list(range(503))
    assert [record.offset for record in records] == list(range(503))


def test_a_batch_may_mix_partitions_and_gets_its_offsets_in_its_own_order(log: Log) -> None:
    log.append("plain", numbered(0, 2, partition=1))

    offsets = log.append("plain", [Entry(0, None, b"a"), Entry(1, None, b"b"), Entry(0, None, b"c")])

    assert offsets == [0, 2, 1]


def test_an_empty_batch_appends_nothing(log: Log) -> None:
    assert log.append("plain", []) == []
    assert log.end_offsets("plain") == {0: 0, 1: 0}


def test_time_stamps_never_run_backwards_within_a_partition(log: Log) -> None:
    for number in range(20):
        log.append("plain", numbered(number, 1))

    stamps = [record.timestamp_ms for record in read_log(log, {FIRST: 0}, 20)]

    assert stamps == sorted(stamps)


def test_keys_and_values_may_be_absent_or_empty_and_come_back_as_they_were(log: Log) -> None:
    entries = [Entry(0, None, b"v"), Entry(0, b"k", None), Entry(0, b"", b""), Entry(0, b"\x00\xff", b"\x00\n\xff")]

    log.append("plain", entries)

    assert [(record.key, record.value) for record in read_log(log, {FIRST: 0}, 4)] == [
        (entry.key, entry.value) for entry in entries
    ]


def test_a_record_without_key_and_value_is_refused(log: Log) -> None:
    with pytest.raises(UsageError, match="needs a key or a value"):
        log.append("plain", [Entry(0, None, None)])


def test_a_compacted_topic_refuses_a_record_without_a_key_and_goes_on_afterwards(log: Log) -> None:
    with pytest.raises(UsageError, match="compacted"):
        log.append("compacted", [Entry(0, None, b"value")])

    assert log.append("compacted", [Entry(0, b"key", b"value")]) == [0]


def test_the_newest_record_of_each_key_stays_in_a_compacted_topic(log: Log) -> None:
    log.append("compacted", [Entry(0, b"a", b"1"), Entry(0, b"b", b"2"), Entry(0, b"a", b"3")])

    newest = {record.key: record.value for record in read_log(log, {TopicPartition("compacted", 0): 0}, 3)}

    assert newest == {b"a": b"3", b"b": b"2"}


def test_the_largest_record_that_is_allowed_goes_through(log: Log) -> None:
    value = bytes(range(256)) * (MAX_RECORD_BYTES // 256)
    log.append("plain", [Entry(0, b"", value), Entry(0, b"", value), Entry(0, None, b"small")])

    records = read_log(log, {FIRST: 0}, 3)

    assert [record.value for record in records] == [value, value, b"small"]


def test_a_record_that_is_too_large_is_refused_and_nothing_of_its_batch_is_in_the_log(log: Log) -> None:
    with pytest.raises(UsageError, match="fewer events"):
        log.append("plain", [Entry(0, None, b"small"), Entry(0, b"k", bytes(MAX_RECORD_BYTES))])

    assert log.end_offsets("plain") == {0: 0, 1: 0}


def test_text_instead_of_bytes_is_refused(log: Log) -> None:
    with pytest.raises(UsageError, match="bytes"):
        log.append("plain", [Entry(0, None, "text")])  # type: ignore[arg-type]


def test_an_unknown_topic_is_refused_in_words(log: Log) -> None:
    with pytest.raises(UsageError, match="ensure_topics"):
        log.append("nowhere", numbered(0, 1))
    with pytest.raises(UsageError, match="ensure_topics"):
        read_log(log, {TopicPartition("nowhere", 0): 0}, 1)

    assert log.partition_count("nowhere") == 0
    assert log.begin_offsets("nowhere") == {}
    assert log.end_offsets("nowhere") == {}


@pytest.mark.parametrize("partition", [2, -1])
def test_an_unknown_partition_is_refused_in_words(log: Log, partition: int) -> None:
    with pytest.raises(UsageError, match="partitions 0 to 1"):
        log.append("plain", numbered(0, 1, partition=partition))


def test_a_reader_of_an_unknown_partition_is_refused_in_words(log: Log) -> None:
    with pytest.raises(UsageError, match="partitions 0 to 1"):
        read_log(log, {TopicPartition("plain", 2): 0}, 1)


def test_topics_are_created_once_and_stay_as_they_are(log: Log) -> None:
    log.append("plain", numbered(0, 1))

    log.ensure_topics([Topic("plain", 7), Topic("later", 3)])

    assert log.partition_count("plain") == PLAIN.partitions
    assert log.partition_count("later") == 3
    assert log.end_offsets("plain") == {0: 1, 1: 0}


def test_many_threads_may_create_the_same_topics_at_once(log: Log) -> None:
    wanted = [Topic("one", 1), Topic("two", 2), COMPACTED]
    threads = [threading.Thread(target=log.ensure_topics, args=(wanted,)) for _ in range(6)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [log.partition_count(name) for name in ("one", "two", "compacted")] == [1, 2, 1]


def test_begin_and_end_offsets_bound_what_is_kept(log: Log) -> None:
    log.append("plain", numbered(0, 5, partition=1))

    assert log.begin_offsets("plain") == {0: 0, 1: 0}
    assert log.end_offsets("plain") == {0: 0, 1: 5}


def test_an_empty_poll_returns_nothing_after_its_time_out(log: Log) -> None:
    reader = log.reader({FIRST: 0})
    reader.poll(10, BYTES, 0.0)
    started = time.monotonic()

    records = reader.poll(10, BYTES, 0.3)

    assert records == []
    assert time.monotonic() - started >= 0.29
    reader.close()


def test_a_reader_gets_each_record_once_in_polls_of_any_size(log: Log) -> None:
    log.append("plain", numbered(0, 100))
    reader = log.reader({FIRST: 0})

    one_by_one = [record for _ in range(10) for record in read(reader, 1, max_records=1)]
    by_sevens = read(reader, 90, max_records=7)

    assert len(one_by_one) == 10
    assert values(one_by_one + by_sevens) == list(range(100))
    reader.close()


def test_a_poll_is_limited_in_bytes_but_returns_at_least_one_record(log: Log) -> None:
    log.append("plain", [Entry(0, None, bytes(1000))] * 10)
    reader = log.reader({FIRST: 0})

    two = reader.poll(100, 2500, SOON_SECONDS)
    one = reader.poll(100, 10, SOON_SECONDS)
    rest = read(reader, 7)

    assert (len(two), len(one), len(rest)) == (2, 1, 7)
    reader.close()


def test_a_busy_partition_does_not_keep_another_one_waiting_for_ever(log: Log) -> None:
    log.append("plain", numbered(0, 400, partition=0))
    log.append("plain", numbered(0, 1, partition=1))
    reader = log.reader({FIRST: 0, SECOND: 0})

    polls = [reader.poll(100, BYTES, SOON_SECONDS) for _ in range(5)]

    assert any(record.partition == 1 for poll in polls for record in poll)
    reader.close()


def test_readers_do_not_disturb_each_other(log: Log) -> None:
    log.append("plain", numbered(0, 10))
    first, second = log.reader({FIRST: 0}), log.reader({FIRST: 5})

    assert values(read(first, 10)) == list(range(10))
    assert values(read(second, 5)) == list(range(5, 10))
    first.close()
    second.close()


def test_a_reader_that_starts_at_the_end_gets_only_what_comes(log: Log) -> None:
    log.append("plain", numbered(0, 5))
    reader = log.reader({FIRST: 5})
    assert reader.poll(10, BYTES, 0.2) == []

    log.append("plain", numbered(5, 1))

    assert values(read(reader, 1)) == [5]
    reader.close()


def test_seek_goes_back_and_forth(log: Log) -> None:
    log.append("plain", numbered(0, 10))
    reader = log.reader({FIRST: 0})
    read(reader, 10)

    reader.seek({FIRST: 8})
    last_two = read(reader, 2)
    reader.seek({FIRST: 2})
    from_two = read(reader, 8)

    assert values(last_two) == [8, 9]
    assert values(from_two) == list(range(2, 10))
    reader.close()


def test_seek_forgets_what_was_fetched_and_not_yet_returned(log: Log) -> None:
    log.append("plain", numbered(0, 100))
    reader = log.reader({FIRST: 0})
    read(reader, 1, max_records=100, max_bytes=1)

    reader.seek({FIRST: 50})

    assert values(read(reader, 50)) == list(range(50, 100))
    reader.close()


def test_seek_adds_a_partition_that_was_not_assigned(log: Log) -> None:
    log.append("plain", [*numbered(0, 3), *numbered(100, 2, partition=1)])
    reader = log.reader({FIRST: 0})
    read(reader, 3)

    reader.seek({SECOND: 1})
    log.append("plain", numbered(3, 1))

    assert sorted(values(read(reader, 2))) == [3, 101]
    reader.close()


def test_a_position_after_the_end_is_an_error_and_not_a_silent_wait(log: Log) -> None:
    log.append("plain", numbered(0, 3))
    reader = log.reader({FIRST: 9})

    with pytest.raises(PositionOutOfRange, match=r"offset 9 .* holds 0 to 3"):
        reader.poll(10, BYTES, 0.2)
    reader.close()


def test_wake_ends_a_waiting_poll(log: Log) -> None:
    reader = log.reader({FIRST: 0})
    reader.poll(10, BYTES, 0.0)
    waker = threading.Timer(0.2, reader.wake)
    started = time.monotonic()
    waker.start()

    records = reader.poll(10, BYTES, SOON_SECONDS)

    assert records == []
    assert time.monotonic() - started < SOON_SECONDS / 2
    waker.join()
    reader.close()


def test_a_wake_before_the_poll_is_not_lost_and_counts_once(log: Log) -> None:
    reader = log.reader({FIRST: 0})
    reader.poll(10, BYTES, 0.0)
    reader.wake()
    started = time.monotonic()

    reader.poll(10, BYTES, SOON_SECONDS)
    woken_seconds = time.monotonic() - started
    reader.poll(10, BYTES, 0.3)

    assert woken_seconds < SOON_SECONDS / 2
    assert time.monotonic() - started - woken_seconds >= 0.29
    reader.close()


def test_an_append_wakes_a_reader_that_waits_in_another_thread(log: Log) -> None:
    reader = log.reader({FIRST: 0})
    reader.poll(10, BYTES, 0.0)
    writer = threading.Timer(0.2, log.append, args=("plain", numbered(7, 1)))
    started = time.monotonic()
    writer.start()

    records = reader.poll(10, BYTES, SOON_SECONDS)

    assert values(records) == [7]
    assert time.monotonic() - started < SOON_SECONDS / 2
    writer.join()
    reader.close()


def test_threads_that_append_at_once_lose_and_double_nothing(log: Log) -> None:
    offsets: dict[int, int] = {}

    def append_ten(writer: int) -> None:
        for number in range(writer * 100, writer * 100 + 10):
            (offsets[number],) = log.append("plain", numbered(number, 1))

    threads = [threading.Thread(target=append_ten, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    records = read_log(log, {FIRST: 0}, 80)
    assert {record.offset: int(record.value or b"") for record in records} == {o: n for n, o in offsets.items()}
    assert len(records) == 80


def test_closing_never_raises_and_may_be_repeated(log: Log) -> None:
    reader = log.reader({FIRST: 0})
    reader.poll(1, BYTES, 0.0)

    for _ in range(2):
        reader.close()
        log.close()


def test_a_closed_log_refuses_to_append(log: Log) -> None:
    log.append("plain", numbered(0, 1))
    log.close()

    with pytest.raises(UsageError, match="closed"):
        log.append("plain", numbered(1, 1))

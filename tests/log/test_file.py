"""What the file log promises beyond the contract: one process."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doortab.log.file import FileLog
from doortab.log.file_database import FORMAT, WAL_BYTES
from doortab.log.file_lock import TurnLock
from doortab.log.rules import COMPACTION_LAG_MS, LogDamaged, PositionOutOfRange
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.log import Entry, Log, TopicPartition
from tests.log.conftest import COMPACTED, FIRST, PLAIN, SHORT
from tests.log.test_contract import BYTES, numbered, read, read_log, values

Open = Callable[[], Log]


class Clock:
    """A clock that goes as told."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def timed(tmp_path: Path, clock: Clock) -> Iterator[FileLog]:
    log = FileLog(tmp_path, clock)
    log.ensure_topics([PLAIN, COMPACTED, SHORT])
    yield log
    log.close()


def test_what_was_appended_is_there_after_reopening(file_log: Open) -> None:
    first = file_log()
    first.append("plain", numbered(0, 3))
    first.close()

    again = file_log()

    assert values(read_log(again, {FIRST: 0}, 3)) == [0, 1, 2]
    assert again.append("plain", numbered(3, 1)) == [3]


def test_two_logs_on_one_file_see_each_others_appends(file_log: Open) -> None:
    one, other = file_log(), file_log()
    reader = other.reader({FIRST: 0})

    for number in range(20):
        (one if number % 2 else other).append("plain", numbered(number, 1))

    assert values(read(reader, 20)) == list(range(20))


def test_time_stamps_stay_monotone_over_the_whole_file_when_the_clock_is_set_back(timed: FileLog, clock: Clock) -> None:
    timed.append("plain", numbered(0, 1, partition=0))
    clock.seconds -= 3600

    timed.append("plain", numbered(1, 1, partition=1))

    records = read_log(timed, {FIRST: 0, TopicPartition("plain", 1): 0}, 2)
    assert [record.timestamp_ms for record in records] == [1_800_000_000_000] * 2


def test_time_stamps_say_which_of_two_topics_came_first(timed: FileLog, tmp_path: Path, clock: Clock) -> None:
    other = FileLog(tmp_path, clock)
    plan = [(timed, "plain"), (timed, "plain"), (timed, "short"), (other, "plain"), (other, "plain"), (timed, "short")]

    for number, (log, topic) in enumerate(plan):
        log.append(topic, numbered(number, 1))

    read = read_log(timed, {FIRST: 0}, 4) + read_log(timed, {TopicPartition("short", 0): 0}, 2)
    stamps = {number: record.timestamp_ms for number, record in zip(values(read), read, strict=True)}
    assert [stamps[number] - 1_800_000_000_000 for number in range(len(plan))] == [0, 0, 1, 2, 2, 3]
    other.close()


def test_time_stamps_stay_monotone_over_a_restart_with_the_clock_set_back(timed: FileLog, tmp_path: Path) -> None:
    timed.append("plain", numbered(0, 1))
    timed.close()
    again = FileLog(tmp_path, lambda: 5.0)

    again.append("plain", numbered(1, 1))

    assert [record.timestamp_ms for record in read_log(again, {FIRST: 0}, 2)] == [1_800_000_000_000] * 2
    again.close()


def test_retention_forgets_old_records_and_says_so(timed: FileLog, clock: Clock) -> None:
    short = TopicPartition("short", 0)
    timed.append("short", numbered(0, 10))
    late = timed.reader({short: 4})
    clock.seconds += 120

    timed.append("short", numbered(10, 1))

    assert timed.begin_offsets("short") == {0: 10}
    assert timed.end_offsets("short") == {0: 11}
    assert values(read_log(timed, {short: 0}, 1)) == [10]
    with pytest.raises(PositionOutOfRange, match="retention"):
        late.poll(10, BYTES, 0.0)


def test_a_reader_that_retention_overtakes_does_not_jump_over_the_gap(timed: FileLog, clock: Clock) -> None:
    timed.append("short", numbered(0, 10))
    reader = timed.reader({TopicPartition("short", 0): 0})
    assert values(read(reader, 2, max_records=2)) == [0, 1]
    clock.seconds += 120
    timed.append("short", numbered(10, 1))

    with pytest.raises(PositionOutOfRange):
        reader.poll(10, BYTES, 0.0)


def test_retention_of_everything_keeps_the_next_offset(timed: FileLog, clock: Clock, tmp_path: Path) -> None:
    timed.append("short", numbered(0, 5))
    for _ in range(3):
        clock.seconds += 3600
        timed.append("short", numbered(5, 1))
    timed.close()

    again = FileLog(tmp_path, clock)
    assert again.end_offsets("short") == {0: 8}
    again.close()


def test_compaction_spares_what_is_young_and_melts_what_is_old(timed: FileLog, clock: Clock) -> None:
    place = TopicPartition("compacted", 0)
    timed.append("compacted", [Entry(0, b"a", b"%d" % number) for number in range(5)] + [Entry(0, b"b", b"once")])
    young = read_log(timed, {place: 0}, 6)
    clock.seconds += COMPACTION_LAG_MS / 1000 + 1

    for number in range(5, 9):
        timed.append("compacted", [Entry(0, b"a", b"%d" % number)])

    kept = read_log(timed, {place: 0}, 5)
    assert len(young) == 6
    assert [record.value for record in kept] == [b"once", b"5", b"6", b"7", b"8"]
    assert [record.offset for record in kept] == [5, 6, 7, 8, 9]
    assert timed.begin_offsets("compacted") == {0: 0}


def test_a_newer_format_is_refused_in_words(file_log: Open, tmp_path: Path) -> None:
    file_log().close()
    with sqlite3.connect(tmp_path / "log.sqlite3") as raw:
        raw.execute(f"PRAGMA user_version={FORMAT + 1}")
    raw.close()

    with pytest.raises(UsageError, match=rf"format {FORMAT + 1}.*newer doortab"):
        file_log()


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "log.sqlite3")
    raw.execute("CREATE TABLE theirs (column)")
    raw.close()
    before = (tmp_path / "log.sqlite3").read_bytes()

    with pytest.raises(UsageError, match="not a doortab log"):
        FileLog(tmp_path)

    assert (tmp_path / "log.sqlite3").read_bytes() == before


def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite3").write_bytes(b"\x00garbage" * 4096)

    with pytest.raises(LogDamaged, match="Restore"):
        FileLog(tmp_path)


def test_a_directory_that_cannot_be_made_is_reported_as_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(LogUnavailable, match="directory"):
        FileLog(tmp_path / "file" / "log")


def test_an_empty_file_left_by_a_killed_creator_is_laid_out(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite3").touch()

    log = FileLog(tmp_path)

    log.ensure_topics([PLAIN])
    assert log.append("plain", numbered(0, 1)) == [0]
    log.close()


def test_appending_to_a_deleted_log_is_an_error_and_not_a_loss(file_log: Open, tmp_path: Path) -> None:
    log = file_log()
    reader = log.reader({FIRST: 0})
    log.append("plain", numbered(0, 1))
    shutil.rmtree(tmp_path)

    with pytest.raises(LogUnavailable, match="deleted or replaced"):
        log.append("plain", numbered(1, 1))
    with pytest.raises(LogUnavailable, match="deleted or replaced"):
        read(reader, 2)


def test_a_busy_file_is_waited_for(file_log: Open, tmp_path: Path) -> None:
    log = file_log()
    other = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(1.0, other.execute, args=("ROLLBACK",))
    release.start()

    assert log.append("plain", numbered(0, 1)) == [0]

    release.join()
    other.close()


def test_a_file_that_stays_busy_is_unavailable_after_the_time_out_and_nothing_is_doubled(
    file_log: Open, tmp_path: Path
) -> None:
    log = file_log()
    other = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()

    with pytest.raises(LogUnavailable, match="another program"):
        log.append("plain", numbered(0, 1), timeout_seconds=0.4)

    assert time.monotonic() - started < 10
    other.execute("ROLLBACK")
    other.close()
    assert log.append("plain", numbered(1, 1)) == [0]
    assert values(read_log(log, {FIRST: 0}, 1)) == [1]


def test_whoever_waits_for_the_lock_gets_it_before_the_one_who_had_it_last(tmp_path: Path) -> None:
    busy, waiting = TurnLock(tmp_path), TurnLock(tmp_path)
    assert busy.try_acquire()
    assert not waiting.try_acquire()

    busy.release()

    assert not busy.try_acquire()
    assert waiting.try_acquire()
    waiting.release()
    assert busy.try_acquire()
    busy.close()
    waiting.close()


def test_giving_up_the_turn_lets_the_others_on(tmp_path: Path) -> None:
    holder, waiting, other = TurnLock(tmp_path), TurnLock(tmp_path), TurnLock(tmp_path)
    assert holder.try_acquire()
    assert not waiting.try_acquire()

    waiting.give_up()
    holder.release()

    assert other.try_acquire()
    for lock in (holder, waiting, other):
        lock.close()


def test_a_refused_record_of_one_thread_does_not_harm_the_others(file_log: Open) -> None:
    log = file_log()
    refused: list[UsageError] = []

    def append_wrongly() -> None:
        for _ in range(50):
            try:
                log.append("plain", [Entry(9, None, b"")])
            except UsageError as error:
                refused.append(error)

    wrong = threading.Thread(target=append_wrongly)
    wrong.start()
    for number in range(50):
        log.append("plain", numbered(number, 1))
    wrong.join()

    assert len(refused) == 50
    assert values(read_log(log, {FIRST: 0}, 50)) == list(range(50))


def test_the_write_ahead_log_shrinks_again_after_readers_that_never_paused(file_log: Open, tmp_path: Path) -> None:
    log = file_log()
    stop = threading.Event()

    def read_all_the_time() -> None:
        reader = log.reader({FIRST: 0})
        while not stop.is_set():
            reader.seek({FIRST: 0})
            reader.poll(1000, BYTES, 0.0)
        reader.close()

    readers = [threading.Thread(target=read_all_the_time) for _ in range(2)]
    for thread in readers:
        thread.start()
    for _ in range(20):
        log.append("plain", [Entry(0, None, bytes(1_000_000))] * 6)
    stop.set()
    for thread in readers:
        thread.join()

    for _ in range(3):
        log.append("plain", [Entry(0, None, bytes(1_000_000))] * 20)

    assert os.stat(tmp_path / "log.sqlite3-wal").st_size < 3 * WAL_BYTES


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(directory)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_full_disk_is_reported_in_words_and_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    log = FileLog(small_disk)
    log.ensure_topics([PLAIN])
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))
    acknowledged = 0
    said = ""
    while not said:
        try:
            log.append("plain", [Entry(0, None, b"%d" % acknowledged + bytes(100_000))])
            acknowledged += 1
        except LogUnavailable as error:
            said = str(error)

    ballast.unlink()
    log.append("plain", [Entry(0, None, b"%d" % acknowledged + bytes(100_000))])

    records = read_log(log, {FIRST: 0}, acknowledged + 1)
    assert [int((record.value or b"").rstrip(b"\0")) for record in records] == list(range(acknowledged + 1))
    assert "disk is full. Free space" in said
    assert acknowledged > 5
    log.close()

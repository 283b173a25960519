"""What the file log promises to several processes, to those that are killed and to those that fork."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from doortab.log.file import FileLog
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.log import Entry, Log, Record
from tests.conftest import REPOSITORY
from tests.log.conftest import FIRST, PLAIN, SECOND, SOON_SECONDS
from tests.log.test_contract import BYTES, numbered, read, read_log, values

# Python 3.12 warns of every fork of a process with threads; that it works all the same is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

Open = Callable[[], Log]
BOTH = {FIRST: 0, SECOND: 0}
KILLS = 21


def appender(directory: Path, writer: str, count: int, batch: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.log.appender", f"file:{directory}", writer, str(count), str(batch)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def names(records: list[Record]) -> list[str]:
    """``WRITER:NUMBER`` of each record."""
    return [b":".join((record.value or b"").split(b":")[:2]).decode() for record in records]


def everything(log: Log) -> list[Record]:
    return read_log(log, BOTH, sum(log.end_offsets("plain").values()))


def in_child(work: Callable[[], object]) -> int:
    """Forks, does the work in the child, and returns the child's exit code: 0 when the work raised nothing."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_processes_that_append_and_read_at_once_lose_and_double_nothing(file_log: Open, tmp_path: Path) -> None:
    log = file_log()
    reader = log.reader(BOTH)
    writers = [appender(tmp_path, name, 200, 10) for name in ("a", "b", "c", "d")]

    followed = read(reader, 800)

    for writer in writers:
        assert writer.communicate()[0]
        assert writer.returncode == 0
    expected = Counter(f"{name}:{number}" for name in ("a", "b", "c", "d") for number in range(200))
    assert Counter(names(followed)) == expected
    assert Counter(names(everything(log))) == expected
    for partition in (0, 1):
        offsets = [record.offset for record in followed if record.partition == partition]
        assert offsets == list(range(400))
        stamps = [record.timestamp_ms for record in followed if record.partition == partition]
        assert stamps == sorted(stamps)


def test_what_was_acknowledged_survives_kills_at_any_moment(file_log: Open, tmp_path: Path) -> None:
    log = file_log()
    seed = random.SystemRandom().randrange(10**9)
    moments = random.Random(seed)
    acknowledged: set[str] = set()
    print(f"seed={seed}")

    for first in range(0, KILLS, 3):
        writers = {f"w{number}": appender(tmp_path, f"w{number}", 100_000, 4) for number in range(first, first + 3)}
        for name, writer in writers.items():
            assert writer.stdout is not None
            acknowledged.update(f"{name}:{number}" for number in writer.stdout.readline().split())
            time.sleep(moments.uniform(0, 0.1))
            writer.kill()
            for line in writer.stdout.read().splitlines():
                acknowledged.update(f"{name}:{number}" for number in line.split())
            writer.wait()
            writer.stdout.close()

    found = names(everything(log))
    assert acknowledged <= set(found), f"lost, seed={seed}"
    assert len(found) == len(set(found)), f"doubled, seed={seed}"
    assert log.append("plain", numbered(0, 1)) == [sum(1 for r in everything(log) if r.partition == 0) - 1]
    assert len(acknowledged) >= 4 * KILLS


def test_a_batch_of_a_killed_process_is_in_the_log_whole_or_not_at_all(file_log: Open, tmp_path: Path) -> None:
    log = file_log()

    for number in range(5):
        writer = appender(tmp_path, f"w{number}", 100_000, 50)
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()
        writer.communicate()

    sizes = Counter(name.split(":")[0] for name in names(everything(log)))
    assert all(size % 50 == 0 for size in sizes.values()), sizes


def test_a_waiting_reader_is_woken_by_another_process(file_log: Open, tmp_path: Path) -> None:
    log = file_log()
    reader = log.reader(BOTH)
    assert reader.poll(10, BYTES, 0.0) == []

    writer = appender(tmp_path, "w", 1, 1)
    records = reader.poll(10, BYTES, SOON_SECONDS)

    assert names(records) == ["w:0"]
    assert writer.communicate()[0] == "0\n"


def test_a_reader_sees_the_append_of_a_process_that_died_before_it_could_ring(
    file_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = file_log(), file_log()
    reader = one.reader(BOTH)
    reader.poll(10, BYTES, 0.0)
    monkeypatch.setattr("doortab.log.file_bell.Bell.ring", lambda bell: None)
    writer = threading.Timer(0.2, other.append, args=("plain", numbered(1, 1)))
    writer.start()

    assert values(reader.poll(10, BYTES, SOON_SECONDS)) == [1]
    writer.join()


def test_readers_look_often_where_the_system_has_no_bell_to_give(
    file_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doortab.log.file_bell._watch", lambda path: None)
    one, other = file_log(), file_log()
    reader = one.reader(BOTH)
    reader.poll(10, BYTES, 0.0)
    writer = threading.Timer(0.1, other.append, args=("plain", numbered(1, 1)))
    writer.start()

    assert values(reader.poll(10, BYTES, SOON_SECONDS)) == [1]
    writer.join()


def test_a_stopped_writer_makes_the_log_unavailable_and_not_the_caller_hang(tmp_path: Path, file_log: Open) -> None:
    log = file_log()
    writer = appender(tmp_path, "w", 1_000_000, 200)
    assert writer.stdout is not None
    writer.stdout.readline()
    unavailable = 0
    try:
        for _ in range(40):  # until it is stopped in the middle of a transaction
            writer.send_signal(signal.SIGSTOP)
            try:
                log.append("plain", numbered(0, 1), timeout_seconds=0.2)
            except LogUnavailable:
                unavailable += 1
                break
            finally:
                writer.send_signal(signal.SIGCONT)
            time.sleep(0.003)
    finally:
        writer.kill()
        writer.communicate()

    assert unavailable == 1
    assert log.append("plain", numbered(0, 1))


def test_parent_and_child_both_go_on_after_a_fork(file_log: Open) -> None:
    log = file_log()
    reader = log.reader({FIRST: 0})
    log.append("plain", numbered(0, 1))
    assert values(read(reader, 1)) == [0]

    def child() -> None:
        assert log.append("plain", numbered(1, 1)) == [1]
        assert values(read(reader, 1)) == [1]
        log.close()

    code = in_child(child)

    assert code == 0
    assert log.append("plain", numbered(2, 1)) == [2]
    assert values(read(reader, 2)) == [1, 2]


def test_children_may_be_forked_while_threads_append_and_read(file_log: Open) -> None:
    log = file_log()
    stop = threading.Event()
    appended: list[int] = []

    def append_all_the_time(writer: int) -> None:
        number = writer * 1_000_000
        while not stop.is_set():
            log.append("plain", numbered(number, 1))
            appended.append(number)
            number += 1

    def read_all_the_time() -> None:
        reader = log.reader({FIRST: 0})
        while not stop.is_set():
            reader.poll(100, BYTES, 0.05)
        reader.close()

    threads = [threading.Thread(target=append_all_the_time, args=(writer,)) for writer in (1, 2, 3)]
    threads.append(threading.Thread(target=read_all_the_time))
    for thread in threads:
        thread.start()
    codes = [in_child(lambda number=number: log.append("plain", numbered(number, 1))) for number in range(20)]  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()

    found = Counter(values(read_log(log, {FIRST: 0}, len(appended) + 20)))
    assert codes == [0] * 20
    assert found == Counter([*appended, *range(20)])


def test_the_log_of_a_dead_parent_is_safe_for_its_children(file_log: Open, tmp_path: Path) -> None:
    """The child's locks are its own: a newcomer must not take the file for abandoned and reset it under the child."""
    log = file_log()
    log.append("plain", numbered(0, 1))
    ready, go = os.pipe(), os.pipe()

    def parent() -> None:
        log.append("plain", numbered(1, 1))
        if os.fork() == 0:
            log.append("plain", numbered(2, 1))
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            log.append("plain", numbered(3, 1))
            os.write(ready[1], b"!")
            os._exit(0)
        os.read(ready[0], 1)
        os.kill(os.getpid(), signal.SIGKILL)

    log.close()
    log = file_log()
    assert in_child(parent) == -signal.SIGKILL
    newcomer = file_log()
    newcomer.append("plain", numbered(4, 1))
    newcomer.close()
    os.write(go[1], b"!")
    os.read(ready[0], 1)

    assert sorted(values(everything(file_log()))) == [0, 1, 2, 3, 4]
    for descriptor in (*ready, *go):
        os.close(descriptor)


def test_a_fork_that_python_does_not_see_is_refused_in_words(file_log: Open) -> None:
    log = file_log()
    log.append("plain", numbered(0, 1))
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        code = 1
        try:
            log.append("plain", numbered(1, 1))
        except UsageError as error:
            code = 0 if "after the fork" in str(error) else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert log.append("plain", numbered(1, 1)) == [1]


def test_a_fork_in_the_middle_of_a_use_leaves_the_child_without_the_log_and_the_parent_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler might do; here the clock does it, which is asked within the transaction."""
    monkeypatch.setattr("doortab.log.forking.PATIENCE_SECONDS", 0.1)
    codes: list[int] = []

    def fork_and_tell_the_time() -> float:
        codes.append(in_child(use_in_child))
        return 5.0

    def use_in_child() -> None:
        with pytest.raises(UsageError, match="after the fork"):
            log.end_offsets("plain")

    log = FileLog(tmp_path, fork_and_tell_the_time)
    log.ensure_topics([PLAIN])

    assert log.append("plain", numbered(0, 1)) == [0]
    assert codes == [0]
    assert values(read_log(log, {FIRST: 0}, 1)) == [0]
    log.close()


def test_a_file_size_limit_is_reported_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """In a child, since the limit holds for the whole process (and a file of pytest's might be over it)."""
    directory = tmp_path / "limited"

    def child() -> None:
        log = FileLog(directory)
        log.ensure_topics([PLAIN])
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
        acknowledged = 0
        try:
            while acknowledged < 1000:
                log.append("plain", [Entry(0, None, b"%d" % acknowledged + bytes(100_000))])
                acknowledged += 1
        except LogUnavailable:
            pass
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        log.append("plain", [Entry(0, None, b"%d" % acknowledged + bytes(100_000))])
        records = read_log(log, {FIRST: 0}, acknowledged + 1)
        assert [int((r.value or b"").rstrip(b"\0")) for r in records] == list(range(acknowledged + 1))
        assert 5 < acknowledged < 1000

    assert in_child(child) == 0

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doortab.log.memory import MemoryLog
from doortab.log.open import open_log
from doortab.producers.desk import Desk
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import Peppers
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.instants import SECOND
from doortab.schemas.log import Entry, Log, TopicPartition
from doortab.schemas.topics import KEYS, REVOCATIONS, topics
from tests.producers.conftest import Clock
from tests.producers.test_client import exit_code, in_child


@pytest.fixture
def follower(log: MemoryLog, keyring: Keyring, clock: Clock) -> Follower:
    return Follower(keyring, lambda: log, clock=clock.nanoseconds, steady=clock.seconds)


def test_an_empty_log_is_read_at_once(follower: Follower) -> None:
    assert (follower.ready, follower.age_seconds()) == (False, math.inf)

    follower.step(0)

    assert (follower.ready, follower.age_seconds()) == (True, 0.0)


def test_missing_topics_are_created(keyring: Keyring) -> None:
    log = MemoryLog(waits=False)

    Follower(keyring, lambda: log).step(0)

    assert (log.partition_count(KEYS), log.partition_count(REVOCATIONS)) == (1, 1)


def test_the_view_is_ready_when_the_ends_of_all_partitions_are_reached_and_not_before(
    follower: Follower, log: MemoryLog, desk: Desk
) -> None:
    desk.issue(account="a", owner="o", purpose="p")
    desk.refuse("account:a", cause="leak")
    log.frozen.add(TopicPartition(REVOCATIONS, 0))

    for _ in range(5):
        follower.step(0)
    assert not follower.ready, "a poll that returns nothing proves nothing"

    log.frozen.clear()
    follower.step(0)
    assert follower.ready


def test_gaps_from_compaction_and_retention_do_not_keep_it_waiting(
    follower: Follower, log: MemoryLog, desk: Desk
) -> None:
    for _ in range(5):
        desk.refuse("account:a", cause="leak")
    desk.issue(account="a", owner="o", purpose="p")
    log.compact(TopicPartition(REVOCATIONS, 0))
    log.forget(TopicPartition(KEYS, 0), before=1)

    follower.step(0)

    assert follower.ready
    assert follower.offsets == {TopicPartition(KEYS, 0): 1, TopicPartition(REVOCATIONS, 0): 5}


def test_the_age_grows_while_the_log_is_away_and_the_view_stays(
    follower: Follower, log: MemoryLog, desk: Desk, gate: Gate, clock: Clock
) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p")
    gate.view = follower
    gate.max_staleness_seconds = 30.0
    follower.step(0)
    log.unreachable = True
    header = f"Bearer {issued.secret.reveal()}"

    clock.now += 30 * SECOND
    with pytest.raises(LogUnavailable):
        follower.step(0)
    assert follower.age_seconds() == 30.0
    assert gate.check(header).allowed
    clock.now += SECOND
    assert gate.check(header).reason == "stale_view"

    log.unreachable = False
    follower.step(0)
    assert gate.check(header).allowed


def test_a_partition_that_stands_still_makes_the_view_age(
    follower: Follower, log: MemoryLog, desk: Desk, clock: Clock
) -> None:
    follower.step(0)
    log.frozen.add(TopicPartition(KEYS, 0))
    desk.issue(account="a", owner="o", purpose="p")

    for _ in range(10):
        clock.now += SECOND
        follower.step(0)

    assert follower.age_seconds() == 10.0
    log.frozen.clear()
    follower.step(0)
    clock.now += SECOND
    follower.step(0)
    assert follower.age_seconds() <= 1.0


def test_a_partition_that_is_added_later_is_followed(
    follower: Follower, log: MemoryLog, desk: Desk, gate: Gate, clock: Clock
) -> None:
    follower.step(0)
    log.grow(REVOCATIONS, 3)
    log.append(KEYS, [])
    for number in range(20):
        desk.refuse(f"account:{number}", cause="leak")

    for _ in range(3):
        clock.now += SECOND
        follower.step(0)

    assert sum(follower.offsets.values()) == 20
    assert follower.age_seconds() <= 1.0


def test_another_log_in_the_same_place_is_read_from_its_start_before_anybody_passes(
    keyring: Keyring, log: MemoryLog, desk: Desk, clock: Clock
) -> None:
    fresh = MemoryLog(waits=False)
    fresh.ensure_topics(topics())
    places: list[Log] = [log]
    follower = Follower(keyring, lambda: places[0], clock=clock.nanoseconds, steady=clock.seconds)
    for _ in range(3):
        desk.refuse("account:a", cause="leak")
    follower.step(0)
    assert follower.ready

    places[0] = fresh
    fresh.append(REVOCATIONS, [Entry(0, b"x", b"unreadable")])
    follower._disconnect(close_log=True)
    follower.step(0)

    assert follower.offsets[TopicPartition(REVOCATIONS, 0)] == 1
    assert follower.ready
    assert keyring.rejected == 1


def test_an_unreadable_record_is_counted_and_stops_nothing(
    follower: Follower, log: MemoryLog, desk: Desk, keyring: Keyring
) -> None:
    log.append(KEYS, [Entry(0, b"k", b"\xff"), Entry(0, b"k", None), Entry(0, b"k", b'{"kind":"robot"}')])
    desk.issue(account="a", owner="o", purpose="p")

    follower.step(0)

    assert (len(keyring), keyring.rejected, follower.ready) == (1, 2, True)


def test_it_says_when_a_revocation_became_effective(follower: Follower, desk: Desk, clock: Clock) -> None:
    desk.refuse("account:a", cause="leak")
    follower.step(0)
    assert not follower.recent, "what was there at the start is history"

    said = desk.refuse("account:b", cause="leak")
    clock.now += 1500
    follower.step(0)

    (effective,) = follower.recent
    assert (effective.id, effective.subject, effective.at) == (said.id, "account:b", clock.now)


def test_the_thread_comes_back_after_any_error(keyring: Keyring, log: MemoryLog, desk: Desk) -> None:
    attempts = itertools.count()

    def opener() -> Log:
        if next(attempts) < 3:
            raise ZeroDivisionError("a bug in an adapter")
        return log

    follower = Follower(keyring, opener, beat_seconds=0.02)
    desk.issue(account="a", owner="o", purpose="p")
    follower.start()

    assert follower.wait_until_ready(5)
    assert (len(keyring), follower.failures) == (1, 3)
    follower.stop()


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "did not happen in time"
        time.sleep(0.0005)
    return time.monotonic() - started


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_revocation_wakes_the_gate_at_once(
    kind: str, tmp_path: Path, keyring: Keyring, gate: Gate, peppers: Peppers
) -> None:
    log = open_log(f"file:{tmp_path}/log") if kind == "file" else MemoryLog()
    desk = Desk(log, peppers, actor="ada")
    issued = desk.issue(account="a", owner="o", purpose="p")
    header = f"Bearer {issued.secret.reveal()}"
    follower = Follower(keyring, lambda: log)
    follower.start()
    assert follower.wait_until_ready(5)
    assert gate.check(header).allowed

    desk.revoke(issued.key.key_id)
    took = wait_for(lambda: gate.check(header).reason == "revoked")

    assert took < 0.5
    stopped = time.monotonic()
    follower.stop()
    assert time.monotonic() - stopped < 0.5, "stop wakes it as well"
    log.close()


def test_readers_and_the_writer_do_not_disturb_each_other(
    log: MemoryLog, keyring: Keyring, gate: Gate, desk: Desk
) -> None:
    issued = [desk.issue(account="a", owner="o", purpose="p") for _ in range(50)]
    follower = Follower(keyring, lambda: log)
    follower.step(0)
    headers = [f"Bearer {one.secret.reveal()}" for one in issued]
    wrong: list[object] = []
    stop = threading.Event()

    def check() -> None:
        while not stop.is_set():
            wrong.extend(v for v in map(gate.check, headers) if not v.allowed)

    threads = [threading.Thread(target=check) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(800):
            desk.refuse(f"account:{number % 300}x", cause="leak")
            follower.step(0)
        for _ in range(400):
            desk._carry_out(_issue(desk))
        while follower.step(0):
            pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert wrong == []
    assert len(keyring) == 450


def _issue(desk: Desk):  # type: ignore[no-untyped-def]
    from doortab.producers.decisions import IssueKey

    _, fresh = desk._new_secret("live")
    return IssueKey(fresh=fresh, account="b", owner="o", owner_kind="app", purpose="p", environment="live")


def test_a_child_goes_on_from_where_the_parent_was(tmp_path: Path, keyring: Keyring, peppers: Peppers) -> None:
    opened: list[int] = []

    def opener() -> Log:
        opened.append(os.getpid())
        return open_log(f"file:{tmp_path}/log")

    log = opener()
    desk = Desk(log, peppers, actor="ada")
    issued = desk.issue(account="a", owner="o", purpose="p")
    follower = Follower(keyring, opener)
    gate = Gate(keyring, peppers, view=follower)
    follower.start()
    assert follower.wait_until_ready(5)
    header = f"Bearer {issued.secret.reveal()}"

    def work() -> None:
        follower.start()
        assert gate.check(header).allowed
        wait_for(lambda: gate.check(header).reason == "revoked")
        assert opened[-1] == os.getpid()

    def child() -> None:
        follower.after_fork_in_child()
        work()

    pid = in_child(child)
    time.sleep(0.2)
    desk.revoke(issued.key.key_id)
    assert exit_code(pid) == 0
    follower.stop()
    log.close()

"""Decoding in a process beside the ledger: it comes when there is much to do, goes when there is not, and may die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doortab import decoding
from doortab.analytics.store import Store
from doortab.consumers.intake import Inline, Intake, decode, encode, intake_of
from doortab.consumers.worker import Worker
from doortab.decoding import Adaptive, Beside
from doortab.log.open import open_log
from doortab.log.rules import PositionOutOfRange
from doortab.schemas import topics
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry, Log, Record, TopicPartition

SECONDS = 60.0


def event(number: int, **data: Any) -> dict[str, Any]:
    head = {"specversion": "1.0", "id": f"e{number}", "source": "s", "type": "request.validated"}
    return head | {"data": {"account": f"a{number % 7}", "units": {"tokens": number}} | data}


def events(first: int, count: int) -> bytes:
    return json.dumps([event(number) for number in range(first, first + count)]).encode()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file:{tmp_path / 'log'}"


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    log = open_log(url)
    log.ensure_topics(topics.topics())
    yield log
    log.close()


def usage(*offsets: int) -> dict[TopicPartition, int]:
    return {TopicPartition(topics.USAGE, partition): offset for partition, offset in enumerate(offsets)}


def fill(log: Log, records: int, each: int = 50, first: int = 0) -> int:
    """Appends so many records to every partition; how many events that are."""
    count = first
    for _ in range(records):
        for partition in range(topics.USAGE_PARTITIONS):
            log.append(topics.USAGE, [Entry(partition, None, events(count, each))])
            count += each
    return count - first


STRANGE = [
    event(1, units={"tokens": "1.5", "weight": 2**70}, dimensions={"model": "é"}, operation="GET"),
    event(2, verdict="refused", reason="cap", billable=False),
    event(3, colour="red") | {"subject": "customer", "time": "2026-02-03T04:05:06.000007Z"},
    {"specversion": "2.0"},
]


def same(one: Intake, other: Intake) -> bool:
    places = [(intake.seen.ends(), intake.rejected, intake.columns.table.to_pylist()) for intake in (one, other)]
    return places[0] == places[1]


def test_an_intake_is_the_same_on_the_other_side() -> None:
    values = [json.dumps(STRANGE).encode(), b"\xff", None, events(5, 3)]
    intake = intake_of(
        [Record(topics.USAGE, 1, offset, 1_770_000_000_000, None, value) for offset, value in enumerate(values)]
    )

    received = decode(encode(intake))

    assert same(received, intake)
    assert [received.columns[number] for number in range(6)] == [intake.columns[number] for number in range(6)]
    assert len(received.rejected) == 3


def begun(url: str, positions: dict[TopicPartition, int]) -> Beside:
    beside = Beside(url)
    deadline = time.monotonic() + SECONDS
    while not beside.is_ready and time.monotonic() < deadline:
        time.sleep(0.01)
    assert beside.is_ready
    beside.begin(positions, 1000, 1_000_000)
    return beside


def taken(beside: Beside, count: int) -> list[Intake]:
    """What comes, until there were so many events."""
    intakes: list[Intake] = []
    deadline = time.monotonic() + SECONDS
    while sum(len(intake.columns) for intake in intakes) < count and time.monotonic() < deadline:
        intake = beside.poll(0.1)
        intakes += [intake] if intake is not None else []
    return intakes


def test_a_process_beside_hands_over_what_the_log_holds(log: Log, url: str) -> None:
    count = fill(log, 20)
    beside = begun(url, usage(*[3] * topics.USAGE_PARTITIONS))
    try:
        first = taken(beside, count - 3 * 50 * topics.USAGE_PARTITIONS)
        more = fill(log, 1, first=count)
        second = taken(beside, more)
    finally:
        beside.close()

    ids = [text for intake in first + second for text in intake.columns.table.column("id").to_pylist()]
    assert sorted(ids) == sorted(f"e{number}" for number in range(3 * 50 * topics.USAGE_PARTITIONS, count + more))


def test_what_it_cannot_read_it_says(log: Log, url: str) -> None:
    beside = begun(url, usage(5))
    try:
        with pytest.raises(PositionOutOfRange):
            taken(beside, 1)
    finally:
        beside.close()


def test_when_it_is_killed_the_log_counts_as_away(log: Log, url: str) -> None:
    beside = begun(url, usage(0))
    beside._child.kill()
    try:
        with pytest.raises(LogUnavailable):
            taken(beside, 1)
    finally:
        beside.close()


def test_it_ends_with_whoever_started_it(log: Log, url: str) -> None:
    program = (
        "import sys, time\nfrom doortab.decoding import Beside\n"
        f"beside = Beside({url!r})\nprint(beside._child.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + SECONDS
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------------ coming and going


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is started for a hundred events, twice."""
    monkeypatch.setattr(decoding, "MUCH", 100)
    monkeypatch.setattr(decoding, "OFTEN", 2)


def test_a_ledger_with_much_to_do_gets_a_process_and_goes_on_alone_afterwards(
    log: Log, url: str, tmp_path: Path, eager: None
) -> None:
    sources: list[Adaptive] = []

    def source(positions: Any) -> Adaptive:
        sources.append(Adaptive(log, url, positions))
        return sources[-1]

    store = Store.open(tmp_path / "store.duckdb")
    worker = Worker(log, store, max_records=4, source=source)
    count, was_beside = 0, False
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not (was_beside and not sources[0].is_beside):
        if not was_beside:
            count += fill(log, 1, first=count)
        list(worker.turn(0.02))
        was_beside = was_beside or sources[0].is_beside
    count += fill(log, 1, first=count)
    for _ in range(4):
        list(worker.turn(0.0))
    worker.close()

    assert was_beside
    assert not sources[0].is_beside
    assert worker.totals == {"events": count, "billed": count, "not_billable": 0, "duplicates": 0, "rejected": 0}
    store.close()


def test_a_new_partition_is_read_by_the_process_too(log: Log, url: str, eager: None) -> None:
    source = Adaptive(log, url, usage(0))
    try:
        deadline = time.monotonic() + SECONDS
        number = 0
        while not source.is_beside and time.monotonic() < deadline:
            log.append(topics.USAGE, [Entry(0, None, events(200 * number, 200))])
            number += 1
            source.poll(1, 1_000_000, 0.1)
        log.append(topics.USAGE, [Entry(1, None, json.dumps(event(-1)).encode())])
        source.seek({TopicPartition(topics.USAGE, 1): 0})
        found: set[int] = set()
        while 1 not in found and time.monotonic() < deadline:
            intake = source.poll(1, 1_000_000, 0.1)
            found |= intake.seen.ends().keys() if intake is not None else set()
    finally:
        source.close()

    assert 1 in found


def test_who_wakes_a_source_does_not_wait(log: Log, url: str) -> None:
    source = Inline(log.reader(usage(0)))
    source.wake()

    assert source.poll(1, 1, SECONDS) is None
    source.close()


def test_no_process_is_left_behind(log: Log, url: str) -> None:
    beside = Beside(url)

    beside.close()

    assert not beside.is_alive
    assert not beside._thread.is_alive()
    with pytest.raises(ChildProcessError):
        os.waitpid(beside._child.pid, os.WNOHANG)

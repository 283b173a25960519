from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import resource
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doortab.log.memory import Fault, MemoryLog
from doortab.producers import backlog as backlogs
from doortab.producers import client as clients
from doortab.producers import shipper as shipping
from doortab.producers.backlog import Backlog, Losses
from doortab.producers.client import Client
from doortab.producers.eventtext import EventIds
from doortab.producers.frames import MAGIC
from doortab.schemas import instants, wire
from doortab.schemas.errors import LogUnavailable, SpoolFull, UsageError
from doortab.schemas.log import Entry, Log, Record, TopicPartition
from doortab.schemas.topics import USAGE, partition_of, topics


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics(topics())
    return log


@pytest.fixture
def client(log: MemoryLog, tmp_path: Path) -> Iterator[Client]:
    client = Client(log, tmp_path / "spool", source="gate/test")
    yield client
    client.close(1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(shipping, "LONGEST_PAUSE_SECONDS", 0.05)


def records(log: Log) -> list[Record]:
    places = {TopicPartition(USAGE, number): 0 for number in range(log.partition_count(USAGE))}
    reader = log.reader(places)
    found: list[Record] = []
    while got := reader.poll(10_000, 10**9, 0):
        found += got
    reader.close()
    return found


def events(log: Log) -> list[dict[str, Any]]:
    found = []
    for record in records(log):
        value = json.loads(record.value or b"")
        found += value if isinstance(value, list) else [value]
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


# ------------------------------------------------------------------------------------ what is recorded


def test_an_event_stands_in_the_log_as_the_contract_has_it(client: Client, log: MemoryLog) -> None:
    event_id = client.record(
        account="acct_acme",
        key="key_7Qm2",
        operation="POST /v1/chat",
        units={"requests": 1, "input_tokens": 10**30, "gigabytes": Decimal("0.50"), "minutes": "1.25"},
        dimensions={"model": "gpt-4"},
        time="2026-11-23T08:00:00.123456Z",
        subject="key_7Qm2",
    )
    client.close()

    assert events(log) == [
        {
            "specversion": "1.0",
            "id": event_id,
            "source": "gate/test",
            "type": "request.validated",
            "subject": "key_7Qm2",
            "time": "2026-11-23T08:00:00.123456Z",
            "datacontenttype": "application/json",
            "data": {
                "account": "acct_acme",
                "key": "key_7Qm2",
                "verdict": "allowed",
                "operation": "POST /v1/chat",
                "units": {"requests": 1, "input_tokens": "1" + "0" * 30, "gigabytes": "0.50", "minutes": "1.25"},
                "dimensions": {"model": "gpt-4"},
            },
        }
    ]


def test_what_the_client_writes_the_ledger_can_read(client: Client, log: MemoryLog) -> None:
    client.record(account="a", verdict="refused", reason="cap", billable=False, units={})
    client.record(
        account="b", units={"n": 2**63, "m": 2**63 - 1}, dimensions={"d": "é\\u0000"}, time=instants.LATEST - 1
    )
    client.record(type="order.placed", subject="customer-1", units={"n": Decimal("1E+3")})
    client.close()

    decoded = wire.decode(records(log))

    assert decoded.rejected == []
    assert len(decoded.events) == 3
    by_id = sorted(decoded.events, key=lambda event: event.id)
    assert (by_id[0].data.verdict, by_id[0].data.reason, by_id[0].data.billable) == ("refused", "cap", False)
    assert by_id[1].data.units == {"n": str(2**63), "m": 2**63 - 1}
    assert by_id[2].data.units == {"n": "1000"}


def test_the_time_of_recording_is_the_time_of_the_event(client: Client, log: MemoryLog) -> None:
    before = time.time_ns() // 1000
    client.record(account="a")
    after = time.time_ns() // 1000
    client.close()

    (event,) = events(log)
    assert before <= instants.parse(event["time"]) <= after


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"units": {"n": True}}, "unit n is True, a bool"),
        ({"units": {"n": 0.1}}, r"unit n is 0.1, a float.*decimal text such as '0.25'"),
        ({"units": {"n": float("nan")}}, "unit n is nan, a float"),
        ({"units": {"n": -1}}, "unit n is '-1'; a quantity is not negative"),
        ({"units": {"n": Decimal("-0.1")}}, "not negative"),
        ({"units": {"n": Decimal("NaN")}}, "unit n is NaN; a quantity is finite"),
        ({"units": {"n": Decimal("sNaN")}}, "finite"),
        ({"units": {"n": Decimal("Infinity")}}, "finite"),
        ({"units": {"n": Decimal("1e100")}}, "at most 60 digits"),
        ({"units": {"n": Decimal("1e999999999")}}, "at most 60 digits"),
        ({"units": {"n": 10**5000}}, "at most 60 digits"),
        ({"units": {"n": "1e3"}}, "no sign and no exponent"),
        ({"units": {"n": "NaN"}}, "no sign and no exponent"),
        ({"units": {"n": "-1"}}, "no sign and no exponent"),
        ({"units": {"n": "1\n"}}, "no sign and no exponent"),
        ({"units": {"n": None}}, "NoneType"),
        ({"units": {"": 1}}, "unit is ''; it is text of 1 to 256"),
        ({"units": {"x" * 257: 1}}, "257 characters"),
        ({"dimensions": {"d": 1}}, "d is '1'; it is text"),
        ({"dimensions": {"d": "x" * 1025}}, "at most 1024"),
        ({"dimensions": {1: "d"}}, "dimension is '1'"),
        ({"account": ""}, "account is ''"),
        ({"account": "x" * 257}, "account"),
        ({"account": 7}, "account is '7'"),
        ({"key": ""}, "key is ''"),
        ({"operation": "x" * 1025}, "operation"),
        ({"operation": "\ud800"}, "not Unicode"),
        ({"operation": "a\x00b"}, r"U\+0000"),
        ({"units": {"\x00": 1}}, r"U\+0000"),
        ({"verdict": "maybe"}, "verdict is 'maybe'; write 'allowed' or 'refused'"),
        ({"reason": "cap"}, "only a refused event has a reason"),
        ({"verdict": "refused", "reason": "mood"}, "reason is 'mood'; it is one of"),
        ({"billable": 1}, "billable is '1'; write True, False or None"),
        ({"time": "yesterday"}, "time is 'yesterday'"),
        ({"time": "2026-11-23T08:00:00"}, "time is"),
        ({"time": "9999-01-01T00:00:00Z"}, "from 2000 to 2099"),
        ({"time": 5}, "from 2000 to 2099"),
        ({"type": ""}, "type is ''"),
        ({"id": ""}, "id is ''"),
        ({"subject": "x" * 300}, "subject"),
        ({"dimensions": {f"d{n}": "x" * 1000 for n in range(300)}}, "it may have 262144"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_with_the_rule_and_the_way_out(
    client: Client, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        client.record(**wrong)

    assert client.recorded == 0


def test_the_same_id_is_kept(client: Client, log: MemoryLog) -> None:
    assert client.record(account="a", id="mine") == "mine"
    client.close()

    assert [event["id"] for event in events(log)] == ["mine"]


def test_ids_are_version_7_and_grow_even_when_the_clock_does_not() -> None:
    # RFC 9562, appendix A.6: 2022-02-22T19:22:22.000Z is 0x017F22E279B0.
    times = iter([1645557742000 * 10**6] * 3 + [1645557741000 * 10**6] * 5000)
    ids = EventIds(clock=lambda: next(times), random=lambda n: b"\xff" * n)

    made = [ids.new() for _ in range(5003)]

    assert made[0] == "017f22e2-79b0-7000-bfff-ffffffffffff"
    assert made[1].startswith("017f22e2-79b0-7001-")
    assert made == sorted(set(made))
    pattern = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(pattern.fullmatch(one) for one in made)


def test_threads_never_share_an_id() -> None:
    ids = EventIds()
    made: list[str] = []

    def make() -> None:
        made.extend(ids.new() for _ in range(2000))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 16_000


# --------------------------------------------------------------------------------------- how it ships


def test_all_events_of_an_account_go_to_its_partition_in_order(client: Client, log: MemoryLog) -> None:
    for number in range(2000):
        client.record(account=f"acct_{number % 7}", units={"n": number})
    client.close()

    seen: dict[str, list[int]] = {}
    for record in records(log):
        value = json.loads(record.value or b"")
        for event in value if isinstance(value, list) else [value]:
            account = event["data"]["account"]
            assert record.partition == partition_of(account.encode(), 4)
            seen.setdefault(account, []).append(event["data"]["units"]["n"])
    assert seen == {f"acct_{first}": list(range(first, 2000, 7)) for first in range(7)}


def test_without_an_account_the_subject_or_the_key_decides_on_the_partition(client: Client, log: MemoryLog) -> None:
    client.record(subject="customer-1")
    client.record(key="key_1")
    client.close()

    places = {record.partition for record in records(log)}
    assert places == {partition_of(b"customer-1", 4), partition_of(b"key_1", 4)}


def test_under_load_many_events_share_a_record_and_none_is_too_large(client: Client, log: MemoryLog) -> None:
    log.unreachable = True
    for _ in range(3000):
        client.record(account="a", dimensions={"d": "x" * 500})
    log.unreachable = False
    client.close()

    found = records(log)
    assert len(events(log)) == 3000
    assert len(found) < 20
    assert max(len(record.value or b"") for record in found) <= 200_600
    assert {record.key for record in found} == {b"a"}


def test_a_single_event_arrives_within_a_moment(client: Client, log: MemoryLog) -> None:
    client.record(account="a")
    started = time.monotonic()
    wait_for(lambda: client.shipped == 1)

    assert time.monotonic() - started < 0.5
    (record,) = records(log)
    assert (record.value or b"")[:1] == b"{", "alone, it is no array"


FAULTS = [Fault.FAILED, Fault.ACKNOWLEDGEMENT_LOST, Fault.HALF, Fault.DOUBLED, Fault.LATE]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_the_log_does_every_event_arrives_with_its_id(tmp_path: Path, fault: Fault) -> None:
    appends = iter(range(10**6))
    log = MemoryLog(fault=lambda topic, entries: fault if next(appends) % 2 == 0 else Fault.NONE)
    client = Client(log, tmp_path, source="s")

    recorded = {client.record(account=f"a{n % 9}") for n in range(300)}
    assert client.close(20)
    log.deliver_late()

    counts = Counter(event["id"] for event in events(log))
    assert set(counts) == recorded
    if fault is Fault.FAILED:
        assert max(counts.values()) == 1
    values = Counter(record.value for record in records(log))
    assert all(count in (1, 2) for count in values.values()), "what is sent again is byte for byte the same"


def test_an_outage_costs_nothing_but_time_and_disk(client: Client, log: MemoryLog) -> None:
    log.unreachable = True
    recorded = [client.record(account="a") for _ in range(500)]
    wait_for(lambda: client.error is not None)

    assert (client.recorded, client.shipped) == (500, 0)
    assert client.spool_bytes > 100_000
    wait_for(lambda: client.oldest_seconds > 0.05)
    log.unreachable = False
    wait_for(lambda: client.shipped == 500)

    assert [event["id"] for event in events(log)] == recorded
    wait_for(lambda: (client.spool_bytes, client.oldest_seconds, client.error) == (0, 0.0, None))


def test_constructing_and_recording_never_wait_for_the_log(tmp_path: Path) -> None:
    held = threading.Event()
    log = MemoryLog()

    def opener() -> Log:
        held.wait(10)
        return log

    started = time.monotonic()
    client = Client(opener, tmp_path, source="s")
    for _ in range(100):
        client.record(account="a")
    assert time.monotonic() - started < 2

    held.set()
    wait_for(lambda: len(events(log)) == 100)
    assert client.close()


def test_memory_stays_flat_while_the_log_is_away(client: Client, log: MemoryLog) -> None:
    log.unreachable = True
    dimensions = {"d": "x" * 900}
    for _ in range(2000):
        client.record(account="a", dimensions=dimensions)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(30_000):
        client.record(account="a", dimensions=dimensions)

    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert client.spool_bytes > 30_000_000
    assert grown_kb < 8_000


@pytest.mark.parametrize("when_full", ["refuse", "allow"])
def test_a_full_spool_refuses_or_lets_pass_and_counts_either_way(tmp_path: Path, when_full: str) -> None:
    log = MemoryLog()
    log.unreachable = True
    client = Client(log, tmp_path, source="s", max_spool_bytes=20_000, when_full=when_full)  # type: ignore[arg-type]
    refused = 0
    for _ in range(200):
        try:
            client.record(account="a")
        except SpoolFull:
            refused += 1

    assert not client.has_room()
    assert client.recorded + client.unrecorded + client.refused_full == 200
    assert client.refused_full == refused
    assert (client.unrecorded == 0, client.refused_full == 0) == (when_full == "refuse", when_full == "allow")
    log.unreachable = False
    wait_for(client.has_room)
    client.record(account="a")
    assert client.close()
    assert len(events(log)) == client.recorded == client.shipped
    assert client.recorded + refused + client.unrecorded == 201


def test_a_spool_that_cannot_be_made_follows_the_policy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = MemoryLog()

    with pytest.raises(SpoolFull, match="no spool can be made"):
        Client(log, tmp_path / "file", source="s").record(account="a")
    allowing = Client(log, tmp_path / "file", source="s", when_full="allow")
    allowing.record(account="a")

    assert allowing.unrecorded == 1
    assert not allowing.has_room()


def test_an_event_that_the_log_never_takes_does_not_stop_the_others(tmp_path: Path) -> None:
    class Picky(MemoryLog):
        def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
            if any(b"poison" in (entry.value or b"") for entry in entries):
                raise UsageError("a record that the log does not take")
            return super().append(topic, entries, timeout_seconds)

    log = Picky()
    log.unreachable = True
    client = Client(log, tmp_path, source="s")
    for name in ("good", "poison", "better"):
        client.record(account=name)
    log.unreachable = False
    assert client.close()

    assert {event["data"]["account"] for event in events(log)} == {"good", "better"}
    (line,) = (tmp_path / "undeliverable.ndjson").read_text().splitlines()
    assert json.loads(line)["data"]["account"] == "poison"


def test_a_log_that_takes_nothing_at_all_gets_everything_once_it_is_mended(tmp_path: Path) -> None:
    class Forbidden(MemoryLog):
        is_forbidden = True

        def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
            if self.is_forbidden:
                raise UsageError("not authorised")
            return super().append(topic, entries, timeout_seconds)

    log = Forbidden()
    client = Client(log, tmp_path, source="s")
    for _ in range(5):
        client.record(account="a")
    wait_for(lambda: client.error is not None and "not authorised" in client.error)
    log.is_forbidden = False
    assert client.close()

    assert len(events(log)) == 5
    assert client.undeliverable == 0


class Narrow(MemoryLog):
    """A log that takes only short records."""

    limit_bytes = 1000

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        if any(len(entry.value or b"") > self.limit_bytes for entry in entries):
            raise UsageError("too large")
        return super().append(topic, entries, timeout_seconds)


def large(client: Client) -> str:
    return client.record(account="a", dimensions={"d": "x" * 1000})


def aside(root: Path) -> list[str]:
    path = root / "undeliverable.ndjson"
    return [json.loads(line)["id"] for line in path.read_text().splitlines()] if path.exists() else []


def test_an_event_that_was_refused_alone_is_put_aside_once_another_shows_that_the_log_takes_some(
    tmp_path: Path,
) -> None:
    log = Narrow()
    client = Client(log, tmp_path, source="s")
    refused = large(client)
    wait_for(lambda: client.error is not None)
    assert client.undeliverable == 0

    recorded = [client.record(account="a") for _ in range(10)]
    wait_for(lambda: client.shipped == 10)

    assert list(dict.fromkeys(event["id"] for event in events(log))) == recorded
    assert aside(tmp_path) == [refused]
    assert client.undeliverable == 1
    assert client.error is None
    client.close()


def test_an_event_that_is_refused_after_others_were_taken_waits_for_nobody(tmp_path: Path) -> None:
    log = Narrow()
    client = Client(log, tmp_path, source="s")
    client.record(account="a")
    wait_for(lambda: client.shipped == 1)

    refused = large(client)
    wait_for(lambda: client.undeliverable == 1)

    assert aside(tmp_path) == [refused]
    assert client.close()


def test_more_refused_events_than_are_shipped_at_once_do_not_hide_those_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "BATCH_BYTES", 1000)
    monkeypatch.setattr(backlogs, "SLICE_BYTES", 2000)
    log = Narrow()
    log.unreachable = True
    client = Client(log, tmp_path, source="s")
    refused = [large(client) for _ in range(20)]
    recorded = client.record(account="a")
    log.unreachable = False
    assert client.close()

    assert {event["id"] for event in events(log)} == {recorded}
    assert aside(tmp_path) == refused


def test_a_refused_event_of_a_dead_process_does_not_stop_this_one(tmp_path: Path) -> None:
    log = Narrow()
    first = Client(log, tmp_path, source="s")
    refused = large(first)
    wait_for(lambda: first.error is not None)
    assert not first.close(0)

    client = Client(log, tmp_path, source="s")
    client.record(account="a")
    wait_for(lambda: client.shipped == 1 and client.undeliverable == 1)

    assert aside(tmp_path) == [refused]
    assert client.close()


def test_what_is_peeked_at_again_is_counted_as_damaged_once(log: MemoryLog, tmp_path: Path) -> None:
    first = Client(log, tmp_path, source="s")
    log.unreachable = True
    for _ in range(3):
        first.record(account="a")
    assert not first.close(0)
    (segment,) = tmp_path.rglob("*.segment")
    whole = bytearray(segment.read_bytes())
    whole[len(whole) // 2] ^= 1
    segment.write_bytes(whole)

    losses = Losses()
    backlog = Backlog(segment.parent, losses)
    once = backlog.peek()
    figures = msgspec.structs.astuple(losses)
    assert losses.damaged_places == 1

    assert backlog.peek() == once
    assert msgspec.structs.astuple(losses) == figures
    backlog.close()


def test_an_adapter_with_a_bug_loses_nothing(tmp_path: Path) -> None:
    class Broken(MemoryLog):
        bugs = 3

        def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
            self.bugs -= 1
            if self.bugs >= 0:
                raise ZeroDivisionError
            return super().append(topic, entries, timeout_seconds)

    log = Broken()
    client = Client(log, tmp_path, source="s")
    client.record(account="a")
    assert client.close()

    assert len(events(log)) == 1


# ------------------------------------------------------------------------------- ends and beginnings


def test_closing_in_time_keeps_what_is_left_for_the_next(log: MemoryLog, tmp_path: Path) -> None:
    log.unreachable = True
    client = Client(log, tmp_path, source="s")
    recorded = [client.record(account="a") for _ in range(50)]
    started = time.monotonic()
    assert client.close(0.2) is False
    assert time.monotonic() - started < 2
    with pytest.raises(UsageError, match="closed"):
        client.record(account="a")

    log.unreachable = False
    successor = Client(log, tmp_path, source="s")
    successor.start()
    wait_for(lambda: successor.shipped == 50)
    successor.close()

    assert [event["id"] for event in events(log)] == recorded
    assert list(tmp_path.iterdir()) == []


def test_a_spool_of_a_newer_version_is_left_alone_and_named(log: MemoryLog, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "lock").touch()
    (newer / "0000000001.segment").write_bytes(MAGIC + bytes([9]) + bytes(8) + b"future")
    client = Client(log, tmp_path, source="s")

    client.record(account="a")
    wait_for(lambda: client.shipped == 1)

    running = client._running
    assert running is not None
    assert running.shipper.unreadable_spools == {"newer"}
    client.close()
    assert (newer / "0000000001.segment").read_bytes().endswith(b"future")


def test_a_crowd_of_orphans_is_shipped_a_few_at_a_time(log: MemoryLog, tmp_path: Path) -> None:
    log.unreachable = True
    for _ in range(3 * shipping.MAX_ORPHANS):
        dead = Client(log, tmp_path, source="s")
        dead.record(account="a")
        dead.close(0)
    log.unreachable = False

    client = Client(log, tmp_path, source="s")
    client.start()
    wait_for(lambda: client.shipped == 3 * shipping.MAX_ORPHANS)

    client.close()
    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_the_disk_would_not_delete_is_deleted_by_whoever_comes_next(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(log, tmp_path, source="s")
    client.record(account="a")
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".segment":
            raise OSError(28, "No space left on device")
        unlink(path, missing_ok)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "unlink", refused)
        assert client.close(10)
    assert [path.suffix for path in tmp_path.rglob("*.segment")] == [".segment"]
    successor = Client(log, tmp_path, source="s")
    successor.start()

    wait_for(lambda: not [*tmp_path.rglob("*.segment")])

    successor.close()
    assert list(tmp_path.iterdir()) == []
    assert len(events(log)) == 1, "what was acknowledged is not sent again"


class Hanging(MemoryLog):
    """A log whose appends hang until they are let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.hangs_until = threading.Event()

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        self.hangs.set()
        self.hangs_until.wait(30)
        return super().append(topic, entries, timeout_seconds)


def test_closing_while_others_record_loses_nothing_that_was_recorded(log: MemoryLog, tmp_path: Path) -> None:
    client = Client(log, tmp_path, source="s")
    recorded: list[str] = []

    def record() -> None:
        with contextlib.suppress(UsageError):  # closed
            while True:
                recorded.append(client.record(account="a"))

    threads = [threading.Thread(target=record) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    client.close(0.3)  # as long as they record, there is something to ship
    for thread in threads:
        thread.join()
    successor = Client(log, tmp_path, source="s")
    successor.start()
    wait_for(lambda: client.shipped + successor.shipped >= len(recorded))

    successor.close()
    assert {event["id"] for event in events(log)} == set(recorded)
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_could_not_be_closed_in_time_takes_nothing_more_and_leaves_its_spool_behind(
    tmp_path: Path,
) -> None:
    log, goes_on = Hanging(), threading.Event()
    log.ensure_topics(topics())
    log.hangs_until = goes_on
    client = Client(log, tmp_path, source="s")
    client.record(account="a")
    wait_for(log.hangs.is_set)

    assert not client.close(0.0)

    with pytest.raises(UsageError, match="record before closing"):
        client.record(account="a")
    goes_on.set()
    successor = Client(log, tmp_path, source="s")
    wait_for(lambda: len(list(tmp_path.iterdir())) == 0)
    successor.close()
    assert len(events(log)) == 1


def test_a_fork_that_python_did_not_see_is_noticed(log: MemoryLog, tmp_path: Path) -> None:
    client = Client(log, tmp_path, source="s")
    client.record(account="a")
    running = client._running
    assert running is not None
    wait_for(lambda: client.shipped == 1)
    running.pid = -1  # as if this were another process

    client.record(account="a")

    assert client._running is not running
    assert client.close()
    assert len(events(log)) == 2


def in_child(work: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns whoever forks while threads run; that this works is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("used_before", [False, True])
def test_a_client_made_before_the_fork_works_in_every_child(tmp_path: Path, used_before: bool) -> None:
    from doortab.log.open import open_log

    client = Client(lambda: open_log(f"file:{tmp_path}/log"), tmp_path / "spool", source="s")
    if used_before:
        client.record(account="parent", units={"n": 0})

    def work() -> None:
        for number in range(1000):
            client.record(account=f"child-{os.getpid()}", units={"n": number})
        assert client.close(20)

    children = [in_child(work) for _ in range(4)]
    client.record(account="parent", units={"n": 1})
    assert [exit_code(pid) for pid in children] == [0, 0, 0, 0]
    assert client.close(20)

    log = open_log(f"file:{tmp_path}/log")
    found = events(log)
    log.close()
    counts = Counter(event["data"]["account"] for event in found)
    assert counts == {f"child-{pid}": 1000 for pid in children} | {"parent": 1 + used_before}
    assert len({event["id"] for event in found}) == len(found)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_child_that_dies_leaves_its_events_to_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from doortab.log.open import open_log

    monkeypatch.setattr(shipping, "ORPHAN_SECONDS", 0.2)
    unavailable = {"on": True}

    def opener() -> Log:
        if unavailable["on"]:
            raise LogUnavailable("not now")
        return open_log(f"file:{tmp_path}/log")

    client = Client(opener, tmp_path / "spool", source="s")
    client.record(account="parent")

    def work() -> None:
        for _ in range(10):
            client.record(account="child")

    assert exit_code(in_child(work)) == 0, "left without closing"
    unavailable["on"] = False
    wait_for(lambda: client.shipped == 11)
    client.close()


def test_a_program_that_just_ends_ships_what_it_recorded(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "from doortab.producers.client import Client\n"
        "from doortab.log.open import open_log\n"
        f"c = Client(lambda: open_log('file:{tmp_path}/log'), '{tmp_path}/spool', source='s')\n"
        "c.record(account='a')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

    from doortab.log.open import open_log

    log = open_log(f"file:{tmp_path}/log")
    assert len(events(log)) == 1
    assert list((tmp_path / "spool").iterdir()) == []
    log.close()


def test_clients_are_not_kept_alive_by_the_module(log: MemoryLog, tmp_path: Path) -> None:
    client = Client(log, tmp_path, source="s")
    before = len(clients._clients)
    del client
    gc.collect()

    assert len(clients._clients) == before - 1

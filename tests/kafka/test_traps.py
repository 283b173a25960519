"""What kafka-python does to who trusts it, on a real broker: each trap closes on a naive client and not on ours.

The numbers are those of ``docs/how-to/run-on-kafka.md``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from doortab.log.kafka import KafkaLog
from doortab.metrics import LedgerCollector
from doortab.schemas import topics
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry, TopicPartition
from doortab.schemas.topics import Topic
from tests.kafka.conftest import free_ports
from tests.kafka.house import House, wait_for
from tests.kafka.meddler import Meddler
from tests.kafka.naive import Naive, resident_bytes
from tests.promises import note
from tools.kafka import Broker, Door

pytestmark = pytest.mark.timeout(300)

HOUSE = Callable[..., House]
MB = 1024 * 1024
OUTAGE_SECONDS = 9.0
NOT_LEADER = 6
IMPATIENT = {"request_timeout_ms": 1000}


@pytest.fixture
def prefix() -> str:
    return f"trap-{time.time_ns()}."


@pytest.fixture
def log(broker: Broker, prefix: str) -> Iterator[KafkaLog]:
    log = KafkaLog([broker.address], prefix, IMPATIENT)
    log.ensure_topics([Topic("naive", 1), Topic("ours", 1)])
    yield log
    log.close()


@contextmanager
def sending(log: KafkaLog) -> Iterator[list[int]]:
    """Ours, meanwhile: numbers, each of them again until it is acknowledged."""
    acknowledged: list[int] = []
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            append(log, len(acknowledged))
            acknowledged.append(len(acknowledged))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield acknowledged
    finally:
        is_over.set()
        thread.join()


def append(log: KafkaLog, number: int, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            log.append("ours", [Entry(0, None, b"%d" % number)], timeout_seconds=5)
            return
        except LogUnavailable:
            assert time.monotonic() < deadline


def numbers_in(log: KafkaLog) -> list[int]:
    end = log.end_offsets("ours")[0]
    reader = log.reader({TopicPartition("ours", 0): 0})
    found: list[int] = []
    deadline = time.monotonic() + 60
    while len(found) < end and time.monotonic() < deadline:
        found += [int(record.value or b"-1") for record in reader.poll(10_000, 10 * MB, 1.0)]
    reader.close()
    return found


def test_k1_an_idempotent_producer_is_wedged_for_good_after_an_outage(
    broker: Broker, log: KafkaLog, prefix: str
) -> None:
    with Naive("send", broker.address, f"{prefix}naive") as naive, sending(log) as acknowledged:
        time.sleep(1)
        broker.pause()
        time.sleep(OUTAGE_SECONDS)
        before = len(acknowledged)
        broker.resume()
        naive.tell()
        told = naive.hear()

    assert told["during"]["failed"] >= 1
    assert told["during"]["pending"] > 100, told
    assert told["after"]["delivered"] == 0, told
    assert len(acknowledged) > before + 5
    assert set(numbers_in(log)) == set(range(len(acknowledged)))
    note("R7", wedged=1, replaced=log.clients_replaced, lost=0)


@pytest.fixture(scope="module")
def meddled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Meddler]]:
    """A broker that can also be reached through a meddler."""
    ports = free_ports(3)
    with Meddler(ports + 2) as meddler:
        broker = Broker(tmp_path_factory.mktemp("meddled"), ports, doors=[Door("MEDDLED", ports + 2, meddler.port)])
        try:
            broker.start()
            yield broker, meddler
        finally:
            broker.kill()


@pytest.fixture
def meddled_log(meddled: tuple[Broker, Meddler], prefix: str) -> Iterator[KafkaLog]:
    log = KafkaLog([meddled[1].address], prefix, IMPATIENT)
    log.ensure_topics([Topic("naive", 1), Topic("ours", 1)])
    append(log, 0)
    yield log
    log.close()


def refused_once(error_code: int, meddler: Meddler, log: KafkaLog, prefix: str) -> list[str]:
    """What a naive client makes of one refused batch, and of the next ones; ours goes through the same."""
    told = []
    with Naive("one", meddler.address, f"{prefix}naive") as naive:
        meddler.spoil(error_code, 1)
        for _ in range(4):
            naive.tell()
            told.append(naive.hear()["outcome"])
    meddler.spoil(error_code, 1)
    for number in range(1, 4):
        append(log, number)
    assert meddler.produce_errors_left == 0
    assert set(numbers_in(log)) == {0, 1, 2, 3}
    assert log.clients_replaced == 1
    note("R7", refused=1, replaced=1, lost=0)
    return told


@pytest.mark.parametrize(("error_code", "error"), [(29, "TopicAuthorizationFailedError"), (2, "CorruptRecordError")])
def test_k2_after_one_refused_batch_every_later_one_fails_with_the_old_error(
    error_code: int, error: str, meddled: tuple[Broker, Meddler], meddled_log: KafkaLog, prefix: str
) -> None:
    assert refused_once(error_code, meddled[1], meddled_log, prefix) == [error] * 4


@pytest.mark.parametrize(
    ("error_code", "error"), [(45, "OutOfOrderSequenceNumberError"), (59, "UnknownProducerIdError")]
)
def test_k2_a_broker_that_forgot_the_producer_makes_it_drop_what_was_on_its_way(
    error_code: int, error: str, meddled: tuple[Broker, Meddler], meddled_log: KafkaLog, prefix: str
) -> None:
    """The hang seen with older protocols does not come on 4.3: the producer takes a new epoch, and goes on without."""
    told = refused_once(error_code, meddled[1], meddled_log, prefix)

    assert told == [error, "delivered", "delivered", "delivered"]


def test_a_client_that_was_replaced_is_a_figure_of_the_ledger(meddled: tuple[Broker, Meddler], house: HOUSE) -> None:
    home = house(meddled[1].address)
    before = figures_of(home)
    meddled[1].spoil(29, 1)

    with pytest.raises(LogUnavailable):
        home.log.append(topics.REVOCATIONS, [Entry(0, b"nobody", b"{}")], timeout_seconds=20)

    assert meddled[1].produce_errors_left == 0
    assert before["doortab_log_client_replaced_total"] == 0
    assert figures_of(home) == before | {"doortab_log_client_replaced_total": 1}


def figures_of(home: House) -> dict[str, float]:
    """What Prometheus is told of the log's clients."""
    found = [sample for metric in LedgerCollector(home.ledger).collect() for sample in metric.samples]
    return {sample.name: sample.value for sample in found if sample.name.startswith("doortab_log_")}


def test_k3_a_leader_that_is_on_no_list_stops_the_sender_for_good(
    meddled: tuple[Broker, Meddler], meddled_log: KafkaLog, prefix: str
) -> None:
    """A real cluster names no leader in place of a dead one, so the list is changed on its way."""
    _, meddler = meddled
    with Naive("one", meddler.address, f"{prefix}naive") as naive:
        meddler.hides_brokers = True
        meddler.spoil(NOT_LEADER, 10**9)  # so they ask who is, and hear of a broker that they cannot find
        line = threading.Timer(1.5, meddler.drop)  # and then they need a new line to it
        line.start()
        naive.tell()
        with pytest.raises(LogUnavailable):
            meddled_log.append("ours", [Entry(0, None, b"1")], timeout_seconds=5)
        during = naive.hear()
        line.join()
        meddler.hides_brokers = False
        meddler.spoil(0, 0)
        naive.tell()
        after = naive.hear()
    append(meddled_log, 1)

    assert during["outcome"] == after["outcome"] == "KafkaTimeoutError"
    assert "UnknownBrokerIdError" in during["raised"]
    assert during["lines"] > 1000, "it does nothing else any more, and says so"
    assert set(numbers_in(meddled_log)) == {0, 1}
    assert meddled_log.clients_replaced >= 1
    note("R7", wedged=1, replaced=meddled_log.clients_replaced, lost=0)


def test_k4_k5_a_producer_takes_everything_while_nobody_answers_and_cannot_be_closed(
    broker: Broker, log: KafkaLog, prefix: str
) -> None:
    with Naive("flood", broker.address, f"{prefix}naive") as naive:
        append(log, 0)
        broker.pause()
        naive.tell()
        flooded = naive.hear(120)
        closed = naive.hear(60)
    before, spent, refused = resident_bytes(), time.process_time(), 0
    value = os.urandom(100_000)
    started = time.monotonic()
    while time.monotonic() < started + 5:
        with pytest.raises(LogUnavailable):
            log.append("ours", [Entry(0, None, value)] * 400, timeout_seconds=2)
        refused += 1
    grown, cpu_seconds = resident_bytes() - before, time.process_time() - spent
    asked = time.monotonic()
    log.close()
    closing_seconds = time.monotonic() - asked
    broker.resume()

    assert flooded["grown"] > 90 * MB, "100 MB were sent, and none refused"
    assert closed == {"closed": "KafkaTimeoutError", "runs": True}
    assert refused >= 1
    assert grown < 100 * MB, f"{40 * refused} MB were offered"
    assert cpu_seconds < 0.5 * (asked - started), "a busy loop"
    assert closing_seconds < 20
    assert [thread.name for thread in threading.enumerate() if "kafka" in thread.name.lower()] == []
    note("R6", outages=1, grown_mb=grown // MB, naive_grown_mb=flooded["grown"] // MB)


def test_k6_a_value_that_a_deserializer_does_not_like_ends_reading_for_good(
    broker: Broker, log: KafkaLog, prefix: str
) -> None:
    log.append("naive", [Entry(0, None, value) for value in (b"1", b"2", b"{", b"3", b"4")])
    for number in (0, 1):
        append(log, number)
    log.append("ours", [Entry(0, None, b"{")])
    append(log, 3)

    with Naive("read", broker.address, f"{prefix}naive") as naive:
        told = [naive.hear(20)]
        while told[-1] is not None:
            told.append(naive.hear(10))
        wedged = naive.process.poll() is None
    reader = log.reader({TopicPartition("ours", 0): 0})
    found: list[bytes | None] = []
    deadline = time.monotonic() + 60
    while len(found) < 4 and time.monotonic() < deadline:
        found += [record.value for record in reader.poll(100, MB, 1.0)]
    reader.close()

    assert "JSONDecodeError" in told or "RecordDeserializationError" in told, told
    assert [3, 4] not in told
    assert 3 not in [value for some in told if isinstance(some, list) for value in some]
    assert wedged, "it lives, and never returns"
    assert found == [b"0", b"1", b"{", b"3"]


def test_k10_a_producer_that_was_made_before_a_fork_is_dead_in_the_child(
    broker: Broker, log: KafkaLog, prefix: str, house: HOUSE
) -> None:
    with Naive("fork", broker.address, f"{prefix}naive") as naive:
        told = naive.hear(60)
    home = house(broker.address)
    home.record(10)
    home.settle()

    children = [fork_and_record(home, 250) for _ in range(4)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    home.record(10)
    wait_for(lambda: home.report()["control"]["billed"] == "1020")

    assert told == "KafkaTimeoutError"
    assert codes == [0] * 4
    note("R21", children=4, events=1020, lost=0)


def fork_and_record(home: House, count: int) -> int:
    """A child that uses the parent's client, and ends as servers end their workers."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number in range(count):
            home.client.record(account=f"forked-{os.getpid()}", units={"requests": 1, "numbers": number})
        code = 0 if home.client.close(60) else 2
    finally:
        os._exit(code)

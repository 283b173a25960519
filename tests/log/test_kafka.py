"""What the Kafka log does when the broker does not: a broker of its own, stopped, killed and started again."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doortab.log.kafka import KafkaLog
from doortab.log.kafka_topics import About
from doortab.log.rules import PositionOutOfRange
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.log import Entry, TopicPartition
from tests.log.conftest import COMPACTED, FIRST, PLAIN, SHORT
from tests.log.test_contract import BYTES, numbered, read, read_log, values
from tests.log.test_file_processes import in_child
from tools.kafka import Broker

# Python 3.12 warns of every fork of a process with threads; that it works all the same is what is tested.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.kafka,
    pytest.mark.timeout(300),
]

# A time-out is kept, give or take what it takes to bury a producer and what a busy machine adds.
LATE_SECONDS = 8.0
MB = 1024 * 1024


def free_ports() -> int:
    """The first of two neighbouring ports that nobody uses."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"), free_ports())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def broker(own_broker: Broker) -> Iterator[Broker]:
    """A broker that a test may hurt."""
    yield own_broker
    if own_broker.pid() is not None:
        own_broker.resume()
    own_broker.start()


@pytest.fixture
def kafka(broker: Broker) -> Iterator[KafkaLog]:
    log = KafkaLog([broker.address], f"t{time.time_ns()}.")
    log.ensure_topics([PLAIN, COMPACTED, SHORT])
    yield log
    log.close()


@pytest.fixture
def impatient(broker: Broker) -> Iterator[KafkaLog]:
    """A log that doubts after a tenth of the usual time."""
    log = KafkaLog([broker.address], f"t{time.time_ns()}.", {"request_timeout_ms": 1000})
    log.ensure_topics([PLAIN, COMPACTED, SHORT])
    yield log
    log.close()


def memory_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def append_until_acknowledged(log: KafkaLog, entries: list[Entry], deadline: float) -> None:
    """What a shipper does: the same bytes again."""
    while True:
        try:
            log.append("plain", entries, timeout_seconds=5)
            return
        except LogUnavailable:
            assert time.monotonic() < deadline


def test_memory_stays_bounded_and_time_outs_are_kept_while_the_broker_hangs(broker: Broker, kafka: KafkaLog) -> None:
    kafka.append("plain", numbered(0, 1))
    value = os.urandom(100_000)
    spent: list[float] = []
    peak: list[int] = []

    def append_in_vain() -> None:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(LogUnavailable):
                kafka.append("plain", [Entry(0, None, value)] * 400, timeout_seconds=4)
            spent.append(time.monotonic() - started)
            peak.append(memory_bytes())

    broker.pause()
    before = memory_bytes()
    threads = [threading.Thread(target=append_in_vain) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    broker.resume()

    assert len(spent) == 16
    assert max(spent) < 4 + LATE_SECONDS
    assert max(peak) - before < 100 * MB, "640 MB were offered"
    assert kafka.append("plain", numbered(1, 1))
    assert kafka.threads_leaked == 0


def test_what_is_sent_again_after_a_kill_of_the_broker_arrives_and_nothing_acknowledged_is_lost(
    broker: Broker, kafka: KafkaLog
) -> None:
    stop = threading.Event()
    acknowledged: list[int] = []

    def append_all_the_time() -> None:
        number = 0
        while not stop.is_set():
            append_until_acknowledged(kafka, numbered(number, 5), time.monotonic() + 100)
            acknowledged.extend(range(number, number + 5))
            number += 5

    thread = threading.Thread(target=append_all_the_time)
    thread.start()
    for _ in range(2):
        time.sleep(1)
        broker.kill()
        time.sleep(2)
        broker.start()
    time.sleep(2)
    stop.set()
    thread.join()

    (end, _) = kafka.end_offsets("plain").values()
    found = values(read_log(kafka, {FIRST: 0}, max(kafka.end_offsets("plain").values())))
    assert set(acknowledged) == set(found), (end, len(found))
    first_seen = list(dict.fromkeys(found))
    assert first_seen == sorted(first_seen), "the order of what was acknowledged one after the other"


def test_a_producer_that_is_stuck_is_replaced_and_the_log_goes_on(broker: Broker, impatient: KafkaLog) -> None:
    impatient.append("plain", numbered(0, 1))
    broker.pause()
    with pytest.raises(LogUnavailable):
        impatient.append("plain", numbered(1, 1), timeout_seconds=60)
    replaced = impatient.clients_replaced
    broker.resume()

    started = time.monotonic()
    impatient.append("plain", numbered(2, 1), timeout_seconds=30)

    assert replaced == 1
    assert time.monotonic() - started < LATE_SECONDS
    assert {0, 2} <= set(values(read_log(impatient, {FIRST: 0}, 2)))


def test_a_producer_that_swallows_records_without_an_error_is_replaced(impatient: KafkaLog) -> None:
    """The wedge after an outage (K1): futures stay pending for good, in a client that looks healthy."""
    impatient.append("plain", numbered(0, 1))
    sender: Any = impatient._appender._current.producer._sender  # type: ignore[union-attr]
    sender._send_producer_data = lambda now=None: 100

    with pytest.raises(LogUnavailable):
        impatient.append("plain", numbered(1, 1), timeout_seconds=60)

    assert impatient.append("plain", numbered(1, 1)) == [1]
    assert impatient.clients_replaced == 1
    assert impatient.threads_leaked == 0


def test_a_record_that_the_broker_refuses_is_no_refusal_for_the_threads_that_share_the_producer(
    kafka: KafkaLog,
) -> None:
    """The fatal error of one batch fails those of the others too, with the same words (K2)."""
    acknowledged: list[int] = []
    refusals: list[LogUnavailable] = []

    def append_some(writer: int) -> None:
        for number in range(writer * 1000, writer * 1000 + 50):
            append_until_acknowledged(kafka, numbered(number, 1), time.monotonic() + 100)
            acknowledged.append(number)

    def append_wrongly() -> None:
        for _ in range(5):
            untrue = About(1, compacted=False, record_bytes=1000, asked_at=time.monotonic())
            kafka._topics["compacted"] = untrue
            try:
                kafka.append("compacted", [Entry(0, None, b"no key")])
            except LogUnavailable as error:
                refusals.append(error)

    threads = [threading.Thread(target=append_some, args=(writer,)) for writer in range(3)]
    threads.append(threading.Thread(target=append_wrongly))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(acknowledged) == 150
    assert len(refusals) == 5
    found = set(values(read_log(kafka, {FIRST: 0}, max(kafka.end_offsets("plain").values()))))
    assert found == set(acknowledged)


def test_a_forked_child_appends_and_reads_and_its_parent_goes_on(kafka: KafkaLog) -> None:
    reader = kafka.reader({FIRST: 0})
    kafka.append("plain", numbered(0, 1))
    assert values(read(reader, 1)) == [0]

    def child() -> None:
        assert kafka.append("plain", numbered(1, 1)) == [1]
        assert values(read(reader, 1)) == [1]
        assert kafka.end_offsets("plain") == {0: 2, 1: 0}
        reader.close()
        kafka.close()

    assert in_child(child) == 0
    assert kafka.append("plain", numbered(2, 1)) == [2]
    assert values(read(reader, 2)) == [1, 2]
    reader.close()


def test_four_children_forked_from_a_used_log_deliver_everything(kafka: KafkaLog) -> None:
    kafka.append("plain", numbered(9999, 1))
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for number in range(child * 100, child * 100 + 100):
                    kafka.append("plain", numbered(number, 1))
                code = 0
            finally:
                os._exit(code)
        children.append(pid)

    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]

    assert codes == [0] * 4
    assert sorted(values(read_log(kafka, {FIRST: 0}, 401))) == [*range(400), 9999]


def test_a_hanging_broker_is_an_error_for_a_reader_and_not_an_empty_log(broker: Broker, impatient: KafkaLog) -> None:
    impatient.append("plain", numbered(0, 3))
    reader = impatient.reader({FIRST: 0})
    assert values(read(reader, 3)) == [0, 1, 2]
    broker.pause()

    with pytest.raises(LogUnavailable):
        reader.poll(10, BYTES, 60)
    started = time.monotonic()
    with pytest.raises(LogUnavailable):
        read(reader, 1)
    again_seconds = time.monotonic() - started
    broker.resume()
    append_until_acknowledged(impatient, numbered(3, 1), time.monotonic() + 60)

    assert again_seconds < 2 + LATE_SECONDS
    deadline = time.monotonic() + 60
    found: list[int] = []
    while not found and time.monotonic() < deadline:
        try:
            found = values(reader.poll(10, BYTES, 1))
        except LogUnavailable:
            continue
    assert found == [3]
    reader.close()


def test_a_deaf_consumer_is_replaced_and_goes_on_from_its_position(impatient: KafkaLog) -> None:
    impatient.append("plain", numbered(0, 3))
    reader = impatient.reader({FIRST: 0})
    assert values(read(reader, 3)) == [0, 1, 2]

    def hear_nothing(timeout_ms: int, max_records: int) -> dict[object, object]:
        time.sleep(timeout_ms / 1000)
        return {}

    reader._consumer.poll = hear_nothing
    impatient.append("plain", numbered(3, 2))

    assert values(read(reader, 2)) == [3, 4]
    assert impatient.clients_replaced == 1
    reader.close()


def test_a_consumer_that_raises_is_replaced_and_goes_on_from_its_position(kafka: KafkaLog) -> None:
    kafka.append("plain", numbered(0, 5))
    reader = kafka.reader({FIRST: 0})
    assert values(read(reader, 2, max_records=2)) == [0, 1]
    reader._fetched.clear()

    def fail(timeout_ms: int, max_records: int) -> None:
        raise RuntimeError("a bug of the client")

    reader._consumer.poll = fail
    with pytest.raises(LogUnavailable, match="a bug of the client"):
        reader.poll(10, BYTES, 1)

    assert values(read(reader, 3)) == [2, 3, 4]
    reader.close()


def test_deleted_records_are_an_error_for_who_needs_them_and_not_for_who_starts_at_the_beginning(
    kafka: KafkaLog,
) -> None:
    kafka.append("plain", numbered(0, 10))
    overtaken = kafka.reader({FIRST: 0})
    assert values(read(overtaken, 2, max_records=2)) == [0, 1]
    overtaken.seek({FIRST: 2})
    before = {overtaken._kafka_name(FIRST): 5}
    kafka._ask(lambda admin: admin.delete_records(before))

    behind = kafka.reader({FIRST: 1})
    with pytest.raises(PositionOutOfRange, match="retention has deleted it"):
        read(behind, 1)
    with pytest.raises(PositionOutOfRange, match="retention has deleted it"):
        read(overtaken, 8)
    assert kafka.begin_offsets("plain") == {0: 5, 1: 0}
    assert values(read_log(kafka, {FIRST: 0}, 5)) == [5, 6, 7, 8, 9]
    behind.close()
    overtaken.close()


def test_a_reader_that_is_overtaken_while_it_fetches_does_not_jump(kafka: KafkaLog) -> None:
    kafka.append("plain", numbered(0, 10))
    reader = kafka.reader({FIRST: 10})
    reader.poll(1, BYTES, 0.5)
    reader._positions[FIRST] = 3
    reader._consumer.seek(reader._kafka_name(FIRST), 3)
    kafka._ask(lambda admin: admin.delete_records({reader._kafka_name(FIRST): 5}))

    with pytest.raises(PositionOutOfRange, match="offset 3"):
        read(reader, 1)
    reader.close()


def test_topics_get_their_time_stamps_from_the_broker_and_keep_what_they_should(kafka: KafkaLog) -> None:
    def settings(topic: str) -> dict[str, str]:
        from kafka.admin import ConfigResource, ConfigResourceType

        wanted = [ConfigResource(ConfigResourceType.TOPIC, kafka._prefix + topic)]
        answer = kafka._ask(lambda admin: admin.describe_configs(wanted, config_filter="all"))
        (topics,) = answer.values()
        (found,) = topics.values()
        return {name: about["value"] for name, about in found.items()}

    plain, compacted, short = settings("plain"), settings("compacted"), settings("short")

    assert plain["message.timestamp.type"] == "LogAppendTime"
    assert plain["cleanup.policy"] == "delete"
    assert plain["retention.ms"] == "-1"
    assert compacted["cleanup.policy"] == "compact"
    assert short["retention.ms"] == "60000"
    assert int(plain["max.message.bytes"]) > 4_000_000


def test_what_a_topic_takes_is_what_its_settings_say(kafka: KafkaLog) -> None:
    small = {kafka._prefix + "small": {"num_partitions": 1, "configs": {"max.message.bytes": "10000"}}}
    kafka._ask(lambda admin: admin.create_topics(small, wait_for_metadata=True))

    with pytest.raises(UsageError, match="the topic takes 9800"):
        kafka.append("small", [Entry(0, None, bytes(9_801))])

    assert kafka.append("small", [Entry(0, bytes(4_900), bytes(4_900))]) == [0]


def test_prefixes_keep_logs_in_one_cluster_apart(broker: Broker, kafka: KafkaLog) -> None:
    other = KafkaLog([broker.address], f"{kafka._prefix}other.")
    other.ensure_topics([PLAIN])
    kafka.append("plain", numbered(0, 1))

    assert other.end_offsets("plain") == {0: 0, 1: 0}
    assert other.partition_count("compacted") == 0
    other.close()


def test_closing_ends_all_threads(kafka: KafkaLog) -> None:
    reader = kafka.reader({FIRST: 0, TopicPartition("plain", 1): 0})
    kafka.append("plain", numbered(0, 1))
    read(reader, 1)

    reader.close()
    kafka.close()

    assert [thread.name for thread in threading.enumerate() if "kafka" in thread.name.lower()] == []


def test_an_absent_broker_is_reported_in_time_and_leaves_nothing_behind() -> None:
    log = KafkaLog([f"127.0.0.1:{free_ports()}"])
    reader = log.reader({FIRST: 0})
    log._topics["plain"] = About(2, compacted=False, record_bytes=1000, asked_at=0.0)  # heard of before it went
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(LogUnavailable, match="no Kafka broker answers"):
            log.append("plain", numbered(0, 1), timeout_seconds=1)
        with pytest.raises(LogUnavailable, match="no Kafka broker answers"):
            reader.poll(1, BYTES, 0.1)
        assert time.monotonic() - started < 1 + 3 + LATE_SECONDS

    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
    reader.close()
    log.close()

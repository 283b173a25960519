"""Brokers are killed, stopped and changed under a client and a ledger: nothing is lost, nothing is billed twice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewPartitions

from doortab.ledger import Ledger
from doortab.producers import shipper
from doortab.schemas import topics
from doortab.schemas.errors import UsageError
from doortab.schemas.topics import Topic
from tests.kafka.conftest import free_ports
from tests.kafka.house import House, wait_for
from tests.kafka.naive import Naive
from tests.promises import note
from tools.kafka import Broker, cluster

pytestmark = pytest.mark.timeout(300)

HOUSE = Callable[..., House]


def test_a_broker_that_is_killed_and_started_again_costs_nothing(broker: Broker, house: HOUSE) -> None:
    home = house(broker.address)
    home.begin_traffic()
    for _ in range(2):
        time.sleep(1)
        broker.kill()
        time.sleep(1)
        broker.start()
    time.sleep(1)
    home.end_traffic()

    home.settle()
    figures = home.check()

    assert figures["events"] > 500, "the test must have had something to lose"
    note("R6", kills=2, **figures)


def test_a_broker_that_hangs_for_longer_than_every_time_out_costs_nothing(broker: Broker, house: HOUSE) -> None:
    home = house(broker.address)
    home.begin_traffic()
    time.sleep(1)

    broker.pause()
    time.sleep(12)  # twelve requests' time, four times what condemns a producer, and more than the broker's session
    assert home.client.error is not None, "an outage must be visible"
    broker.resume()
    time.sleep(1)
    home.end_traffic()

    home.settle()
    note("R6", stops=1, **home.check())


@pytest.mark.reliability
@pytest.mark.timeout(600)
def test_a_broker_that_hangs_for_longer_than_kafka_pythons_own_two_minutes_costs_nothing(
    broker: Broker, house: HOUSE
) -> None:
    """With the times as they are delivered: nothing is cut down here."""
    home = house(broker.address, patience_ms=10_000)
    home.begin_traffic()
    time.sleep(1)
    broker.pause()
    time.sleep(150)
    broker.resume()
    time.sleep(1)
    home.end_traffic()

    home.settle(120)
    note("R6", stops=1, **home.check())


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Broker]]:
    """A cluster of three. The first is its controller too, so the other two are those that die."""
    brokers = cluster(tmp_path_factory.mktemp("three"), free_ports(6), 3)
    try:
        for broker in brokers:
            broker.start()
        yield brokers
    finally:
        for broker in reversed(brokers):
            broker.kill()


def test_of_three_brokers_one_may_be_dead_at_any_time(three: list[Broker], house: HOUSE) -> None:
    home = house(",".join(broker.address for broker in three))
    home.begin_traffic()
    for victim in three[1:]:
        time.sleep(1)
        victim.kill()
        shipped = home.client.shipped
        wait_for(lambda before=shipped: home.client.shipped > before + 200)  # type: ignore[misc]
        victim.start()
    home.end_traffic()

    home.settle()
    with asking(three[0].address) as admin:
        (answer,) = admin.describe_topics([f"{home.prefix}usage"])
    assert {len(partition["replica_nodes"]) for partition in answer["partitions"]} == {3}
    note("R6", kills=2, **home.check())


def test_a_partition_that_is_added_while_all_runs_is_followed(
    broker: Broker, house: HOUSE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper, "PARTITION_SECONDS", 1.0)  # a minute, in life
    home = house(broker.address, partitions=2)
    home.record(500)
    home.settle()

    with asking(broker.address) as admin:
        admin.create_partitions({f"{home.prefix}usage": NewPartitions(total_count=5)})
    wait_for(lambda: len(home.ledger.positions) == 5)
    wait_for(lambda: record_and_look(home))

    home.settle()
    home.check()


def record_and_look(home: House) -> bool:
    """Records some more, and says whether a new partition has got any of it."""
    home.record(20)
    return any(end > 0 for partition, end in home.log.end_offsets(topics.USAGE).items() if partition >= 2)


class asking:
    """A client that asks and orders, as an operator would."""

    def __init__(self, address: str) -> None:
        self._admin = KafkaAdminClient(bootstrap_servers=[address])

    def __enter__(self) -> Any:
        return self._admin

    def __exit__(self, *_: object) -> None:
        self._admin.close()


def test_a_topic_that_is_deleted_is_named_and_not_made_anew_behind_our_backs(
    broker: Broker, house: HOUSE, caplog: pytest.LogCaptureFixture
) -> None:
    home = house(broker.address)
    home.record(300)
    home.settle()
    name = f"{home.prefix}usage"

    with asking(broker.address) as admin:
        admin.delete_topics([name])
        home.record(50)
        wait_for(lambda: f"topic '{name}' was in this cluster and is gone" in str(home.client.error))
        wait_for(lambda: f"topic '{name}' was in this cluster and is gone" in caplog.text)
        time.sleep(8)  # longer than what was heard of the topic is believed
        assert name not in {topic["name"] for topic in admin.describe_topics()}
    waiting = home.client.spool_bytes
    told = home.report()

    assert waiting > 0, "what could not be delivered is kept"
    assert told["control"]["billed"] == "300", "what was billed stays billed"
    assert "another prefix" in str(home.client.error), "the way out"


def test_a_topic_that_was_made_anew_is_not_taken_for_the_old_one(
    broker: Broker, house: HOUSE, caplog: pytest.LogCaptureFixture
) -> None:
    home = house(broker.address)
    home.record(300)
    home.settle()
    name = f"{home.prefix}usage"

    with asking(broker.address) as admin:
        admin.delete_topics([name])
        time.sleep(1)
        admin.create_topics({name: {"num_partitions": 4, "replication_factor": 1}})
    home.record(2000)
    wait_for(lambda: "was deleted and made anew" in caplog.text or "the log is shorter" in caplog.text)
    time.sleep(3)

    assert home.report()["control"]["billed"] == "300", "nothing of the new topic is taken for a part of the old one"
    home.close()
    with pytest.raises(UsageError, match="was deleted and made anew"):  # however far the new topic has grown
        Ledger(home.settings)


def test_a_broker_that_comes_back_with_an_older_copy_of_its_disk_is_noticed(
    tmp_path: Path, house: HOUSE, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(tmp_path / "broker", free_ports(2))
    try:
        broker.start()
        home = house(broker.address)
        home.log.ensure_topics([Topic("naive", 1)])
        home.record(300)
        home.settle()
        broker.stop()
        shutil.copytree(broker.directory / "data", tmp_path / "copy")
        broker.start()
        home.record(300)
        home.settle()
        with Naive("one", broker.address, f"{home.prefix}naive") as naive:
            broker.kill()
            shutil.rmtree(broker.directory / "data")
            (tmp_path / "copy").rename(broker.directory / "data")
            broker.start()
            naive.tell()
            # It knows nothing of this producer any more, and does not say so: K2 does not come by itself.
            assert naive.hear()["outcome"] == "delivered"

        home.record(10)
        wait_for(lambda: "the log is shorter" in caplog.text)
        wait_for(home.delivered)
        assert home.report()["control"]["billed"] == "600", "what was billed stays billed"
        home.close()
    finally:
        broker.kill()

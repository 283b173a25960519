"""Brokers are killed, stopped and changed under a client and a ledger: nothing is lost, nothing is billed twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.kafka.house import House
from tests.promises import note
from tools.kafka import Broker

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

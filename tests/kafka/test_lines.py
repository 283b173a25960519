"""The line between us and the broker: cut, half-open, held, slow. Nothing is lost, nothing is billed twice."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import pytest

from doortab.log.kafka import KafkaLog
from doortab.log.kafka_consumer import FETCH_BYTES
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry, TopicPartition
from doortab.schemas.topics import Topic
from tests.crashes.proxy import Line, Proxy
from tests.kafka.conftest import free_ports
from tests.kafka.house import House
from tests.promises import note
from tools.kafka import Broker, Door

pytestmark = pytest.mark.timeout(300)

HOUSE = Callable[..., House]

LINES = {
    "cut": Line(cut=True),
    "reset": Line(reset=True),
    "half-open": Line(half_open=True),
    "answers are swallowed": Line(half_open=True, there=False),
    "held": Line(hold=True),
    "in pieces": Line(limit_bytes=20_000),
    "slow": Line(bytes_per_second=20_000, delay_seconds=0.05),
}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A line to a broker of its own, which tells its clients to come by that line."""
    ports = free_ports(3)
    with Proxy("127.0.0.1", ports + 2) as proxy:
        broker = Broker(tmp_path_factory.mktemp("lines"), ports, doors=[Door("LINE", ports + 2, proxy.port)])
        try:
            broker.start()
            yield proxy
        finally:
            broker.kill()


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_costs_nothing(name: str, line: Proxy, house: HOUSE) -> None:
    line.heal()
    home = house(line.address)
    home.begin_traffic()
    time.sleep(0.5)

    line.become(LINES[name])
    time.sleep(5)  # longer than it takes to condemn a producer
    line.heal()
    time.sleep(0.5)
    home.end_traffic()

    home.settle()
    note("R6", lines=1, **home.check())


def test_a_line_that_is_too_slow_for_what_is_fetched_at_once_is_asked_for_less(line: Proxy) -> None:
    """Else the same request is given up for ever, each time a little before its answer is whole."""
    line.heal()
    log = KafkaLog([line.address], f"slow-{time.time_ns()}.", {"request_timeout_ms": 1000})
    log.ensure_topics([Topic("usage", 1)])
    values = [os.urandom(100_000) for _ in range(60)]
    log.append("usage", [Entry(0, None, value) for value in values])
    line.become(Line(bytes_per_second=2_000_000))  # a fetch of 6 MB takes three times as long as a request may

    reader = log.reader({TopicPartition("usage", 0): 0})
    found: list[bytes | None] = []
    deadline = time.monotonic() + 120
    while len(found) < len(values):
        assert time.monotonic() < deadline, f"{len(found)} of {len(values)} came"
        with contextlib.suppress(LogUnavailable):
            found += [record.value for record in reader.poll(1000, FETCH_BYTES, 1.0)]
    line.heal()
    reader.close()
    log.close()

    assert found == values
    assert log.clients_replaced >= 1, "the test must have been hard enough"
    note("R7", slow_lines=1, replaced=log.clients_replaced, lost=0)

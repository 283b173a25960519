"""The line between us and the broker: cut, half-open, held, slow. Nothing is lost, nothing is billed twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

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

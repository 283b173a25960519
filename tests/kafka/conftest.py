"""Brokers that may be hurt. All tests here want Java and Maven, and run with ``make test-kafka``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doortab.log.open import open_log
from tests.kafka.house import House
from tools.kafka import Broker

# Imports kafka-python as the product does: on Python 3.11 it warns about itself, and here a warning is an error.
open_log("kafka://127.0.0.1:1").close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is here needs Kafka, all of it."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.kafka)
            item.add_marker(pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"))


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody uses."""
    while True:
        held: list[socket.socket] = []
        try:
            with socket.socket() as first:
                first.bind(("127.0.0.1", 0))
                start: int = first.getsockname()[1]
            for port in range(start, start + count):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
            return start
        except OSError:
            continue
        finally:
            for each in held:
                each.close()


@pytest.fixture(scope="package")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"), free_ports(2))
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def broker(own_broker: Broker) -> Iterator[Broker]:
    """A broker that a test may hurt."""
    own_broker.start()
    yield own_broker
    if own_broker.pid() is not None:
        own_broker.resume()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Makes houses and ends them."""
    made: list[House] = []

    def make(brokers: str, **more: Any) -> House:
        directory = tmp_path / f"house-{len(made)}"
        directory.mkdir()
        made.append(House(brokers, directory, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()

"""The broker that benchmarks use: one of their own, so that nobody else's topics are touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import load
from tools.kafka import Broker

PORT = 9292


@contextmanager
def running() -> Iterator[Broker]:
    """Apache Kafka with one broker, for as long as it is needed; what is in its topics stays for the next time."""
    broker = Broker(load.DATA / "broker", PORT)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()

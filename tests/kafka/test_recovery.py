"""What a service notices while the broker is away, and how soon everything is delivered when it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.house import House, wait_for
from tests.kafka.service import Service
from tests.promises import note
from tools.kafka import Broker

pytestmark = pytest.mark.timeout(400)

WAITING = 20_000
PROMISED_SECONDS = 5.0
BUSY_FACTOR = 6
"""A machine that does other things as well may take so much longer before the test fails; the figure is noted."""

HOUSE = Callable[..., House]
MB = 1024 * 1024


@pytest.mark.parametrize(
    "outage_seconds",
    [2.0, pytest.param(45.0, marks=pytest.mark.reliability), pytest.param(130.0, marks=pytest.mark.reliability)],
)
def test_what_waits_is_delivered_soon_after_a_killed_broker_is_ready_again(
    outage_seconds: float, broker: Broker, house: HOUSE
) -> None:
    """With the times as they are delivered: the promise is about them."""
    home = house(broker.address, patience_ms=10_000)
    home.record(100)
    home.settle()
    broker.kill()
    for _ in range(10):
        home.record(WAITING // 10)
        time.sleep(outage_seconds / 10)
    assert home.client.shipped == 100

    broker.start()
    ready = time.monotonic()
    wait_for(home.delivered)
    taken = time.monotonic() - ready
    print(f"{WAITING} events were in the log {taken:.1f} s after the broker was ready")

    home.settle()
    figures = home.check()
    note("R6", kills=1, recovery_milliseconds=round(taken * 1000), **figures)
    assert taken < BUSY_FACTOR * PROMISED_SECONDS


GROWN_MB = 64
BLOCKED_SECONDS = 2.0
"""A call that waits for the log waits for the whole outage; one that waits for a busy machine is over sooner."""


@pytest.mark.parametrize(
    ("how", "outage_seconds"),
    [("kill", 6.0), ("pause", 12.0), pytest.param("pause", 150.0, marks=pytest.mark.reliability)],
)
def test_a_service_goes_on_while_the_broker_is_away(
    how: str, outage_seconds: float, broker: Broker, house: HOUSE, tmp_path: Path
) -> None:
    """500 calls a second: none of them waits for the log, and memory does not grow."""
    home = house(broker.address)
    with Service(home.url, tmp_path / "spool") as service:
        wait_for(lambda: service.tell()["shipped"] > 500)
        time.sleep(1)
        before = service.tell()
        broker.kill() if how == "kill" else broker.pause()
        time.sleep(outage_seconds)
        during = service.tell()
        if how == "kill":
            broker.start()
        else:
            broker.resume()
        ready, waiting = time.monotonic(), during["recorded"] - during["shipped"]
        wait_for(lambda: service.tell()["shipped"] >= during["recorded"])
        taken = time.monotonic() - ready
        after = service.tell()
        home.recorded = service.end()["shipped"]

    home.settle_billed()
    figures = home.check()
    grown = max(during["resident"], after["resident"]) - before["resident"]
    print(
        f"{how}: {waiting} waited, in the log {taken:.1f} s after; grown by {grown / MB:.1f} MB; "
        f"p99 of record {before['p99'] * 1e6:.0f} µs before, {during['p99'] * 1e6:.0f} µs meanwhile"
    )
    assert during["error"] is not None, "an outage must be visible"
    assert waiting > 20 * outage_seconds, "there was something to lose"
    assert grown < GROWN_MB * MB
    assert during["slowest"] < BLOCKED_SECONDS
    note(
        "R6", away=1, recovery_milliseconds=round(taken * 1000), grown_mb=max(0, grown // MB),
        record_p99_microseconds=round(during["p99"] * 1e6), **figures,
    )  # fmt: skip

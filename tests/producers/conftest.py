"""A desk on a log in memory, and a gate that has read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from doortab.log.memory import MemoryLog
from doortab.producers.desk import Desk
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import Peppers
from doortab.schemas import instants
from doortab.schemas.topics import topics

NOW = instants.parse("2026-11-23T08:00:00Z")


class Clock:
    """Microseconds that move only when told to."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def nanoseconds(self) -> int:
        return self.now * 1000

    def seconds(self) -> float:
        return self.now / 1e6


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def peppers() -> Peppers:
    return Peppers("p1", {"p1": bytes(range(32))})


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog(waits=False)
    log.ensure_topics(topics())
    return log


@pytest.fixture
def desk(log: MemoryLog, peppers: Peppers, clock: Clock) -> Desk:
    return Desk(log, peppers, actor="ada", clock=clock.nanoseconds)


@pytest.fixture
def keyring() -> Keyring:
    return Keyring()


@pytest.fixture
def gate(keyring: Keyring, peppers: Peppers, clock: Clock) -> Gate:
    return Gate(keyring, peppers, clock=clock)


@pytest.fixture
def catch_up(log: MemoryLog, keyring: Keyring, clock: Clock) -> Iterator[Callable[[], Follower]]:
    """Lets the gate read all that is in the log."""
    follower = Follower(keyring, lambda: log, clock=clock.nanoseconds, steady=clock.seconds)

    def read() -> Follower:
        while follower.step(0):
            pass
        return follower

    yield read
    follower.stop()

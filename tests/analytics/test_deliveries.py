"""Deliveries: every alert reaches every channel, whatever is killed or away."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doortab.analytics.alertbook import AlertBook
from doortab.analytics.deliveries import HOUR, MINUTE, Deliveries
from doortab.analytics.notify import Channel, Outcome
from doortab.log.memory import MemoryLog
from doortab.schemas import instants, topics
from doortab.schemas.alerts import Alert
from doortab.schemas.errors import LogUnavailable, NotFound
from doortab.schemas.log import Entry

pytestmark = pytest.mark.promises("R11")

NOW = instants.parse("2026-11-02T06:00:00Z")
SECOND = instants.SECOND

DELIVERED = Outcome("delivered", "")
FAILED = Outcome("retry", "status 503")
GONE = Outcome("gone", "status 410")


class Pigeon:
    """A channel that notes what it carried, and does with it what it is told."""

    def __init__(self, name: str, *outcomes: Outcome) -> None:
        self.name = name
        self.outcomes = list(outcomes)
        self.carried: list[tuple[int, str]] = []

    def send(self, alert: Alert, now: int) -> Outcome:
        self.carried.append(((now - NOW) // SECOND, alert.id))
        outcomes = self.outcomes or [DELIVERED]
        return outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]

    @property
    def ids(self) -> list[str]:
        return [id for _, id in self.carried]


def alert(id: str, at: int = NOW) -> Alert:
    return Alert(id=id, kind="spike", severity="warning", subject="key:k", at=instants.text(at), text=f"about {id}")


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog(waits=False)
    log.ensure_topics(topics.topics())
    return log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alerts.sqlite3"


def run(path: Path, log: MemoryLog, channels: list[Channel], *times: int) -> None:
    """Opens the file, takes a step at each of the times, and closes it."""
    deliveries = Deliveries(path, log, channels)
    for seconds in times:
        list(deliveries.step(NOW + seconds * SECOND))
    deliveries.close()


def test_every_alert_in_the_log_reaches_every_channel_once(path: Path, log: MemoryLog) -> None:
    one, two = Pigeon("one"), Pigeon("two")
    AlertBook(log).write([alert("a"), alert("b"), alert("a")])

    run(path, log, [one, two], 0, 1, 2)

    assert one.ids == two.ids == ["a", "b"]


def test_a_restart_repeats_nothing_and_forgets_nothing(path: Path, log: MemoryLog) -> None:
    flaky, steady = Pigeon("flaky", FAILED, DELIVERED), Pigeon("steady")
    AlertBook(log).write([alert("a")])
    run(path, log, [flaky, steady], 0)
    AlertBook(log).write([alert("b")])

    run(path, log, [flaky, steady], 5)

    assert flaky.carried == [(0, "a"), (5, "a"), (5, "b")]
    assert steady.ids == ["a", "b"]


def test_the_retries_keep_to_their_schedule_and_giving_up_is_seen(path: Path, log: MemoryLog) -> None:
    broken = Pigeon("broken", FAILED)
    AlertBook(log).write([alert("a")])
    deliveries = Deliveries(path, log, [broken])

    list(deliveries.step(NOW))
    while due := deliveries.deliveries("due"):
        list(deliveries.deliver_due(due[0].next_attempt - 1))
        list(deliveries.deliver_due(due[0].next_attempt))

    waited = [later - earlier for (earlier, _), (later, _) in zip(broken.carried, broken.carried[1:], strict=False)]
    assert waited == [5, 5 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (2, 5, 10, 14, 20, 24))]
    (given_up,) = deliveries.deliveries("given_up")
    assert (given_up.alert, given_up.channel, given_up.attempts, given_up.detail) == ("a", "broken", 10, "status 503")
    deliveries.close()


def test_a_receiver_that_asks_for_time_gets_it(path: Path, log: MemoryLog) -> None:
    busy = Pigeon("busy", Outcome("retry", "status 429", 90), DELIVERED)
    AlertBook(log).write([alert("a")])

    run(path, log, [busy], 0, 5, 89, 90)

    assert busy.carried == [(0, "a"), (90, "a")]


def test_a_channel_that_fails_is_left_alone_and_the_others_go_on(path: Path, log: MemoryLog) -> None:
    broken, steady = Pigeon("broken", FAILED), Pigeon("steady")
    AlertBook(log).write([alert("a"), alert("b"), alert("c")])

    run(path, log, [broken, steady], 0)

    assert broken.ids == ["a"]
    assert steady.ids == ["a", "b", "c"]


def test_a_receiver_that_wants_nothing_more_gets_nothing_more_until_it_is_enabled(path: Path, log: MemoryLog) -> None:
    moved = Pigeon("moved", GONE, DELIVERED)
    AlertBook(log).write([alert("a"), alert("b")])
    run(path, log, [moved], 0, 10, HOUR)
    assert moved.ids == ["a"]

    deliveries = Deliveries(path, log, [moved])
    assert deliveries.gone() == {"moved": "status 410"}
    deliveries.enable("moved")
    list(deliveries.step(NOW + 2 * HOUR * SECOND))

    assert moved.ids == ["a", "a", "b"]
    with pytest.raises(NotFound, match="no channel is called 'other'"):
        deliveries.enable("other")
    deliveries.close()


def test_history_wakes_nobody_and_is_not_hidden_either(path: Path, log: MemoryLog) -> None:
    channel = Pigeon("one")
    AlertBook(log).write([alert("old", NOW - 4 * 24 * HOUR * SECOND), alert("new", NOW - HOUR * SECOND)])

    run(path, log, [channel], 0)

    assert channel.ids == ["new"]
    deliveries = Deliveries(path, log, [channel])
    assert [delivery.alert for delivery in deliveries.deliveries("expired")] == ["old"]
    assert [delivery.alert for delivery in deliveries.deliveries()] == ["new", "old"]
    deliveries.close()


def test_what_is_due_goes_out_while_the_log_is_away(path: Path, log: MemoryLog) -> None:
    flaky = Pigeon("flaky", FAILED, DELIVERED)
    AlertBook(log).write([alert("a")])
    run(path, log, [flaky], 0)
    log.unreachable = True

    with pytest.raises(LogUnavailable):
        run(path, log, [flaky], 5)

    assert flaky.ids == ["a", "a"]


def test_a_record_that_is_no_alert_is_passed_over(path: Path, log: MemoryLog) -> None:
    channel = Pigeon("one")
    log.append(topics.ALERTS, [Entry(0, b"x", b"\xff{"), Entry(0, b"y", None)])
    AlertBook(log).write([alert("a")])

    run(path, log, [channel], 0, 1)

    assert channel.ids == ["a"]


@settings(max_examples=15, deadline=None)
@given(
    kills=st.lists(st.integers(0, 6), max_size=6), outcomes=st.lists(st.sampled_from([DELIVERED, FAILED]), max_size=6)
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # who is killed closes nothing
def test_killed_at_any_step_each_alert_arrives_at_least_once(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], outcomes: list[Outcome]
) -> None:
    log = MemoryLog(waits=False)
    log.ensure_topics(topics.topics())
    path = tmp_path_factory.mktemp("state") / "alerts.sqlite3"
    one, two = Pigeon("one", *outcomes, DELIVERED), Pigeon("two")
    told = []
    for number, steps in enumerate([*kills, 100, 100, 100, 100, 100, 100, 100]):
        if number < 4:
            told.append(f"alert {number}")
            AlertBook(log).write([alert(told[-1])])
        deliveries = Deliveries(path, log, [one, two])
        walk = deliveries.step(NOW + number * HOUR * SECOND)
        for _ in range(steps):
            if next(walk, None) is None:
                break
        deliveries.close()

    assert set(one.ids) == set(two.ids) == set(told)
    assert len(two.ids) <= len(told) + len(kills), "again only what was cut off between sending and noting"

"""What happens by the clock."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doortab.analytics import alerts as rules
from doortab.analytics.deliveries import Deliveries
from doortab.analytics.episodes import SpikeSettings
from doortab.analytics.notify import Terminal
from doortab.analytics.schedule import JOBS, Job, Means, Run, Schedule
from doortab.analytics.snapshot import latest
from doortab.schemas import instants
from doortab.schemas.errors import LogUnavailable
from tests.analytics.installation import Installation

SHORT = SpikeSettings(bucket_seconds=30, look_back_buckets=60, warm_up_buckets=10)


def now() -> int:
    return time.time_ns() // 1000


class Desk:
    """An installation with all that jobs need, and the terminal that alerts go to."""

    def __init__(self, installation: Installation, directory: Path) -> None:
        self.shown = io.StringIO()
        self.means = Means(
            reader=installation.reader,
            tariff=lambda: installation.tariff,
            log=installation.log,
            clock=now,
            rules=rules.Settings(spikes=SHORT),
            deliveries=Deliveries(directory / "alerts.sqlite3", installation.log, [Terminal(self.shown)]),
            snapshots=directory / "snapshots",
        )


@pytest.fixture
def desk(installation: Installation, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(installation, tmp_path)
    yield made
    made.means.deliveries.close()


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_the_jobs_are_a_list_that_can_be_read() -> None:
    assert [(job.name, job.every_seconds) for job in JOBS] == [("deliveries", 2), ("spikes", 15), ("snapshot", 300)]


def test_a_spike_reaches_the_terminal_and_a_snapshot_is_there(installation: Installation, desk: Desk) -> None:
    start = now()
    installation.add([installation.event(start - i * 60 * instants.SECOND) for i in range(2, 12)])
    installation.fold()
    schedule = Schedule(desk.means, [job._replace(every_seconds=0.05) for job in JOBS])

    schedule.start()
    installation.add([installation.event(now()) for _ in range(100)])
    installation.fold()

    until(lambda: "requests since" in desk.shown.getvalue())
    until(lambda: latest(desk.means.snapshots))
    schedule.stop()
    assert schedule.failures == {}
    assert desk.shown.getvalue().count("requests since") == 1


def test_a_job_that_fails_is_counted_and_disturbs_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def failing(error: Exception) -> Callable[[Means], Run]:
        def run() -> Iterator[str]:
            yield "begun"
            raise error

        return lambda means: run

    broken, away = failing(RuntimeError("no luck")), failing(LogUnavailable("gone fishing"))
    schedule = Schedule(
        desk.means,
        [Job("failing", 0.01, broken), Job("away", 0.01, away), Job("steady", 0.01, lambda _: lambda: iter(["done"]))],
    )
    schedule.start()

    until(lambda: schedule.failures["failing"] > 2 and schedule.failures["away"] > 2 and schedule.runs["steady"] > 2)
    schedule.stop()
    assert schedule.last_errors == {"failing": "RuntimeError: no luck", "away": "LogUnavailable: gone fishing"}
    assert "job failing failed and comes again" in caplog.text
    assert schedule.runs["failing"] == 0


def test_a_slow_job_never_runs_twice_at_once_and_holds_up_nobody(desk: Desk) -> None:
    running, most = [0], [0]
    go = threading.Event()

    def slow(means: Means) -> Run:
        def run() -> Iterator[str]:
            running[0] += 1
            most[0] = max(most[0], running[0])
            go.wait(5)
            running[0] -= 1
            yield "done"

        return run

    schedule = Schedule(desk.means, [Job("slow", 0.01, slow), Job("steady", 0.01, lambda _: lambda: iter(["done"]))])
    schedule.start()

    until(lambda: schedule.runs["steady"] > 20)
    go.set()
    schedule.stop()
    assert most == [1]


def test_stopping_ends_a_long_job_after_the_step_at_hand(desk: Desk) -> None:
    steps: list[int] = []

    def long(means: Means) -> Run:
        def run() -> Iterator[str]:
            for number in range(1_000_000):
                steps.append(number)
                time.sleep(0.01)
                yield "step"

        return run

    schedule = Schedule(desk.means, [Job("long", 1, long)])
    schedule.start()
    until(lambda: len(steps) > 3)

    begun = time.monotonic()
    schedule.stop()

    assert time.monotonic() - begun < 2
    count = len(steps)
    time.sleep(0.05)
    assert len(steps) == count
    schedule.stop()

"""What a ledger does by the clock. ``JOBS`` lists it; the scheduler only says when.

A job is made once, may remember what it likes, and is run in steps: it never runs twice at once, one that
is late runs once and not as often as it was missed, and one that fails is counted and logged and comes
again. What must not be lost stands in the log or in a file, never in here: a tick that is missed loses
nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import NamedTuple

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from doortab.analytics import alerts as rules
from doortab.analytics.alertbook import AlertBook
from doortab.analytics.cells import Read
from doortab.analytics.deliveries import Deliveries
from doortab.analytics.snapshot import publish
from doortab.analytics.spikes import Memory
from doortab.schemas import instants
from doortab.schemas.alerts import Alert
from doortab.schemas.errors import TryAgain
from doortab.schemas.log import Log
from doortab.schemas.tariff import Tariff

logger = logging.getLogger("doortab.schedule")


class Means(NamedTuple):
    """What the jobs work with. ``reader`` opens a way to the store that nobody else uses."""

    reader: Callable[[], Read]
    tariff: Callable[[], Tariff]
    log: Log
    clock: Callable[[], int]
    rules: rules.Settings
    deliveries: Deliveries
    snapshots: Path


Run = Callable[[], Iterator[str]]
"""One run of a job, yielding a name after each step."""


class Job(NamedTuple):
    """What is done every so many seconds; ``make`` says how, given the means."""

    name: str
    every_seconds: float
    make: Callable[[Means], Run]


def look_for_spikes(means: Means) -> Run:
    """Asks every alert rule and writes what it finds into the log."""
    book, memory = AlertBook(means.log), Memory()
    known: dict[str, Alert] = {}

    def run() -> Iterator[str]:
        now = means.clock()
        for noted in book.news():
            if noted.alert.kind == "spike":
                known.setdefault(noted.alert.id, noted.alert)
        _forget(known, now, means.rules)
        yield "known"
        found = rules.find(means.reader(), now, means.rules, list(known.values()), means.tariff(), memory)
        yield "found"
        book.write(found)
        yield "written"

    return run


def _forget(known: dict[str, Alert], now: int, settings: rules.Settings) -> None:
    """Drops the alerts that say nothing about what anybody still looks at."""
    spikes = settings.spikes
    oldest = now - 2 * (spikes.look_back_buckets + spikes.accept_after_buckets) * spikes.bucket
    for name in [name for name, alert in known.items() if instants.parse(alert.at) < oldest]:
        del known[name]


def deliver(means: Means) -> Run:
    """Brings alerts to people."""
    return lambda: means.deliveries.step(means.clock())


def publish_snapshot(means: Means) -> Run:
    """Publishes what finance reads."""
    return lambda: publish(means.reader(), means.snapshots, means.tariff(), means.clock())


JOBS = (
    Job("deliveries", 2, deliver),
    Job("spikes", 15, look_for_spikes),
    Job("snapshot", 300, publish_snapshot),
)


class Schedule:
    """The jobs, each in its own time. ``runs`` and ``failures`` count by job; ``last_errors`` tells the last one."""

    def __init__(self, means: Means, jobs: Sequence[Job] = JOBS) -> None:
        self.runs: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.last_errors: dict[str, str] = {}
        self._means = means
        self._jobs = list(jobs)
        self._stopping = threading.Event()
        quiet = logger.getChild("scheduler")
        quiet.setLevel(logging.ERROR)  # that a job is still at it when its time comes again is no news
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(max(1, len(self._jobs)))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            logger=quiet,
            daemon=True,
        )

    def start(self) -> None:
        """Starts every job at once, and then in its own time."""
        first = instants.moment(self._means.clock())
        for job in self._jobs:
            self._scheduler.add_job(
                self._run,
                IntervalTrigger(seconds=job.every_seconds, timezone=UTC),
                args=[job.name, job.make(self._means)],
                id=job.name,
                next_run_time=first,
            )
        self._scheduler.start()

    def stop(self) -> None:
        """Ends every job after the step at hand, and waits for it."""
        self._stopping.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def _run(self, name: str, run: Run) -> None:
        if self._stopping.is_set():
            return
        try:
            for _ in run():
                if self._stopping.is_set():
                    return
            self.runs[name] += 1
        except Exception as error:
            self.failures[name] += 1
            self.last_errors[name] = f"{type(error).__name__}: {error}"
            if isinstance(error, TryAgain):
                logger.warning("job %s comes again later: %s", name, error)
            else:
                logger.exception("job %s failed and comes again", name)

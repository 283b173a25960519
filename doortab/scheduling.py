"""What a ledger does by the clock, as the settings ask for it: spikes, deliveries, snapshots, audits."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from doortab.analytics import alerts as rules
from doortab.analytics.deliveries import Deliveries
from doortab.analytics.episodes import DAY, SpikeSettings
from doortab.analytics.notify import Channel, Terminal, Webhook
from doortab.analytics.schedule import JOBS, Job, Means, Schedule
from doortab.auditing import Auditor
from doortab.ledger import Ledger
from doortab.schemas.errors import UsageError
from doortab.settings import Settings

LOOK_BACK_DAYS, WARM_UP_DAYS, ACCEPT_AFTER_DAYS = 14, 7, 1


class Running:
    """The schedule of a ledger, and the file of its deliveries."""

    def __init__(self, schedule: Schedule, deliveries: Deliveries) -> None:
        self.schedule = schedule
        self._deliveries = deliveries

    def stop(self) -> None:
        """Ends every job after the step at hand."""
        self.schedule.stop()
        self._deliveries.close()


def start_schedule(ledger: Ledger, settings: Settings) -> Running:
    """Starts the jobs of a running ledger.

    Raises:
        UsageError: the webhook's URL or secret will not do.
    """
    deliveries = Deliveries(settings.data / "deliveries.sqlite3", ledger.log, channels_of(settings))
    means = Means(
        reader=ledger.reader,
        tariff=ledger.tariff,
        log=ledger.log,
        clock=lambda: time.time_ns() // 1000,
        rules=rules.Settings(spikes=spike_settings(settings.alert_bucket)),
        deliveries=deliveries,
        snapshots=settings.data / "snapshots",
    )
    jobs = jobs_of(settings)
    if settings.audit_seconds:
        auditor = Auditor(ledger)
        jobs.append(Job("audit", settings.audit_seconds, lambda _: auditor.steps))
    schedule = Schedule(means, jobs)
    schedule.start()
    return Running(schedule, deliveries)


def jobs_of(settings: Settings) -> list[Job]:
    """The jobs that the settings ask for, as often as they say; 0 seconds means not at all."""
    every = {"spikes": settings.alert_seconds, "snapshot": settings.snapshot_seconds}
    jobs = [job._replace(every_seconds=every.get(job.name, job.every_seconds)) for job in JOBS]
    return [job for job in jobs if job.every_seconds > 0]


def channels_of(settings: Settings) -> Sequence[Channel]:
    """Where alerts go: always the terminal, and the webhook if there is one."""
    channels: list[Channel] = [Terminal(sys.stderr)]
    if settings.webhook_url:
        channels.append(
            Webhook("webhook", settings.webhook_url, settings.webhook_secrets, allow_private=settings.webhook_private)
        )
    return channels


def spike_settings(bucket_seconds: int) -> SpikeSettings:
    """The spike rule on buckets of that length: two weeks of past, a week before a key is judged."""
    if bucket_seconds > DAY:
        raise UsageError(f"alert_bucket {bucket_seconds} is more than a day; write seconds, such as 3600")
    day = max(1, DAY // bucket_seconds)
    return SpikeSettings(
        bucket_seconds=bucket_seconds,
        look_back_buckets=LOOK_BACK_DAYS * day,
        warm_up_buckets=WARM_UP_DAYS * day,
        accept_after_buckets=ACCEPT_AFTER_DAYS * day,
    )

"""The figures of a process in Prometheus' names, read when they are asked for."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from doortab.analytics.audit import REPAIRS, Audit
from doortab.ledger import Ledger
from doortab.producers.client import Client
from doortab.questions import answer
from doortab.schemas.log import Supervised

KEPT = 1000
"""So many looks at the end of the log are remembered, a partition."""


def page(collectors: list[Any]) -> PlainTextResponse:
    """All metrics as text."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class BuildCollector:
    """Which doortab this is."""

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        words = "Which doortab this is, and on what it runs; always 1"
        info = GaugeMetricFamily("doortab_build_info", words, labels=["version", "python"])
        info.add_metric([importlib.metadata.version("doortab"), platform.python_version()], 1)
        yield info


class LedgerCollector:
    """A ledger's figures."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting = Waiting()

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        told = answer(self._ledger, "status", {})
        events = CounterMetricFamily("doortab_events", "Usage events in the store, by outcome", labels=["outcome"])
        for outcome in ("billed", "not_billable", "duplicates", "rejected"):
            events.add_metric([outcome], int(told["control"][outcome]))
        yield events
        yield from self._lag(told)
        yield self._rejected()
        audit = self._ledger.audited
        unexplained = max(int(told["control"]["unexplained"]), audit.unexplained if audit is not None else 0)
        words = "Events that are not what the log says, at least; anything but 0 is an alarm"
        yield GaugeMetricFamily("doortab_unexplained_events", words, unexplained)
        if audit is not None:
            yield from audit_metrics(audit)
        yield GaugeMetricFamily("doortab_ledger_epoch", "How often the store was taken over", told["epoch"])
        commits = self._ledger.commits
        words = "How long a commit of the store takes"
        yield HistogramMetricFamily("doortab_store_commit_seconds", words, commits.buckets(), commits.total_seconds)
        if isinstance(self._ledger.log, Supervised):
            yield from log_metrics(self._ledger.log)

    def _lag(self, told: Mapping[str, Any]) -> Iterator[Metric]:
        lag = GaugeMetricFamily("doortab_lag_records", "Log records not in the store yet", labels=["partition"])
        words = "How long the oldest of them has been waiting, as far as earlier looks can tell"
        seconds = GaugeMetricFamily("doortab_lag_seconds", words, labels=["partition"])
        for partition, records in told["lag_records"].items():
            lag.add_metric([partition], records)
            end = told["positions"].get(partition, 0) + records
            seconds.add_metric([partition], self._waiting.seconds(partition, end - records, end, time.monotonic()))
        yield lag
        yield seconds

    def _rejected(self) -> Metric:
        words = "Records and events that were not taken, by reason; id_conflict: a known id with other content"
        rejected = CounterMetricFamily("doortab_rejected", words, labels=["reason"])
        for reason, count in self._ledger.reader()("SELECT reason, count(*) FROM rejected GROUP BY 1 ORDER BY 1"):
            rejected.add_metric([reason], count)
        return rejected


def log_metrics(log: Supervised) -> Iterator[Metric]:
    """How the clients of the ledger's log fare."""
    words = "Clients of the log that failed or fell silent, and were replaced"
    yield CounterMetricFamily("doortab_log_client_replaced", words, log.clients_replaced)
    yield GaugeMetricFamily("doortab_log_threads_leaked", "Threads of theirs that did not end", log.threads_leaked)


class Waiting:
    """Tells from earlier looks at the end of the log for how long records have been waiting."""

    def __init__(self) -> None:
        self._ends: dict[str, deque[tuple[int, float]]] = {}

    def seconds(self, partition: str, position: int, end: int, now: float) -> float:
        """How long the record at ``position`` has been there at least; 0 if it was not at the look before.

        >>> waiting = Waiting()
        >>> [waiting.seconds("0", 5, end, now) for end, now in ((9, 100.0), (9, 107.5))]
        [0.0, 7.5]
        >>> waiting.seconds("0", 9, 9, 110.0)
        0.0
        """
        ends = self._ends.setdefault(partition, deque(maxlen=KEPT))
        while ends and ends[0][0] <= position:
            ends.popleft()
        if end > position and (not ends or ends[-1][0] != end):
            ends.append((end, now))
        return now - ends[0][1] if ends else 0.0


def audit_metrics(audit: Audit) -> Iterator[Metric]:
    """What the last audit found, and when it was."""
    kinds: Counter[str] = Counter(finding.kind for finding in audit.findings)
    findings = GaugeMetricFamily("doortab_audit_findings", "What the last audit found, by kind", labels=["kind"])
    for kind in REPAIRS:
        findings.add_metric([kind], kinds[kind])
    yield findings
    yield GaugeMetricFamily("doortab_audit_time_seconds", "When the last audit was, since 1970", audit.at // 1_000_000)
    yield GaugeMetricFamily("doortab_audit_rows", "Rows of usage that it covered", audit.rows)


class ClientCollector:
    """What a client has recorded in this process, and what of it waits."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        client = self._client
        yield CounterMetricFamily("doortab_recorded_events", "Events recorded in this process", client.recorded)
        words = "Events that the log acknowledged, those of dead processes too"
        yield CounterMetricFamily("doortab_shipped_events", words, client.shipped)
        words = "Events that were refused because the spool was full"
        yield CounterMetricFamily("doortab_spool_refused_events", words, client.refused_full)
        words = "Events that were let pass without a record because the spool was full"
        yield CounterMetricFamily("doortab_unrecorded_events", words, client.unrecorded)
        yield GaugeMetricFamily("doortab_spool_bytes", "Bytes of events that wait for the log", client.spool_bytes)

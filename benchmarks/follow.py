"""The measured child: the real ledger, following a log into an empty store.

    python -m benchmarks.follow URL DIRECTORY --events N [--reports-at N,N]

Prints one JSON object: a mark (events, seconds, CPU seconds) before the first poll and after each commit,
reports at the fills that were asked for (their time is taken out of the marks), and the sums at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import load, measure
from doortab.analytics.report import report
from doortab.analytics.store import Store
from doortab.consumers.worker import Worker
from doortab.decoding import Adaptive
from doortab.log.open import open_log
from doortab.schemas.periods import parse_period
from doortab.schemas.tariff import Tariff

REPEATS = 3
HEADINGS = (["account"], ["account", "key"])
MONTH = parse_period("2023-11", "UTC", 0)


class Mark(NamedTuple):
    """Where the run stood after a commit."""

    events: int
    seconds: float
    cpu_seconds: float


class Watch:
    """A stop watch for time and CPU time, which can be held."""

    def __init__(self) -> None:
        self._held_seconds = 0.0
        self._held_cpu = 0.0

    def mark(self, events: int) -> Mark:
        """Where the run stands."""
        return Mark(events, time.perf_counter() - self._held_seconds, measure.cpu_seconds() - self._held_cpu)

    def held(self, work: Callable[[], Any]) -> Any:
        """Does something that does not count."""
        before = self.mark(0)
        result = work()
        after = self.mark(0)
        self._held_seconds += after.seconds - before.seconds
        self._held_cpu += after.cpu_seconds - before.cpu_seconds
        return result


def follow(url: str, directory: Path, events: int, reports_at: list[int]) -> dict[str, Any]:
    """Runs the ledger until it has committed so many events."""
    log = open_log(url)
    store = Store.open(directory / "ledger.duckdb")
    worker = Worker(log, store, source=lambda positions: Adaptive(log, url, positions))
    watch = Watch()
    marks = [watch.mark(0)]
    reports: dict[int, Any] = {}
    while worker.totals["events"] < events:
        before = worker.totals["events"]
        for _ in worker.turn(1.0):
            pass
        if worker.totals["events"] > before:
            marks.append(watch.mark(worker.totals["events"]))
        while reports_at and worker.totals["events"] >= reports_at[0]:
            reports[reports_at.pop(0)] = watch.held(lambda: _time_reports(store))
    peak = measure.peak_mb()
    total = _report(store, ["account"])
    worker.close()
    store.close()
    return {
        "marks": marks,
        "reports": reports,
        "total": total.total,
        "control": total.control.as_json(),
        "peak_mb": peak,
        "store_bytes": sum(file.stat().st_size for file in directory.iterdir()),
        "reopen": _time_reopening(url, directory),
    }


def _report(store: Store, by: list[str]) -> Any:
    cursor = store.cursor()
    return report(lambda query: cursor.execute(query).fetchall(), Tariff(load.priced()), MONTH, by)


def _time_reports(store: Store) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {",".join(by): [] for by in HEADINGS}
    for _ in range(REPEATS):
        for by in HEADINGS:
            began = time.perf_counter()
            _report(store, by)
            times[",".join(by)].append(time.perf_counter() - began)
    return times


def _time_reopening(url: str, directory: Path) -> float:
    log = open_log(url)
    began = time.perf_counter()
    store = Store.open(directory / "ledger.duckdb")
    worker = Worker(log, store)
    seconds = time.perf_counter() - began
    worker.close()
    store.close()
    log.close()
    return seconds


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.follow")
    parser.add_argument("url")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--reports-at", default="")
    asked = parser.parse_args()
    reports_at = sorted(int(word) for word in asked.reports_at.split(",") if word)
    print(json.dumps(follow(asked.url, asked.directory, asked.events, reports_at)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

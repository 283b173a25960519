"""How fast the ledger is, from the log to the committed store, and what a stored month costs to report.

    python -m benchmarks.ledger [--log file|kafka] [--events 1000000] [--stored 1000000,10000000]

An empty store follows a log that is full, in a process of its own. Printed are the rate over the first
``--events``, what an event costs at each fill of ``--stored`` (the ``WINDOW`` events that come next), the time
of reports there, and what it takes to open the store again. Figures only: the one thing that is checked is
that the sums are right. The file log is made once and kept in ``benchmarks/data``; 10,000,000 events are 4.5 GB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
from typing import Any

from benchmarks import broker, filling, measure

WINDOW = 400_000
Marks = list[list[float]]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", choices=["file", "kafka"], default="file")
    parser.add_argument("--events", type=int, default=1_000_000, help="how many the rate is taken over")
    parser.add_argument("--stored", default="1000000", help="fills at which an event's cost and reports are measured")
    asked = parser.parse_args()
    stored = sorted(int(word) for word in asked.stored.split(",") if word)
    events = max([asked.events, *(fill + WINDOW for fill in stored)])
    if asked.log == "file":
        url, sums = filling.file_log(events)
        show(run(url, events, stored), sums, asked.events, stored)
        return 0
    with broker.running() as running:
        url, sums = filling.kafka_log(running.address, f"ledger{events}.", events, filling.EVENTS_PER_RECORD)
        show(run(url, events, stored), sums, asked.events, stored)
    return 0


def run(url: str, events: int, stored: list[int]) -> dict[str, Any]:
    """What the child measured."""
    directory = filling.scratch("ledger")
    measure.say(f"following {url}")
    words = ["--events", str(events), "--reports-at", ",".join(map(str, stored))]
    spent = measure.run([sys.executable, "-m", "benchmarks.follow", url, str(directory), *words])
    shutil.rmtree(directory)
    return json.loads(spent.output)  # type: ignore[no-any-return]


def show(found: dict[str, Any], sums: dict[str, Any], events: int, stored: list[int]) -> None:
    """Prints the figures."""
    marks: Marks = found["marks"]
    rows = [_window(f"first {events:,}", marks, 0, events)]
    rows += [_window(f"{fill:,} stored, the next {WINDOW:,}", marks, fill, fill + WINDOW) for fill in stored]
    print(measure.show(["events", "events/s", "CPU µs per event", "longest turn, s"], rows))
    print()
    rows = [
        [f"{int(fill):,} stored, by {by}", f"{statistics.median(times):.2f}"]
        for fill, reports in found["reports"].items()
        for by, times in reports.items()
    ]
    if rows:
        print(measure.show(["one month's report", "s (median of 3)"], rows))
        print()
    right = found["total"]["amount"] == sums["amount"] and int(found["total"]["events"]) == sums["events"]
    print(f"sums {'right' if right else 'WRONG'}: {found['total']['events']} events, {found['total']['amount']} USD")
    print(f"not explained by the control equation: {found['control']['unexplained']}")
    print(f"peak memory {found['peak_mb']:,.0f} MB, store {found['store_bytes'] / 1e6:,.0f} MB", end="")
    print(f" ({found['store_bytes'] / marks[-1][0]:.0f} bytes an event), opened again in {found['reopen']:.1f} s")


def _window(name: str, marks: Marks, since: int, until: int) -> list[str]:
    """The figures between the commits nearest to two fills."""
    first = max((mark for mark in marks if mark[0] <= since), default=marks[0])
    last = min((mark for mark in marks if mark[0] >= until), default=marks[-1])
    inside = [mark for mark in marks if first[0] <= mark[0] <= last[0]]
    turns = [after[1] - before[1] for before, after in itertools.pairwise(inside)]
    events, seconds, cpu = (b - a for a, b in zip(first, last, strict=True))
    return [name, f"{events / seconds:,.0f}", f"{cpu / events * 1e6:.1f}", f"{max(turns):.2f}"]


if __name__ == "__main__":
    sys.exit(main())

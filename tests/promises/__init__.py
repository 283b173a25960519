"""What a run has shown of each promise: tests note figures, and ``docs/reliability.md`` is written from them.

A test says ``note("R1", kills=1, events=400, lost=0)``; with DOORTAB_TEST_FIGURES set, the line goes to a
file of that directory, one a process, and ``python -m tests.promises`` adds them up. Without it nothing is kept.
A test that is marked ``promises("R4")`` is counted for that promise by itself, with the examples of its law.

Figures are added, but for those whose name ends with a unit (``recovery_milliseconds``): of these the largest
counts. Those in ``ZERO`` must be nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

VARIABLE = "DOORTAB_TEST_FIGURES"

ZERO = (
    "lost",
    "doubled",
    "missed",
    "differences",
    "differing",
    "silent",
    "false_alarms",
    "exceeded",
    "accepted",
    "found_secrets",
    "unexplained",
    "stores_written_by_two",
)
"""Figures that must be nothing, and are shown when they are."""

UNITS = {
    "_microseconds": "µs",
    "_milliseconds": "ms",
    "_seconds": "s",
    "_mb": "MB",
    "_kb_a_minute": "kB/min",
    "_threads": "threads",
}
"""Ends of the names of figures of which the largest counts, and how they are written."""

Figures = dict[str, int]


def note(promise: str, **figures: int) -> None:
    """Adds figures to what the run shows of a promise (``R1`` to ``R23``)."""
    directory = os.environ.get(VARIABLE)
    if directory is None:
        return
    path = Path(directory) / f"{os.getpid()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"promise": promise, "figures": figures}) + "\n")


def noted(directory: Path) -> dict[str, Figures]:
    """The figures of every promise, over all processes of the run, and of all runs in the directories below."""
    found: dict[str, Figures] = {}
    for path in sorted(directory.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            figures = found.setdefault(row["promise"], {})
            for name, value in row["figures"].items():
                largest = name.endswith(tuple(UNITS))
                figures[name] = max(figures.get(name, 0), value) if largest else figures.get(name, 0) + value
    return found

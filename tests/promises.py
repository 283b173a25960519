"""What a run has shown of each promise: tests note figures, and ``docs/reliability.md`` is written from them.

A test says ``note("R1", kills=1, events=400, lost=0)``; with DOORTAB_TEST_FIGURES set, the line goes to a
file of that directory, one a process, and ``python -m tests.promises`` adds them up. Without it nothing is kept.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

VARIABLE = "DOORTAB_TEST_FIGURES"


def note(promise: str, **figures: int) -> None:
    """Adds figures to what the run shows of a promise (``R1`` to ``R23``)."""
    directory = os.environ.get(VARIABLE)
    if directory is None:
        return
    path = Path(directory) / f"{os.getpid()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"promise": promise, "figures": figures}) + "\n")


def noted(directory: Path) -> dict[str, Counter[str]]:
    """The figures of every promise, added up over all processes of the run."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["promise"], Counter()).update(row["figures"])
    return found

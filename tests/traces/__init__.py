"""Real usage traces, and the exact totals that they come to.

``trace.py`` and ``data`` are a copy of what other programs reckon with too; sources and licences stand in
``data/README.md``.
"""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doortab.schemas import money

HERE = Path(__file__).parent
TRACES = ("azconv", "ccsess", "apache1718", "apieventsa")
COUNTS = ("events", "allowed", "billable")
UNITS = ("input_tokens", "output_tokens", "bytes")


def write_events(trace: str, directory: Path, *, dirty: bool = False) -> Path:
    """Writes the trace's events as lines into the directory; ``dirty`` repeats some and delivers them out of order."""
    path = directory / f"{trace}{'.dirty' if dirty else ''}.ndjson"
    path.write_bytes(_run("events", trace, *(["--dirty"] if dirty else [])))
    return path


def write_catalog(trace: str, directory: Path) -> Path:
    """Writes the catalog that prices the trace."""
    path = directory / f"{trace}.toml"
    path.write_bytes(_run("catalog", trace))
    return path


def _run(*arguments: str) -> bytes:
    return subprocess.run([sys.executable, HERE / "trace.py", *arguments], capture_output=True, check=True).stdout


class Expected(NamedTuple):
    """What a trace comes to, by account, key and day, and which keys reach their cap."""

    figures: dict[tuple[str, str, str], tuple[int, ...]]
    capped_keys: set[str]

    def differences(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """How the rows of a report by account, key and day differ, one line each."""
        found = {(row["account"], row["key"], row["day"]): _figures(row) for row in rows}
        return [
            f"{place}: expected {self.figures.get(place)}, found {found.get(place)}"
            for place in sorted(self.figures.keys() | found.keys())
            if self.figures.get(place) != found.get(place)
        ]

    @property
    def total(self) -> tuple[int, ...]:
        """All figures added up."""
        return tuple(map(sum, zip(*self.figures.values(), strict=True)))


def total_of(row: Mapping[str, Any]) -> tuple[int, ...]:
    """The figures of a report's total."""
    return _figures(row)


def _figures(row: Mapping[str, Any]) -> tuple[int, ...]:
    counts = [int(row[name]) for name in COUNTS]
    return (*counts, *(int(row["units"].get(unit, 0)) for unit in UNITS), money.amount(row["amount"]))


def expected(trace: str) -> Expected:
    """The expected totals of the trace."""
    figures: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0] * 7)
    for row in _rows(f"{trace}.key_day.csv.gz"):
        group = figures[row["account_id"], row["key_id"], row["day"]]
        values = [*(int(row[name]) for name in (*COUNTS, *UNITS)), money.amount(row["amount_usd"])]
        group[:] = [old + new for old, new in zip(group, values, strict=True)]
    capped = {row["key_id"] for row in _rows(f"{trace}.caps.csv.gz")}
    return Expected({place: tuple(values) for place, values in figures.items()}, capped)


def _rows(name: str) -> list[dict[str, str]]:
    with gzip.open(HERE / "data" / "expected" / name, "rt", newline="") as file:
        return list(csv.DictReader(file))

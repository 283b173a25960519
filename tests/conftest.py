"""What all tests share: which need something that is not always there, how long laws are tried, long files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("schemas", "producers", "consumers", "analytics", "doortab", "doortab/log")
LONG_LINES = 300

# Marker, the variable that says that it may run, and the way to get there.
NEEDS = (
    ("kafka", "DOORTAB_TEST_KAFKA", "needs a real broker: make test-kafka"),
    ("soak", "DOORTAB_TEST_SOAK", "runs for minutes: DOORTAB_TEST_SOAK=1 make test"),
    ("reliability", "DOORTAB_TEST_RELIABILITY", "kills and faults for minutes: make reliability"),
)

# A law is tried on so many examples. A machine that is busy with something else is no bug, so no clock runs.
EXAMPLES = int(os.environ.get("DOORTAB_TEST_EXAMPLES", "100"))
settings.register_profile("doortab", max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("doortab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here, and says what would make it run."""
    for marker, variable, way in NEEDS:
        if os.environ.get(variable):
            continue
        skip = pytest.mark.skip(reason=way)
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(skip)


def vectors(stats: dict[str, list[pytest.TestReport]]) -> Iterator[str]:
    """How many vectors were checked, and how many wait for what, so that none is dropped in silence."""
    for file in ("rating", "meters"):
        of = f"tests/vectors/test_{file}.py::"
        outcomes = {
            kind: [r for r in stats.get(kind, []) if of in r.nodeid] for kind in ("passed", "failed", "skipped")
        }
        count = sum(map(len, outcomes.values()))
        if count:
            yield f"vectors: {file}: {len(outcomes['passed'])} of {count} agree, {len(outcomes['failed'])} do not"
        reasons = Counter(report.longrepr[2] for report in outcomes["skipped"] if isinstance(report.longrepr, tuple))
        for reason, waiting in sorted(reasons.items()):
            yield f"vectors: {file}: {reason.removeprefix('Skipped: ')}: {waiting}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts the vectors, and names modules that are getting long before tests/test_house.py refuses them."""
    for line in vectors(terminalreporter.stats):
        terminalreporter.write_line(line)
    lengths = {
        str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8").count("\n")
        for room in ROOMS
        for path in sorted((REPOSITORY / room).glob("*.py"))
    }
    for name, lines in lengths.items():
        if lines > LONG_LINES:
            terminalreporter.write_line(f"long: {name} has {lines} lines; most files fit in {LONG_LINES}")

"""What all tests share: which need something that is not always there, how long laws are tried, long files."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import promises
from tests.promises import session

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("schemas", "producers", "consumers", "analytics", "doortab", "doortab/log")
LONG_LINES = 300
BEGAN = time.monotonic()

# Marker, the variable that says that it may run, and the way to get there.
NEEDS = (
    ("kafka", "DOORTAB_TEST_KAFKA", "needs a real broker: make test-kafka"),
    ("soak", "DOORTAB_TEST_SOAK", "runs for as long as it is told: make soak"),
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Counts a test that passed for the promise that its marker names, with the examples of a law."""
    report = yield
    if report.when == "teardown" and report.passed and getattr(item, "passed", False):
        for name in {name for marker in item.iter_markers("promises") for name in marker.args}:
            # Only there if it is a law. Hypothesis says in words how many it tried.
            told = re.findall(r"(\d+) passing", getattr(item, "hypothesis_statistics", ""))
            promises.note(name, tests=1, **({"examples": sum(map(int, told))} if told else {}))
    elif report.when == "call":
        item.passed = report.passed  # type: ignore[attr-defined]
    return report


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
    if promises.VARIABLE in os.environ:
        counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
        session.write(Path(os.environ[promises.VARIABLE]), REPOSITORY, BEGAN, counts)
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

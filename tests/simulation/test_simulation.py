"""Histories in which everything goes wrong, at the end of which every event is billed once and every promise holds."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.promises import note
from tests.simulation.__main__ import base, recorded, repeat
from tests.simulation.history import run
from tests.simulation.oracle import BERLIN, DAY, begin, days

SLICE = 14
RELIABILITY_SECONDS = 240
RELIABILITY_SEEDS = 400
REPEATED_SEEDS = 20
PARTS = 4
"""So that all processes of a run have something to do."""

SEED = int(os.environ.get("DOORTAB_TEST_SEED", "0"))


def live_through(seed: int) -> str:
    """Runs a seed, and returns its trace; what fails says how it is repeated."""
    try:
        outcome = run(seed)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}\nrepeat it: {repeat(seed)}") from error
    note_all(outcome.figures)
    return outcome.trace


def note_all(figures: Counter[str]) -> None:
    """What a history shows of the promises: all its invariants held, so that the last figures are 0."""
    counts = {"simulated_kills": figures["kills"], "faults": figures["faults"], "events": figures["events"]}
    note("R1", seeds=1, **counts, lost=0, doubled=0)
    note("R2", seeds=1, rebuilt=figures["rebuilt"], differing=0)
    note("R3", seeds=1, decisions=figures["decisions"], exceeded=0)
    note("R4", seeds=1, rejected=figures["rejected"], lost=0)
    note("R8", seeds=figures["skewed"], clock_steps=figures["clock_steps"], differing=0)
    note("R10", seeds=1, duplicates=figures["duplicates"], doubled=0)
    note("R11", seeds=1, alerts=figures["alerts"], attempts=figures["attempts"], lost=0, doubled=0)
    note("R15", seeds=1, checks=figures["checks"], revocations=figures["revocations"], accepted=0)
    note("R16", seeds=1, secrets=figures["secrets"], found_secrets=0)


@pytest.mark.parametrize("seed", [*recorded(), *range(SEED, SEED + SLICE)])
def test_nothing_is_lost_and_nothing_billed_twice_whatever_fails(seed: int) -> None:
    live_through(seed)


@pytest.mark.reliability
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_and_nothing_billed_twice_in_minutes_of_new_histories(part: int) -> None:
    first, began, count = (SEED or base()) + part, time.monotonic(), 0
    print(f"every {PARTS}th seed from {first}")
    while count < RELIABILITY_SEEDS / PARTS or time.monotonic() - began < RELIABILITY_SECONDS / PARTS:
        seed = first + PARTS * count
        trace = live_through(seed)
        count += 1
        if count <= REPEATED_SEEDS / PARTS:
            assert live_through(seed) == trace, f"another trace: {repeat(seed)}"
            note("R23", repeated=1, differing=0)


@pytest.mark.promises("R23")
def test_a_seed_leaves_the_same_trace_in_every_process() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--trace", str(SEED + 7)]
    root = Path(__file__).parents[2]

    traces = {
        subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            timeout=100,
            env={**os.environ, "PYTHONHASHSEED": hashing},
        ).stdout
        for hashing in ("0", "1")
    }

    assert len(traces) == 1
    note("R23", repeated=1, differing=0)


def test_the_oracle_knows_the_calendar() -> None:
    assert days(1970, 1, 1) == 0
    assert days(2000, 3, 1) - days(2000, 2, 1) == 29
    assert begin("month", "UTC", days(2028, 2, 29) * DAY) == days(2028, 2, 1) * DAY
    # On 28 March 2027 Berlin's day began at 23:00 UTC, and was an hour shorter than others.
    noon = days(2027, 3, 28) * DAY + DAY // 2
    assert begin("day", BERLIN, noon) == days(2027, 3, 28) * DAY - DAY // 24
    assert begin("day", BERLIN, noon + DAY) == days(2027, 3, 29) * DAY - DAY // 12
    assert begin("week", "UTC", days(2027, 1, 1) * DAY) == days(2026, 12, 28) * DAY


def test_the_oracle_is_short_and_shares_nothing_with_the_product() -> None:
    source = (Path(__file__).parent / "oracle.py").read_text(encoding="utf-8")

    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }

    assert source.count("\n") <= 150
    # No calendar, no decimals: what the product reckons with, it might get wrong in the same way.
    assert imported == {"__future__", "collections", "collections.abc", "json", "typing"}
    assert "__import__" not in source

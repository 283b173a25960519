"""Histories in which everything goes wrong, at the end of which every event is billed once and every promise holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.promises import note
from tests.simulation.__main__ import base, recorded, repeat
from tests.simulation.history import run
from tests.simulation.oracle import BERLIN, DAY, begin, days

SLICE = 14
RELIABILITY_SECONDS = 300
RELIABILITY_SEEDS = 400
SEED = int(os.environ.get("DOORTAB_TEST_SEED", "0"))


def live_through(seed: int) -> None:
    """Runs a seed; what fails says how it is repeated."""
    try:
        figures = run(seed).figures
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}\nrepeat it: {repeat(seed)}") from error
    counts = {"simulated_kills": figures["kills"], "faults": figures["faults"], "events": figures["events"]}
    note("R1", seeds=1, **counts, lost=0, doubled=0)
    note("R3", seeds=1, decisions=figures["decisions"], exceeded=0)
    note("R10", seeds=1)
    note("R15", seeds=1, checks=figures["checks"], accepted=0)


@pytest.mark.parametrize("seed", [*recorded(), *range(SEED, SEED + SLICE)])
def test_nothing_is_lost_and_nothing_billed_twice_whatever_fails(seed: int) -> None:
    live_through(seed)


@pytest.mark.reliability
@pytest.mark.timeout(3600)
def test_nothing_is_lost_and_nothing_billed_twice_in_five_minutes_of_new_histories() -> None:
    first, began, count = SEED or base(), time.monotonic(), 0
    print(f"seeds from {first}")
    while count < RELIABILITY_SEEDS or time.monotonic() - began < RELIABILITY_SECONDS:
        live_through(first + count)
        count += 1


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

    assert source.count("\n") <= 150
    assert "doortab" not in source

"""SIGKILL at random moments: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.traces import expected, write_catalog, write_events

KILLS = int(os.environ.get("DOORTAB_TEST_KILLS", "50"))
SEED = int(os.environ.get("DOORTAB_TEST_SEED", "1"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("trace", ["azconv"])
def test_totals_are_exact_after_fifty_kills_of_ledger_and_ingest(trace: str, tmp_path: Path) -> None:
    check(trace, tmp_path, None)


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_totals_are_exact_after_fifty_kills_on_kafka(tmp_path: Path) -> None:
    broker = os.environ["DOORTAB_TEST_KAFKA"]

    check("azconv", tmp_path, f"kafka://{broker}/kills-{os.getpid()}-")


def check(trace: str, directory: Path, log: str | None) -> None:
    events, catalog = write_events(trace, directory, dirty=True), write_catalog(trace, directory)
    command = [sys.executable, "-m", "tests.crashes.killing", "--data", str(directory / "data")]
    command += ["--events", str(events), "--catalog", str(catalog), "--kills", str(KILLS), "--seed", str(SEED)]
    command += ["--log", log] if log else []

    done = subprocess.run(command, capture_output=True, check=False)

    again = f"DOORTAB_TEST_SEED={SEED} DOORTAB_TEST_KILLS={KILLS} make test ARGS='tests/crashes/test_kills.py'"
    assert done.returncode == 0, f"{done.stderr.decode()}\nrepeat it with: {again}"
    told = json.loads(done.stdout)
    assert sum(told["killed"].values()) >= KILLS
    assert told["report"]["control"]["unexplained"] == "0"
    assert expected(trace).differences(told["report"]["rows"]) == [], f"repeat it with: {again}"
    assert {name.removeprefix("key:") for name in told["reached"]} == expected(trace).capped_keys

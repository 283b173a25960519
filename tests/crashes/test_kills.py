"""SIGKILL at random moments: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.promises import note
from tests.traces import expected, write_catalog, write_events

KILLS = int(os.environ.get("DOORTAB_TEST_KILLS", "40"))
SEED = int(os.environ.get("DOORTAB_TEST_SEED") or int.from_bytes(os.urandom(3), "big"))
KINDS = {"flow": ("ledger", "ingest", "service", "gate"), "care": ("ledger", "rebuild", "desk")}


def killed(directory: Path, trial: str, kills: int) -> None:
    """Kills so many processes of a trial at random moments, and notes what was lost and doubled: nothing."""
    command = [sys.executable, "-m", "tests.crashes.everyone", "--trial", trial]
    command += ["--kills", str(kills), "--seed", str(SEED), "--directory"]
    done = subprocess.run([*command, str(directory)], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    again = " ".join(["python", *command[1:], "$(mktemp -d)"])
    assert done.returncode == 0, f"{done.stderr[-4000:]}\nrepeat it with: {again}"
    told = json.loads(done.stdout)
    print(f"seed={SEED} {told}")
    assert told["wrong"] == [], "\n".join([*told["wrong"], done.stderr[-4000:], f"repeat it with: {again}"])
    assert (told["lost"], told["doubled"]) == (0, 0)
    assert sum(told["killed"].values()) >= kills
    note("R1", lost=0, doubled=0, acknowledged=told.get("acknowledged", 0), kills=sum(told["killed"].values()))
    note("R1", **{f"kills_{kind}": told["killed"].get(kind, 0) for kind in KINDS[trial]})
    if trial == "care":
        note("R14", refused=told["done"]["refused"], stores_written_by_two=0)


@pytest.mark.promises("R1")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("trial", "kills"), [("flow", 12), ("care", 6)])
def test_whoever_is_killed_nothing_acknowledged_is_lost_and_nothing_doubled(
    trial: str, kills: int, tmp_path: Path
) -> None:
    killed(tmp_path, trial, kills)


@pytest.mark.reliability
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("trial", "kills"), [("flow", 640), ("care", 160)])
def test_hundreds_of_kills_lose_nothing_acknowledged_and_double_nothing(trial: str, kills: int, tmp_path: Path) -> None:
    killed(tmp_path, trial, kills)


@pytest.mark.reliability
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trace", ["azconv"])
def test_the_totals_of_a_real_trace_are_exact_after_kills_of_ledger_and_ingest(trace: str, tmp_path: Path) -> None:
    check(trace, tmp_path, None)


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_the_totals_of_a_real_trace_are_exact_after_kills_on_kafka(tmp_path: Path) -> None:
    broker = os.environ["DOORTAB_TEST_KAFKA"]

    check("azconv", tmp_path, f"kafka://{broker}/kills-{os.getpid()}-")


def check(trace: str, directory: Path, log: str | None) -> None:
    events, catalog = write_events(trace, directory, dirty=True), write_catalog(trace, directory)
    command = [sys.executable, "-m", "tests.crashes.killing", "--data", str(directory / "data")]
    command += ["--events", str(events), "--catalog", str(catalog), "--kills", str(KILLS), "--seed", str(SEED)]
    command += ["--log", log] if log else []

    done = subprocess.run(command, capture_output=True, check=False)

    again = f"DOORTAB_TEST_SEED={SEED} DOORTAB_TEST_KILLS={KILLS} make reliability ARGS=tests/crashes/test_kills.py"
    assert done.returncode == 0, f"{done.stderr.decode()}\nrepeat it with: {again}"
    told = json.loads(done.stdout)
    assert sum(told["killed"].values()) >= KILLS
    assert told["report"]["control"]["unexplained"] == "0"
    assert expected(trace).differences(told["report"]["rows"]) == [], f"repeat it with: {again}"
    assert {name.removeprefix("key:") for name in told["reached"]} == expected(trace).capped_keys
    note("R1", kills=sum(told["killed"].values()), lost=0, doubled=0)
    note("R1", **{f"kills_{kind}": count for kind, count in told["killed"].items()})

"""Killed at every single call that changes the disk, or let down by the disk there: nothing lost, nothing twice.

By default a few calls of each workload; with DOORTAB_TEST_RELIABILITY every one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.promises import note

SEED = int(os.environ.get("DOORTAB_TEST_SEED") or int.from_bytes(os.urandom(3), "big"))
ALL = 0
DISKS = ("error=ENOSPC", "error=EIO")


def hit(directory: Path, workload: str, points: int, *words: str) -> dict[str, Any]:
    """Hits the workload at so many of its calls, in a program of its own."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = [sys.executable, "-m", "tests.crashes.disk_calls", "--workload", workload, "--seed", str(SEED), *words]
    again = " ".join(["python", *command[1:], "--directory", "$(mktemp -d)", "--points", str(points)])
    command += ["--directory", str(directory), "--points", str(points)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if "PermissionError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, f"{done.stderr}\nrepeat it with: {again}"
    told: dict[str, Any] = json.loads(done.stdout)
    print(f"seed={SEED} points={told['taken']} of {told['points']} calls={told['calls']}")
    assert told["wrong"] == [], "\n".join([*told["wrong"], done.stderr[-4000:], f"repeat it with: {again}"])
    # Threads may take turns otherwise than in the run that was counted, and then a call is made once less.
    assert told["hits"] >= 0.8 * told["taken"]
    return told


@pytest.mark.promises("R1b")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("workload", "points"), [("steady", 4), ("checkpoint", 4), ("service", 4)])
def test_killed_at_some_calls_nothing_is_lost_and_nothing_doubled(tmp_path: Path, workload: str, points: int) -> None:
    hit(tmp_path, workload, points)


@pytest.mark.reliability
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workload", ["creation", "steady", "checkpoint", "migration", "rebuild", "log", "service"])
def test_killed_at_every_single_call_nothing_is_lost_and_nothing_doubled(tmp_path: Path, workload: str) -> None:
    told = hit(tmp_path, workload, ALL)

    assert told["taken"] == told["points"]
    note("R1b", points=told["taken"], hits=told["hits"], workloads=1, lost=0, doubled=0)


@pytest.mark.promises("R5")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("workload", "fault"), [("checkpoint", "error=ENOSPC"), ("service", "error=EIO")])
def test_a_disk_that_fails_once_or_for_good_costs_nothing_acknowledged(
    tmp_path: Path, workload: str, fault: str
) -> None:
    hit(tmp_path, workload, 3, "--fault", fault, "--persists")


@pytest.mark.reliability
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", DISKS)
@pytest.mark.parametrize("workload", ["creation", "steady", "checkpoint", "migration", "log", "service"])
@pytest.mark.parametrize("persists", [False, True])
def test_a_disk_that_fails_anywhere_costs_nothing_acknowledged(
    tmp_path: Path, workload: str, fault: str, persists: bool
) -> None:
    told = hit(tmp_path, workload, 8, "--fault", fault, *(["--persists"] if persists else []))

    note("R5", faults=told["hits"], lost=0)

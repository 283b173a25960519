"""The file log, killed or let down by its disk at every single call that changes something there."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from doortab.log.open import open_log
from tests.conftest import REPOSITORY
from tests.log.conftest import FIRST, SECOND
from tests.log.test_contract import numbered, read_log
from tests.promises import note

CALLS = ("pwrite64", "fdatasync", "ftruncate", "unlink", "fsync", "mkdir")
FAULTS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
# All of them take minutes (0 asks for them); each run takes others, and the seed is printed.
POINTS = int(os.environ.get("DOORTAB_TEST_POINTS", "10"))

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(1800)]


def run(directory: Path, *strace: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tests.log.crashing", str(directory)]
    command = ["strace", "-f", "-qq", "-o", str(directory) + ".trace", *strace, *program]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@cache
def calls_of_a_whole_run() -> dict[str, int]:
    """How often each call happens when nothing fails. Skips where processes may not be traced."""
    directory = Path(f"/tmp/doortab-crashing-{os.getpid()}")
    try:
        if shutil.which("strace") is None:
            pytest.skip("strace is not installed")
        done = run(directory, "-e", f"trace={','.join(CALLS)}")
        if "Operation not permitted" in done.stderr:
            pytest.skip(f"processes may not be traced here: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stderr
        trace = Path(f"{directory}.trace").read_text()
        return {call: len(re.findall(rf"^\d+ +{call}\(", trace, re.MULTILINE)) for call in CALLS}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        Path(f"{directory}.trace").unlink(missing_ok=True)


def points(fault: str) -> Iterator[tuple[str, int]]:
    for call, count in calls_of_a_whole_run().items():
        yield from ((call, number) for number in range(1, count + 1))


def check(directory: Path, fault: str, point: tuple[str, int]) -> str:
    """Runs with the fault at that point; returns what is wrong afterwards, nothing if all is well."""
    call, number = point
    done = run(directory, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={number}")
    acknowledged = {int(word) for word in done.stdout.split()}
    if fault.startswith("error") and done.returncode:
        return f"{fault} at {call} {number}: ended with {done.returncode}: {done.stderr}"
    log = open_log(f"file:{directory}")
    try:
        ends = log.end_offsets("plain")
        records = read_log(log, {FIRST: 0, SECOND: 0}, sum(ends.values())) if ends else []
        found = [int((record.value or b"").split(b":")[0]) for record in records]
        if not acknowledged <= set(found):
            return f"{fault} at {call} {number}: lost {sorted(acknowledged - set(found))}"
        if fault == "signal=SIGKILL" and len(found) != len(set(found)):
            return f"{fault} at {call} {number}: doubled {found}"
        if ends:
            log.append("plain", numbered(999, 1))
    finally:
        log.close()
    with sqlite3.connect(directory / "log.sqlite3") as raw:
        (verdict,) = raw.execute("PRAGMA integrity_check").fetchone()
    raw.close()
    shutil.rmtree(directory)
    return "" if verdict == "ok" else f"{fault} at {call} {number}: {verdict}"


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_acknowledged_is_lost_whichever_disk_call_is_hit(tmp_path: Path, fault: str) -> None:
    chosen = list(points(fault))
    seed = random.SystemRandom().randrange(10**9)
    if POINTS:
        chosen = random.Random(seed).sample(chosen, POINTS)

    with ThreadPoolExecutor(2) as pool:
        wrong = [
            verdict
            for verdict in pool.map(lambda point: check(tmp_path / f"{point[0]}{point[1]}", fault, point), chosen)
            if verdict
        ]

    print(f"seed={seed} points={len(chosen)} of {sum(calls_of_a_whole_run().values())}")
    assert wrong == [], f"seed={seed}"
    if fault == "signal=SIGKILL":
        note("R1b", points=len(chosen), lost=0, doubled=0)
    else:
        note("R5", faults=len(chosen), lost=0)

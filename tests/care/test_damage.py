"""Whatever happens to the store's files, the doctor tells it and what he prescribes mends it, or it is harmless.

By default a few cases of each kind; with DOORTAB_TEST_RELIABILITY a hundred bits of the file, eighty of its WAL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.promises import note

SEED = int(os.environ.get("DOORTAB_TEST_SEED") or int.from_bytes(os.urandom(3), "big"))


def damage(directory: Path, kind: str, cases: int, seed: int) -> dict[str, Any]:
    """Damages and mends so many times, in a program of its own."""
    command = [sys.executable, "-m", "tests.care.damaging", "--kind", kind, "--cases", str(cases), "--seed", str(seed)]
    again = " ".join(["python", *command[1:], "--directory", "$(mktemp -d)"])
    command += ["--directory", str(directory)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\nrepeat it with: {again}"
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["wrong"] == [], "\n".join([*told["wrong"], f"repeat it with: {again}"])
    return told["outcomes"]  # type: ignore[no-any-return]


def show(directory: Path, kind: str, cases: int, seed: int) -> None:
    outcomes = damage(directory, kind, cases, seed)
    found, harmless = outcomes.get("found", 0), outcomes.get("harmless", 0)
    assert found + harmless == cases
    assert found or cases < 10, "damage that is always harmless is none"
    note("R13", **{f"damages_{kind}": cases}, found_and_mended=found, harmless=harmless, silent=0)


@pytest.mark.promises
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "cases"), [("file", 3), ("wal", 3), ("places", 4)])
def test_a_damaged_store_is_told_and_mended_or_it_is_harmless(tmp_path: Path, kind: str, cases: int) -> None:
    show(tmp_path, kind, cases, SEED)


@pytest.mark.reliability
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(("kind", "cases"), [("file", 25), ("wal", 20), ("cuts", 10), ("places", 3)])
def test_a_store_that_is_damaged_anywhere_is_told_and_mended(tmp_path: Path, kind: str, cases: int, part: int) -> None:
    show(tmp_path, kind, cases, SEED + part)

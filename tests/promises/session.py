"""What a run was: which commit, when, on what machine, how many tests. Kept beside its figures."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

FILE = "session.json"


def commit(repository: Path) -> str:
    """The commit that is checked out; a plus says that something was changed since."""

    def git(*words: str) -> str:
        command = ["git", "-c", "safe.directory=*", "-C", str(repository), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    # The page that a run writes is no change to what was run.
    changed = [line for line in git("status", "--porcelain").splitlines() if not line.endswith("docs/reliability.md")]
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """In a line: cores, memory, system, versions."""
    try:
        model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        f"{len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count()} cores",
        model[1] if model else platform.machine(),
        f"{memory:.0f} GiB",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"DuckDB {duckdb.__version__}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    return ", ".join(parts)


def write(directory: Path, repository: Path, began: float, counts: Mapping[str, int]) -> None:
    """Notes the run that ends now; it began at ``began`` of the monotonic clock."""
    directory.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {
        "commit": commit(repository),
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "machine": machine(),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "load": round(os.getloadavg()[0], 1),
        "tests": dict(counts),
    }
    (directory / FILE).write_text(json.dumps(told, indent=2) + "\n")


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """The runs that lie in a directory and below, by the name of theirs."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(directory.rglob(FILE))}

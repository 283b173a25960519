"""Measuring: what a process used, and children that are measured from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


class Spent(NamedTuple):
    """What a child used from its start to its end, and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    output: str


class Failed(Exception):
    """A child ended with an error; what it said stands above."""


def run(command: Sequence[str], *, variables: dict[str, str] | None = None) -> Spent:
    """Runs a program to its end; it and all its threads are counted, its standard error is shown.

    Raises:
        Failed: it ended with an error.
    """
    started = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=dict(os.environ) | (variables or {}), text=True
    )
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if child.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {child.returncode}; it printed: {output[-2000:]}")
    return Spent(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, output)


def cpu_seconds_of(process: int) -> float:
    """What a running process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_seconds() -> float:
    """What this process has used so far, with its threads and its children, those that run and those that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) + sum(map(cpu_seconds_of, _children()))


def peak_mb() -> float:
    """The most memory that this process has had, and each of the children that run, added up."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + sum(map(_peak_mb_of, _children()))


def _children() -> list[int]:
    """The children of this process that run."""
    return [int(child) for task in Path("/proc/self/task").iterdir() for child in _words(task / "children")]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except FileNotFoundError:  # the thread has ended meanwhile, and no child of it is forgotten: another has it now
        return []


def _peak_mb_of(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown, every column as wide as it needs; the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    lines = [
        "| "
        + " | ".join(
            f"{cell:{'<' if i == 0 else '>'}{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in [columns, *rows]
    ]
    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def say(words: str) -> None:
    """Tells people what goes on; figures go to standard output."""
    print(words, file=sys.stderr, flush=True)

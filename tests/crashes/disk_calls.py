"""Kills a workload at every single call that changes the disk, or lets the disk fail there.

    python -m tests.crashes.disk_calls --directory DIR --workload steady [--fault error=ENOSPC] [--points 15]

Counts the calls of an undisturbed run first; then, for each kind of call and each N, runs again with strace
injecting the fault at the Nth one of them, and checks. ``--points`` takes so many, evenly spread with a random
start. Prints JSON: how many points there are, how many were taken, what hit nothing, and what is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.crashes.forks import HUNG, traced
from tests.crashes.workloads import CLEAR, KILLED, WORKLOADS, Workload, in_words

CALLS = ("write", "pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "link", "unlink", "mkdir", "rmdir")
KILL = "signal=SIGKILL"
NAMES = {"link": "link,linkat", "unlink": "unlink,unlinkat", "rename": "rename,renameat,renameat2"}
Point = tuple[str, int]


def selector(call: str) -> str:
    """The names that a call goes by; some machines lack some of them."""
    return ",".join(f"?{name}" for name in NAMES.get(call, call).split(","))


def count_calls(workload: Workload, template: Path, directory: Path) -> dict[str, int]:
    """How often an undisturbed run makes each call, in the thread that makes it most often."""
    fresh(template, directory)
    output = directory.with_suffix(".trace")
    words = ["-e", "trace=" + ",".join(selector(call) for call in CALLS)]
    status = traced(lambda: workload.run(directory), words, output)
    if status != 0:
        sys.exit(f"the undisturbed run of {workload.name} ended with {status}")
    by_thread = Counter(re.findall(r"^(\d+) +(\w+)\(", output.read_text(), re.MULTILINE))
    counts: dict[str, int] = {}
    for call in CALLS:
        threads: Counter[str] = Counter()
        for (thread, name), number in by_thread.items():
            threads[thread] += number if name in NAMES.get(call, call).split(",") else 0
        counts[call] = max(threads.values(), default=0)
    return counts


def fresh(template: Path, directory: Path) -> None:
    """The workload's directory as it is before."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(template, directory)


def check(
    workload: Workload, template: Path, directory: Path, fault: str, persists: bool, point: Point
) -> tuple[bool, str]:
    """Whether the fault hit, and what is wrong afterwards."""
    call, number = point
    fresh(template, directory)
    when = f"{number}+" if persists else str(number)
    words = ["-e", f"trace={selector(call)}", "-e", f"inject={selector(call)}:{fault}:when={when}"]
    output = directory.with_suffix(".trace")
    status = traced(lambda: in_words(lambda: workload.run(directory)), words, output)
    hit = status == -signal.SIGKILL if fault == KILL else "INJECTED" in output.read_text()
    if status == -signal.SIGKILL:
        (directory / KILLED).touch()
    wrong = workload.check(directory, template)
    if status not in (0, -signal.SIGKILL if fault == KILL else CLEAR):
        wrong = f"never ended; {wrong}" if status == HUNG else f"ended with {status}; {wrong}"
    return hit, f"{workload.name}, {fault} at {call} {when}: {wrong}" if wrong else ""


def chosen(points: list[Point], wanted: int, chance: random.Random) -> list[Point]:
    """So many of them, evenly spread, from a random start; 0 takes all."""
    if not wanted or wanted >= len(points):
        return points
    step = len(points) / wanted
    start = chance.random() * step
    return [points[int(start + step * number)] for number in range(wanted)]


def main() -> None:
    """Runs the points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--workload", required=True, choices=WORKLOADS)
    parser.add_argument("--fault", default=KILL)
    parser.add_argument("--persists", action="store_true", help="the disk fails from that call on")
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at", help="just one point, such as pwrite64:7")
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    template, directory = options.directory / "template", options.directory / "run"
    workload.prepare(template)
    counts = count_calls(workload, template, directory)
    points = [(call, number) for call, count in counts.items() for number in range(1, count + 1)]
    taken = chosen(points, options.points, random.Random(options.seed))
    if options.at:
        call, _, number = options.at.partition(":")
        taken = [(call, int(number))]
    hits, wrong = 0, []
    for point in taken:
        hit, words = False, ""
        for _ in range(3):  # threads may take turns otherwise than when calls were counted; then it is tried again
            hit, words = check(workload, template, directory, options.fault, options.persists, point)
            if hit or words:
                break
        hits += hit
        wrong += [words] if words else []
    print(json.dumps({"calls": counts, "points": len(points), "taken": len(taken), "hits": hits, "wrong": wrong}))


if __name__ == "__main__":
    main()

"""Kills every kind of process with SIGKILL at random moments, all of them at once, and counts afterwards.

    python -m tests.crashes.everyone --directory DIR --trial flow --kills 40 [--seed 1]

``flow`` is what moves events: a ledger, an ingest, a service that embeds a gate, a gate over HTTP with somebody who
sends to it. ``care`` is what keeps things: ``doortab ledger``, rebuilds that are promoted, the desk's commands, and
a rival that wants the store while its owner is stopped. Whoever is told that something is safe notes it in a file
of its own, in one write. Everything is imported once and each process is a fork. Prints what was killed how often,
how much was acknowledged, lost and doubled, and what is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crashes import caring, flowing
from tests.crashes.forks import HUNG, forked, reap, told
from tests.crashes.workloads import CLEAR

TRIALS = {"flow": flowing.TRIAL, "care": caring.TRIAL}
LIVES = 2.0
SHORTEST_SECONDS = 0.1
YOUNG_SECONDS = 0.3
LONGEST_SECONDS = 400.0
TRY_AGAIN = 75
MAY_END = (0, CLEAR, TRY_AGAIN)
"""How a process may end that nobody killed: it is through, or was refused in words because of one that was killed."""


class Life:
    """One process that is started again and again.

    The first one lives until it has done something, and so long, give or take, half of the others live: they come
    to work, and die at it, however slow the machine is. The other half dies young.
    """

    def __init__(self, work: Callable[[], None], sign: Path | None) -> None:
        self.work = work
        self.sign = sign
        """What is there once it has done something; None for one that is not to be killed."""
        self.process = 0
        self._began = 0.0
        self._ends = math.inf
        self.takes = 0.0

    def begin(self, chance: random.Random) -> None:
        """Starts it."""
        self.process, self._began = forked(self.work), time.monotonic()
        longest = chance.choice([min(self.takes, YOUNG_SECONDS), LIVES * self.takes])
        self._ends = self._began + chance.uniform(0, longest) if self.takes else math.inf

    def doom(self, slowest: float, chance: random.Random) -> None:
        """The first one dies soon after all have done something. Nobody lives much shorter than the slowest."""
        if self.takes:
            self.takes = max(self.takes, slowest / 2)
            self._ends = time.monotonic() + chance.uniform(0, self.takes)

    def is_warm(self) -> bool:
        """Whether it has done something, and is known to take so long for it."""
        if not self.takes and self.sign is not None and self.sign.exists():
            self.takes = max(SHORTEST_SECONDS, time.monotonic() - self._began)
        return bool(self.takes) or self.sign is None

    def is_due(self) -> bool:
        """Whether it has lived long enough."""
        return time.monotonic() >= self._ends

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def live(lives: dict[str, Life], kills: int, chance: random.Random) -> tuple[Counter[str], list[str]]:
    """Lets them live and kills them, until so many were killed. Returns how often each was, and what went wrong."""
    killed: Counter[str] = Counter()
    wrong: list[str] = []
    for life in lives.values():
        life.begin(chance)
    cold, deadline = set(lives), time.monotonic() + LONGEST_SECONDS
    while sum(killed.values()) < kills and not wrong:
        time.sleep(0.005)
        if time.monotonic() > deadline:
            wrong.append(f"after {LONGEST_SECONDS:g} s {sum(killed.values())} were killed; {cold} had done nothing")
        if cold and not (cold := {name for name, life in lives.items() if not life.is_warm()}):
            slowest = max(life.takes for life in lives.values())
            for life in lives.values():
                life.doom(slowest, chance)
        for name, life in lives.items():
            if life.is_due():
                os.kill(life.process, signal.SIGKILL)
            elif not life.has_ended():
                continue
            status = reap(life.process)
            killed[name] += status == -signal.SIGKILL
            if status not in (*MAY_END, -signal.SIGKILL):
                wrong.append(f"{name} ended by itself with {status}")
            life.begin(chance)
    for life in lives.values():
        os.kill(life.process, signal.SIGCONT)
        os.kill(life.process, signal.SIGKILL)
        reap(life.process)
    return killed, wrong


def main() -> None:
    """Runs the trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--trial", required=True, choices=TRIALS)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    trial, directory = TRIALS[options.trial], options.directory
    os.setpgid(0, 0)  # whoever stops others knows by it who is one of us
    directory.mkdir(parents=True, exist_ok=True)
    if reap(forked(lambda: trial.prepare(directory))) in (HUNG, 1):
        sys.exit("could not prepare")
    lives = {
        name: Life(bound(work, directory), directory / sign if sign else None)
        for name, (work, sign) in trial.works.items()
    }
    killed, wrong = live(lives, options.kills, random.Random(options.seed))
    found: dict[str, Any] = {}
    said = told(lambda: json.dumps(trial.check(directory)), 600)
    try:
        found = json.loads(said)
    except ValueError:
        wrong.append(f"the check: {said}")
    print(json.dumps({"killed": killed, "wrong": wrong + found.pop("wrong", []), **found}))


def bound(work: Callable[[Path], None], directory: Path) -> Callable[[], None]:
    """The work there."""
    return lambda: work(directory)


if __name__ == "__main__":
    main()

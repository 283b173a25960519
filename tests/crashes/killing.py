"""Ingests a trace while the ledger and the ingesting process are killed with SIGKILL at random moments.

    python -m tests.crashes.killing --data DIR --trace NAME --kills 50 --seed 1 [--log URL]

Everything is imported once and each process is a fork, so that a kill costs milliseconds and most of
them land in the middle of work. Prints the report as JSON, with how often each kind was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from doortab.applying import publish
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.packing import Packer, events_in
from doortab.questions import answer
from doortab.schemas import catalog, topics
from doortab.settings import Settings, load


def ingest(settings: Settings, events: str) -> None:
    """Appends the whole trace to the log."""
    log = open_log(settings.log_url)
    packer = Packer(log)
    for raw in events_in(events):
        packer.add(raw)
    packer.flush()
    log.close()


def run_ledger(settings: Settings) -> None:
    """Follows the log until it is killed. Small batches, so that there are many moments to die at."""
    ledger = Ledger(settings)
    while True:
        ledger.turn(0.05)


def forked(work: Callable[[], None]) -> int:
    """Runs the work in a child process and returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def reap(process: int) -> int:
    """Waits for the process; its exit status, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """Runs the trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--log")
    parser.add_argument("--events", required=True)
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    settings = load({"data": options.data, "log": options.log, "batch_records": 8}, {}).settings
    chance = random.Random(options.seed)
    prepare(settings, Path(options.catalog))
    killed = trial(settings, options, chance)
    finish = forked(lambda: ingest(settings, options.events))
    if reap(finish) != 0:
        sys.exit("the last ingest failed")
    ledger = Ledger(settings)
    ledger.catch_up()
    told = answer(ledger, "report", {"period": "2000..2099", "by": ["account", "key", "day"]})
    reached = [row["subject"] for row in answer(ledger, "caps", {"reached": True})["rows"]]
    ledger.close()
    print(json.dumps({"killed": killed, "report": told, "reached": reached}))


def prepare(settings: Settings, path: Path) -> None:
    """Makes the topics and publishes the catalog, in a process of its own: a log does not survive a fork."""

    def work() -> None:
        log = open_log(settings.log_url)
        log.ensure_topics(topics.topics(settings.usage_partitions))
        publish(log, catalog.parse(path.read_text()))
        log.close()

    if reap(forked(work)) != 0:
        sys.exit("could not prepare the log")


def trial(settings: Settings, options: argparse.Namespace, chance: random.Random) -> dict[str, int]:
    """Kills the two kinds of process in turn, as chance has it, and starts them again."""
    works = {"ingest": lambda: ingest(settings, options.events), "ledger": lambda: run_ledger(settings)}
    running = {name: forked(work) for name, work in works.items()}
    killed: Counter[str] = Counter()
    while sum(killed.values()) < options.kills:
        time.sleep(chance.uniform(0.01, 0.5))
        victims = chance.choice([["ingest"], ["ledger"], ["ledger"], ["ingest", "ledger"]])
        for name in victims:
            os.kill(running[name], signal.SIGKILL)
        for name in victims:
            status = reap(running[name])
            if status > 0 or (name == "ledger" and status == 0):
                sys.exit(f"{name} ended by itself with {status} (seed {options.seed})")
            killed[name] += status == -signal.SIGKILL
            running[name] = forked(works[name])
    for process in running.values():
        os.kill(process, signal.SIGKILL)
        reap(process)
    return dict(killed)


if __name__ == "__main__":
    main()

"""The same counting job done by doortab, Quix Streams and Kafka Streams, on one broker, one after the other.

    make bench-peers            (or: python -m benchmarks.peers [--events 1000000] [--rounds 3])

Needs Java 17 and Maven, and once the network: Quix Streams goes into ``.peers`` (a virtual environment of its
own), Kafka Streams through Maven into ``benchmarks/peers/kafka-streams/target``. ``README.md`` says what each
does and does not do. Figures only; what is checked is that everybody counted right.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaAdminClient

from benchmarks import broker, filling, measure
from tools.kafka import Broker

HERE = Path(__file__).resolve().parent
PEERS = measure.REPOSITORY / ".peers"
QUIX = ("quixstreams==3.28.1", "duckdb==1.5.5", "pyarrow==26.0.1")
STREAMS = HERE / "kafka-streams"
HEAP = ("-Xms256m", "-Xmx1g")


class Run(NamedTuple):
    """One contender's run."""

    events_per_second: float
    cpu_seconds: float
    broker_cpu_seconds: float
    peak_mb: float
    right: bool


class Contender(NamedTuple):
    """A name, and what runs it once; the argument tells its runs apart."""

    name: str
    run: Callable[[str], dict[str, Any]]


class Arena:
    """The broker with the load in it."""

    def __init__(self, running: Broker, events: int) -> None:
        self.broker = running
        self.events = events
        self.singles, self.sums = filling.kafka_log(running.address, f"single{events}.", events, 1)
        self.batches, again = filling.kafka_log(running.address, f"batch{events}.", events, filling.EVENTS_PER_RECORD)
        assert again == self.sums, "both forms hold the same events"
        self.topic = self.singles.rpartition("/")[2] + "usage"

    def contenders(self) -> list[Contender]:
        """Everybody, ours first."""
        return [
            Contender(f"doortab, {filling.EVENTS_PER_RECORD} events a record", lambda _: self._doortab(self.batches)),
            Contender("doortab, one event a record", lambda _: self._doortab(self.singles)),
            Contender("Quix Streams, DuckDB sink", lambda name: self._quix(name, ["--sink"])),
            Contender("Quix Streams, counts alone", lambda name: self._quix(name, [])),
            Contender("Kafka Streams, 1 thread", lambda name: self._streams(name, 1)),
            Contender("Kafka Streams, 2 threads", lambda name: self._streams(name, 2)),
        ]

    def measure(self, contender: Contender, number: int) -> Run:
        """Runs it once, alone."""
        measure.say(f"{contender.name}, round {number}")
        group = f"peer-{os.getpid()}-{time.monotonic_ns()}"  # a new one begins at the beginning
        pid = self.broker.pid()
        assert pid is not None
        before = measure.cpu_seconds_of(pid)
        found = contender.run(group)
        used = measure.cpu_seconds_of(pid) - before
        _forget(self.broker.address, group)
        right = all(str(found[name]) == str(self.sums[name]) for name in ("events", "input_tokens", "output_tokens"))
        right = right and found.get("amount", self.sums["amount"]) == self.sums["amount"]
        right = right and found.get("rows", self.events) == self.events
        return Run(self.events / found["seconds"], found["cpu_seconds"], used, found["peak_mb"], right)

    def _doortab(self, url: str) -> dict[str, Any]:
        directory = filling.scratch("peers")
        command = [sys.executable, "-m", "benchmarks.follow", url, str(directory), "--events", str(self.events)]
        spent = measure.run(command)
        found = json.loads(spent.output)
        first, last = found["marks"][0], found["marks"][-1]
        total = found["total"]
        return {
            "seconds": last[1] - first[1],
            "cpu_seconds": last[2],
            "peak_mb": found["peak_mb"],
            "events": total["events"],
            "input_tokens": total["units"]["input_tokens"],
            "output_tokens": total["units"]["output_tokens"],
            "amount": total["amount"],
            "rows": int(found["control"]["billed"]),
        }

    def _quix(self, group: str, words: list[str]) -> dict[str, Any]:
        directory = filling.scratch("peers")
        program = [str(PEERS / "quix/bin/python"), str(HERE / "counting.py")]
        about = [self.broker.address, self.topic, group, str(self.events), str(directory)]
        return _found(measure.run([*program, *about, *words]))

    def _streams(self, group: str, threads: int) -> dict[str, Any]:
        directory = filling.scratch("peers")
        libraries = f"{STREAMS}/target/classes:{STREAMS}/target/libs/*"
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
        command = ["java", *HEAP, quiet, "-cp", libraries, "Count"]
        return _found(measure.run([*command, self.broker.address, self.topic, group, str(threads), str(directory)]))


def _found(spent: measure.Spent) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(spent.output)
    return found | {"cpu_seconds": spent.cpu_seconds, "peak_mb": spent.peak_mb}


def _forget(address: str, group: str) -> None:
    """Deletes the internal topics of a peer that is done."""
    admin = KafkaAdminClient(bootstrap_servers=[address])
    try:
        internal = [topic for topic in admin.list_topics() if group in topic]
        if internal:
            admin.delete_topics(internal)
    finally:
        admin.close()


def prepare() -> None:
    """Fetches the peers, once."""
    if not (PEERS / "quix/ready").exists():
        measure.say(f"installing {QUIX[0]} into {PEERS}")
        shutil.rmtree(PEERS / "quix", ignore_errors=True)
        venv.create(PEERS / "quix", with_pip=True)
        pip = [str(PEERS / "quix/bin/python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        subprocess.run([*pip, "--quiet", *QUIX], check=True, stdout=sys.stderr)
        (PEERS / "quix/ready").touch()
    if not (STREAMS / "target/libs").exists():
        measure.say("building the Kafka Streams program with Maven")
        subprocess.run(["mvn", "-q", "-B", "-f", str(STREAMS / "pom.xml"), "package"], check=True, stdout=sys.stderr)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; the medians are shown")
    parser.add_argument("--only", default="", help="only contenders whose name holds this")
    asked = parser.parse_args()
    prepare()
    with broker.running() as running:
        arena = Arena(running, asked.events)
        contenders = [one for one in arena.contenders() if asked.only.lower() in one.name.lower()]
        # Round by round, so that what else goes on in the machine meets everybody.
        rounds = [[arena.measure(one, number) for one in contenders] for number in range(1, asked.rounds + 1)]
    runs = {one.name: list(column) for one, column in zip(contenders, zip(*rounds, strict=True), strict=True)}
    print(f"{asked.events:,} events, median of {asked.rounds}; broker and contender share this machine\n")
    print(measure.show(COLUMNS, [_row(name, column, runs) for name, column in runs.items()]))
    return 0 if all(run.right for column in runs.values() for run in column) else 1


COLUMNS = ("", "events/s", "ratio to the first", "CPU s", "broker CPU s", "peak MB", "counts")


def _row(name: str, column: list[Run], runs: dict[str, list[Run]]) -> list[str]:
    def median(of: Callable[[Run], float], among: list[Run]) -> float:
        return statistics.median(of(run) for run in among)

    rate = median(lambda run: run.events_per_second, column)
    first = median(lambda run: run.events_per_second, next(iter(runs.values())))
    return [
        name,
        f"{rate:,.0f}",
        f"{rate / first:.2f}",
        f"{median(lambda run: run.cpu_seconds, column):.1f}",
        f"{median(lambda run: run.broker_cpu_seconds, column):.1f}",
        f"{median(lambda run: run.peak_mb, column):,.0f}",
        "right" if all(run.right for run in column) else "WRONG",
    ]


if __name__ == "__main__":
    sys.exit(main())

"""How long from the request that reaches a cap until the gate refuses, at 1,000 requests a second.

    python -m benchmarks.refusal [--log file|kafka://host:port/PREFIX] [--rounds 40] [--rate 1000]

A ledger runs in a process of its own, as in production; gate and client run here. In every round one of
many keys has a cap of a few requests; what is measured is the time from the check of the request that
brings the counter to the cap until the first check that is refused.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.figures import percentiles
from doortab.applying import publish
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.producers.client import Client
from doortab.producers.desk import Desk
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.pepper import load_or_create
from doortab.schemas import catalog, topics
from doortab.settings import Settings, load

REQUESTS_TO_CAP = 40
PLAN = """
default_plan = "p"
[[meters]]
name = "requests"
event = "request.validated"
aggregation = "sum"
value = "units.requests"
[[plans]]
name = "p"
currency = "USD"
[[plans.charges]]
meter = "requests"
model = "per_unit"
unit = "0.01"
"""


def run_ledger(settings: Settings, stopping: object) -> None:
    """The ledger's process."""
    ledger = Ledger(settings)
    ledger.start()
    stopping.wait()  # type: ignore[attr-defined]
    ledger.stop()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", default="file")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rate", type=int, default=1000)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="doortab-refusal-"))
    url = "" if options.log == "file" else options.log
    settings = load({"data": str(directory), "log": url}, {}).settings
    try:
        took, after = measure(settings, options.rounds, options.rate)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    p50, p99 = percentiles(took)
    print(f"cap reached -> gate refuses, {options.rate} requests/s, log {options.log.split(':')[0]}, {len(took)} caps:")
    print(f"  p50 {p50 * 1000:.0f} ms   p99 {p99 * 1000:.0f} ms   max {max(took) * 1000:.0f} ms")
    print(f"  requests allowed after the cap was reached: median {sorted(after)[len(after) // 2]}, most {max(after)}")


def measure(settings: Settings, rounds: int, rate: int) -> tuple[list[float], list[int]]:
    """Seconds from cap to refusal, and requests that passed in between, one each round."""
    log = open_log(settings.log_url)
    log.ensure_topics(topics.topics(settings.usage_partitions))
    peppers = load_or_create(settings.pepper_path)
    desk = Desk(log, peppers, actor="benchmark")
    capped = [desk.issue(account=f"acct-{i}", owner="x", purpose="x") for i in range(rounds)]
    others = [desk.issue(account=f"other-{i}", owner="x", purpose="x") for i in range(50)]
    caps = "".join(
        f'[[caps]]\nsubject = "key:{key.key.key_id}"\nmeter = "requests"\nquantity = "{REQUESTS_TO_CAP}"\n'
        'period = "total"\nthresholds = []\n'
        for key in capped
    )
    publish(log, catalog.parse(PLAN + caps))
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    process = context.Process(target=run_ledger, args=(settings, stopping))
    process.start()
    keyring = Keyring()
    follower = Follower(keyring, lambda: open_log(settings.log_url))
    follower.start()
    follower.wait_until_ready(30)
    gate = Gate(keyring, peppers, view=follower)
    client = Client(lambda: open_log(settings.log_url), settings.data / "spool", source="gate/benchmark")
    time.sleep(3)
    try:
        return drive(gate, client, [k.secret.reveal() for k in capped], [k.secret.reveal() for k in others], rate)
    finally:
        client.close(10)
        follower.stop()
        stopping.set()
        process.join(20)
        log.close()


def drive(gate: Gate, client: Client, capped: list[str], others: list[str], rate: int) -> tuple[list[float], list[int]]:
    """Half of the requests come from the key that is about to be capped, half from all the others."""
    took: list[float] = []
    after: list[int] = []
    due = time.perf_counter()
    pause = threading.Event()
    for secret in capped:
        sent = passed = 0
        reached = 0.0
        number = 0
        while True:
            due += 1 / rate
            left = due - time.perf_counter()
            if left > 0:
                pause.wait(left)
            number += 1
            mine = number % 2 == 0
            verdict = gate.check(f"Bearer {secret if mine else others[number % len(others)]}")
            now = time.perf_counter()
            if mine and not verdict.allowed:
                took.append(now - reached)
                after.append(passed)
                break
            client.record(account=verdict.account, key=verdict.key_id, units={"requests": 1})
            if mine:
                sent += 1
                passed += sent > REQUESTS_TO_CAP
                if sent == REQUESTS_TO_CAP:
                    reached = now
    return took, after


if __name__ == "__main__":
    main()

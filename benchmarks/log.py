"""How fast the log is: appending and reading batches of events, and waking a reader in another process.

    python -m benchmarks.log [--kafka HOST:PORT] [--megabytes 400] [--directory DIR]

A record holds 200 events of 400 bytes. Rates are wall time of one process; the latency is from before the
append to after the poll, so it includes making the record durable. Nothing is decoded: see benchmarks of the
ledger for that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from doortab.log.open import open_log
from doortab.schemas.log import Entry, Log, TopicPartition
from doortab.schemas.topics import Topic

EVENTS_PER_RECORD = 200
EVENT_BYTES = 400
RECORDS_PER_APPEND = 64
PARTITIONS = 4
POLL_BYTES = 8 * 1024 * 1024
PINGS = 400
MB = 1_000_000
BULK = Topic("bulk", PARTITIONS)
PING = Topic("ping", 1)


def append_rate(log: Log, megabytes: int) -> tuple[int, float]:
    """Records appended, and the seconds that took."""
    values = [os.urandom(EVENTS_PER_RECORD * EVENT_BYTES) for _ in range(RECORDS_PER_APPEND)]
    entries = [Entry(number % PARTITIONS, b"acct_acme", value) for number, value in enumerate(values)]
    appends = max(1, megabytes * MB // (RECORDS_PER_APPEND * EVENTS_PER_RECORD * EVENT_BYTES))
    started = time.perf_counter()
    for _ in range(appends):
        log.append(BULK.name, entries)
    return appends * RECORDS_PER_APPEND, time.perf_counter() - started


def read_rate(log: Log, records: int) -> float:
    """Seconds to read them all."""
    reader = log.reader({TopicPartition(BULK.name, partition): 0 for partition in range(PARTITIONS)})
    started = time.perf_counter()
    while records > 0:
        records -= len(reader.poll(1000, POLL_BYTES, 10.0))
    seconds = time.perf_counter() - started
    reader.close()
    return seconds


def small_append_rate(log: Log) -> float:
    """Appends of one small record, one after the other, per second."""
    started = time.perf_counter()
    for _ in range(PINGS):
        log.append(BULK.name, [Entry(0, b"acct_acme", bytes(EVENT_BYTES))])
    return PINGS / (time.perf_counter() - started)


def latencies_ms(log: Log, url: str) -> list[float]:
    """From before an append in another process to after the poll in this one."""
    place = TopicPartition(PING.name, 0)
    reader = log.reader({place: log.end_offsets(PING.name)[0]})
    reader.poll(1, 1, 0.5)
    found: list[float] = []
    with subprocess.Popen([sys.executable, "-m", "benchmarks.log", "--ping", url]):
        while len(found) < PINGS:
            for record in reader.poll(100, POLL_BYTES, 10.0):
                found.append((time.time_ns() - int(record.value or b"0")) / 1e6)
    reader.close()
    return found


def ping(url: str) -> None:
    """The other process."""
    log = open_log(url)
    for _ in range(PINGS):
        time.sleep(0.01)
        log.append(PING.name, [Entry(0, None, b"%d" % time.time_ns())])
    log.close()


def idle_percent(log: Log, seconds: float = 5.0) -> float:
    """Of one core, for a reader that waits in vain."""
    reader = log.reader({TopicPartition(PING.name, 0): log.end_offsets(PING.name)[0]})
    reader.poll(1, 1, 0.5)
    started, spent = time.perf_counter(), time.process_time()
    reader.poll(1, 1, seconds)
    percent = 100 * (time.process_time() - spent) / (time.perf_counter() - started)
    reader.close()
    return percent


def report(url: str, megabytes: int) -> None:
    """Prints everything about one log."""
    log = open_log(url)
    log.ensure_topics([BULK, PING])
    records, append_seconds = append_rate(log, megabytes)
    rates = {"append": append_seconds, "read": read_rate(log, records)}
    print(url)
    for name, seconds in rates.items():
        size = records * EVENTS_PER_RECORD * EVENT_BYTES / MB
        print(f"  {name:<8}{size / seconds:>9,.0f} MB/s {records * EVENTS_PER_RECORD / seconds:>13,.0f} events/s")
    print(f"  {'small':<8}{small_append_rate(log):>9,.0f} appends/s of one event, one after the other")
    cuts = statistics.quantiles(latencies_ms(log, url), n=100)
    print(f"  {'wake':<8}{cuts[49]:>9.2f} ms p50 {cuts[98]:>12.2f} ms p99, append to poll, other process")
    print(f"  {'idle':<8}{idle_percent(log):>9.2f} % of a core, one waiting reader")
    log.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.log", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kafka", default=os.environ.get("DOORTAB_TEST_KAFKA"), help="host:port of a broker")
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--directory", type=Path, help="where the file log goes (default: a temporary directory)")
    parser.add_argument("--ping", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ping:
        ping(asked.ping)
        return
    directory = Path(tempfile.mkdtemp(prefix="doortab-log-", dir=asked.directory))
    try:
        report(f"file:{directory}", asked.megabytes)
    finally:
        shutil.rmtree(directory)
    if asked.kafka:
        report(f"kafka://{asked.kafka}/benchmark-{time.time_ns()}.", asked.megabytes)


if __name__ == "__main__":
    main()

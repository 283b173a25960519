"""Small pieces of real work that change the disk in every way the product does, and what must hold afterwards.

Each is done in a copy of a template directory by a child that may be killed, or let down by its disk, at any
call. ``check`` then goes on where it left off, and returns what is wrong: nothing, if all is well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas  # noqa: F401  (what is imported where it is used would cost each child half a second)
import pyarrow.dataset  # noqa: F401

import doortab.analytics.store
from doortab.analytics.exports import write_exports
from doortab.applying import publish
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.producers.client import Client
from doortab.questions import answer
from doortab.rebuilding import rebuild
from doortab.schemas import catalog, topics
from doortab.schemas.errors import DoortabError, SpoolFull, TryAgain
from doortab.schemas.log import Entry, Log, TopicPartition
from doortab.settings import Settings, load
from tests.crashes.forks import done, told

EVENTS = 24
APPENDED = 15
CATALOG = """
default_plan = "p"
[[meters]]
name = "requests"
event = "request.validated"
aggregation = "count"
[[plans]]
name = "p"
currency = "USD"
[[plans.charges]]
meter = "requests"
model = "per_unit"
unit = "0.01"
[[caps]]
subject = "account:a1"
amount = "0.03"
period = "total"
hard = true
"""
OLDEST = Path(__file__).resolve().parent.parent / "fixtures" / "v1" / "data.tar.xz"
ACKED = "acked"
KILLED = "killed"
"""A file that is there when the workload was killed, and not let down by its disk."""


CLEAR = 70
"""How a child ends whose work was refused in words: any other error is none of ours, and a mistake."""


def in_words(work: Callable[[], None]) -> None:
    """Does the work; an error that doortab raises on purpose becomes one line and the exit status ``CLEAR``."""
    try:
        work()
    except DoortabError:
        sys.exit(CLEAR)


class Workload(NamedTuple):
    """``prepare`` makes the template, ``run`` is what is hit, ``check`` says what is wrong afterwards."""

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    check: Callable[[Path, Path], str]


def settings_in(directory: Path) -> Settings:
    """Four records a commit, so that there are many commits to die in."""
    return load({"data": str(directory), "batch_records": 4}, {}).settings


def event(number: int) -> bytes:
    """A usage event; every seventh comes twice, every eleventh is none at all."""
    if number % 11 == 10:
        return b'{"specversion":"1.0","number":%d' % number
    name = number - 1 if number % 7 == 6 else number
    dimensions = {f"d{name % 5}": str(name)}
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"e{name}",
            "source": "trace",
            "type": "request.validated",
            "time": f"2026-03-{1 + name % 28:02}T10:00:00Z",
            "data": {"account": f"a{name % 3}", "verdict": "allowed", "dimensions": dimensions},
        }
    ).encode()


def fill_log(directory: Path, first: int, after: int) -> None:
    """Appends those events to the log, with the catalog before the very first."""
    settings = settings_in(directory)
    log = open_log(settings.log_url)
    log.ensure_topics(topics.topics(settings.usage_partitions))
    if first == 0:
        publish(log, catalog.parse(CATALOG))
    for number in range(first, after):
        log.append(topics.USAGE, [Entry(partition_of(number), None, event(number))])
    log.close()


def partition_of(number: int) -> int:
    """An account's events go to one partition."""
    return topics.partition_of(f"a{(number - 1 if number % 7 == 6 else number) % 3}".encode(), 4)


def catch_up(directory: Path) -> None:
    """Brings the store up to date."""
    ledger = Ledger(settings_in(directory))
    ledger.catch_up()
    ledger.close()


def catch_up_with_checkpoints(directory: Path) -> None:
    """The same, with a checkpoint after nearly every commit, and counters that are compacted."""
    doortab.analytics.store.COMPACT_MINIMUM = 1
    doortab.analytics.store.COMPACT_FACTOR = 1
    ledger = Ledger(settings_in(directory))
    ledger.store.cursor().execute("SET wal_autocheckpoint = '1KB'")
    ledger.catch_up()
    ledger.close()


def rebuild_in(directory: Path) -> None:
    """Builds a new store beside the old one and promotes it."""
    rebuild(settings_in(directory), lambda _: None)


def state_of(directory: Path) -> str:
    """All that the store says once it is up to date, as one hash; and that what was decided was also said, once."""
    ledger = Ledger(settings_in(directory))
    try:
        ledger.catch_up()
        control = answer(ledger, "status", {})["control"]
        if control["unexplained"] != "0":
            return f"unexplained: {control}"
        pending = [message.id for message in ledger.store.pending()]
        if pending:
            return f"never published: {pending}"
        said = {value for _, value in records_of(ledger.log, topics.REVOCATIONS)}
        decided = [d for d in ledger.store.decided() if d.percent == 100]
        exports = write_exports(ledger.reader(), directory / "exports")
        hashes = {hashlib.sha256(value or b"").hexdigest() for value in said}
        return json.dumps({"exports": exports, "said": sorted(hashes), "decided": len(decided)})
    finally:
        ledger.close()


def records_of(log: Log, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of every record of a topic."""
    ends = log.end_offsets(topic)
    reader = log.reader({TopicPartition(topic, partition): 0 for partition in ends})
    found: list[tuple[bytes | None, bytes | None]] = []
    while len(found) < sum(ends.values()) and (some := reader.poll(10_000, 1 << 26, 5.0)):
        found += [(record.key, record.value) for record in some]
    reader.close()
    return found


def same_as_template(directory: Path, template: Path) -> str:
    """Whether the store now says what one says that nothing ever happened to."""
    wanted = (template / "state").read_text()
    found = told(lambda: state_of(directory))
    return "" if found == wanted else f"expected {wanted}\nfound {found}"


def with_state(prepare: Callable[[Path], None], run: Callable[[Path], None]) -> Callable[[Path], None]:
    """Prepares the template, and notes beside it what an undisturbed run comes to."""

    def work(template: Path) -> None:
        undisturbed = template.with_name(template.name + ".undisturbed")
        assert done(lambda: prepare(template)) == 0
        shutil.copytree(template, undisturbed)
        assert done(lambda: run(undisturbed)) == 0
        (template / "state").write_text(told(lambda: state_of(undisturbed)))
        shutil.rmtree(undisturbed)

    return work


def prepare_log(directory: Path) -> None:
    """A log and no store."""
    fill_log(directory, 0, EVENTS // 2)


def prepare_half(directory: Path) -> None:
    """A store of half the log, and the other half waiting."""
    fill_log(directory, 0, EVENTS // 2)
    catch_up(directory)
    fill_log(directory, EVENTS // 2, EVENTS)


def prepare_whole(directory: Path) -> None:
    """A store of the whole log."""
    fill_log(directory, 0, EVENTS)
    catch_up(directory)


def prepare_older(directory: Path) -> None:
    """What the oldest doortab left: opening its store migrates it."""
    with tarfile.open(OLDEST) as packed:
        packed.extractall(directory, filter="data")
    for path in (directory / "data").iterdir():
        path.rename(directory / path.name)


# ---------------------------------------------------------------------------------- the log and the spool


def prepare_nothing(directory: Path) -> None:
    """An empty directory."""
    directory.mkdir(parents=True, exist_ok=True)


def acknowledge(directory: Path, words: str) -> None:
    """Notes, in one write that a kill cannot halve, that the caller was told so."""
    try:
        file = os.open(directory / ACKED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, words.encode() + b"\n")
        os.close(file)
    except OSError:
        sys.exit(CLEAR)  # the disk fails us as well as the product


def acknowledged(directory: Path) -> list[str]:
    """What the callers were told."""
    path = directory / ACKED
    return path.read_text().split() if path.exists() else []


def append_to_log(directory: Path) -> None:
    """Creates a file log and appends; what the disk refuses is sent again."""
    from doortab.log import file_database

    file_database.WAL_BYTES = 4 * file_database.PAGE_BYTES  # checked in again and again
    again(lambda: fill_topics(directory))
    for number in range(0, APPENDED, APPENDED // 3):
        numbers = range(number, number + APPENDED // 3)
        entries = [Entry(each % 4, None, event(each) + b" " * 3000) for each in numbers]
        again(lambda entries=entries: append_once(directory, entries))  # type: ignore[misc]
        acknowledge(directory, " ".join(map(str, numbers)))


def fill_topics(directory: Path) -> None:
    """Creates the topics."""
    log = open_log(settings_in(directory).log_url)
    log.ensure_topics(topics.topics(4))
    log.close()


def append_once(directory: Path, entries: list[Entry]) -> None:
    """Appends in a session of its own, so that closing is hit as well."""
    log = open_log(settings_in(directory).log_url)
    try:
        log.append(topics.REVOCATIONS, [Entry(0, b"key", entries[0].value)])  # a compacted topic: the older one goes
        log.append(topics.USAGE, entries)
    finally:
        log.close()


def again(work: Callable[[], None], seconds: float = 1.0) -> None:
    """Tries until it works, as whoever sends does; in the end the error is the answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (TryAgain, SpoolFull):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def log_holds_what_it_acknowledged(directory: Path, _: Path) -> str:
    """Every acknowledged record is in the log; a kill doubles none."""

    def look() -> str:
        fill_topics(directory)
        log = open_log(settings_in(directory).log_url)
        values = [(value or b"").rstrip() for _, value in records_of(log, topics.USAGE)]
        log.append(topics.USAGE, [Entry(0, None, b"one more")])
        log.close()
        wanted = {event(int(number)) for number in acknowledged(directory)}
        lost = wanted - set(values)
        if lost:
            return f"lost {len(lost)} records: {sorted(lost)[:3]}"
        # What the disk refused is sent again, and may have been in it already; a kill doubles nothing.
        doubled = Counter(values) - Counter(event(number) for number in range(APPENDED))
        if doubled and (directory / KILLED).exists():
            return f"doubled: {doubled}"
        with sqlite3.connect(directory / "log" / "log.sqlite3") as raw:
            (verdict,) = raw.execute("PRAGMA integrity_check").fetchone()
        raw.close()
        return "" if verdict == "ok" else str(verdict)

    return told(look)


def record_in_service(directory: Path) -> None:
    """Records through a client with a small spool, on a file log; some callers wait for the disk."""
    settings = settings_in(directory)
    client = Client(lambda: open_log(settings.log_url), directory / "spool", source="service", max_spool_bytes=1 << 16)
    for number in range(EVENTS):
        dimensions = {"padding": "x" * 500}
        identifier = ""

        def record(number: int = number, dimensions: dict[str, str] = dimensions) -> None:
            nonlocal identifier
            identifier = client.record(
                account=f"a{number % 3}", dimensions=dimensions, id=f"s{number}", durable=number % 8 == 0
            )

        again(record, 5.0)
        acknowledge(directory, identifier)
    client.close(2)


def service_bills_what_it_acknowledged(directory: Path, _: Path) -> str:
    """Every acknowledged event is billed once, from the spool of the dead or from the log."""

    def look() -> str:
        settings = settings_in(directory)
        (directory / "spool").mkdir(exist_ok=True)
        client = Client(lambda: open_log(settings.log_url), directory / "spool", source="last")
        client.start()
        if not drained(client, directory / "spool"):
            return f"the spool was not shipped: {client.error}"
        client.close()
        ledger = Ledger(settings)
        ledger.catch_up()
        rows = ledger.reader()("SELECT id, count(*) FROM usage WHERE source = 'service' GROUP BY id")
        control = answer(ledger, "status", {})["control"]
        ledger.close()
        billed = {str(name): int(count) for name, count in rows}
        lost = set(acknowledged(directory)) - billed.keys()
        doubled = [name for name, count in billed.items() if count > 1]
        if lost or doubled or control["unexplained"] != "0":
            return f"lost {sorted(lost)[:5]}, doubled {doubled[:5]}, {control}"
        return ""

    return told(look)


def drained(client: Client, spool: Path, seconds: float = 30.0) -> bool:
    """Waits until everything that lies in the spools is in the log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        segments = [name for *_, files in os.walk(spool) for name in files if name.endswith(".segment")]
        if not client.spool_bytes and not segments:
            return True
        time.sleep(0.005)
    return False


WORKLOADS = {
    work.name: work
    for work in (
        Workload("creation", with_state(prepare_log, catch_up), catch_up, same_as_template),
        Workload("steady", with_state(prepare_half, catch_up), catch_up, same_as_template),
        Workload("checkpoint", with_state(prepare_half, catch_up), catch_up_with_checkpoints, same_as_template),
        Workload("rebuild", with_state(prepare_whole, catch_up), rebuild_in, same_as_template),
        Workload("migration", with_state(prepare_older, catch_up), catch_up, same_as_template),
        Workload("log", prepare_nothing, append_to_log, log_holds_what_it_acknowledged),
        Workload("service", prepare_nothing, record_in_service, service_bills_what_it_acknowledged),
    )
}

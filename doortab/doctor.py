"""The doctor: looks at every part, says what is wrong, and which command mends it.

A finding has a ``state`` (ok, warn or bad), ``words``, and where something is wrong, what ``mends`` it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from doortab.analytics import durable, snapshot
from doortab.asking import asked, running
from doortab.exchanging import kept_stores
from doortab.log.open import open_log
from doortab.log.rules import LogDamaged, PositionOutOfRange
from doortab.producers import frames, pepper
from doortab.producers.backlog import DAMAGED_NAME
from doortab.producers.desk import Desk
from doortab.producers.keytext import Peppers
from doortab.schemas import instants, topics
from doortab.schemas.errors import DoortabError, LogUnavailable, StoreBusy, StoreDamaged, UsageError
from doortab.schemas.log import Log, TopicPartition
from doortab.settings import Settings

Finding = dict[str, str]

OUTCOMES = ("billed", "not_billable", "duplicates", "rejected")
BEHIND_RECORDS = 1000
SKEW_SECONDS = 5
WAITING_SECONDS = 60
FREE_BYTES = 1_000_000_000
"""With less than this it is time to make room; with a tenth of it, writing will soon fail."""


class Seen(NamedTuple):
    """What was seen of a part."""

    state: str
    words: str
    mends: str = ""


MENDS: list[tuple[type[DoortabError], str]] = [
    (StoreDamaged, "doortab rebuild"),
    (PositionOutOfRange, "give back the log that was there before, or doortab rebuild for this one"),
    (LogDamaged, "give back a copy of the log; what came after the copy is in the store alone"),
    (StoreBusy, "wait for that process, or end it"),
    (LogUnavailable, "bring the log back; what is recorded meanwhile waits in the spools"),
]
"""What mends it where a part could not be looked at."""


def examine(settings: Settings) -> list[Finding]:
    """The findings, part by part."""
    findings: list[Finding] = []
    for part, look in PARTS:
        try:
            seen = list(look(settings))
        except (DoortabError, OSError) as error:
            mends = next((mends for kind, mends in MENDS if isinstance(error, kind)), "")
            seen = [Seen("bad", str(error), mends)]
        findings += [{"part": part} | {name: text for name, text in one._asdict().items() if text} for one in seen]
    return findings


def _ledger(settings: Settings) -> Iterator[Seen]:
    ledger = running(settings)
    if ledger is not None:
        ledger.close()
        told = json.loads(settings.address_path.read_text())
        yield Seen("ok", f"process {told['pid']} answers at {told['url']}")
    elif settings.address_path.exists():
        yield Seen("warn", f"{settings.address_path} is there, and nobody answers: the ledger was killed", "doortab up")
    else:
        yield Seen("ok", "nobody runs one; commands open the store themselves")


def _log(settings: Settings) -> Iterator[Seen]:
    log = open_log(settings.log_url)
    try:
        missing = [t.name for t in topics.topics() if not log.partition_count(t.name)]
        if missing:
            words = f"{settings.log_url}: topics {', '.join(missing)} are missing; the next command makes them"
            yield Seen("warn", words, "doortab apply CATALOG")
            return
        begin, end = log.begin_offsets(topics.USAGE), log.end_offsets(topics.USAGE)
        records = sum(end[p] - begin[p] for p in end)
        yield Seen("ok", f"{settings.log_url}: {len(end)} partitions of usage, {records:,} records kept")
        cut = {p: offset for p, offset in begin.items() if offset > 0}
        if cut:
            words = f"the log no longer holds its beginning (partition: offset {cut}); a rebuild starts there"
            yield Seen("warn", words, "doortab backup DIR, often")
    finally:
        log.close()


def _store(settings: Settings) -> Iterator[Seen]:
    if not settings.store_path.exists():
        yield Seen("warn", f"{settings.store_path} is not there yet; the first command that needs it makes it")
        return
    with asked(settings) as ledger:
        told, audit = ledger.ask("status"), ledger.ask("audit")
    control: dict[str, Any] = told["control"]
    parts = (f"{int(control[name]):,} {name.replace('_', ' ')}" for name in OUTCOMES)
    equation = f"{int(control['records']):,} events = {' + '.join(parts)} + {control['unexplained']} unexplained"
    if control["unexplained"] == "0":
        yield Seen("ok", f"{settings.store_path}: {equation}")
    else:
        yield Seen("bad", f"{settings.store_path}: {equation}", "doortab rebuild")
    for finding in audit["findings"]:
        yield Seen("bad", f"{finding['kind']}: {finding['sentence']}", finding["repair"])
    if not audit["findings"]:
        yield Seen("ok", f"every one of {audit['rows']:,} rows is as it was written")
    behind = sum(told["lag_records"].values())
    slow = behind >= BEHIND_RECORDS
    yield Seen("warn" if slow else "ok", f"{behind:,} log records are not in the store yet", "wait" if slow else "")
    kept = kept_stores(settings)
    if kept:
        size = sum(path.stat().st_size for path in kept)
        yield Seen(
            "ok", f"{len(kept)} older stores are kept, {size:,} bytes; doortab rebuild --rollback takes the last"
        )


def _keys(settings: Settings) -> Iterator[Seen]:
    """Whether the pepper file holds what the keys need: a gate without it knows none of them."""
    log = open_log(settings.log_url)
    try:
        needed = _peppers_in_use(log)
    finally:
        log.close()
    try:
        held = pepper.load_if_there(settings.pepper_path).ids
    except UsageError as error:
        yield Seen("bad", str(error), f"give back {settings.pepper_path} from your copy, readable by its owner alone")
        return
    lacking = needed - set(held)
    if lacking:
        names = ", ".join(sorted(lacking))
        words = f"keys that still work need pepper {names}, which {settings.pepper_path} does not hold"
        yield Seen("bad", words, pepper.way_out(names))
    elif held:
        yield Seen("ok", f"{settings.pepper_path} holds the pepper of every key that still works")
    else:
        yield Seen("ok", "no key needs a pepper yet; the first one makes it")


def _peppers_in_use(log: Log) -> set[str]:
    if not log.partition_count(topics.KEYS):
        return set()
    desk = Desk(log, Peppers.none(), actor="doctor")
    desk.refresh()
    return desk.peppers_in_use()


def _spool(settings: Settings) -> Iterator[Seen]:
    aside = settings.data / "spool" / DAMAGED_NAME
    found = sorted(path for path in (settings.data / "spool").glob("*/*.segment") if path.parent != aside)
    waiting, now = sum(path.stat().st_size for path in found), time.time()
    for path in found:
        with path.open("rb") as file:
            try:
                frames.check_header(file.read(frames.HEADER_BYTES), str(path))
            except UsageError as error:
                yield Seen("bad", str(error), "a newer doortab")
    oldest = max((now - path.stat().st_mtime for path in found if path.stat().st_size > frames.HEADER_BYTES), default=0)
    words = f"{waiting:,} bytes in {len(found)} segments wait to be sent"
    if oldest > WAITING_SECONDS:
        yield Seen("warn", f"{words}, some for {oldest:.0f} s", "doortab up, or start the service that recorded them")
    else:
        yield Seen("ok", words)
    damaged = sorted(aside.iterdir()) if aside.exists() else []
    if damaged:
        mends = f"look at them, then rm -r {aside}"
        yield Seen(
            "warn", f"{len(damaged)} damaged segments were moved aside; all that is whole in them is sent", mends
        )


def _snapshots(settings: Settings) -> Iterator[Seen]:
    newest = snapshot.latest(settings.data / "snapshots")
    if newest is None:
        yield Seen("ok", "none was published yet")
        return
    again = f"rm -r {newest}; a running ledger publishes the next one"
    try:
        told = snapshot.as_of(newest)
        wrong = [
            name
            for name, file in told["files"].items()
            if not (newest / name).exists() or durable.sha256(newest / name) != file["sha256"]
        ]
    except (OSError, ValueError, KeyError) as error:
        yield Seen("bad", f"{newest} does not say what it holds: {error}", again)
        return
    if wrong:
        yield Seen("bad", f"{newest}: {', '.join(wrong)} is not what was published", again)
    else:
        yield Seen("ok", f"the newest is of {told['created']}, and its files are what was published")


def _clocks(settings: Settings) -> Iterator[Seen]:
    now = time.time_ns() // 1000
    year = instants.moment(now).year
    mends = "set the machine's clock (NTP)"
    if not 2025 <= year < 2100:
        yield Seen("bad", f"the clock says {instants.text(now)}", mends)
        return
    yield Seen("ok", f"the clock says {instants.text(now)}")
    log = open_log(settings.log_url)
    try:
        logged = _newest_record(log)
    finally:
        log.close()
    if logged is None:
        return
    ahead = (logged - now) / 1e6
    if ahead > SKEW_SECONDS:
        words = f"the log stamped its newest record {ahead:.0f} s from now, {instants.text(logged)}: clocks differ"
        yield Seen("bad", words, f"{mends}, and that of the brokers")
    else:
        yield Seen("ok", f"the newest log record is of {instants.text(logged)}")


def _newest_record(log: Log) -> int | None:
    """When the log received its newest usage record; None where there is none."""
    newest = None
    begins = log.begin_offsets(topics.USAGE)
    for partition, end in log.end_offsets(topics.USAGE).items():
        if end > begins.get(partition, 0):
            reader = log.reader({TopicPartition(topics.USAGE, partition): end - 1})
            try:
                for record in reader.poll(1, 1, 5.0):
                    newest = max(newest or 0, record.timestamp_ms * 1000)
            finally:
                reader.close()
    return newest


def _disk(settings: Settings) -> Iterator[Seen]:
    place = settings.data if settings.data.exists() else Path(".")
    free = shutil.disk_usage(place).free
    state = "bad" if free < FREE_BYTES // 10 else "warn" if free < FREE_BYTES else "ok"
    mends = "make room, or move the data directory" if state != "ok" else ""
    yield Seen(state, f"{free // 1_000_000:,} MB are free where {settings.data} is", mends)


PARTS: list[tuple[str, Callable[[Settings], Iterator[Seen]]]] = [
    ("ledger", _ledger),
    ("log", _log),
    ("store", _store),
    ("keys", _keys),
    ("spool", _spool),
    ("snapshots", _snapshots),
    ("clocks", _clocks),
    ("disk", _disk),
]

"""Filling a log with the load, once: what is there already is used again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import load, measure
from doortab.log.open import open_log
from doortab.schemas import catalog, topics, wire
from doortab.schemas.log import Entry, Log

EVENTS_PER_RECORD = 400
"""What a busy gate puts into one record."""
RECORDS_PER_APPEND = 100
SINGLES_PER_APPEND = 20_000


def file_log(events: int) -> tuple[str, dict[str, Any]]:
    """The URL of a file log with so many events, and what they come to."""
    directory = load.DATA / f"log-{events}"
    done = directory / "sums.json"
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        done.write_text(json.dumps(fill(f"file:{directory}", events, EVENTS_PER_RECORD)))
    return f"file:{directory}", json.loads(done.read_text())


def kafka_log(address: str, prefix: str, events: int, per_record: int) -> tuple[str, dict[str, Any]]:
    """The URL of such a log in Kafka: topics whose names begin with ``prefix``.

    What was broken off is left alone: filled on, it would hold the first events twice.
    """
    done = load.DATA / f"{prefix}sums.json"
    found = json.loads(done.read_text()) if done.exists() else {}
    if not ("url" in found and _holds(found["url"])):
        load.DATA.mkdir(parents=True, exist_ok=True)
        url = f"kafka://{address}/{prefix}{time.time_ns()}."
        found = {"url": url, "sums": fill(url, events, per_record)}
        done.write_text(json.dumps(found))
    return found["url"], found["sums"]


def _holds(url: str) -> bool:
    log = open_log(url)
    try:
        return sum(log.end_offsets(topics.USAGE).values()) > 0
    finally:
        log.close()


def fill(url: str, events: int, per_record: int) -> dict[str, Any]:
    """Appends the catalog and so many events to an empty log; returns what they come to."""
    measure.say(f"filling {url} with {events:,} events, {per_record} a record")
    log = open_log(url)
    try:
        log.ensure_topics(topics.topics())
        log.append(topics.CATALOG, [Entry(0, b"catalog", catalog.encode(load.priced()))])
        sums = load.Sums()
        entries = _records(events, sums, per_record) if per_record > 1 else _singles(events, sums)
        _append(log, entries, RECORDS_PER_APPEND if per_record > 1 else SINGLES_PER_APPEND)
    finally:
        log.close()
    return {
        "events": sums.events,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "amount": sums.usd,
    }


def _records(events: int, sums: load.Sums, per_record: int) -> Iterator[Entry]:
    """Records of many events, as a gate makes them: each of one partition."""
    waiting: list[list[bytes]] = [[] for _ in range(topics.USAGE_PARTITIONS)]
    for event in load.events(events):
        sums.add(event)
        group = waiting[event.partition]
        group.append(event.value)
        if len(group) == per_record:
            yield Entry(event.partition, None, wire.join(group))
            group.clear()
    for partition, group in enumerate(waiting):
        if group:
            yield Entry(partition, None, wire.join(group))


def _singles(events: int, sums: load.Sums) -> Iterator[Entry]:
    """Records of one event, keyed by its API key: that is what the peers group by."""
    names = [load.key_name(key).encode() for key in range(load.KEYS + 1)]
    for event in load.events(events):
        sums.add(event)
        yield Entry(event.partition, names[event.key], event.value)


def _append(log: Log, entries: Iterable[Entry], at_once: int) -> None:
    group: list[Entry] = []
    for entry in entries:
        group.append(entry)
        if len(group) == at_once:
            log.append(topics.USAGE, group, 120.0)
            group = []
    if group:
        log.append(topics.USAGE, group, 120.0)


def scratch(name: str) -> Path:
    """An empty directory for one run's store."""
    directory = load.DATA / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory

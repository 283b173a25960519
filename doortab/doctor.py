"""The doctor: looks at every part, says what is wrong, and which command mends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from doortab.asking import asked
from doortab.log.open import open_log
from doortab.schemas import topics
from doortab.schemas.errors import DoortabError
from doortab.settings import Settings

Finding = dict[str, str]

OUTCOMES = ("billed", "not_billable", "duplicates", "rejected")


def examine(settings: Settings) -> list[Finding]:
    """The findings, part by part: ``state`` is ok, warn or bad."""
    findings: list[Finding] = []
    for part, look in PARTS:
        try:
            findings += [{"part": part, "state": state, "words": words} for state, words in look(settings)]
        except DoortabError as error:
            findings.append({"part": part, "state": "bad", "words": str(error)})
    return findings


def _log(settings: Settings) -> Iterator[tuple[str, str]]:
    log = open_log(settings.log_url)
    try:
        missing = [t.name for t in topics.topics() if not log.partition_count(t.name)]
        if missing:
            yield "warn", f"{settings.log_url}: topics {', '.join(missing)} are missing; the next command makes them"
            return
        begin, end = log.begin_offsets(topics.USAGE), log.end_offsets(topics.USAGE)
        records = sum(end[p] - begin[p] for p in end)
        yield "ok", f"{settings.log_url}: {len(end)} partitions of usage, {records:,} records kept"
        cut = {p: offset for p, offset in begin.items() if offset > 0}
        if cut:
            yield "warn", f"the log no longer holds its beginning (partition: offset {cut}); a rebuild starts there"
    finally:
        log.close()


def _store(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings.store_path.exists():
        yield "warn", f"{settings.store_path} is not there yet; the first command that needs it makes it"
        return
    with asked(settings) as ledger:
        told = ledger.ask("status")
    control: dict[str, Any] = told["control"]
    parts = (f"{int(control[name]):,} {name.replace('_', ' ')}" for name in OUTCOMES)
    equation = f"{int(control['records']):,} events = {' + '.join(parts)}"
    if control["unexplained"] == "0":
        yield "ok", f"{settings.store_path}: {equation} + 0 unexplained"
    else:
        yield "bad", f"{settings.store_path}: {equation}, {control['unexplained']} unexplained: doortab rebuild"
    behind = sum(told["lag_records"].values())
    yield ("ok" if behind < 1000 else "warn"), f"{behind:,} log records are not in the store yet"


def _spool(settings: Settings) -> Iterator[tuple[str, str]]:
    found = sorted((settings.data / "spool").glob("**/*.seg*"))
    waiting = sum(path.stat().st_size for path in found)
    yield "ok", f"{waiting:,} bytes in {len(found)} segments wait to be sent"


def _clock(_: Settings) -> Iterator[tuple[str, str]]:
    now = time.gmtime()
    state = "ok" if 2025 <= now.tm_year < 2100 else "bad"
    yield state, f"the clock says {time.strftime('%Y-%m-%dT%H:%M:%SZ', now)}"


PARTS: list[tuple[str, Callable[[Settings], Iterator[tuple[str, str]]]]] = [
    ("log", _log),
    ("store", _store),
    ("spool", _spool),
    ("clock", _clock),
]

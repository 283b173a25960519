"""What a ledger can be asked: one function a question, the same over HTTP and in this process.

Each takes the ledger and a dictionary of text or JSON parameters and returns JSON. ``QUESTIONS`` lists them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doortab.analytics.control import control
from doortab.analytics.exports import write_exports
from doortab.analytics.report import report as make_report
from doortab.analytics.stored import LATEST_COUNTERS
from doortab.auditing import Auditor, accept, sentence
from doortab.auditing import as_json as audit_as_json
from doortab.backup import write_backup
from doortab.consumers.counters import levels_of, parse_value, show_value
from doortab.exchanging import exchange_all, roll_back
from doortab.ledger import Ledger
from doortab.schemas import instants
from doortab.schemas.batch import CounterKey
from doortab.schemas.errors import TryAgain, UsageError, of_system
from doortab.schemas.periods import parse_period

Params = dict[str, Any]
MOST_ROWS = 1_000_000
"""So many rows a question has at most."""
DEFAULT_BY = ("account", "key")


def report(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``period``, ``by`` (a list), ``timezone``: usage and money."""
    tariff = ledger.tariff()
    plan = tariff.plans.get(tariff.catalog.default_plan or "")
    timezone = params.get("timezone") or (plan.timezone if plan is not None else "UTC")
    try:
        period = parse_period(params.get("period"), timezone, now())
    except ValueError as error:
        raise UsageError(str(error)) from None
    by = params.get("by") or list(DEFAULT_BY)
    told = make_report(ledger.reader(), tariff, period, by, timezone).as_json()
    if ledger.audited is not None and ledger.audited.findings:
        told["audit"] = [sentence(finding) for finding in ledger.audited.findings]
    return told


def wait(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``positions`` (by partition): returns once they are committed, or says that it would take longer."""
    target = {int(partition): offset for partition, offset in params["positions"].items()}
    if not ledger.wait_for(target, float(params.get("seconds", 20))):
        if ledger.failure is not None:
            raise ledger.failure
        return {"reached": False}
    return {"reached": True}


def counts(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``ranges`` of [partition, first, next]: how many events of those records were accepted, how many rejected."""
    read = ledger.reader()
    accepted = rejected = 0
    for partition, first, after in params["ranges"]:
        place = f"part = {int(partition)} AND off >= {int(first)} AND off < {int(after)}"
        accepted += read(f"SELECT count(*) FROM usage WHERE {place}")[0][0]
        rejected += read(f"SELECT count(*) FROM rejected WHERE topic = 'usage' AND {place}")[0][0]
    return {"accepted": accepted, "rejected": rejected}


def caps(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``reached`` (true: only those): every cap with what was spent of it, latest period first."""
    tariff, read = ledger.tariff(), ledger.reader()
    rows = []
    counters = read(f"SELECT subject, measure, period, epoch_us(start), value FROM ({LATEST_COUNTERS})")
    for *name, value in counters:
        counter = CounterKey(*name)
        scope, _, subject = counter.subject.partition(":")
        bound = [
            c for c in tariff.caps_of(scope, subject) if (c.measure, c.period) == (counter.measure, counter.period)
        ]
        for level in levels_of(bound):
            if level.percent == 100 and (parse_value(counter, value) >= level.limit or not params.get("reached")):
                rows.append(_cap_row(counter, level.cap.id, level.cap.hard, level.limit, value))
    rows.sort(key=lambda row: (row["subject"], row["cap"], row["from"]))
    return {"rows": rows}


def _cap_row(counter: CounterKey, cap: str, hard: bool, limit: int, value: str) -> dict[str, Any]:
    used = parse_value(counter, value)
    return {
        "cap": cap,
        "subject": counter.subject,
        "measure": counter.measure,
        "period": counter.period,
        "from": instants.text(counter.start),
        "limit": show_value(counter, limit),
        "used": value,
        "left": show_value(counter, max(0, limit - used)),
        "percent": str(used * 100 // limit) if limit else "100",
        "reached": used >= limit,
        "hard": hard,
    }


def rejected(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``limit``: what could not be billed, latest first, and how often each reason stands there."""
    read = ledger.reader()
    limit = params.get("limit", 100)
    if not isinstance(limit, int) or not 1 <= limit <= MOST_ROWS:
        raise UsageError(f"limit {limit!r} is not in the range from 1 to {MOST_ROWS}")
    names = ("topic", "partition", "offset", "index", "reason", "detail", "size")
    rows = read(
        "SELECT topic, part, off, idx, reason, detail, size FROM rejected "
        f"ORDER BY batch DESC, part, off DESC, idx LIMIT {limit}"
    )
    reasons = read("SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY reason")
    return {"rows": [dict(zip(names, row, strict=True)) for row in rows], "reasons": dict(reasons)}


def status(ledger: Ledger, params: Params) -> dict[str, Any]:
    """How the ledger is: positions, lag in records, epoch, the control equation."""
    del params
    ends = ledger.log.end_offsets("usage")
    positions = ledger.positions
    return {
        "epoch": ledger.epoch,
        "positions": {str(p): offset for p, offset in positions.items()},
        "lag_records": {str(p): end - positions.get(p, 0) for p, end in ends.items()},
        "control": control(ledger.reader()).as_json(),
        "log": ledger.settings.log_url,
        "store": str(ledger.store.path),
    }


def audit(ledger: Ledger, params: Params) -> dict[str, Any]:
    """Looks now: what is in the store that is not what the log says. ``accept`` takes the store as it is."""
    if params.get("accept"):
        accept(ledger.settings.trail_path, ledger.store.name, "accepted by hand", now(), opened=True)
    return audit_as_json(Auditor(ledger).look())


def export(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``directory``: writes the canonical exports there. ``positions`` are theirs, if the ledger stood still."""
    before = ledger.positions
    sums = write_exports(ledger.reader(), Path(params["directory"]))
    positions = before if before == ledger.positions else {}
    return {"exports": sums, "positions": {str(part): offset for part, offset in positions.items()}}


def exchange(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``new`` (a closed store) and ``words``, or ``rollback``: exchanges the store between two turns."""
    if params.get("rollback"):
        told: dict[str, Any] = ledger.lend(lambda: roll_back(ledger.settings))
    else:
        new, words, meant = Path(params["new"]), params["words"], params.get("meant")
        told = ledger.lend(lambda: exchange_all(ledger.settings, new, words, meant))
    return told


def backup(ledger: Ledger, params: Params) -> dict[str, Any]:
    """``directory``: writes a backup there."""
    return write_backup(ledger, Path(params["directory"]), now())


QUESTIONS: dict[str, Callable[[Ledger, Params], dict[str, Any]]] = {
    "report": report,
    "wait": wait,
    "counts": counts,
    "caps": caps,
    "rejected": rejected,
    "status": status,
    "audit": audit,
    "export": export,
    "exchange": exchange,
    "backup": backup,
}


def answer(ledger: Ledger, question: str, params: Params) -> dict[str, Any]:
    """Answers a question by name.

    Raises:
        UsageError: there is no such question, or its directory cannot be written.
        TryAgain: the store is being opened anew.
    """
    if question not in QUESTIONS:
        raise UsageError(f"{question!r} cannot be asked; there is {', '.join(QUESTIONS)}")
    if ledger.failure is not None:
        raise TryAgain(str(ledger.failure))
    try:
        return QUESTIONS[question](ledger, params)
    except OSError as error:
        # It would reach another process as a number only.
        way = "name another directory" if "directory" in params else ""
        raise of_system(error, question, way) from error


def now() -> int:
    """The instant it is."""
    return time.time_ns() // 1000

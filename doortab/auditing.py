"""The auditor of a ledger: looks every minute, says what it found in an alert, a metric and every answer.

It looks with a connection of its own, beside the worker. A finding is told once, for its id follows from
its cause, and is found again by each look until it is mended: ``doortab doctor`` and ``doortab audit`` say how.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from doortab.analytics.alertbook import AlertBook
from doortab.analytics.audit import REPAIRS, Audit, Finding, Offsets, Totals, look, read_totals, write_totals
from doortab.analytics.trail import Line, Trail
from doortab.ledger import Ledger
from doortab.schemas import instants, topics
from doortab.schemas.alerts import Alert
from doortab.schemas.errors import StoreDamaged

logger = logging.getLogger("doortab.audit")

TOTALS = "totals.json"
_LOOKING = threading.Lock()
"""One look at a time: whoever asks for one between two looks of the clock waits for its end."""


class Auditor:
    """Audits the store of one ledger. ``last`` is what the last look found, None before the first."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._trail = Trail(ledger.settings.trail_path)
        self._totals = ledger.settings.trail_path / TOTALS
        self._book = AlertBook(ledger.log)
        self._told: set[str] = set()
        self.last: Audit | None = None

    def look(self) -> Audit:
        """Looks now.

        Raises:
            LogUnavailable: the log could not be asked what it holds.
        """
        ledger = self._ledger
        with _LOOKING:
            known, lines = read_totals(self._totals), self._trail.open_findings()
            now = time.time_ns() // 1000
            audit, totals = self._looked(known, lines, now)
            if not ledger.store.in_place():
                words = f"{ledger.store.path} was deleted or replaced while the ledger runs"
                audit.findings.append(Finding(kind="moved", words=words, table=""))
            if totals is not None and totals != known:
                write_totals(self._totals, totals)
            self.last = ledger.audited = audit
        return audit

    def _looked(self, known: Totals | None, lines: list[Line], now: int) -> tuple[Audit, Totals | None]:
        ledger = self._ledger
        try:
            return look(ledger.reader(), ledger.store.name, self._offsets, lines, known, now)
        except StoreDamaged as error:
            return unreadable(ledger.store.name, error, now), known

    def steps(self) -> Iterator[str]:
        """One run of the job: a look, and an alert for what is new."""
        audit = self.look()
        yield "looked"
        for noted in self._book.news():
            self._told.add(noted.alert.id)
        alerts = [_alert(finding, audit) for finding in audit.findings]
        new = [alert for alert in alerts if alert.id not in self._told]
        for alert in new:
            logger.critical("%s", alert.text)
        self._book.write(new)
        yield "told"

    def _offsets(self) -> Offsets:
        log = self._ledger.log
        return Offsets(begins=log.begin_offsets(topics.USAGE), ends=log.end_offsets(topics.USAGE))


def unreadable(store: str, error: StoreDamaged, now: int) -> Audit:
    """What is told where a look could not be ended: something of the store cannot be read any more."""
    finding = Finding(kind="unreadable", words=str(error), table="")
    return Audit(at=now, store=store, batch=0, rows=0, parts={}, findings=[finding], unexplained=0)


def accept(directory: Path, store: str, words: str, now: int, *, opened: bool = False) -> None:
    """Closes every finding of the trail: this store is meant to be the next one, whatever was there before.

    ``opened`` says that it is open already.
    """
    trail = Trail(directory)
    trail.add(Line(what="accepted", at=now, store=store, words=words))
    if opened:
        trail.add(Line(what="opened", at=now, store=store))
    (directory / TOTALS).unlink(missing_ok=True)


def as_json(audit: Audit) -> dict[str, Any]:
    """What an audit found, with a sentence and the repair for each finding."""
    told: dict[str, Any] = msgspec.to_builtins(audit, str_keys=True)
    for row, finding in zip(told["findings"], audit.findings, strict=True):
        row |= {"sentence": sentence(finding), "repair": REPAIRS[finding.kind]}
    return told


def sentence(finding: Finding) -> str:
    """A finding for people."""
    place = f"partition {finding.partition}" if finding.partition is not None else ""
    if finding.first is not None and finding.next is not None:
        place += f", offsets {finding.first} to {finding.next - 1}"
    return ": ".join(part for part in (finding.table, place.removeprefix(", "), finding.words) if part)


def _alert(finding: Finding, audit: Audit) -> Alert:
    facts = {"kind": finding.kind, "table": finding.table, "partition": finding.partition, "batch": audit.batch}
    facts |= {"first": finding.first, "next": finding.next, "events": finding.events, "repair": REPAIRS[finding.kind]}
    return Alert(
        id=finding.id(audit.store),
        kind="drift",
        severity="critical",
        subject=f"store:{audit.store}",
        at=instants.text(audit.at),
        text=f"the store is not what the log says: {sentence(finding)}; {REPAIRS[finding.kind]}",
        facts={name: str(value) for name, value in facts.items() if value is not None},
    )

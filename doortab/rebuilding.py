"""Rebuilding the store from the log, in the shadow of the live one, and showing what would change.

The ledger may go on meanwhile. What the rebuild decides again was mostly said long ago: whatever stands in
the log already is marked as published, so that nobody is alerted twice. Then both stores are asked for their
exports, their money and their decisions, and only after that one takes the other's place (``exchanging``).
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from doortab.analytics import durable
from doortab.analytics.exports import write_exports
from doortab.asking import Asked, asked
from doortab.exchanging import DRAFT, exchanged, name_of
from doortab.ledger import Ledger
from doortab.log.rules import LogDamaged
from doortab.questions import answer
from doortab.schemas import topics
from doortab.schemas.errors import NotFound, StoreBusy, StoreDamaged, of_system
from doortab.schemas.log import Log, TopicPartition
from doortab.settings import Settings

EVER = "1970..2200"
MONEY = {"period": EVER, "by": ["account", "month"], "timezone": "UTC"}
ATTEMPTS = 5
"""So often both stores are asked, until they are asked at the same place of a log that goes on."""

Told = dict[str, Any]


def draft_of(settings: Settings) -> Path:
    """Where the shadow is built."""
    return settings.store_path.with_name(DRAFT)


def rebuild(settings: Settings, progress: Callable[[int], None], *, anew: bool = True) -> Told:
    """Builds a new store from the whole log beside the live one, and compares them. Nothing is exchanged yet.

    Raises:
        StoreBusy: another rebuild is running.
        NotFound: ``anew`` is off, and there is nothing to go on with.
        LogUnavailable: the log could not be read.
    """
    begun, draft = time.monotonic(), draft_of(settings)
    with _alone(settings):
        if not anew and not draft.exists():
            raise NotFound(f"{draft} is not there; doortab rebuild --dry-run makes it")
        ledger = _begun_anew(settings, draft) if anew else Ledger(settings, store_path=draft, publishing=False)
        try:
            ledger.catch_up(progress)
            after, before = _compare(settings, ledger)
            _mark_published(ledger)
            missing = {p: offset for p, offset in ledger.log.begin_offsets(topics.USAGE).items() if offset > 0}
            events = ledger.events
        finally:
            ledger.close()
    return {
        "events": events,
        "seconds": round(time.monotonic() - begun, 1),
        "exports": after["exports"],
        "exports_before": before["exports"],
        "exact": not before["exports"] or before["positions"] == after["positions"],
        "money": _money(before["money"], after["money"]) if before["exports"] else [],
        "decisions": _decisions(settings) if before["exports"] else {"gone": [], "new": []},
        "missing": missing,
    }


def promote(settings: Settings) -> Told:
    """Puts the rebuilt store in the place of the old one, which is kept. A running ledger goes on with it.

    Raises:
        NotFound: nothing was rebuilt.
    """
    if not draft_of(settings).exists():
        raise NotFound(f"{draft_of(settings)} is not there; doortab rebuild --dry-run makes it")
    draft = draft_of(settings).resolve()
    return exchanged(settings, {"new": str(draft), "words": "rebuilt from the log", "meant": name_of(draft)})


def back(settings: Settings) -> Told:
    """Exchanges the store for the one that was there before."""
    return exchanged(settings, {"rollback": True})


def export_to(ledger: Ledger, directory: Path) -> dict[str, str]:
    """Writes the canonical exports there; the SHA-256 of each by name.

    Raises:
        UsageError: the directory cannot be written.
    """
    try:
        return write_exports(ledger.reader(), directory)
    except OSError as error:
        raise of_system(error, "export", "name another directory") from error


def differs(told: Told) -> bool:
    """Whether the new store says anything else than the old one."""
    return bool(told["exports_before"]) and told["exports"] != told["exports_before"]


def _compare(settings: Settings, shadow: Ledger) -> tuple[Told, Told]:
    """What both stores say: the shadow, and the live one where it can be read."""
    nothing: Told = {"exports": {}, "money": {"rows": []}, "positions": {}}
    before = after = nothing
    for _ in range(ATTEMPTS):
        shadow.catch_up()
        if settings.store_path.exists():
            try:
                with asked(settings) as live:
                    before = _said_by(live, settings.data / "exports.before")
            except (StoreDamaged, LogDamaged, duckdb.Error):
                before = nothing
                shutil.rmtree(settings.data / "exports.before", ignore_errors=True)
        after = {
            "exports": export_to(shadow, settings.data / "exports"),
            "money": answer(shadow, "report", MONEY),
            "positions": {str(part): offset for part, offset in shadow.positions.items()},
        }
        if not before["exports"] or before["positions"] == after["positions"]:
            break
    return after, before


def _said_by(live: Asked, directory: Path) -> Told:
    money = live.ask("report", **MONEY)
    told = live.ask("export", directory=str(directory.resolve()))
    return {"exports": told["exports"], "positions": told["positions"], "money": money}


def _money(before: Told, after: Told) -> list[Told]:
    """Accounts and months whose events or amounts are others than before."""

    def by_place(report: Told) -> dict[tuple[Any, ...], Told]:
        return {(row["account"], row["month"], row["currency"]): row for row in report["rows"]}

    old, new, found = by_place(before), by_place(after), []
    nothing = {"events": "0", "amount": "0"}
    for place in sorted({*old, *new}, key=str):
        was, will = old.get(place, nothing), new.get(place, nothing)
        if (was["events"], was["amount"]) != (will["events"], will["amount"]):
            row = dict(zip(("account", "month", "currency"), place, strict=True))
            row |= {"events_before": was["events"], "events": will["events"]}
            found.append(row | {"amount_before": was["amount"], "amount": will["amount"]})
    return found


def _decisions(settings: Settings) -> Told:
    """Decisions that only one of the stores has."""

    def ids(directory: str) -> list[str]:
        with (settings.data / directory / "decisions.csv").open(encoding="utf-8", newline="") as file:
            return [row["id"] for row in csv.DictReader(file)]

    before, after = ids("exports.before"), ids("exports")
    return {"gone": sorted(set(before) - set(after)), "new": sorted(set(after) - set(before))}


def _mark_published(ledger: Ledger) -> None:
    said = _said(ledger.log)
    ids = [message.id for message in ledger.store.pending() if (message.topic, message.key, message.value) in said]
    if ids:
        ledger.store.published(ids)


def _said(log: Log) -> set[tuple[str, bytes | None, bytes | None]]:
    """Every record in the topics that a ledger writes."""
    said: set[tuple[str, bytes | None, bytes | None]] = set()
    for topic in (topics.REVOCATIONS, topics.ALERTS, topics.REJECTED):
        position, end = log.begin_offsets(topic)[0], log.end_offsets(topic)[0]
        reader = log.reader({TopicPartition(topic, 0): position})
        while position < end:
            for record in reader.poll(10_000, 16_000_000, 1.0):
                position = record.offset + 1
                said.add((topic, record.key, record.value))
        reader.close()
    return said


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One rebuild at a time."""
    place = settings.store_path.with_name("rebuild.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        opened = place.open("w")
    except OSError as error:
        raise durable.failure(place, error) from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusy(f"another rebuild is building {draft_of(settings)}; wait for it") from None
        yield


def _begun_anew(settings: Settings, draft: Path) -> Ledger:
    """An empty shadow. A ledger may just be taking away the last one, which a rebuild that died had finished."""
    for _ in range(ATTEMPTS - 1):
        _remove(draft)
        with contextlib.suppress(StoreDamaged):
            return Ledger(settings, store_path=draft, publishing=False)
    _remove(draft)
    return Ledger(settings, store_path=draft, publishing=False)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    Path(f"{path}.wal").unlink(missing_ok=True)

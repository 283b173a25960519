"""Rebuilding the store from the log, beside the old one, and proving that nothing changed.

What the rebuild decides again was mostly said long ago: whatever stands in the log already is marked as
published, so that nobody is alerted twice. The swap is one rename: killed at any step, the old store or
the new one is there, never half of one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doortab.analytics.exports import write_exports
from doortab.ledger import Ledger
from doortab.schemas import topics
from doortab.schemas.errors import StoreDamaged
from doortab.schemas.log import Log, TopicPartition
from doortab.settings import Settings


def rebuild(settings: Settings, progress: Callable[[int], None]) -> dict[str, Any]:
    """Builds a new store from the whole log and puts it in the place of the old one, which is kept.

    Raises:
        StoreBusy: a ledger is running; stop it first.
        LogUnavailable: the log could not be read.
    """
    begun = time.monotonic()
    live = settings.store_path
    draft = live.with_name("rebuild.duckdb")
    before = _exports_of_old(settings)
    _remove(draft)
    ledger = Ledger(settings, store_path=draft, publishing=False)
    try:
        ledger.catch_up(progress)
        _mark_published(ledger)
        events = ledger.events
        exports = export_to(ledger, settings.data / "exports")
    finally:
        ledger.close()
    kept = _swap(draft, live)
    return {
        "events": events,
        "seconds": round(time.monotonic() - begun, 1),
        "exports": exports,
        "exports_before": before,
        "kept": str(kept) if kept is not None else None,
    }


def export_to(ledger: Ledger, directory: Path) -> dict[str, str]:
    """Writes the canonical exports there; the SHA-256 of each by name."""
    return write_exports(ledger.reader(), ledger.store.columns, directory)


def _exports_of_old(settings: Settings) -> dict[str, str]:
    if not settings.store_path.exists():
        return {}
    try:
        ledger = Ledger(settings)
    except StoreDamaged:
        return {}
    try:
        ledger.catch_up()
        return export_to(ledger, settings.data / "exports.before")
    finally:
        ledger.close()


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


def _swap(draft: Path, live: Path) -> Path | None:
    """Puts the new store in the place of the old one, and returns where the old one is kept."""
    kept = None
    if live.exists():
        kept = live.with_name(f"{live.stem}.{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}{live.suffix}")
        kept.unlink(missing_ok=True)
        os.link(live, kept)
        wal = Path(f"{live}.wal")
        if wal.exists():
            # What the log of the old one holds belongs to the old one; beside the new one it would be poison.
            wal.replace(f"{kept}.wal")
    draft.replace(live)
    descriptor = os.open(live.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return kept


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    Path(f"{path}.wal").unlink(missing_ok=True)

"""Alerts as the log has them, and whether they would reach anybody."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from doortab.analytics.alertbook import AlertBook
from doortab.scheduling import channels_of
from doortab.schemas import instants
from doortab.schemas.alerts import Alert
from doortab.schemas.errors import DoortabError
from doortab.schemas.log import Log
from doortab.settings import Settings


def alerts_in(log: Log) -> list[dict[str, Any]]:
    """Every alert in the log, oldest first, as JSON; one that was written twice counts once."""
    found: dict[str, Alert] = {}
    for noted in AlertBook(log).news():
        found.setdefault(noted.alert.id, noted.alert)
    return [msgspec.to_builtins(alert) for alert in found.values()]


def send_test(settings: Settings) -> list[str]:
    """Sends a test alert through every channel and says what became of it.

    Raises:
        DoortabError: a channel did not take it.
    """
    now = time.time_ns() // 1000
    at = instants.text(now)
    text = "this is a test: alerts reach you here"
    alert = Alert(id=f"test/{at}", kind="drift", severity="info", subject="test", at=at, text=text)
    lines, failed = [], False
    for channel in channels_of(settings):
        outcome = channel.send(alert, now)
        failed |= outcome.kind != "delivered"
        lines.append(f"{channel.name}: {outcome.kind} {outcome.detail}".rstrip())
    if failed:
        raise DoortabError("\n".join(lines))
    return lines

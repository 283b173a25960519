"""What a ledger does by the clock: looks for spikes, delivers alerts, publishes snapshots."""

from __future__ import annotations

import time
from collections.abc import Sequence

from doortab.alerting import read_alerts
from doortab.analytics import alerts as rules
from doortab.analytics.cells import Read
from doortab.analytics.spikes import Prices
from doortab.ledger import Ledger
from doortab.schemas import alerts, topics
from doortab.schemas.alerts import Alert
from doortab.schemas.log import Entry


def publish_alerts(ledger: Ledger, found: Sequence[Alert]) -> None:
    """Appends alerts to the log; whoever delivers them reads them from there."""
    if found:
        ledger.log.append(topics.ALERTS, [Entry(0, a.id.encode(), alerts.encode(a)) for a in found])


def look_for_spikes(ledger: Ledger, read: Read, settings: rules.Settings) -> list[Alert]:
    """Asks every alert rule, publishes what is new and returns it."""
    known = read_alerts(ledger.log)
    prices = Prices(ledger.store.columns, ledger.tariff())
    found = rules.find(read, time.time_ns() // 1000, settings, known, prices)
    publish_alerts(ledger, found)
    return found

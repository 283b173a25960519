"""Alerts as the log has them."""

from __future__ import annotations

from typing import Any

import msgspec

from doortab.schemas import alerts, topics
from doortab.schemas.log import Log, TopicPartition


def read_alerts(log: Log) -> list[alerts.Alert]:
    """Every alert in the log, oldest first; one that was published twice counts once."""
    position, end = log.begin_offsets(topics.ALERTS)[0], log.end_offsets(topics.ALERTS)[0]
    found: dict[str, alerts.Alert] = {}
    reader = log.reader({TopicPartition(topics.ALERTS, 0): position})
    try:
        while position < end:
            for record in reader.poll(10_000, 16_000_000, 1.0):
                position = record.offset + 1
                try:
                    alert = alerts.decode(record.value or b"")
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
                found.setdefault(alert.id, alert)
    finally:
        reader.close()
    return list(found.values())


def alerts_in(log: Log) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [msgspec.to_builtins(alert) for alert in read_alerts(log)]

"""The alert book: the alerts in the log, read on and on, and written to.

The log is where alerts live: the ledger's, those of the rules, and whoever else has something to say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from doortab.schemas import alerts, topics
from doortab.schemas.alerts import Alert
from doortab.schemas.log import Entry, Log, TopicPartition

logger = logging.getLogger("doortab.alerts")

PARTITION = 0
MAX_RECORDS = 1000
MAX_BYTES = 4_000_000


class Noted(NamedTuple):
    """An alert, and where it stands in the log."""

    offset: int
    alert: Alert


class AlertBook:
    """Reads topic ``alerts`` from an offset on. One thread owns it."""

    def __init__(self, log: Log, start: int = 0) -> None:
        self._log = log
        self.next = start
        """The offset after the last record that was read."""

    def news(self) -> list[Noted]:
        """What has come since the last time, in order. An alert that was written twice comes twice.

        Raises:
            LogUnavailable: the log could not be reached; what was not returned comes the next time.
        """
        begin, end = (of(topics.ALERTS).get(PARTITION, 0) for of in (self._log.begin_offsets, self._log.end_offsets))
        position, found = max(self.next, begin), list[Noted]()
        if position >= end:
            return found
        reader = self._log.reader({TopicPartition(topics.ALERTS, PARTITION): position})
        try:
            while position < end:
                for record in reader.poll(MAX_RECORDS, MAX_BYTES, 1.0):
                    position = record.offset + 1
                    try:
                        found.append(Noted(record.offset, alerts.decode(record.value or b"")))
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        logger.error("record %s of topic alerts is passed over: %s", record.offset, error)
        finally:
            reader.close()
        self.next = position
        return found

    def write(self, found: Iterable[Alert]) -> None:
        """Appends the alerts; they are durable when it returns. Writing one again is harmless: its id says so.

        Raises:
            LogUnavailable: any part of them may be in the log; write them again.
        """
        entries = [Entry(PARTITION, alert.id.encode(), alerts.encode(alert)) for alert in found]
        if entries:
            self._log.append(topics.ALERTS, entries)

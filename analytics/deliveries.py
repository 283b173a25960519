"""Deliveries: which alert still has to reach which channel, and when it is tried next.

The alert itself is in the log; what is kept here, in a small SQLite file beside the store, is how far
the log was read and what became of each (alert, channel). Taking alerts in and moving that position is
one transaction, and a delivery is noted after it was made: killed in between, it is made again, under
the same id. So an alert arrives at least once, and one that could not be delivered stays visible.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from doortab.analytics.alertbook import AlertBook
from doortab.analytics.notify import Channel, Outcome
from doortab.schemas import alerts, instants
from doortab.schemas.errors import DoortabError, LogUnavailable, NotFound
from doortab.schemas.log import Log

logger = logging.getLogger("doortab.deliveries")

MINUTE = 60
HOUR = 3600
WAITS_SECONDS = (5, 5 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (2, 5, 10, 14, 20, 24)))
"""How long to wait after each attempt that failed; the first comes at once, and after the last nothing does.
Source: Standard Webhooks, "Retry schedule"."""

STALE_SECONDS = 3 * 24 * HOUR
"""An alert that is this old when it is first seen is history: a new channel or a lost file must not wake anybody."""

TURN = 50
"""So many alerts a channel gets at once."""

State = Literal["due", "delivered", "given_up", "expired"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    alert TEXT NOT NULL, channel TEXT NOT NULL, value BLOB NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt INTEGER NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (alert, channel)
) STRICT;
CREATE INDEX IF NOT EXISTS due ON deliveries (channel, next_attempt) WHERE state = 'due';
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS gone (channel TEXT PRIMARY KEY, since INTEGER NOT NULL, detail TEXT NOT NULL) STRICT;
"""


class Delivery(NamedTuple):
    """What became of an alert on a channel so far. ``next_attempt`` is an instant, and means something while due."""

    alert: str
    channel: str
    state: State
    attempts: int
    next_attempt: int
    detail: str


class Deliveries:
    """The open file. Threads may share it; only one of them should deliver."""

    def __init__(self, path: Path, log: Log, channels: Sequence[Channel]) -> None:
        """Opens the file, made if there is none.

        Raises:
            DoortabError: it cannot be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._channels = list(channels)
        assert len({channel.name for channel in channels}) == len(channels), "two channels have one name"
        self._lock = threading.RLock()
        try:
            self._connection = _opened(path)
            found = self._connection.execute("SELECT next FROM position").fetchall()
        except sqlite3.OperationalError as error:
            raise DoortabError(f"{path}: {error}; see to its directory, its rights and its disk") from error
        except sqlite3.DatabaseError as error:
            way = "move it away, and the alerts of the last three days are delivered once more"
            raise DoortabError(f"{path} cannot be read: {error}; {way}") from error
        self._book = AlertBook(log, found[0][0] if found else 0)

    def step(self, now: int) -> Iterator[str]:
        """Takes in what is new and delivers what is due, yielding a name after each step.

        Raises:
            LogUnavailable: the log could not be reached; what is due already is delivered all the same.
        """
        failure: LogUnavailable | None = None
        try:
            self.take_in(now)
        except LogUnavailable as error:
            failure = error
        yield "taken in"
        yield from self.deliver_due(now)
        if failure is not None:
            raise failure

    def take_in(self, now: int) -> int:
        """Notes every alert that came since the last time for every channel; how many came.

        Raises:
            LogUnavailable: the log could not be reached.
        """
        with self._lock:
            start = self._book.next
            news = [noted.alert for noted in self._book.news()]
            if self._book.next == start:
                return 0
            old = {alert.id for alert in news if _instant(alert.at) < now - STALE_SECONDS * instants.SECOND}
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for alert in news:
                    self._insert(alert, "expired" if alert.id in old else "due", now)
                self._connection.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", [self._book.next])
                self._connection.execute("COMMIT")
            except BaseException:
                self._book.next = start
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        if old:
            logger.warning("%s alerts are too old to be sent; they are listed as expired", len(old))
        return len(news)

    def _insert(self, alert: alerts.Alert, state: State, now: int) -> None:
        for channel in self._channels:
            self._connection.execute(
                "INSERT OR IGNORE INTO deliveries VALUES (?, ?, ?, ?, 0, ?, '')",
                [alert.id, channel.name, alerts.encode(alert), state, now],
            )

    def deliver_due(self, now: int) -> Iterator[str]:
        """Tries what is due, channel by channel, yielding ``sent`` and ``noted`` for each.

        A channel that fails is left alone until the next call, so that one that hangs costs the others
        its time-out once.
        """
        for channel in self._channels:
            if self._is_gone(channel.name):
                continue
            for alert, value, attempts in self._due(channel.name, now):
                outcome = channel.send(alerts.decode(value), now)
                yield "sent"
                self._note(alert, channel.name, attempts + 1, outcome, now)
                yield "noted"
                if outcome.kind != "delivered":
                    break

    def deliveries(self, state: State | None = None) -> list[Delivery]:
        """What became of each alert, the latest attempt first."""
        chosen = "state = ?1" if state is not None else "?1 IS NULL"
        query = (
            "SELECT alert, channel, state, attempts, next_attempt, detail FROM deliveries "
            f"WHERE {chosen} ORDER BY next_attempt DESC, alert, channel"
        )
        return [Delivery(*row) for row in self._execute(query, [state])]

    def gone(self) -> dict[str, str]:
        """The channels whose receiver wants nothing more, and what it said."""
        return dict(self._execute("SELECT channel, detail FROM gone ORDER BY channel", []))

    def enable(self, channel: str) -> None:
        """Takes up a channel again. What has been waiting for it goes out.

        Raises:
            NotFound: no such channel.
        """
        if channel not in {known.name for known in self._channels}:
            raise NotFound(f"no channel is called {channel!r}")
        self._execute("DELETE FROM gone WHERE channel = ?", [channel])

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def _is_gone(self, channel: str) -> bool:
        return bool(self._execute("SELECT 1 FROM gone WHERE channel = ?", [channel]))

    def _due(self, channel: str, now: int) -> list[tuple[str, bytes, int]]:
        return self._execute(
            "SELECT alert, value, attempts FROM deliveries "
            "WHERE state = 'due' AND channel = ? AND next_attempt <= ? ORDER BY next_attempt, rowid LIMIT ?",
            [channel, now, TURN],
        )

    def _note(self, alert: str, channel: str, attempts: int, outcome: Outcome, now: int) -> None:
        state: State = "due"
        next_attempt = now
        if outcome.kind == "delivered":
            state = "delivered"
        elif outcome.kind == "gone":
            logger.error("channel %s is switched off: %s", channel, outcome.detail)
            self._execute("INSERT OR REPLACE INTO gone VALUES (?, ?, ?)", [channel, now, outcome.detail])
        elif attempts > len(WAITS_SECONDS):
            state = "given_up"
            logger.error("alert %r is given up on channel %s: %s", alert, channel, outcome.detail)
        else:
            wait = max(WAITS_SECONDS[attempts - 1], outcome.after_seconds)
            next_attempt = now + wait * instants.SECOND
            logger.warning("alert %r waits %s s for channel %s: %s", alert, wait, channel, outcome.detail)
        self._execute(
            "UPDATE deliveries SET state = ?, attempts = ?, next_attempt = ?, detail = ? "
            "WHERE alert = ? AND channel = ?",
            [state, attempts, next_attempt, outcome.detail, alert, channel],
        )

    def _execute(self, statement: str, values: Sequence[object]) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _instant(at: str) -> int:
    """When an alert was raised. One that does not say so properly is new."""
    try:
        return instants.parse(at)
    except ValueError:
        return instants.LATEST

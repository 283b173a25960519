"""One connection to the log's file: opened when needed, retried while others are busy, closed before a fork."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from doortab.log.file_database import BUSY, FileDatabase, code_of, meaning_of
from doortab.log.forking import ForkGate
from doortab.schemas.errors import DoortabError, LogUnavailable

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.0003
LONGEST_PAUSE_SECONDS = 0.004


class NotYet(Exception):
    """Somebody else is at it; raised by work that wants to be tried again."""


class FileSession:
    """Runs pieces of work on a connection of its own, one at a time."""

    def __init__(self, database: FileDatabase, gate: ForkGate) -> None:
        self.database = database
        self._gate = gate
        self._connection: sqlite3.Connection | None = None
        self.renew()

    def renew(self) -> None:
        """After a fork, in the child: the old lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def run(self, work: Callable[[sqlite3.Connection], T], deadline: float) -> T:
        """Does the work, again and again while the file is busy, at least once, until ``deadline`` (monotonic).

        The work must be short, because a fork waits for it, and must leave no transaction behind.

        Raises:
            LogUnavailable: busy until the deadline, or the disk does not do what it should.
            LogDamaged: the file cannot be read.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                with self._gate.using(), self._lock:
                    return work(self._ready())
            except NotYet:
                if time.monotonic() >= deadline:
                    raise LogUnavailable(
                        f"{self.database.directory}: others held the file until the time was up; is one stopped?"
                    ) from None
            except DoortabError:
                with self._gate.using():
                    self.close()
                raise
            except (sqlite3.Error, OSError) as error:
                if isinstance(error, OSError) or code_of(error) not in BUSY or time.monotonic() >= deadline:
                    self._fail(error)
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self.database.connect()
        return self._connection

    def _fail(self, error: sqlite3.Error | OSError) -> None:
        """Raises what the error means; the connection is dropped, since its state is anybody's guess."""
        with self._gate.using():
            self.close()
        meaning = meaning_of(error, self.database.directory)
        if meaning is None:
            raise error
        raise meaning from error

    def close(self) -> None:
        """Closes the connection; the next use opens another. Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def __del__(self) -> None:
        if self._gate.is_ours():  # a parent's connection must not even be closed
            self.close()

"""One writer at a time, across threads and processes, in turn.

SQLite would serialise writers by itself. The own lock is there for two reasons: SQLite waits with
growing sleeps, so that a busy writer starves the others; and SQLite before 3.51.3 can corrupt a file
when a checkpoint and a write that resets the write-ahead log coincide (sqlite.org/wal.html, "WAL-reset
bug"). Here every write, with the checkpoint that belongs to it, happens under this lock.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class TurnLock:
    """Two files: who waits holds the turn, who writes holds the lock; so nobody overtakes who waits.

    The kernel frees both when the process dies, however it dies.
    """

    def __init__(self, directory: Path) -> None:
        self._turn = _FileLock(directory / "log.turn")
        self._lock = _FileLock(directory / "log.lock")

    def try_acquire(self) -> bool:
        """Takes the lock if it is free and nobody else waits. After a False, call again soon or ``give_up``."""
        if not self._turn.try_acquire() or not self._lock.try_acquire():
            return False
        self._turn.release()
        return True

    def release(self) -> None:
        """Lets the next one write."""
        self._lock.release()

    def give_up(self) -> None:
        """Stops waiting."""
        self._turn.release()

    def close(self) -> None:
        """Frees the files, and with them whatever was held."""
        self._turn.close()
        self._lock.close()


class _FileLock:
    """An advisory lock on a file of its own (never on SQLite's: closing that would drop SQLite's locks)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._held = False

    def try_acquire(self) -> bool:
        if self._held:
            return True
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._held = True
        return True

    def release(self) -> None:
        if self._held and self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._held = False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._held = None, False

"""The SQLite file behind a file log: how it is opened and laid out, and what its errors mean.

Never open ``log.sqlite3`` with ``open()`` in a process that uses the log: closing any descriptor of
the file drops the locks that SQLite holds on it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from doortab.log.file_lock import TurnLock
from doortab.log.rules import LogDamaged
from doortab.schemas.errors import DoortabError, LogUnavailable, UsageError

FORMAT = 1
"""Of the file, kept in ``user_version``. A file with a higher one is left alone."""
APPLICATION = 0x646F6F72  # "door"

# Measured with records of 60-100 kB on ext4: 4 KiB pages append 110 MB/s, 16 KiB 145-168, 64 KiB 138;
# larger pages only make small commits dearer.
PAGE_BYTES = 16_384
# What is written twice and held back: a larger one is a little faster and makes the slowest append slower.
WAL_BYTES = 16 * 1024 * 1024
# SQLite's own waiting, for moments that no lock of ours covers (recovery after a crash, a backup tool).
BUSY_SECONDS = 0.25
CREATE_SECONDS = 10.0
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_SCHEMA = """
    CREATE TABLE partitions (
        number INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        compacted INTEGER NOT NULL,
        retention_ms INTEGER NOT NULL,
        begin INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, partition)
    )
"""


class Table(NamedTuple):
    """Where a partition's records stand. One table each, so that every append goes to the right end of a tree."""

    number: int
    topic: str
    compacted: bool
    retention_ms: int

    @property
    def name(self) -> str:
        """The name in SQL."""
        return f"records_{self.number}"


class FileDatabase:
    """Opens connections to one log file, creating it when there is none. Lets SQLite's errors through."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "log.sqlite3"
        self.closed = False
        self._identity: tuple[int, int] | None = None

    def connect(self) -> sqlite3.Connection:
        """A connection that is ready for use, in autocommit mode.

        Raises:
            LogUnavailable: the file is another one than before.
            UsageError: the file is not a log, or a newer doortab wrote it, or the log is closed.
        """
        if self.closed:
            raise UsageError("the log is closed")
        if self._identity is not None:
            self.check_in_place()
        make_directory(self.directory)
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _configure(connection)
            if not _is_current(connection, self.path):
                self._create(connection)
            status = self.path.stat()
        except BaseException:
            connection.close()
            raise
        self._identity = (status.st_dev, status.st_ino)
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        """Lays the file out; whoever dies on the way leaves an empty file, which the next one lays out."""
        with _held(TurnLock(self.directory), CREATE_SECONDS):
            if _is_current(connection, self.path):
                return  # another process was faster
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA application_id={APPLICATION}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
            connection.execute("COMMIT")

    def check_in_place(self) -> None:
        """Whether the opened file is still the one under that name: what goes into a deleted file is lost.

        Raises:
            LogUnavailable: somebody deleted or replaced it.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise LogUnavailable(f"{self.path} was deleted or replaced while it was in use; restart this process")

    def wal_bytes(self) -> int:
        """How large the write-ahead log is."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0


def _configure(connection: sqlite3.Connection) -> None:
    # FULL: an append is on the disk before it is acknowledged. fullfsync is what that takes on macOS.
    for pragma in ("synchronous=FULL", "fullfsync=ON", "cache_size=-4000", f"journal_size_limit={WAL_BYTES}"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA wal_autocheckpoint={WAL_BYTES // PAGE_BYTES}")


def _is_current(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is a log of this format; False when it is still empty."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and application == 0 and tables == 0:
        return False
    if application != APPLICATION:
        raise UsageError(f"{path} is not a doortab log but another SQLite file; name another directory")
    if version > FORMAT:
        raise UsageError(
            f"{path} has format {version}, this doortab knows up to {FORMAT}: a newer doortab wrote it, use that one"
        )
    return True


def make_directory(directory: Path) -> None:
    """Creates it with its parents, durably: a log that is gone after a power cut had nothing acknowledged in it."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    descriptor = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _held(lock: TurnLock, timeout_seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout_seconds
    try:
        while not lock.try_acquire():
            if time.monotonic() >= deadline:
                raise LogUnavailable(f"another process has been creating the log for {timeout_seconds:.0f} s")
            time.sleep(0.002)
        yield
    finally:
        lock.close()


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF


def meaning_of(error: sqlite3.Error | OSError, directory: Path) -> DoortabError | None:
    """The error in our words; None for what is neither the disk's nor the file's fault, but a bug."""
    if isinstance(error, OSError):
        return LogUnavailable(f"{directory}: {error}; the log needs a directory it may write")
    code = code_of(error)
    if code in BUSY:
        return LogUnavailable(f"{directory}: another program holds the log's file; try again")
    if code == sqlite3.SQLITE_FULL:
        return LogUnavailable(
            f"{directory}: the disk is full. Free space there and send the same again; nothing acknowledged is lost"
        )
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return LogUnavailable(
            f"{directory}: {error} ({error.sqlite_errorname}). Check space, file size limit, rights and the disk itself"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LogDamaged(f"{directory}: {error}. Restore the directory from a copy; doortab does not repair a log")
    return None

"""Brings what lies in the spool to the log, for ever, and acknowledges only what the log has acknowledged.

One thread: takes some parcels from this process' spool or from the spool of a dead one, packs them,
appends them to topic ``usage``, acknowledges them in the spool. When the log does not answer, the same
bytes are sent again after a pause that grows; nothing is held in memory but those. An event that the
log will never take, while it takes others, is put aside in a file, and counted.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from doortab.producers import parcels
from doortab.producers.backlog import Backlog, Batch
from doortab.producers.claims import Held, claim_orphans
from doortab.producers.refused import Refused
from doortab.producers.spool import Spool
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.instants import Microseconds
from doortab.schemas.log import Entry, Log
from doortab.schemas.topics import USAGE, topics

LINGER_SECONDS = 0.005
QUIET_ROUNDS = 100
"""After so many moments in which nothing came, this thread sleeps until it is woken."""
LITTLE_BYTES = 65_536
"""With less than this waiting, a moment's patience makes one record of what would become many."""

BATCH_BYTES = 1 << 20
"""So much is shipped at once, at least while so much is there; it is all that is held in memory."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
FAILURES_UNTIL_REOPENED = 20
ORPHAN_SECONDS = 10.0
MAX_ORPHANS = 8
"""So many at once: each takes files, and the process has better use for them."""

PARTITION_SECONDS = 60.0
APPEND_SECONDS = 30.0


class Orphan:
    """The spool of a dead process, which this one ships."""

    def __init__(self, held: Held, backlog: Backlog) -> None:
        self.held = held
        self.backlog = backlog

    def finish(self) -> None:
        """Everything in it is in the log."""
        self.backlog.remove()
        self.held.remove()

    def leave(self) -> None:
        """Lets another process have the rest."""
        self.backlog.close()
        self.held.free()


class Shipper:
    """The shipping thread and what it knows.

    ``shipped`` counts events that the log has acknowledged, ``failures`` appends it has not, ``error`` is
    the last reason, ``undeliverable`` counts events that were put aside, ``unreadable_spools`` the
    directories that only a newer doortab can read.
    """

    def __init__(self, spool: Spool, root: Path, open_log: Callable[[], Log], owns_log: bool) -> None:
        self.shipped = 0
        self.failures = 0
        self.error: str | None = None
        self.oldest: Microseconds | None = None
        self.orphans: list[Orphan] = []
        self.unreadable_spools: set[str] = set()
        self._spool = spool
        self._root = root
        self._open_log = open_log
        self._owns_log = owns_log
        self._refused = Refused(root, self._append_alone)
        self._log: Log | None = None
        self._partitions = 0
        self._partitions_until = 0.0
        self._orphans_at = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._quiet_rounds = 0
        self._stopping = threading.Event()
        self._deadline = -math.inf
        self._thread = threading.Thread(target=self._run, name="doortab-shipper", daemon=True)
        self._ending = threading.Lock()
        self._afterwards: Callable[[], None] | None = None
        self._has_ended = False

    @property
    def undeliverable(self) -> int:
        """Events that were put aside."""
        return self._refused.undeliverable

    def start(self) -> None:
        """Starts shipping."""
        with contextlib.suppress(RuntimeError):  # no threads any more while Python ends; the spool is kept
            self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Ships what waits, for so long at most. Returns whether the thread has ended."""
        self._deadline = time.monotonic() + timeout_seconds
        self._stopping.set()
        self._spool.arrived.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds + 1.0)
        return not self._thread.is_alive()

    def afterwards(self, work: Callable[[], None]) -> None:
        """Does something once the thread has ended: at once, or in the thread."""
        with self._ending:
            if not self._has_ended:
                self._afterwards = work
                return
        work()

    def leave_to_parent(self) -> None:
        """In the child after a fork: frees the copies of locks. The log is kept, so that nothing tears it down."""
        for orphan in self.orphans:
            with contextlib.suppress(OSError):
                orphan.held.free()

    def _run(self) -> None:
        try:
            while not self._is_over():
                try:
                    if not self._round():
                        self._wait()
                except Exception as error:  # whatever it is, an event that stays in the spool is not lost
                    self._failed(error)
        finally:
            for orphan in self.orphans:
                orphan.leave()
            self.orphans = []
            if self._owns_log and self._log is not None:
                self._log.close()
            with self._ending:
                self._has_ended, work = True, self._afterwards
            if work is not None:
                work()

    def _is_over(self) -> bool:
        if not self._stopping.is_set():
            return False
        return self._spool.waiting_bytes == 0 or time.monotonic() >= self._deadline

    def _round(self) -> bool:
        """Ships one batch from everywhere. Returns whether anything was there."""
        self._adopt()
        worked = self._ship_from(self._spool)
        for orphan in list(self.orphans):
            worked = True
            if not self._ship_from(orphan.backlog):
                self.orphans.remove(orphan)
                orphan.finish()
                self._orphans_at = 0.0  # there may be more
        self._spool.foreign_bytes = sum(orphan.backlog.disk_bytes for orphan in self.orphans)
        return worked

    def _wait(self) -> None:
        """Until something arrives, and a little longer, so that it does not travel alone.

        Who records does not wake this thread while there is something to do every now and then, for that
        would cost a request more than all the rest: this thread looks again by itself.
        """
        self._quiet_rounds = 0 if self._spool.waiting_bytes else self._quiet_rounds + 1
        if self._quiet_rounds > QUIET_ROUNDS and not self._stopping.is_set():
            self._spool.await_arrival(ORPHAN_SECONDS)
        if self._spool.waiting_bytes < LITTLE_BYTES:
            self._stopping.wait(LINGER_SECONDS)

    def _adopt(self) -> None:
        if time.monotonic() < self._orphans_at:
            return
        self._orphans_at = time.monotonic() + ORPHAN_SECONDS
        for held in islice(claim_orphans(self._root), MAX_ORPHANS - len(self.orphans)):
            try:
                self.orphans.append(Orphan(held, Backlog(held.directory, self._spool.losses)))
            except (UsageError, OSError) as error:
                held.free()
                self.error = str(error)
                if isinstance(error, UsageError):
                    self.unreadable_spools.add(held.directory.name)

    def _ship_from(self, backlog: Backlog) -> bool:
        batch = _gather(backlog)
        if batch is None:
            if backlog is self._spool:
                self.oldest = None
            return False
        if batch.payloads and (backlog is self._spool or self.oldest is None):
            self.oldest = parcels.recorded_at(batch.payloads[0])
        taken = self._append_until_acknowledged(backlog, batch) if batch.payloads else 0
        if taken is None:
            return True
        backlog.ack(batch.end)
        self.shipped += taken
        return True

    def _append_until_acknowledged(self, backlog: Backlog, batch: Batch) -> int | None:
        """Sends the same bytes until the log has them, and returns how many events it took.

        None when there is no time left, or when the log takes nothing: then the batch is gathered anew, for what
        was recorded meanwhile may show that the fault is in the events.
        """
        entries: list[Entry] = []
        while True:
            try:
                log = self._opened()
                entries = entries or parcels.pack(batch.payloads, self._partition_count(log), breathe)
                log.append(USAGE, entries, self._append_seconds())
            except UsageError as error:
                self._partitions = 0
                taken = self._refused.sort(backlog, batch)
                if taken is None:
                    self._failed(error)
                else:
                    self._pause_seconds, self.error = FIRST_PAUSE_SECONDS, None
                return taken
            except Exception as error:  # an adapter's bug must not lose events either
                self._failed(error)
            else:
                self._pause_seconds, self.error = FIRST_PAUSE_SECONDS, None
                self._refused.witness = batch.payloads[0]
                return len(batch.payloads)
            if self._stopping.is_set() and time.monotonic() >= self._deadline:
                return None

    def _append_alone(self, payload: bytes) -> None:
        log = self._opened()
        log.append(USAGE, parcels.pack([payload], self._partition_count(log)), self._append_seconds())

    def _opened(self) -> Log:
        if self._log is None:
            self._log = self._open_log()
        return self._log

    def _partition_count(self, log: Log) -> int:
        if self._partitions == 0 or time.monotonic() >= self._partitions_until:
            if log.partition_count(USAGE) == 0:
                log.ensure_topics(topic for topic in topics() if topic.name == USAGE)
            self._partitions = log.partition_count(USAGE)
            self._partitions_until = time.monotonic() + PARTITION_SECONDS
        if self._partitions == 0:
            raise LogUnavailable(f"topic {USAGE!r} has no partitions yet")
        return self._partitions

    def _append_seconds(self) -> float:
        if not self._stopping.is_set():
            return APPEND_SECONDS
        return max(0.1, min(APPEND_SECONDS, self._deadline - time.monotonic()))

    def _failed(self, error: Exception) -> None:
        """Remembers why, and pauses. Whoever stops the client ends the pause."""
        self.failures += 1
        self.error = f"{type(error).__name__}: {error}"
        if self.failures % FAILURES_UNTIL_REOPENED == 0 and self._owns_log and self._log is not None:
            log, self._log = self._log, None
            log.close()
        self._stopping.wait(self._pause_seconds)
        if self._stopping.is_set():
            time.sleep(min(self._pause_seconds, max(0.0, self._deadline - time.monotonic())))
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)


def _gather(backlog: Backlog) -> Batch | None:
    """What is shipped together: slices of the backlog, until there are enough."""
    payloads: list[bytes] = []
    end = None
    size_bytes = 0
    while size_bytes < BATCH_BYTES and (some := backlog.peek(end)) is not None:
        if payloads:
            breathe()
        payloads += some.payloads
        end = some.end
        size_bytes += sum(map(len, some.payloads))
    return None if end is None else Batch(payloads, end)


def breathe() -> None:
    """Lets other threads run: a thread that computes keeps Python for 5 ms otherwise, and a request waits.

    Not too often: when the others compute too, each of them takes its 5 ms before this one goes on.
    """
    time.sleep(0)

"""Records usage events: to the spool at once, to the log soon.

``record`` makes the event's id and bytes once, writes them to a file and returns; a thread ships. So a
request never waits for the log, nothing that was recorded is lost when the process is killed, and what
is sent twice carries the same id. Nothing is started before the first ``record``, and a forked child
starts everything anew, so that servers which fork after loading the application just work.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from weakref import WeakSet

from doortab.producers import parcels
from doortab.producers.backlog import Losses
from doortab.producers.claims import claim_new
from doortab.producers.eventtext import EventIds, Quantity, event_bytes
from doortab.producers.keytext import Random
from doortab.producers.shipper import Shipper
from doortab.producers.spool import Spool
from doortab.schemas.errors import SpoolFull, UsageError
from doortab.schemas.events import REQUEST_VALIDATED
from doortab.schemas.instants import Microseconds
from doortab.schemas.log import Log

WhenFull = Literal["refuse", "allow"]

MAX_SPOOL_BYTES = 1 << 30
EXIT_SECONDS = 2.0
"""How long a program that ends without closing its clients waits for the log. What is left is kept."""

_clients: WeakSet[Client] = WeakSet()
_left_to_the_parent: list[object] = []


class _Running:
    """What belongs to one process: its spool and its shipping thread."""

    def __init__(self, spool: Spool, shipper: Shipper) -> None:
        self.pid = os.getpid()
        self.spool = spool
        self.shipper = shipper


class Client:
    """Records usage events. Threads may share it; so may forked children.

    Its counters are those of this process: ``recorded`` events are in the spool or beyond, ``shipped``
    are in the log (with what dead processes left), ``refused_full`` were refused with ``SpoolFull``,
    ``unrecorded`` were let pass without a record because ``when_full`` says so.
    """

    def __init__(
        self,
        log: Log | Callable[[], Log],
        spool_dir: str | Path,
        *,
        source: str,
        max_spool_bytes: int = MAX_SPOOL_BYTES,
        when_full: WhenFull = "refuse",
        clock: Callable[[], int] = time.time_ns,
        random: Random = os.urandom,
    ) -> None:
        """``log`` is a log, or opens one: it is called in the shipping thread, and again after a fork.

        ``source`` names this service in its events, for instance ``gate/eu-1``. A process that is given
        an open log keeps it open; one that opened it closes it. ``clock`` gives nanoseconds.
        """
        if not 0 < len(source) <= 256:
            raise UsageError(f"source {source!r}; it is text of 1 to 256 characters that names this service")
        if when_full not in ("refuse", "allow"):
            raise UsageError(f"when_full {when_full!r}; write 'refuse' or 'allow'")
        self.source = source
        self.when_full = when_full
        self.max_spool_bytes = max_spool_bytes
        self.refused_full = 0
        self.unrecorded = 0
        self.losses = Losses()
        self._spool_dir = Path(spool_dir)
        self._open_log, self._owns_log = _opener(log)
        self._clock = clock
        self._random = random
        self._ids = EventIds(clock, random)
        self._running: _Running | None = None
        self._starting = threading.Lock()
        self._is_closed = False
        _clients.add(self)

    def record(
        self,
        *,
        account: str | None = None,
        key: str | None = None,
        operation: str | None = None,
        verdict: Literal["allowed", "refused"] = "allowed",
        reason: str | None = None,
        billable: bool | None = None,
        units: Mapping[str, Quantity] | None = None,
        dimensions: Mapping[str, str] | None = None,
        time: Microseconds | str | None = None,
        type: str = REQUEST_VALIDATED,
        subject: str | None = None,
        id: str | None = None,
        durable: bool = False,
    ) -> str:
        """Records one event and returns its id. It survives the death of this process from then on.

        ``durable`` waits for the disk too, so that it survives a power cut; without, the last 20 ms may
        not. The same ``id`` from the same source is the same event: recording it again bills once.

        Raises:
            UsageError: a value breaks a rule, or the client is closed.
            SpoolFull: there is no room, or the disk fails, and ``when_full`` is "refuse".
        """
        self._notice_fork()
        now = self._clock() // 1000
        event_id = id if id is not None else self._ids.new()
        event = event_bytes(
            event_id=event_id,
            source=self.source,
            event_type=type,
            time=now if time is None else time,
            subject=subject,
            account=account,
            key=key,
            operation=operation,
            verdict=verdict,
            reason=reason,
            billable=billable,
            units=units,
            dimensions=dimensions,
        )
        # All events of an account go to one partition, so that one ledger owns its caps.
        routing = (account or subject or key or event_id).encode()
        try:
            self._process().spool.append(parcels.parcel(now, routing, event), durable)
        except SpoolFull:
            if not self._lets_pass():
                raise
        return event_id

    def has_room(self, for_bytes: int = 4096) -> bool:
        """Whether an event can be recorded, as far as one can tell. Asked before work is done that must be recorded.

        Raises:
            UsageError: the client is closed.
        """
        self._notice_fork()
        try:
            return self._process().spool.has_room(for_bytes)
        except SpoolFull:
            return False

    def start(self) -> None:
        """Starts shipping before the first event, for instance what a dead process left behind.

        Raises:
            UsageError: the client is closed, or ``max_spool_bytes`` is too small.
            SpoolFull: the spool's directory cannot be used.
        """
        self._notice_fork()
        self._process()

    def close(self, timeout_seconds: float = 10.0) -> bool:
        """Ships what waits, for so long at most. Returns whether the log has everything; the rest is kept."""
        with self._starting:
            was_closed, self._is_closed = self._is_closed, True
            running = self._running
        if running is None or running.pid != os.getpid():
            return True
        if was_closed:
            return running.spool.waiting_bytes == 0
        if not running.shipper.stop(timeout_seconds):
            # The thread still hangs in the log. Its files are left to it, and to whoever comes once it has ended.
            running.spool.seal()
            running.shipper.afterwards(running.spool.close)
            return False
        is_empty = running.spool.waiting_bytes == 0
        running.spool.close()
        return is_empty

    @property
    def recorded(self) -> int:
        """Events that were recorded in this process."""
        return self._running.spool.appended if self._running else 0

    @property
    def shipped(self) -> int:
        """Events that the log has acknowledged to this process."""
        return self._running.shipper.shipped if self._running else 0

    @property
    def undeliverable(self) -> int:
        """Events that the log refused while it took others; they lie in ``undeliverable.ndjson``."""
        return self._running.shipper.undeliverable if self._running else 0

    @property
    def spool_bytes(self) -> int:
        """What waits on disk, of this process and of dead ones that it ships for."""
        running = self._running
        return running.spool.waiting_bytes + running.spool.foreign_bytes if running else 0

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest event has been waiting for the log; 0 when none waits."""
        oldest = self._running.shipper.oldest if self._running else None
        return 0.0 if oldest is None else max(0.0, (self._clock() // 1000 - oldest) / 1e6)

    @property
    def error(self) -> str | None:
        """Why the last attempt to ship failed; None when it did not."""
        return self._running.shipper.error if self._running else None

    def _notice_fork(self) -> None:
        """Some servers fork in a way that Python does not see."""
        if self._running is not None and self._running.pid != os.getpid():
            self._after_fork_in_child()

    def _process(self) -> _Running:
        running = self._running
        if running is not None:
            return running
        with self._starting:
            if self._is_closed:
                raise UsageError("the client is closed; record before closing it")
            if self._running is None:
                self._running = self._started()
            return self._running

    def _started(self) -> _Running:
        name = f"{os.getpid()}-{self._random(6).hex()}"
        try:
            held = claim_new(self._spool_dir, name)
            spool = Spool(held, self.losses, max_bytes=self.max_spool_bytes)
        except OSError as error:
            raise SpoolFull(f"no spool can be made in {self._spool_dir}: {error.strerror}; mend it") from error
        shipper = Shipper(spool, self._spool_dir, self._open_log, self._owns_log)
        shipper.start()
        return _Running(spool, shipper)

    def _lets_pass(self) -> bool:
        """Counts an event that found no room, and says whether its request goes on."""
        with self._starting:
            if self.when_full == "allow":
                self.unrecorded += 1
            else:
                self.refused_full += 1
        return self.when_full == "allow"

    def _after_fork_in_child(self) -> None:
        """The thread, the connections and the directory are the parent's; locks may be held by nobody."""
        running, self._running = self._running, None
        self._starting = threading.Lock()
        self._ids = EventIds(self._clock, self._random)
        self.refused_full = self.unrecorded = 0
        self.losses = Losses()
        if running is not None:
            running.shipper.leave_to_parent()
            running.spool.abandon()
            _left_to_the_parent.append(running)


def _opener(log: Log | Callable[[], Log]) -> tuple[Callable[[], Log], bool]:
    if callable(log):
        return log, True
    opened = log
    return (lambda: opened), False


def _close_all() -> None:
    for client in list(_clients):
        with contextlib.suppress(Exception):
            client.close(EXIT_SECONDS)


def _all_after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_all_after_fork_in_child)

"""Feeds the keyring from topics ``keys`` and ``revocations``, from their beginning and then as they grow.

The view is *ready* once the position of every partition has reached the end that was captured at the
start; that a poll returned nothing proves nothing, and counting records does not either, because
compaction leaves gaps. Later, about once a second, the ends are captured again; the moment of a capture
that the positions have reached is how fresh the view is. While the log is away the view stands, and ages.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from doortab.producers.keyring import Keyring
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.instants import Microseconds
from doortab.schemas.log import Log, Reader, Record, TopicPartition
from doortab.schemas.topics import KEYS, REVOCATIONS, topics

TOPICS = (KEYS, REVOCATIONS)
MAX_RECORDS = 5_000
MAX_BYTES = 4_000_000
RECORDS_PER_BREATH = 500
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
SWEEP_SECONDS = 600.0
FAILURES_UNTIL_REOPENED = 20

_left_to_the_parent: list[object] = []


class Effective(NamedTuple):
    """When a revocation, or its end, reached this gate: ``logged_ms`` by the log's clock, ``at`` by ours."""

    id: str
    subject: str
    cause: str
    type: str
    offset: int
    logged_ms: int
    at: Microseconds


class _Capture(NamedTuple):
    """Where the partitions ended at a moment of the steady clock."""

    at_seconds: float
    ends: dict[TopicPartition, int]


def steady_seconds() -> float:
    """A clock that never steps. Where it can, it also runs while the machine sleeps: a view ages in sleep too."""
    return time.clock_gettime(_STEADY)


_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Follower:
    """The thread that follows, and what it knows: ``ready``, ``age_seconds``, ``offsets``, ``error``.

    ``recent`` holds the latest revocations with the moment they became effective here; ``failures``
    counts how often the log could not be read.
    """

    def __init__(
        self,
        keyring: Keyring,
        open_log: Callable[[], Log],
        *,
        beat_seconds: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        """``open_log`` is called in the following thread, and again after a fork. ``clock`` gives nanoseconds."""
        self.keyring = keyring
        self.offsets: dict[TopicPartition, int] = {}
        self.recent: deque[Effective] = deque(maxlen=1_000)
        self.ready = False
        """Whether everything that was in the log at the start has been applied."""
        self.failures = 0
        self.error: str | None = None
        self._open_log = open_log
        self._beat_seconds = beat_seconds
        self._clock = clock
        self._steady = steady
        self._log: Log | None = None
        self._reader: Reader | None = None
        self._capture: _Capture | None = None
        self._fresh_at: float | None = None
        self._swept_at = steady()
        self._failed_in_a_row = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._became_ready = threading.Event()

    def age_seconds(self) -> float:
        """For how long the view may have missed something; infinite before it was whole for the first time."""
        fresh_at = self._fresh_at
        return math.inf if fresh_at is None else max(0.0, self._steady() - fresh_at)

    def wait_until_ready(self, timeout_seconds: float) -> bool:
        """Waits for the view to be whole."""
        return self._became_ready.wait(timeout_seconds)

    def start(self) -> None:
        """Starts the thread, unless it runs."""
        if self._thread is None or not self._thread.is_alive():
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="doortab-follower", daemon=True)
            self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Ends the thread and closes the log; the view stays as it is."""
        self._stopping.set()
        thread, reader = self._thread, self._reader
        if reader is not None:
            reader.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_seconds)
            if thread.is_alive():
                return
        self._thread = None
        self._disconnect(close_log=True)

    def after_fork_in_child(self) -> None:
        """The thread stayed in the parent, and so did connections: drops them without touching them.

        The view was copied, and is continued from its offsets by the next ``start``.
        """
        _left_to_the_parent.extend((self._log, self._reader))
        self._log = self._reader = self._capture = self._thread = None
        self._stopping, self._became_ready = threading.Event(), threading.Event()
        if self.ready:
            self._became_ready.set()

    def step(self, timeout_seconds: float) -> int:
        """Reads once and applies; returns how many records came. This is all that the thread repeats.

        Raises:
            DoortabError: the log could not be read; what was applied stands, and the next step goes on.
        """
        if self._reader is None:
            self._connect()
        reader = self._reader
        assert reader is not None, "connected"
        records = reader.poll(MAX_RECORDS, MAX_BYTES, timeout_seconds)
        for count, record in enumerate(records):
            self._apply(record)
            if count % RECORDS_PER_BREATH == RECORDS_PER_BREATH - 1 and self.ready:
                time.sleep(0)  # a flood of records must not keep requests waiting, once any can be answered
        self._keep_time()
        self._failed_in_a_row, self.error = 0, None
        return len(records)

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                self.step(self._beat_seconds)
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:  # whatever it is, a gate that stops following serves revoked keys
                self._recover(error)
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _recover(self, error: Exception) -> None:
        """Lets the next step connect anew and go on behind what was applied."""
        self.failures += 1
        self._failed_in_a_row += 1
        self.error = f"{type(error).__name__}: {error}"
        self._disconnect(close_log=self._failed_in_a_row % FAILURES_UNTIL_REOPENED == 0)

    def _connect(self) -> None:
        if self._log is None:
            self._log = self._open_log()
        self._log.ensure_topics(topic for topic in topics() if topic.name in TOPICS)
        at, ends = self._steady(), self._ends()
        if any(self.offsets.get(place, 0) > end for place, end in ends.items()):
            self._start_over()
        for topic in TOPICS:
            for partition, begin in self._log.begin_offsets(topic).items():
                place = TopicPartition(topic, partition)
                self.offsets[place] = max(begin, self.offsets.get(place, 0))
        self._reader = self._log.reader(dict(self.offsets))
        self._capture = _Capture(at, ends)

    def _ends(self) -> dict[TopicPartition, int]:
        log = self._log
        assert log is not None, "connected"
        ends = {TopicPartition(t, partition): end for t in TOPICS for partition, end in log.end_offsets(t).items()}
        if {place.topic for place in ends} != set(TOPICS):
            raise LogUnavailable(f"the log says nothing about the ends of {TOPICS}; are the topics being created?")
        return ends

    def _apply(self, record: Record) -> None:
        place = TopicPartition(record.topic, record.partition)
        said = self.keyring.apply(record)
        # Only now: what is applied twice after a fault does no harm, what is left out would.
        self.offsets[place] = record.offset + 1
        if said is not None and self.ready:
            what = (said.id, said.subject, said.cause, said.type)
            self.recent.append(Effective(*what, record.offset, record.timestamp_ms, self._clock() // 1000))

    def _keep_time(self) -> None:
        """Says how fresh the view is, and captures the ends anew when it is time."""
        if self._capture is None and self._steady() - (self._fresh_at or 0.0) >= self._beat_seconds:
            self._capture = _Capture(self._steady(), self._ends())
            self._follow_new_partitions(self._capture.ends)
        capture = self._capture
        if capture is not None and all(self.offsets[place] >= end for place, end in capture.ends.items()):
            self._fresh_at, self._capture = capture.at_seconds, None
            self.ready = True
            self._became_ready.set()
        if self._steady() - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = self._steady()
            self.keyring.sweep(self._clock() // 1000)

    def _follow_new_partitions(self, ends: dict[TopicPartition, int]) -> None:
        if any(self.offsets.get(place, 0) > end for place, end in ends.items()):
            raise LogUnavailable("the log is shorter than what was read from it; it is read again from its start")
        new = {place: 0 for place in ends if place not in self.offsets}
        if new and self._reader is not None:
            self._reader.seek(new)
            self.offsets |= new

    def _start_over(self) -> None:
        """The log is shorter than what was read from it, so it is another one: nobody passes until it is read."""
        self.offsets = {}
        self.keyring.forget_revocations()
        self.ready = False
        self._became_ready.clear()
        self._fresh_at = None

    def _disconnect(self, close_log: bool) -> None:
        reader, self._reader, self._capture = self._reader, None, None
        with contextlib.suppress(Exception):  # the port says that close never raises; nothing depends on it
            if reader is not None:
                reader.close()
            if close_log and self._log is not None:
                self._log.close()
        if close_log:
            self._log = None

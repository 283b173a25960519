"""Brings what was appended to the disk: one ``fdatasync`` for all that came in a moment, in a thread of its own.

The kernel has a frame as soon as it is written, so it survives the death of the process. Only a power
cut needs this.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from doortab.schemas.errors import SpoolFull

IDLE_ROUNDS = 50

MAX_RANGES = 64
"""Of frames that were not synced. The oldest two become one, with what lies between: better refused than lost."""


class Work(NamedTuple):
    """What is to be synced: files, those of them that are closed afterwards, and directories with new files."""

    files: list[int]
    retired: list[int]
    directories: list[Path]


class Syncer:
    """Counts frames, and knows up to which of them everything is on the disk.

    ``lock`` is the spool's; ``collect`` and ``failed`` are called while it is held. ``failures`` counts
    syncs that the disk refused.
    """

    def __init__(
        self,
        lock: threading.Lock,
        collect: Callable[[], Work],
        failed: Callable[[], None],
        seconds: float,
        fdatasync: Callable[[int], None],
    ) -> None:
        self.appended = 0
        self.failures = 0
        self._lock = lock
        self._collect = collect
        self._failed = failed
        self._seconds = seconds
        self._fdatasync = fdatasync
        self._on_disk = 0
        self._not_synced: list[tuple[int, int]] = []
        self._synced = threading.Condition(lock)
        self._must_run = threading.Event()
        self._urgent = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Something was appended."""
        if self._must_run.is_set():
            return
        self._must_run.set()
        with self._lock, contextlib.suppress(RuntimeError):  # no threads any more while Python ends
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="doortab-sync", daemon=True)
                thread.start()
                self._thread = thread

    def wait_for(self, number: int) -> None:
        """Waits until so many frames are on the disk.

        Raises:
            SpoolFull: the disk refused.
        """
        with self._lock:
            while True:
                if any(after < number <= upto for after, upto in self._not_synced):
                    raise SpoolFull("the spool was not synced: the disk failed; mend it")
                if self._on_disk >= number:
                    return
                self._urgent.set()
                self._synced.wait(1.0)

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Syncs once more and ends the thread."""
        self._is_stopping = True
        self._urgent.set()
        self._must_run.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        """Looks every few milliseconds while frames come; then sleeps until ``wake``."""
        idle_rounds = 0
        while not self._is_stopping:
            self._urgent.wait(self._seconds)
            self._urgent.clear()
            if self.appended != self._on_disk:
                idle_rounds = 0
                self._sync()
            elif idle_rounds < IDLE_ROUNDS:
                idle_rounds += 1
            else:
                self._must_run.clear()
                # Somebody may have appended before seeing that this thread is about to sleep.
                if self.appended == self._on_disk and not self._is_stopping:
                    self._must_run.wait()
                self._must_run.set()
        self._sync()

    def _sync(self) -> None:
        with self._lock:
            work, upto = self._collect(), self.appended
        is_good = True
        try:
            for file in work.files:
                self._fdatasync(file)
            for directory in work.directories:
                _sync_directory(directory)
        except OSError:
            is_good = False
        for file in work.retired:
            os.close(file)
        with self._lock:
            if not is_good:
                # Linux reports a lost page once: what comes next goes to another file.
                self.failures += 1
                self._note_failure(upto)
                self._failed()
            self._on_disk = upto
            self._synced.notify_all()

    def _note_failure(self, upto: int) -> None:
        """Kept, for whoever waits for these frames may look only after later ones were synced."""
        ranges = self._not_synced
        ranges.append((self._on_disk, upto))
        if len(ranges) > 1 and ranges[-2][1] == ranges[-1][0]:
            ranges[-2:] = [(ranges[-2][0], upto)]
        if len(ranges) > MAX_RANGES:
            ranges[:2] = [(ranges[0][0], ranges[1][1])]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What a process has recorded and the log does not have yet: files that survive ``kill -9``.

Every process has a directory of its own, see ``producers.claims``. A frame is appended by one ``write``,
so that it is safe from the death of this process when ``append`` returns; from a power cut it is safe
after the next ``fdatasync``, which a thread calls at most ``sync_seconds`` later, or when
``append(durable=True)`` returns. What the log has acknowledged meanwhile is not synced: it is safe there.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

from doortab.producers import frames
from doortab.producers.backlog import Backlog, Losses, Position, Segment
from doortab.producers.claims import Held
from doortab.schemas.errors import SpoolFull, UsageError

LARGEST_SEGMENT_BYTES = 8 << 20
SMALLEST_SEGMENT_BYTES = 4096
SYNC_SECONDS = 0.02
IDLE_ROUNDS = 50
FAILURE_SECONDS = 1.0
"""After a write that failed, there is no room for so long, as far as anybody asks beforehand."""


class Spool(Backlog):
    """This process' own directory. Threads may append; one thread peeks and acknowledges."""

    def __init__(
        self,
        held: Held,
        losses: Losses,
        *,
        max_bytes: int,
        sync_seconds: float = SYNC_SECONDS,
        fdatasync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        """``max_bytes`` bounds the segments on disk, with those of the orphans that ``foreign_bytes`` counts.

        Raises:
            UsageError: the bound leaves no room for anything.
            OSError: the directory cannot be used.
        """
        if max_bytes < 4 * SMALLEST_SEGMENT_BYTES:
            raise UsageError(f"a spool of {max_bytes} bytes holds nothing; allow {4 * SMALLEST_SEGMENT_BYTES} at least")
        super().__init__(held.directory, losses)
        self.max_bytes = max_bytes
        self.foreign_bytes = 0
        self.used_bytes = 0
        self.appended = 0
        self.arrived = threading.Event()
        self.sync_failures = 0
        self._held = held
        self._segment_bytes = min(LARGEST_SEGMENT_BYTES, max(SMALLEST_SEGMENT_BYTES, max_bytes // 8))
        self._lock = threading.Lock()
        self._file: int | None = None
        self._is_closed = False
        self._failed_at: float | None = None
        # Syncing: frames are counted; those up to a count are on the disk, but for some that failed to get there.
        self._fdatasync = fdatasync
        self._sync_seconds = sync_seconds
        self._sync_thread: threading.Thread | None = None
        self._must_sync = threading.Event()
        self._urgent = threading.Event()
        self._synced = threading.Condition(self._lock)
        self._retired: list[int] = []
        self._is_directory_new = True
        self._on_disk = 0
        self._not_synced = (0, 0)

    def append(self, payload: bytes, durable: bool = False) -> None:
        """Adds a payload; it is safe from the death of this process when this returns.

        With ``durable`` it waits for the disk as well, together with all who wait at the moment.

        Raises:
            SpoolFull: the bound is reached, the disk is full, or it failed.
            UsageError: the payload is too large, or the spool is closed.
        """
        if not 0 < len(payload) <= frames.MAX_PAYLOAD_BYTES:
            raise UsageError(f"a payload of {len(payload)} bytes; a frame takes 1 to {frames.MAX_PAYLOAD_BYTES}")
        with self._lock:
            if self._is_closed:
                raise UsageError("the spool is closed; record before closing")
            self._write(payload)
            self.appended += 1
            number = self.appended
        if not self.arrived.is_set():
            self.arrived.set()
        if not self._must_sync.is_set():
            self._start_syncing()
        if durable:
            self._wait_for_disk(number)

    def has_room(self, for_bytes: int) -> bool:
        """Whether so much more would fit, as far as one can tell."""
        if self._failed_at is not None and time.monotonic() - self._failed_at < FAILURE_SECONDS:
            return False
        return self._occupied_bytes() + for_bytes <= self.max_bytes

    def ack(self, end: Position) -> int:
        """Everything before the position is in the log. Returns how many bytes of disk became free."""
        with self._lock:
            freed = super().ack(end)
            self.used_bytes -= freed
        return freed

    def close(self) -> None:
        """Syncs and closes. What is not acknowledged stays for whoever comes next; if all is, nothing stays."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._urgent.set()
        self._must_sync.set()
        if self._sync_thread is not None:
            self._sync_thread.join(10.0)
        is_empty = self.waiting_bytes == 0
        for descriptor in self._own_descriptors():
            os.close(descriptor)
        self._file, self._retired = None, []
        if is_empty:
            self.remove()
            self._held.remove()
        else:
            super().close()
            self._held.free()

    def abandon(self) -> None:
        """In the child after a fork: frees the copies of descriptors. Directory and lock are the parent's."""
        copies = [*self._own_descriptors(), self._acked_file, self._open[1] if self._open else None]
        for descriptor in copies:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._held.free()

    def _own_descriptors(self) -> list[int]:
        return [*self._retired, *([] if self._file is None else [self._file])]

    def _is_all_acked(self) -> bool:
        last = self.segments[-1] if self.segments else None
        return last is None or self.acked == (last.number, last.size_bytes)

    def _occupied_bytes(self) -> int:
        """What cannot be freed now: everything, unless all of it is acknowledged, even in the last segment."""
        own_bytes = frames.HEADER_BYTES if self._is_all_acked() else self.used_bytes
        return own_bytes + self.foreign_bytes

    def _write(self, payload: bytes) -> None:
        """One write, or none: half a frame is taken back."""
        size = frames.FRAME_BYTES + len(payload)
        segment = self._segment_for(size)
        assert self._file is not None, "a segment is open"
        try:
            if os.write(self._file, frames.frame(payload, segment.size_bytes)) != size:
                raise OSError(0, "the disk is full")
        except OSError as error:
            self._take_back(segment)
            raise self._failure(error) from error
        segment.size_bytes += size
        self.used_bytes += size
        self._failed_at = None

    def _segment_for(self, size: int) -> Segment:
        """The segment that the next frame goes to.

        Raises:
            SpoolFull: there is no room, or no segment can be made.
        """
        last = self.segments[-1] if self.segments else None
        must_free = self.used_bytes + self.foreign_bytes + size > self.max_bytes
        if last is not None and self._file is not None and not must_free and not last.is_damaged:
            if last.size_bytes + size <= self._segment_bytes or last.size_bytes == frames.HEADER_BYTES:
                return last
        elif must_free and (occupied := self._occupied_bytes()) + size > self.max_bytes:
            raise SpoolFull(
                f"the spool {self.directory} holds {occupied} of {self.max_bytes} bytes "
                "that the log has not acknowledged; bring the log back, or allow more"
            )
        return self._next_segment()

    def _next_segment(self) -> Segment:
        number = self.segments[-1].number + 1 if self.segments else self.acked.number
        if self._file is not None:
            self._retired.append(self._file)
            self._file = None
        path = self.directory / f"{number:010d}.segment"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)  # somebody may have deleted it
            self._file = os.open(path, flags, 0o600)
            if os.write(self._file, frames.header(number)) != frames.HEADER_BYTES:
                raise OSError(0, "the disk is full")
        except OSError as error:
            if self._file is not None:
                os.close(self._file)
                self._file = None
                with contextlib.suppress(OSError):
                    path.unlink()
            raise self._failure(error) from error
        if self._is_all_acked() and self.segments:
            # Nothing in them is wanted any more.
            self.acked = Position(number, frames.HEADER_BYTES)
            self._write_acked()
            while self.segments:
                self.used_bytes -= self._delete(self.segments.pop(0))
        segment = Segment(number, path, frames.HEADER_BYTES)
        self.segments.append(segment)
        self.used_bytes += frames.HEADER_BYTES
        self._is_directory_new = True
        return segment

    def _take_back(self, segment: Segment) -> None:
        """After a write that failed: cuts off what it left. Where even that fails, the segment ends here."""
        assert self._file is not None, "a segment is open"
        try:
            os.ftruncate(self._file, segment.size_bytes)
        except OSError:
            self._retired.append(self._file)
            self._file = None

    def _failure(self, error: OSError) -> SpoolFull:
        self._failed_at = time.monotonic()
        return SpoolFull(f"the spool {self.directory} cannot be written: {error.strerror}; free or mend the disk")

    def _start_syncing(self) -> None:
        self._must_sync.set()
        with self._lock, contextlib.suppress(RuntimeError):  # no threads any more while Python ends
            if self._sync_thread is None:
                thread = threading.Thread(target=self._sync_forever, name="doortab-sync", daemon=True)
                thread.start()
                self._sync_thread = thread

    def _wait_for_disk(self, number: int) -> None:
        with self._lock:
            while True:
                after, upto = self._not_synced
                if after < number <= upto:
                    raise SpoolFull(f"the spool {self.directory} is not synced: the disk failed; mend it")
                if self._on_disk >= number:
                    return
                self._urgent.set()
                self._synced.wait(1.0)

    def _sync_forever(self) -> None:
        """Looks every ``sync_seconds`` while frames come; then sleeps until ``append`` wakes it."""
        idle_rounds = 0
        while not self._is_closed:
            self._urgent.wait(self._sync_seconds)
            self._urgent.clear()
            if self.appended != self._on_disk:
                idle_rounds = 0
                self._sync()
            elif idle_rounds < IDLE_ROUNDS:
                idle_rounds += 1
            else:
                self._must_sync.clear()
                # Somebody may have appended before seeing that this thread is about to sleep.
                if self.appended == self._on_disk:
                    self._must_sync.wait()
                self._must_sync.set()
        self._sync()

    def _sync(self) -> None:
        """Brings to the disk what is not in the log yet."""
        with self._lock:
            retired, self._retired = self._retired, []
            files = [*retired, *([] if self._file is None else [self._file])]
            upto, is_needless = self.appended, self._is_all_acked()
            is_directory_new, self._is_directory_new = self._is_directory_new, False
        failed = False
        if not is_needless:
            try:
                for file in files:
                    self._fdatasync(file)
                if is_directory_new:
                    self._sync_directories()
            except OSError:
                failed = True
        for file in retired:
            os.close(file)
        with self._lock:
            if failed:
                # Linux reports a lost page once: what comes next goes to another file.
                self.sync_failures += 1
                self._not_synced = (self._on_disk, upto)
                file_now, self._file = self._file, None
                self._retired += [] if file_now is None else [file_now]
            self._on_disk = upto
            self._synced.notify_all()

    def _sync_directories(self) -> None:
        for directory in (self.directory, self.directory.parent):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

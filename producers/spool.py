"""What a process has recorded and the log does not have yet: files that survive ``kill -9``.

Every process has a directory of its own, see ``producers.claims``. A frame is appended by one ``write``,
so that it is safe from the death of this process when ``append`` returns; from a power cut it is safe
after the next ``fdatasync``, which a thread calls at most ``sync_seconds`` later, or when
``append(durable=True)`` returns. What the log has acknowledged meanwhile is not synced: it is safe there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable

from doortab.producers import frames
from doortab.producers.appending import append_bytes
from doortab.producers.backlog import Backlog, Losses, Position, Segment
from doortab.producers.claims import Held
from doortab.producers.syncer import Syncer, Work
from doortab.schemas.errors import SpoolFull, UsageError

LARGEST_SEGMENT_BYTES = 8 << 20
SMALLEST_SEGMENT_BYTES = 4096
SYNC_SECONDS = 0.02
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
        self.arrived = threading.Event()
        self._is_awaited = False
        self._held = held
        self._segment_bytes = min(LARGEST_SEGMENT_BYTES, max(SMALLEST_SEGMENT_BYTES, max_bytes // 8))
        self._lock = threading.Lock()
        self._file: int | None = None
        self._is_closed = self._is_sealed = False
        self._failed_at: float | None = None
        self._retired: list[int] = []
        self._is_directory_new = True
        self.syncer = Syncer(self._lock, self._collect, self._retire, sync_seconds, fdatasync)

    @property
    def appended(self) -> int:
        """How many payloads were appended."""
        return self.syncer.appended

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
            if self._is_closed or self._is_sealed:
                raise UsageError("the spool is closed; record before closing")
            self._write(payload)
            self.syncer.appended += 1
            number = self.syncer.appended
        if self._is_awaited:
            self._is_awaited = False
            self.arrived.set()
        self.syncer.wake()
        if durable:
            self.syncer.wait_for(number)

    def await_arrival(self, timeout_seconds: float) -> None:
        """Waits until something is there, or somebody sets ``arrived``. For the one thread that peeks."""
        self.arrived.clear()
        self._is_awaited = True  # before looking, so that no arrival is missed
        if self.waiting_bytes == 0:
            self.arrived.wait(timeout_seconds)
        self._is_awaited = False

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

    def seal(self) -> None:
        """Takes nothing more; what is there can still be shipped."""
        with self._lock:
            self._is_sealed = True

    def close(self) -> None:
        """Syncs and closes. What is not acknowledged stays for whoever comes next; if all is, nothing stays."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self.syncer.stop()
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
        error = self._try_to_write(segment, payload)
        if error is not None and self._is_all_acked() and segment.size_bytes > frames.HEADER_BYTES:
            segment = self._next_segment()  # frees the disk of what the log has
            error = self._try_to_write(segment, payload)
        if error is not None:
            raise self._failure(error) from error
        segment.size_bytes += size
        self.used_bytes += size
        self._failed_at = None

    def _try_to_write(self, segment: Segment, payload: bytes) -> OSError | None:
        assert self._file is not None, "a segment is open"
        frame = frames.frame(payload, segment.size_bytes)
        try:
            if append_bytes(self._file, frame) == len(frame):
                return None
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as raised:
            error = raised
        self._take_back(segment)
        return error

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
        if self._is_all_acked():
            self._free_segments(number)
        self._retire()
        path = self.directory / f"{number:010d}.segment"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)  # somebody may have deleted it
            self._file = os.open(path, flags, 0o600)
            if os.write(self._file, frames.header(number)) != frames.HEADER_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if self._file is not None:
                os.close(self._file)
                self._file = None
                with contextlib.suppress(OSError):
                    path.unlink()
            raise self._failure(error) from error
        segment = Segment(number, path, frames.HEADER_BYTES)
        self.segments.append(segment)
        self.used_bytes += frames.HEADER_BYTES
        self._is_directory_new = True
        return segment

    def _free_segments(self, number: int) -> None:
        """Deletes all segments, because the log has all that is in them; ``number`` will be the next."""
        self.acked = Position(number, frames.HEADER_BYTES)
        self._write_acked()
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)  # others have it open: deleting alone would free nothing yet
        while self.segments:
            self.used_bytes -= self._delete(self.segments.pop(0))

    def _take_back(self, segment: Segment) -> None:
        """After a write that failed: cuts off what it left. Where even that fails, the segment ends here."""
        assert self._file is not None, "a segment is open"
        try:
            os.ftruncate(self._file, segment.size_bytes)
        except OSError:
            self._retire()

    def _failure(self, error: OSError) -> SpoolFull:
        self._failed_at = time.monotonic()
        return SpoolFull(f"the spool {self.directory} cannot be written: {error.strerror}; free or mend the disk")

    def _collect(self) -> Work:
        """What is to be synced: nothing, if the log has everything."""
        retired, self._retired = self._retired, []
        if self._is_all_acked():
            return Work([], retired, [])
        directories = [self.directory, self.directory.parent] if self._is_directory_new else []
        self._is_directory_new = False
        return Work([*retired, *([] if self._file is None else [self._file])], retired, directories)

    def _retire(self) -> None:
        """Lets the next frame begin a segment."""
        if self._file is not None:
            self._retired.append(self._file)
            self._file = None

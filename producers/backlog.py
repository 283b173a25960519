"""The frames of one spool directory, in order, from the first that was not acknowledged.

A directory holds segments ``0000000001.segment`` and so on, and ``acked``: up to where the log has
everything. Whoever reads it peeks at some frames, ships them, and acknowledges; after a crash the last
ones come again, which ids make harmless. A segment is deleted once all of it is acknowledged, or moved
aside when something in it was damaged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from msgspec import Struct

from doortab.producers import frames
from doortab.producers.frames import CHUNK_BYTES, HEADER_BYTES, Taken

_ACKED = struct.Struct("<QQI")
SLICE_BYTES = 131_072
"""How much is read at once, as far as that holds a frame: the reading thread shares Python with requests."""

ACKED_NAME = "acked"
DAMAGED_NAME = "damaged"


class Position(NamedTuple):
    """A place between two frames."""

    number: int
    offset: int


class Batch(NamedTuple):
    """Some frames, and the position behind them."""

    payloads: list[bytes]
    end: Position


class Segment(Struct):
    """A file of frames. ``size_bytes`` is how much of it is written, and never half a frame if we wrote it."""

    number: int
    path: Path
    size_bytes: int
    is_damaged: bool = False


class Losses(Struct):
    """What could not be read. Nothing of it is silent: the client shows these figures."""

    damaged_places: int = 0
    damaged_bytes: int = 0
    torn_bytes: int = 0


class Backlog:
    """Reads one directory. One thread peeks and acknowledges; another may append meanwhile."""

    def __init__(self, directory: Path, losses: Losses) -> None:
        """Opens what is there.

        Raises:
            UsageError: a newer doortab wrote it.
            OSError: it cannot be read.
        """
        self.directory = directory
        self.losses = losses
        self.segments = [
            Segment(int(path.stem), path, path.stat().st_size)
            for path in sorted(directory.glob("*.segment"))
            if path.stem.isdigit()
        ]
        for segment in self.segments:
            self._check_header(segment)
        self.acked = self._read_acked()
        self._noted = self.acked
        self._acked_file: int | None = None
        self._open: tuple[int, int] | None = None
        while self.segments and self.segments[0].number < self.acked.number:
            self._delete(self.segments.pop(0))

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of frames are not yet acknowledged."""
        first = self.acked
        return sum(
            max(0, segment.size_bytes - (first.offset if segment.number == first.number else HEADER_BYTES))
            for segment in list(self.segments)
            if segment.number >= first.number
        )

    @property
    def disk_bytes(self) -> int:
        """How many bytes the segments occupy."""
        return sum(segment.size_bytes for segment in list(self.segments))

    def peek(self, after: Position | None = None) -> Batch | None:
        """Some frames after a position, or after what is acknowledged; None when there are no more.

        A batch without frames is to be acknowledged like any other: something damaged was skipped.

        Raises:
            OSError: it cannot be read now.
        """
        number, offset = after or self.acked
        for segment in list(self.segments):
            if segment.number < number:
                continue
            start = offset if segment.number == number else HEADER_BYTES
            size = segment.size_bytes
            if start >= size:
                continue
            taken = self._take(segment, start, size)
            end = Position(segment.number, start + taken.consumed_bytes)
            if taken.damaged_bytes or taken.torn_bytes:
                self._note(segment, taken, Position(segment.number, start), end)
            return Batch(taken.payloads, end)
        return None

    def ack(self, end: Position) -> int:
        """Everything before the position is in the log. Returns how many bytes of disk became free."""
        self.acked = end
        self._write_acked()
        freed = 0
        while len(self.segments) > 1 and self.segments[0].number < end.number:
            freed += self._delete(self.segments.pop(0))
        return freed

    def remove(self) -> None:
        """Deletes the directory, everything in which was acknowledged."""
        self.close()
        for segment in self.segments:
            self._delete(segment)
        with contextlib.suppress(OSError):
            # What the disk would not delete stays acknowledged.
            if not any(segment.path.exists() for segment in self.segments):
                (self.directory / ACKED_NAME).unlink(missing_ok=True)
        self.segments = []

    def close(self) -> None:
        """Frees descriptors."""
        for descriptor in (self._acked_file, self._open[1] if self._open else None):
            if descriptor is not None:
                os.close(descriptor)
        self._acked_file = self._open = None

    def _take(self, segment: Segment, start: int, size: int) -> Taken:
        for most_bytes in (SLICE_BYTES, CHUNK_BYTES):
            length = min(most_bytes, size - start)
            chunk = self._read(segment, start, length)
            if not chunk:
                return Taken([], size - start, size - start, 0)
            # A short read means that somebody cut the file off: nothing will follow either.
            taken = frames.take(chunk, start, at_end=start + len(chunk) >= size or len(chunk) < length)
            if taken.consumed_bytes:
                return taken
        raise AssertionError("a chunk holds the largest frame")

    def _read(self, segment: Segment, start: int, length: int) -> bytes:
        """What stands there; nothing, if the disk has lost it or somebody has deleted it."""
        try:
            return os.pread(self._descriptor(segment), length, start)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOENT):
                raise
            return b""

    def _note(self, segment: Segment, taken: Taken, start: Position, end: Position) -> None:
        """What is peeked at again, because the log did not take it, is counted once."""
        segment.is_damaged = segment.is_damaged or taken.damaged_bytes > 0
        if start < self._noted:
            return
        self._noted = end
        if taken.damaged_bytes:
            self.losses.damaged_places += 1
        self.losses.damaged_bytes += taken.damaged_bytes
        self.losses.torn_bytes += taken.torn_bytes

    def _descriptor(self, segment: Segment) -> int:
        if self._open is None or self._open[0] != segment.number:
            if self._open is not None:
                os.close(self._open[1])
                self._open = None
            self._open = (segment.number, os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC))
        return self._open[1]

    def _check_header(self, segment: Segment) -> None:
        with open(segment.path, "rb") as file:
            start = file.read(HEADER_BYTES)
        if not frames.check_header(start, str(segment.path)) and len(start) == HEADER_BYTES:
            # The frames behind it tell for themselves whether they are whole.
            segment.is_damaged = True
            self.losses.damaged_places += 1
            self.losses.damaged_bytes += HEADER_BYTES

    def _read_acked(self) -> Position:
        first = Position(self.segments[0].number if self.segments else 1, HEADER_BYTES)
        with contextlib.suppress(OSError, struct.error):
            number, offset, check = _ACKED.unpack((self.directory / ACKED_NAME).read_bytes())
            if check == crc32(_ACKED.pack(number, offset, 0)) and (number, offset) >= first:
                return Position(number, offset)
        return first

    def _write_acked(self) -> None:
        """Not synced: after a power cut some frames are shipped again, which is harmless; so is a full disk here."""
        with contextlib.suppress(OSError):
            if self._acked_file is None:
                path = self.directory / ACKED_NAME
                self._acked_file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            number, offset = self.acked
            os.pwrite(self._acked_file, _ACKED.pack(number, offset, crc32(_ACKED.pack(number, offset, 0))), 0)

    def _delete(self, segment: Segment) -> int:
        # Its descriptor stays open until the reading thread needs another one: only that thread may close it.
        with contextlib.suppress(OSError):
            if segment.is_damaged:
                aside = self.directory.parent / DAMAGED_NAME
                aside.mkdir(mode=0o700, exist_ok=True)
                segment.path.rename(aside / f"{self.directory.name}-{segment.path.name}")
            else:
                segment.path.unlink()
        return segment.size_bytes

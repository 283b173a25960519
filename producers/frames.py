"""The format of spool segments: frames that tell where they begin, how long they are and whether they are whole.

A segment starts with ``dtspool``, the format's version and the segment's number. A frame is a marker of
two bytes that no UTF-8 text contains, the length, a check, and the payload; so what follows a damaged
frame can be found again, and a file full of zeros holds no frames. The check is the CRC-32 of length and
payload, mixed with the frame's place in the segment; so what looks like a frame inside of one is none.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from doortab.schemas.errors import UsageError

VERSION = 1
MAGIC = b"dtspool"
MARKER = b"\xff\xfd"
MAX_PAYLOAD_BYTES = 300_000
CHUNK_BYTES = 1 << 20
"""How much is read at most: more than the largest frame, so that every frame can be judged as a whole."""

_HEADER = struct.Struct("<7sBQ")
_FRAME = struct.Struct("<2sII")
_LENGTH = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
FRAME_BYTES = _FRAME.size


class Taken(NamedTuple):
    """What stood at the beginning of a chunk: payloads, how far they reach, and what was lost on the way.

    ``torn_bytes`` belong to a last frame that was never completed, ``damaged_bytes`` to frames that were.
    """

    payloads: list[bytes]
    consumed_bytes: int
    damaged_bytes: int
    torn_bytes: int


def header(number: int) -> bytes:
    """The beginning of a segment."""
    return _HEADER.pack(MAGIC, VERSION, number)


def check_header(start: bytes, name: str) -> bool:
    """Whether this is the beginning of a segment; a damaged one is not, and its frames can be read all the same.

    Raises:
        UsageError: a newer doortab wrote it.
    """
    if len(start) < HEADER_BYTES:
        return False
    magic, version, _ = _HEADER.unpack(start[:HEADER_BYTES])
    if magic == MAGIC and version > VERSION:
        raise UsageError(
            f"{name} has spool format {version}, this doortab reads up to {VERSION}; start the newer doortab to ship it"
        )
    return bool(magic == MAGIC)


def frame(payload: bytes, offset: int) -> bytes:
    """The payload as it stands in a segment at this offset."""
    return _FRAME.pack(MARKER, len(payload), _check(payload, offset)) + payload


def _check(payload: bytes | memoryview, offset: int) -> int:
    # The factor is Knuth's, 2^32 divided by the golden ratio: neighbouring offsets come to lie far apart.
    return crc32(payload, crc32(_LENGTH.pack(len(payload)))) ^ (offset * 2654435761 & 0xFFFFFFFF)


def take(chunk: bytes, offset: int, at_end: bool) -> Taken:
    """The frames at the beginning of a chunk, which begins at this offset. What is no frame is skipped and counted.

    ``at_end`` says that nothing follows the chunk; otherwise a frame that is cut off waits for the next one.
    """
    payloads: list[bytes] = []
    place, damaged, size = 0, 0, len(chunk)
    while place < size:
        # What nearly all frames are: whole and sound, and therefore judged here without a call.
        start = place + FRAME_BYTES
        if start < size:
            marker, length, check = _FRAME.unpack_from(chunk, place)
            payload = chunk[start : start + length] if length <= MAX_PAYLOAD_BYTES else b""
            if len(payload) == length and marker == MARKER and _check(payload, offset + place) == check:
                payloads.append(payload)
                place = start + length
                continue
        end = _end_of(chunk, place, offset)
        incomplete = end is not None or size - place < FRAME_BYTES
        if incomplete and not at_end:
            break
        following = _next_frame(chunk, place + 1, offset, at_end)
        if incomplete and following == size:
            return Taken(payloads, size, damaged, size - place)
        damaged += following - place
        place = following
    return Taken(payloads, place, damaged, 0)


def _end_of(chunk: bytes, place: int, offset: int) -> int | None:
    """Where the frame here ends, perhaps behind the chunk; None when there is no whole and sound frame here."""
    if len(chunk) - place < FRAME_BYTES:
        return None
    marker, length, check = _FRAME.unpack_from(chunk, place)
    if marker != MARKER or not 0 < length <= MAX_PAYLOAD_BYTES:
        return None
    start = place + FRAME_BYTES
    end: int = start + length
    if end > len(chunk):
        return end
    return end if _check(memoryview(chunk)[start:end], offset + place) == check else None


def _next_frame(chunk: bytes, place: int, offset: int, at_end: bool) -> int:
    """Where the next frame may begin; the chunk's end when none does."""
    size = len(chunk)
    while (place := chunk.find(MARKER, place)) >= 0:
        end = _end_of(chunk, place, offset)
        if end is not None and (end <= size or not at_end):
            return place
        if size - place < FRAME_BYTES and not at_end:
            return place
        place += 1
    # Half of a marker may stand at the end.
    return size - 1 if chunk.endswith(MARKER[:1]) and not at_end else size

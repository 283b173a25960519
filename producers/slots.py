"""Rows of bytes, found by a 32-byte digest: a million of them in little memory.

A dictionary of objects costs some 300 bytes per key before it holds anything. Here a row is a slot
number into plain arrays, and one open-addressed table leads to it, so that the cost is the row itself
and about 50 bytes. One thread writes; any number may read meanwhile, because a reader takes each
structure in hand once, and the writer replaces what it has to rebuild.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

DIGEST_BYTES = 32
MAX_ROW_BYTES = 0xFFFF

_SMALLEST_TABLE = 1024
_WASTE_ALLOWED_BYTES = 1 << 20


class Slots:
    """Digests lead to rows."""

    __slots__ = ("_digests", "_rows", "_table", "_wasted")

    def __init__(self) -> None:
        # Slot numbers from 1 on, at the place the digest's first bytes name or the next free one; 0 is
        # free. At most half full, and its length is a power of two.
        self._table = array("I", bytes(4 * _SMALLEST_TABLE))
        self._digests = bytearray(DIGEST_BYTES)
        # Where each row starts in the arena, with its length in the low 16 bits.
        self._rows = (array("Q", [0]), bytearray())
        self._wasted = 0

    def __len__(self) -> int:
        return len(self._rows[0]) - 1

    def get(self, digest: bytes) -> bytes | None:
        """The row of the digest."""
        slot, _ = self._find(digest)
        if not slot:
            return None
        where, arena = self._rows
        at = where[slot]
        return bytes(arena[at >> 16 : (at >> 16) + (at & 0xFFFF)])

    def rows(self) -> Iterator[bytes]:
        """Every row, as it is when its turn comes."""
        where, arena = self._rows
        for slot in range(1, len(where)):
            at = where[slot]
            yield bytes(arena[at >> 16 : (at >> 16) + (at & 0xFFFF)])

    def put(self, digest: bytes, row: bytes) -> None:
        """Sets the row of the digest."""
        assert len(digest) == DIGEST_BYTES
        if len(row) > MAX_ROW_BYTES:
            raise ValueError(f"a row of {len(row)} bytes; it may have {MAX_ROW_BYTES}")
        where, arena = self._rows
        slot, place = self._find(digest)
        at = len(arena) << 16 | len(row)
        arena += row
        if slot:
            self._wasted += where[slot] & 0xFFFF
            where[slot] = at
            if self._wasted > max(_WASTE_ALLOWED_BYTES, len(arena) // 2):
                self._compact()
            return
        self._digests += digest
        where.append(at)
        # Last, so that a reader who finds the slot finds all of it.
        self._table[place] = len(where) - 1
        if 2 * len(where) > len(self._table):
            self._grow()

    def _find(self, digest: bytes) -> tuple[int, int]:
        """The digest's slot and its place in the table; 0 and the free place for it when it has none."""
        table, digests = self._table, self._digests
        mask = len(table) - 1
        place = int.from_bytes(digest[:8], "little") & mask
        while slot := table[place]:
            start = slot * DIGEST_BYTES
            if digests[start : start + DIGEST_BYTES] == digest:
                return slot, place
            place = (place + 1) & mask
        return 0, place

    def _grow(self) -> None:
        """Doubles the table."""
        table, digests = array("I", bytes(8 * len(self._table))), self._digests
        mask = len(table) - 1
        for slot in range(1, len(digests) // DIGEST_BYTES):
            start = slot * DIGEST_BYTES
            place = int.from_bytes(digests[start : start + 8], "little") & mask
            while table[place]:
                place = (place + 1) & mask
            table[place] = slot
        self._table = table

    def _compact(self) -> None:
        """Leaves out the rows that were replaced."""
        where, arena = self._rows
        new_where, new_arena = array("Q", [0]), bytearray()
        for at in where[1:]:
            start, length = at >> 16, at & 0xFFFF
            new_where.append(len(new_arena) << 16 | length)
            new_arena += arena[start : start + length]
        self._rows = (new_where, new_arena)
        self._wasted = 0

"""The trail: what the store said last, kept outside of it, so that an older copy in its place shows.

Two files in a directory of their own. ``head`` holds the last commit, written after each one, in two slots
that take turns: a write that is cut short leaves the one before. It is not synced, for the store always is,
and was first: the head is never ahead of it. ``trail.jsonl`` holds what happened to the store, a line each:

- ``begun``: no trail was there, or no store; from here on it is followed.
- ``finding``: a store was opened that is not the one the head knows, or an older state of it.
- ``accepted``: the next store is meant to be another one; a rebuild, a restoration or a person says so.
- ``opened``: what was accepted was opened.

An ``accepted`` line closes the findings before it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from doortab.analytics import durable
from doortab.analytics.cells import Read

SLOT = 65_536
_SLOT_HEADER = struct.Struct("<II")

What = Literal["begun", "finding", "accepted", "opened"]


class Head(Struct, frozen=True, kw_only=True):
    """The last commit of a store: its number, when it was, and by partition the offset after what it holds."""

    store: str
    batch: int
    committed: int
    next: dict[int, int]
    turn: int = 0


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to the store. ``parts`` holds, by partition, the range of offsets that it is about."""

    what: What
    at: int
    store: str
    kind: str = ""
    words: str = ""
    batch: int = 0
    parts: dict[int, tuple[int, int]] = {}


_encoder = msgspec.json.Encoder()
_heads = msgspec.json.Decoder(Head)
_lines = msgspec.json.Decoder(Line)


class Trail:
    """The trail in one directory. One process at a time marks: the one that has the store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = -1
        self._turn = 0

    def head(self) -> Head | None:
        """The last commit that was marked, or None before the first."""
        try:
            held = (self.directory / "head").read_bytes()
        except FileNotFoundError:
            return None
        slots = [head for at in (0, SLOT) if (head := _read(held[at : at + SLOT])) is not None]
        return max(slots, key=lambda head: head.turn, default=None)

    def mark(self, head: Head) -> None:
        """Notes a commit. Not synced; see above.

        Raises:
            DiskFull, StoreDamaged: it cannot be written. The store has the commit.
        """
        try:
            self._mark(head)
        except OSError as error:
            raise durable.failure(self.directory / "head", error) from error

    def _mark(self, head: Head) -> None:
        if self._file < 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            newest = self.head()
            self._turn = newest.turn if newest is not None else 0
            self._file = os.open(self.directory / "head", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._turn += 1
        text = _encoder.encode(msgspec.structs.replace(head, turn=self._turn))
        if len(text) > SLOT - _SLOT_HEADER.size:  # thousands of partitions: their offsets are what is left out
            text = _encoder.encode(msgspec.structs.replace(head, turn=self._turn, next={}))
        os.pwrite(self._file, _SLOT_HEADER.pack(len(text), zlib.crc32(text)) + text, SLOT * (self._turn % 2))

    def add(self, line: Line) -> None:
        """Appends a line; it is on the disk when this returns.

        Raises:
            DiskFull, StoreDamaged: it cannot be written.
        """
        try:
            self._add(line)
        except OSError as error:
            raise durable.failure(self.directory / "trail.jsonl", error) from error

    def _add(self, line: Line) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "trail.jsonl"
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("ab") as file:
            file.write((b"\n" if torn else b"") + _encoder.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        durable.sync(self.directory)

    def lines(self) -> list[Line]:
        """Every line, oldest first; one that was cut short is passed over."""
        return list(self._read_lines())

    def open_findings(self) -> list[Line]:
        """The findings that nobody has accepted yet."""
        found: list[Line] = []
        for line in self._read_lines():
            if line.what == "accepted":
                found = []
            elif line.what == "finding":
                found.append(line)
        return found

    def awaited(self) -> str | None:
        """The store that was accepted and not opened since."""
        store = None
        for line in self._read_lines():
            if line.what == "accepted":
                store = line.store
            elif line.what == "opened":
                store = None
        return store

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read_lines(self) -> Iterator[Line]:
        try:
            held = (self.directory / "trail.jsonl").read_bytes()
        except FileNotFoundError:
            return
        for text in held.splitlines():
            # What was cut short by a power cut is found again at the next opening.
            with contextlib.suppress(msgspec.DecodeError):
                yield _lines.decode(text)


def follow(trail: Trail, read: Read, store: str, *, made: bool, now: int) -> None:
    """Compares a store that was just opened with what the trail knows, and goes on from there.

    A store that was ``made`` just now, where there was none, is read from the log from its beginning: nobody is
    deceived by it.
    """
    head, last = trail.head(), last_commit(read, store)
    if trail.awaited() == store:
        trail.add(Line(what="opened", at=now, store=store, batch=last.batch))
    elif head is None or made:
        trail.add(Line(what="begun", at=now, store=store, batch=last.batch))
    elif (finding := _difference(read, head, last, now)) is not None:
        trail.add(finding)
    trail.mark(last)


def note_gaps(trail: Trail, last: Head, begins: Mapping[int, int], now: int) -> None:
    """Notes, once, which records are gone from the log before the store had them."""
    parts = {p: (last.next.get(p, 0), begin) for p, begin in begins.items() if last.next.get(p, 0) < begin}
    known = any(line.kind == "missing_records" and line.parts == parts for line in trail.lines())
    if parts and not known:
        words = "the log no longer holds records that are not in it"
        line = Line(what="finding", at=now, store=last.store, kind="missing_records", words=words, batch=last.batch)
        trail.add(msgspec.structs.replace(line, parts=parts))


def last_commit(read: Read, store: str) -> Head:
    """The last commit that is in the store."""
    batch, committed = read("SELECT coalesce(max(batch), 0), coalesce(epoch_us(max(committed)), 0) FROM commits")[0]
    positions = dict(read("SELECT part, max(next) FROM commits WHERE part >= 0 GROUP BY part"))
    return Head(store=store, batch=batch, committed=committed, next=positions)


def _difference(read: Read, head: Head, last: Head, now: int) -> Line | None:
    """What is wrong with a store that should be at the head's commit, or after it."""
    if head.store != last.store:
        kind, words = "replaced", f"it is not the store {head.store} that was there before"
        parts = {part: (0, offset) for part, offset in head.next.items()}
    elif last.batch < head.batch:
        kind, words = "rolled_back", f"it ends with commit {last.batch}, and commit {head.batch} was in it already"
        behind = {part: (last.next.get(part, 0), offset) for part, offset in head.next.items()}
        parts = {part: (first, after) for part, (first, after) in behind.items() if first < after}
    else:
        found = read(f"SELECT epoch_us(max(committed)) FROM commits WHERE batch = {head.batch}")[0][0]
        if found == head.committed or head.batch == 0:
            return None
        kind, words = "rewritten", f"its commit {head.batch} is not the one that was there before"
        parts = {part: (0, offset) for part, offset in head.next.items()}
    return Line(what="finding", at=now, store=last.store, kind=kind, words=words, batch=last.batch, parts=parts)


def _read(slot: bytes) -> Head | None:
    if len(slot) < _SLOT_HEADER.size:
        return None
    size, check = _SLOT_HEADER.unpack_from(slot)
    text = slot[_SLOT_HEADER.size : _SLOT_HEADER.size + size]
    if not size or len(text) < size or zlib.crc32(text) != check:
        return None
    try:
        return _heads.decode(text)
    except msgspec.DecodeError:
        return None

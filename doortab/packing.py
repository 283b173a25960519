"""Packing: files of events into records of the log.

Nothing is judged here but what belongs together: every line goes to the log as it stands, readable
ones in batches, each unreadable one as a record of its own, and the ledger decides.

    python -m doortab.packing LOG FILE…

does it in a process of its own, beside a ledger that follows, and prints what it packed as JSON.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from doortab.consumers.views import Views
from doortab.log.open import open_log
from doortab.schemas import instants, topics, wire
from doortab.schemas.elements import split
from doortab.schemas.errors import DoortabError, Stopped, UsageError
from doortab.schemas.events import MAX_EVENT_BYTES, Event
from doortab.schemas.log import Entry, Log

RECORD_EVENTS = 400
RECORD_BYTES = 200_000
AGAIN = "run the same command again: events are recognised by their ids, and none is billed twice"
APPEND_BYTES = 8_000_000
"""Records hold at most so many events and bytes, and one append at most so many bytes."""


class Cut(Stopped):
    """Somebody stopped it when so many events were in the log."""

    def __init__(self, taken: int) -> None:
        super().__init__(f"stopped; {taken:,} events of it are in the log; {AGAIN}")
        self.taken = taken


class Packer:
    """Gathers events by partition into records, and appends them. ``ranges`` are the offsets they got."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._views = Views(log)
        self._views.catch_up()
        self._partitions = log.partition_count(topics.USAGE)
        self._open: dict[int, list[bytes]] = {}
        self._sizes: dict[int, int] = {}
        self._ready: list[Entry] = []
        self._ready_bytes = 0
        self.read = 0
        self.taken = 0
        """How many of the events that were read are in the log."""
        self.ranges: list[list[int]] = []

    def add(self, raw: bytes) -> None:
        """Takes one event, an array of them, or what stands in the place of one."""
        if raw[:1] != b"[":
            self._add_one(raw)
            return
        try:
            elements = split(raw)
        except wire.Unreadable:
            self._add_one(raw)
            return
        for element in elements:
            # An array in an array is no event: it stays in one, or the ledger would take it apart.
            self._add_one(b"[" + element + b"]" if element[:1] == b"[" else element)

    def _add_one(self, raw: bytes) -> None:
        self.read += 1
        try:
            event, _, _ = wire.decode_event(raw, instants.EARLIEST)
        except wire.Unreadable:
            # Alone, so that it spoils no batch; cut, so that the log takes it and the ledger still refuses it.
            cut = raw[: MAX_EVENT_BYTES + 1]
            self._append(Entry(zlib.crc32(cut) % self._partitions, None, cut))
            return
        partition = topics.partition_of(self._account(event).encode(), self._partitions)
        batch = self._open.setdefault(partition, [])
        batch.append(raw)
        size = self._sizes[partition] = self._sizes.get(partition, 0) + len(raw)
        if len(batch) >= RECORD_EVENTS or size >= RECORD_BYTES:
            self._close_record(partition)

    def flush(self) -> None:
        """Appends everything that was gathered."""
        for partition in sorted(self._open):
            self._close_record(partition)
        self._send()

    def close(self) -> None:
        """Frees what it reads with."""
        self._views.close()

    def _account(self, event: Event) -> str:
        """Whose partition the event belongs to."""
        if event.data.account is not None:
            return event.data.account
        owner = self._views.owners.get(event.data.key or "")
        if owner is not None:
            return owner[1]
        if event.subject is None:
            return event.id
        return self._views.tariff(self._views.newest).account_of_subject(event.subject) or event.subject

    def _close_record(self, partition: int) -> None:
        batch = self._open.pop(partition)
        self._sizes[partition] = 0
        self._append(Entry(partition, None, wire.join(batch)))

    def _append(self, entry: Entry) -> None:
        self._ready.append(entry)
        self._ready_bytes += len(entry.value or b"")
        if self._ready_bytes >= APPEND_BYTES:
            self._send()

    def _send(self) -> None:
        if not self._ready:
            return
        offsets = self._log.append(topics.USAGE, self._ready)
        for entry, offset in zip(self._ready, offsets, strict=True):
            _extend(self.ranges, entry.partition, offset)
        self._ready, self._ready_bytes = [], 0
        self.taken = self.read - sum(map(len, self._open.values()))


def _extend(ranges: list[list[int]], partition: int, offset: int) -> None:
    for known in reversed(ranges[-64:]):
        if known[0] == partition and known[2] == offset:
            known[2] = offset + 1
            return
    ranges.append([partition, offset, offset + 1])


def events_in(name: str) -> Iterator[bytes]:
    """The events of a file: lines of JSON, an array of objects, or one object; gzip is recognised.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with _opened(name) as stream:
            yield from _split(stream)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{name} cannot be read: {error}") from None


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    with ExitStack() as opened:
        stream: Any = sys.stdin.buffer if name == "-" else opened.enter_context(Path(name).open("rb"))
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream = opened.enter_context(gzip.open(stream))
        yield stream


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    lines = iter(stream)
    for line in lines:
        first = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not first:
            continue
        if first[:1] == b"[" or (first[:1] == b"{" and first[-1:] != b"}"):
            yield from _whole(first + b"\n" + b"".join(lines))
            return
        yield first
        break
    for line in lines:
        if found := line.strip():
            yield found


def _whole(text: bytes) -> Iterator[bytes]:
    """The events of a text that is one JSON value. If it is none, its lines count, each for itself."""
    text = text.strip()
    try:
        yield from split(text)
    except wire.Unreadable:
        yield from (line for line in map(bytes.strip, text.splitlines()) if line)


def pack(log: Log, files: Iterable[str], progress: Any = lambda _: None) -> Packer:
    """Packs all events of the files. ``progress`` gets how many were read so far.

    Raises:
        UsageError: a file that cannot be read.
        Cut: somebody pressed Ctrl-C.
        LogUnavailable: the log did not acknowledge; what it has it keeps, and sending it all again is harmless.
    """
    packer = Packer(log)
    try:
        for name in files:
            for raw in events_in(name):
                packer.add(raw)
                if packer.read % 10_000 == 0:
                    progress(packer.read)
        packer.flush()
    except UsageError as error:
        if not packer.taken:
            raise
        way = f"mend it and {AGAIN}"
        raise UsageError(f"{error}; {packer.taken:,} events before that are in the log; {way}") from None
    except KeyboardInterrupt:
        raise Cut(packer.taken) from None
    finally:
        packer.close()
    return packer


def main() -> int:
    """The process beside a ledger. Ends when its parent does: nobody would wait for what it packs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    url, *files = sys.argv[1:]
    parent = os.getppid()

    def orphaned(_: int) -> None:
        if os.getppid() != parent:
            sys.exit(1)

    try:
        log = open_log(url)
        packer = pack(log, files, orphaned)
        log.close()
    except (Cut, KeyboardInterrupt) as error:
        print(json.dumps({"taken": getattr(error, "taken", 0)}))
        return Cut.exit_code
    except DoortabError as error:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        return error.exit_code
    print(json.dumps({"read": packer.read, "ranges": packer.ranges}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Reading and decoding in a process beside the ledger's, as long as there is more to read than one processor can take.

    python -m doortab.decoding LOG

reads orders from its standard input, a line of JSON each, and writes frames to its standard output: a byte
that says what it is, its length, and an intake, or why there is none. It ends when its input does, so that it
never outlives the ledger. It reads ahead by some batches, which changes nothing: what a ledger makes of a
record follows from the log alone, whenever it was read.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from doortab.consumers.intake import Inline, Intake, decode, encode, intake_of
from doortab.interrupting import not_for_children
from doortab.log.open import open_log
from doortab.log.rules import LogDamaged, PositionOutOfRange
from doortab.schemas import topics
from doortab.schemas.errors import DoortabError, LogUnavailable, UsageError
from doortab.schemas.log import Log, Reader, TopicPartition

READY, INTAKE, FAILED = b"R", b"I", b"F"
POLL_SECONDS = 0.2
MUCH = 5_000
"""With so many events in a poll there is probably more where they came from."""
OFTEN = 4
"""After so many such polls in a row a process is started; it takes a second until it reads."""
IDLE_POLLS = 4
"""After so many polls without anything it ends again."""
AHEAD = 2
"""So many intakes wait for the ledger."""
PIPE_BYTES = 1 << 20

_ERRORS: dict[str, type[DoortabError]] = {
    kind.__name__: kind for kind in (PositionOutOfRange, LogDamaged, UsageError, LogUnavailable)
}


class Beside:
    """A source in a process of its own. Until ``is_ready`` it has not begun; ``begin`` says where."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "doortab.decoding", url]
        with not_for_children():  # it is the ledger that is interrupted
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._child.stdout is not None
        with suppress(OSError):  # fewer, longer turns; a system that has not so much to give gives less
            fcntl.fcntl(self._child.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._frames: queue.Queue[tuple[bytes, bytearray] | None] = queue.Queue(AHEAD)
        self.is_ready = False
        self._thread = threading.Thread(target=self._receive, name="doortab-decoding", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._child.poll() is None

    def begin(self, positions: Mapping[TopicPartition, int], max_records: int, max_bytes: int) -> None:
        """Lets it read from these positions on, at most so much at a time."""
        self._order({"max_records": max_records, "max_bytes": max_bytes})
        self.seek(positions)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Adds partitions that it reads from these offsets on."""
        self._order({"seek": [[place.partition, offset] for place, offset in positions.items()]})

    def poll(self, timeout_seconds: float) -> Intake | None:
        """What it has read; None when nothing came.

        Raises:
            LogUnavailable: it could not read, or it died.
        """
        try:
            frame = self._frames.get(timeout=max(0.0, timeout_seconds))
        except queue.Empty:
            return None
        if frame is None:
            return None
        kind, payload = frame
        if kind == FAILED:
            told = json.loads(payload)
            raise _ERRORS.get(told["error"], LogUnavailable)(told["text"])
        return decode(payload)

    def wake(self) -> None:
        """Ends a waiting ``poll``."""
        try:
            self._frames.put_nowait(None)
        except queue.Full:
            return  # then nobody waits

    def close(self) -> None:
        """Ends the process."""
        self._child.kill()
        while self._thread.is_alive():
            try:
                self._frames.get(timeout=0.01)  # it may wait for room
            except queue.Empty:
                continue
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):  # what could not be written to a dead process is not missed
                    pipe.close()

    def _order(self, order: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(order).encode() + b"\n")
            self._child.stdin.flush()
        except OSError as error:
            raise LogUnavailable(f"the process that decodes is gone: {error}") from None

    def _receive(self) -> None:
        """In a thread: takes frames as they come."""
        pipe = self._child.stdout
        assert pipe is not None
        while len(head := pipe.read(9)) == 9:
            payload = bytearray(int.from_bytes(head[1:], "little"))
            if pipe.readinto(payload) < len(payload):  # type: ignore[attr-defined]
                break
            if head[:1] == READY:
                self.is_ready = True
            else:
                self._frames.put((head[:1], payload))
        lost = {"error": "LogUnavailable", "text": "the process that decodes ended; another one is started"}
        self._frames.put((FAILED, bytearray(json.dumps(lost).encode())))


class Adaptive:
    """A source that decodes by itself, and lets a process beside it do that while there is much to do."""

    def __init__(self, log: Log, url: str, positions: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._url = url
        self._positions = dict(positions)
        self._inline: Inline | None = Inline(log.reader(self._positions))
        self._beside: Beside | None = None
        self._much = 0
        self._idle = 0
        # What is only in this process's memory, no other one can read.
        self._often: float = math.inf if url == "memory:" else OFTEN

    @property
    def is_beside(self) -> bool:
        """Whether another process decodes now."""
        return self._inline is None

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> Intake | None:
        """What has come; see ``consumers.intake.Source``."""
        self._settle(max_records, max_bytes)
        if self._inline is not None:
            intake = self._inline.poll(max_records, max_bytes, timeout_seconds)
        else:
            assert self._beside is not None
            intake = self._beside.poll(timeout_seconds)
        if intake is not None:
            for partition, offset in intake.seen.ends().items():
                self._positions[TopicPartition(topics.USAGE, partition)] = offset
        self._much = self._much + 1 if intake is not None and len(intake.columns) >= MUCH else 0
        self._idle = self._idle + 1 if intake is None else 0
        return intake

    def _settle(self, max_records: int, max_bytes: int) -> None:
        """Decides who decodes."""
        if self._inline is None:
            if self._idle >= IDLE_POLLS:
                self._end_beside()
                self._inline = Inline(self._log.reader(self._positions))
            return
        if self._beside is None:
            if self._much >= self._often:
                self._beside = Beside(self._url)
            return
        if not self._beside.is_alive:
            self._often *= 2  # it cannot be started here, or not now; there is no hurry to try again
            self._end_beside()
        elif self._beside.is_ready and self._much:
            self._beside.begin(self._positions, max_records, max_bytes)
            self._inline.close()
            self._inline = None
        elif self._idle >= IDLE_POLLS:
            self._end_beside()

    def _end_beside(self) -> None:
        beside, self._beside, self._much, self._idle = self._beside, None, 0, 0
        if beside is not None:
            beside.close()

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Goes on from these offsets; partitions that were not assigned are added."""
        self._positions.update(positions)
        if self._inline is not None:
            self._inline.seek(positions)
        elif self._beside is not None:
            self._beside.seek(positions)

    def wake(self) -> None:
        """Makes a waiting ``poll`` return. Callable from any thread."""
        inline, beside = self._inline, self._beside
        if inline is not None:
            inline.wake()
        elif beside is not None:
            beside.wake()

    def close(self) -> None:
        """Frees everything."""
        self._end_beside()
        if self._inline is not None:
            self._inline.close()


# --------------------------------------------------------------------------------- the process beside


class Child:
    """What runs in the process beside: follows orders, reads, decodes, and hands over."""

    def __init__(self, log: Log, out: IO[bytes]) -> None:
        self._log = log
        self._out = out
        self._reader: Reader | None = None
        self._most = (1, 1)
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._ready: queue.Queue[tuple[bytes, bytes]] = queue.Queue(1)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._send, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self._orders.put(json.loads(line))
        os._exit(0)  # the ledger is gone, and nobody would take what is under way

    def _send(self) -> None:
        while True:
            kind, payload = self._ready.get()
            try:
                self._out.write(kind + len(payload).to_bytes(8, "little"))
                self._out.write(payload)
                self._out.flush()
            except OSError:
                os._exit(0)
            self._ready.task_done()

    def run(self) -> int:
        """Reads until its input ends, or until it cannot read any more."""
        self._ready.put((READY, b""))
        while True:
            try:
                self._follow_orders()
                records = self._reader.poll(*self._most, POLL_SECONDS) if self._reader is not None else []
                if records:
                    self._ready.put((INTAKE, encode(intake_of(records))))
            except DoortabError as error:
                told = {"error": type(error).__name__, "text": str(error)}
                self._ready.put((FAILED, json.dumps(told).encode()))
                self._ready.join()
                return 1

    def _follow_orders(self) -> None:
        """Waits for the first; later ones are looked for between two polls."""
        while self._reader is None or not self._orders.empty():
            order = self._orders.get()
            if "max_records" in order:
                self._most = (order["max_records"], order["max_bytes"])
                continue
            positions = {TopicPartition(topics.USAGE, partition): offset for partition, offset in order["seek"]}
            if self._reader is None:
                self._reader = self._log.reader(positions)
            else:
                self._reader.seek(positions)


def main() -> int:
    """The process beside a ledger."""
    log = open_log(sys.argv[1])
    try:
        return Child(log, sys.stdout.buffer).run()
    finally:
        log.close()


if __name__ == "__main__":
    sys.exit(main())

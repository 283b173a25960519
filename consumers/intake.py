"""What a poll of ``usage`` came to: its records, their events as columns, and what of them was rejected."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from doortab.consumers.columns import Columns, Whole
from doortab.consumers.tabulation import columns_of, joined, parse_all
from doortab.schemas import wire
from doortab.schemas.log import Reader, Record, TopicPartition
from doortab.schemas.wire import Rejected

PIECE_BYTES = 600_000
"""So much is decoded and turned into columns at a time: its events stay in the processor's cache meanwhile."""


class Seen(NamedTuple):
    """The records of a poll, as columns. ``stamp_ms`` is when the log received each, ``rows`` its events' number."""

    partition: Whole
    offset: Whole
    stamp_ms: Whole
    rows: Whole

    def ends(self) -> dict[int, int]:
        """By partition, the offset behind the last record."""
        return dict(zip(self.partition.tolist(), (self.offset + 1).tolist(), strict=True))

    def of_rows(self, per_record: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """What is said of each record, said of each of its events."""
        return np.repeat(per_record, self.rows)


class Intake(NamedTuple):
    """Records, their events in the same order, and their rejections."""

    seen: Seen
    columns: Columns
    rejected: list[Rejected]

    def __len__(self) -> int:
        return len(self.seen.offset)

    def divided(self, chosen: npt.NDArray[np.bool_]) -> tuple[Intake, Intake]:
        """The intake of the chosen records, and that of the others."""
        return self._of(chosen), self._of(~chosen)

    def _of(self, chosen: npt.NDArray[np.bool_]) -> Intake:
        places = set(zip(self.seen.partition[chosen].tolist(), self.seen.offset[chosen].tolist(), strict=True))
        return Intake(
            Seen(*(column[chosen] for column in self.seen)),
            self.columns.take(self.seen.of_rows(chosen)),
            [one for one in self.rejected if (one.partition, one.offset) in places],
        )


def encode(intake: Intake) -> bytes:
    """The intake as bytes, for another process."""
    sink = pa.BufferOutputStream()
    seen = pa.table(dict(zip(Seen._fields, intake.seen, strict=True)))
    for table in (seen, intake.columns.table):
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    columns = sink.getvalue()
    return b"".join((len(columns).to_bytes(8, "little"), columns, _encoder.encode(intake.rejected)))


def decode(value: bytes | bytearray | memoryview) -> Intake:
    """The intake that ``encode`` made these bytes of. Its columns stay in them."""
    view = memoryview(value)
    after = 8 + int.from_bytes(view[:8], "little")
    buffer = pa.BufferReader(pa.py_buffer(view[8:after]))
    seen = pa.ipc.open_stream(buffer).read_all()
    columns = pa.ipc.open_stream(buffer).read_all()
    return Intake(
        Seen(*(seen.column(name).to_numpy() for name in Seen._fields)),
        Columns(columns),
        _rejected.decode(view[after:]),
    )


_encoder = msgspec.msgpack.Encoder()
_rejected = msgspec.msgpack.Decoder(list[Rejected])


class Source(Protocol):
    """Where intake comes from, from given positions on. One thread owns it; only ``wake`` may come from another."""

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> Intake | None:
        """What has come, as ``Reader.poll`` says it; None where nothing came.

        Raises:
            LogUnavailable: the log could not be reached.
        """
        ...

    def seek(self, positions: dict[TopicPartition, int]) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class Inline:
    """A source that reads and decodes in the thread that asks."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.seek = reader.seek
        self.wake = reader.wake
        self.close = reader.close

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> Intake | None:
        """What has come; see the port."""
        records = self._reader.poll(max_records, max_bytes, timeout_seconds)
        return intake_of(records) if records else None


@contextmanager
def uncollected() -> Iterator[None]:
    """Holds the garbage collector: of thousands of small objects at once, none in a cycle, it would find none."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@uncollected()
def intake_of(records: Sequence[Record]) -> Intake:
    """What these records hold."""
    columns: list[Columns] = []
    rejected: list[Rejected] = []
    rows: dict[tuple[int, int], int] = {}
    for piece in _pieces(records):
        decoded = wire.decode(piece, parse_all)
        columns.append(columns_of(decoded))
        rejected += decoded.rejected
        rows |= {(span.partition, span.offset): len(span.indices) for span in decoded.spans}
    seen = Seen(
        np.array([r.partition for r in records], np.int64),
        np.array([r.offset for r in records], np.int64),
        np.array([r.timestamp_ms for r in records], np.int64),
        np.array([rows.get((r.partition, r.offset), 0) for r in records], np.int64),
    )
    return Intake(seen, joined(columns), rejected)


def _pieces(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    first, size = 0, 0
    for number, record in enumerate(records):
        size += len(record.value or b"")
        if size >= PIECE_BYTES:
            yield records[first : number + 1]
            first, size = number + 1, 0
    if first < len(records):
        yield records[first:]

"""Where we reach inside kafka-python: what comes out is what the library itself would have made of it."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.log.open import open_log
from doortab.schemas.log import Record

open_log("kafka://127.0.0.1:1").close()  # or importing kafka-python warns

from kafka import TopicPartition as KafkaPartition  # noqa: E402
from kafka.consumer.fetcher import Fetcher  # noqa: E402
from kafka.errors import CorruptRecordError  # noqa: E402
from kafka.net.transport import KafkaTCPTransport  # noqa: E402
from kafka.protocol.frame import KafkaBytes  # noqa: E402
from kafka.protocol.parser import KafkaProtocol  # noqa: E402
from kafka.record import MemoryRecords  # noqa: E402
from kafka.record.default_records import DefaultRecordBatchBuilder  # noqa: E402
from kafka.record.util import calc_crc32c  # noqa: E402

from doortab.log.kafka_inside import LARGE_BYTES, _read, _receive, _Records  # noqa: E402

PLACE = KafkaPartition("mine.usage", 3)
GZIP, LOG_APPEND_TIME, CONTROL = 0x01, 0x08, 0x20
CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT, LAST_STAMP_AT = 17, 21, 23, 35

maybe_bytes = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=2)
rows = st.lists(st.tuples(maybe_bytes, maybe_bytes, headers, st.integers(0, 5000)), min_size=1, max_size=8)
batches = st.lists(st.tuples(rows, st.sampled_from([0, GZIP]), st.booleans()), max_size=5)


def batch(base: int, rows: list[Any], codec: int = 0, is_stamped: bool = False, attributes: int = 0) -> bytes:
    """A batch as a broker stores it, at an offset; with the broker's time, if it is stamped."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    for number, (key, value, headers, later) in enumerate(rows):
        builder.append(number, 1_700_000_000_000 + later, key, value, headers)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    if is_stamped:
        attributes |= LOG_APPEND_TIME
        struct.pack_into(">q", data, LAST_STAMP_AT, 1_700_000_009_000)
    struct.pack_into(">h", data, ATTRIBUTES_AT, struct.unpack_from(">h", data, ATTRIBUTES_AT)[0] | attributes)
    return sealed(data)


def sealed(data: bytearray) -> bytes:
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(memoryview(data)[ATTRIBUTES_AT:]))
    return bytes(data)


def ours(data: bytes, fetch_offset: int = 0) -> Any:
    return _Records("mine.", fetch_offset, PLACE, MemoryRecords(data))


def theirs(data: bytes, fetch_offset: int = 0) -> Any:
    return Fetcher.PartitionRecords(fetch_offset, PLACE, MemoryRecords(data))


def taken(part: Any) -> list[Record]:
    return [Record("usage", 3, r.offset, r[3] if isinstance(r, Record) else r.timestamp, r.key, r.value) for r in part]


@given(batches, st.integers(0, 20), st.integers(0, 40))
def test_records_are_those_that_the_library_itself_reads(found: list[Any], start: int, cut: int) -> None:
    """From any offset on, over several batches, the last of them perhaps cut off."""
    data, base = b"", 7
    for rows, codec, is_stamped in found:
        data += batch(base, rows, codec, is_stamped)
        base += len(rows) + 2  # compaction has left a gap
    data = data[: len(data) - cut] if cut else data

    one, other = ours(data, start), theirs(data, start)
    while other:
        assert one.take(3) == taken(other.take(3))
        assert one.next_fetch_offset == other.next_fetch_offset
    assert not one
    assert one.leader_epoch == other.leader_epoch


def test_a_topic_is_named_without_its_prefix() -> None:
    (record,) = ours(batch(5, [(b"k", b"v", [], 12)])).take()

    assert record == Record("usage", 3, 5, 1_700_000_000_012, b"k", b"v")
    assert type(record) is Record


def test_what_transactions_leave_in_a_log_is_no_record_and_is_passed() -> None:
    data = batch(0, [(b"\0\0\0\0", b"\0" * 6, [], 0)], attributes=CONTROL) + batch(1, [(None, b"v", [], 0)])

    part = ours(data)

    assert [record.offset for record in part.take()] == [1]
    assert part.next_fetch_offset == 2


def test_offsets_that_compaction_has_emptied_at_the_end_of_a_batch_are_passed() -> None:
    data = bytearray(batch(0, [(None, b"v", [], 0)]))
    struct.pack_into(">i", data, LAST_DELTA_AT, 9)

    part = ours(sealed(data))
    part.take()

    assert part.next_fetch_offset == 10


@pytest.mark.parametrize("position", range(ATTRIBUTES_AT, ATTRIBUTES_AT + 60, 7))
def test_a_batch_that_was_damaged_on_its_way_is_an_error(position: int) -> None:
    data = bytearray(batch(0, [(b"key", b"value" * 10, [], 0)]))
    data[position] ^= 0x10

    with pytest.raises(CorruptRecordError, match=r"mine\.usage/3: the batch at offset 0 is damaged"):
        ours(bytes(data)).take()


def told(part: Any) -> list[Record] | str:
    """All records, or that they are damaged."""
    found: list[Record] = []
    try:
        while part:
            found += taken(part.take())
    except CorruptRecordError:
        return "damaged"
    return found


@given(st.integers(61, 160), st.integers(1, 255))
def test_a_record_that_lies_about_its_sizes_is_what_the_library_makes_of_it(position: int, flip: int) -> None:
    """With a checksum that is right: whoever wrote it meant it so."""
    rows = [(b"key", b"value" * 10, [("", b"x")], 0), (None, b"value", [], 3), (b"k", None, [], 200)]
    data = bytearray(batch(0, rows))
    data[min(position, len(data) - 1)] ^= flip

    assert told(ours(sealed(data))) == told(theirs(sealed(data)))


def test_a_format_of_before_kafka_0_11_is_named() -> None:
    data = bytearray(batch(0, [(None, b"v", [], 0)]))
    data[16] = 1

    with pytest.raises(CorruptRecordError, match=r"before Kafka 0\.11"):
        ours(bytes(data)).take()


def received(frames: list[bytes], pieces: list[int]) -> list[bytes]:
    """What a connection makes of frames that come over a socket in such pieces."""
    parser = KafkaProtocol()
    parser._process_response = lambda buffer: bytes(_read(buffer))
    here, there = socket.socketpair()
    found: list[bytes] = []
    with here, there:
        here.setblocking(False)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        transport: Any = SimpleNamespace(_protocol=SimpleNamespace(parser=parser), _sock=here)
        line = b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)
        position = turn = 0
        while position < len(line):
            size = pieces[turn % len(pieces)]
            there.sendall(line[position : position + size])
            position, turn = position + size, turn + 1
            data, error = _receive(transport)
            assert error is None
            found += parser.receive_bytes(data)
    return found


frames = st.integers(0, 3 * LARGE_BYTES).map(lambda size: bytes(i % 251 for i in range(size)))


@given(
    st.lists(frames, min_size=1, max_size=4),
    st.lists(st.integers(1, 2 * LARGE_BYTES), min_size=1, max_size=5).filter(lambda pieces: max(pieces) > 500),
)
def test_frames_of_any_size_come_whole_in_whatever_pieces_they_arrive(frames: list[bytes], pieces: list[int]) -> None:
    assert received(frames, pieces) == frames


@pytest.mark.parametrize("sent", [LARGE_BYTES, 2 * LARGE_BYTES])
def test_a_line_that_ends_within_a_large_frame_is_an_error(sent: int) -> None:
    parser = KafkaProtocol()
    here, there = socket.socketpair()
    with here:
        here.setblocking(False)
        transport: Any = SimpleNamespace(_protocol=SimpleNamespace(parser=parser), _sock=here)
        with there:
            there.sendall(struct.pack(">i", 4 * LARGE_BYTES) + bytes(100))
            parser.receive_bytes(_receive(transport)[0])
            there.sendall(bytes(sent))
        data, error = _receive(transport)

    assert parser._rbuffer.tell() == 100 + sent
    assert data == b""
    assert "disconnected" in str(error)


def test_what_a_broker_says_before_it_hangs_up_is_heard() -> None:
    """The library throws it away: a wrong password looked like a line that was cut."""
    here, there = socket.socketpair()
    with here:
        here.setblocking(False)
        transport: Any = SimpleNamespace(_protocol=None, _sock=here)
        with there:
            there.sendall(b"the password is wrong")

        assert _receive(transport) == (b"the password is wrong", None)
        assert "disconnected" in str(_receive(transport)[1])


def test_a_line_that_is_reset_within_a_large_frame_is_an_error() -> None:
    parser = KafkaProtocol()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as here:
        there, _ = server.accept()
        transport: Any = SimpleNamespace(_protocol=SimpleNamespace(parser=parser), _sock=here)
        there.sendall(struct.pack(">i", 4 * LARGE_BYTES))
        parser.receive_bytes(here.recv(4))
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()
        data, error = _receive(transport)

    assert (data, type(error).__name__) == (b"", "KafkaConnectionError")


def test_small_frames_are_read_as_ever() -> None:
    frame = KafkaBytes(4)
    frame.write(b"abcd")
    frame.seek(1)

    assert (_read(frame, 2), _read(frame)) == (b"bc", b"d")


def test_the_library_is_mended_before_the_first_client_is_made() -> None:
    from doortab.log.kafka_client import Clients
    from doortab.schemas.errors import LogUnavailable

    with pytest.raises(LogUnavailable):
        Clients(["127.0.0.1:1"], {"request_timeout_ms": 500}).make(__import__("kafka").KafkaAdminClient, {}, 0.5)

    assert KafkaTCPTransport._sock_recv is _receive
    assert KafkaBytes.read is _read

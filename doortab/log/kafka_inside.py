"""Every place where we reach inside kafka-python 3.0, and why.

Reading cost 1.3 µs of CPU an event of 400 bytes, nearly all of it copies, and costs 0.8: bytes come off the socket
in pieces of 4 kB, and each is copied six times before it is part of a record. Each piece also asks for Python's
lock anew, which a worker that reckons meanwhile gives back after 5 ms, so that little was fetched while it worked:
with 12 µs of work an event on a busy machine it waited 5.1 of 42.9 s for the log, and waits 1.1 of 28.9 s. Here a
response is received into its own frame at once, and records are cut out of it as the bytes that the caller gets.

What is replaced moves in 3.1: see the pin, and the check below.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

import kafka
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaConnectionError
from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c, decode_varint

from doortab.schemas.log import Record

if not kafka.__version__.startswith("3.0."):
    raise ImportError(f"kafka-python {kafka.__version__} is not one that doortab knows inside; 3.0 is")

LARGE_BYTES = 16_384
"""Smaller frames are left to the client: nothing is to be won there."""

MAGIC = 2
"""The format of batches that every broker since 0.11 writes, and Kafka 4 alone knows."""
_BATCH = struct.Struct(">qiibIhiqqqhii")  # from the base offset to the count of records
_LENGTH_END = 12
_ATTRIBUTES_START = 21
_CODEC, _LOG_APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20


# ------------------------------------------------------------------------------------------ connecting
_connect = KafkaNetSocket.sock_connect


async def _connect_or_close(self: Any, net: Any, sock: socket.socket, address: Any, timeout_at: Any = None) -> Any:
    """kafka-python 3.0.12 leaves the socket of a refused connection to the garbage collector, in a cycle.

    While a broker is away that is one a second; a service whose large heap is seldom collected runs out of
    descriptors within the hour.
    """
    try:
        return await _connect(self, net, sock, address, timeout_at=timeout_at)
    except BaseException:
        sock.close()
        raise


_shake_hands = KafkaSSLTransport.handshake


async def _shake_hands_or_close(self: Any) -> None:
    """The same of a broker that is not who it should be, or that stops answering half-way."""
    try:
        await _shake_hands(self)
    except BaseException:
        self._close()
        raise


class Reasons:
    """Why connections of a client that is being made fail; its own error says no more than that they do."""

    def __init__(self) -> None:
        self._told: list[BaseException] = []

    def listen(self, client: Any) -> None:
        """From now on, until ``leave``."""
        manager = client._manager
        connect = manager.get_connection

        def get_connection(*args: Any, **named: Any) -> Any:
            connection = connect(*args, **named)
            connection.init_future.add_errback(self._told.append)
            return connection

        manager.get_connection = get_connection

    @staticmethod
    def leave(client: Any) -> None:
        """The client is made; it connects without us."""
        del client._manager.get_connection

    @property
    def best(self) -> BaseException | None:
        """A refusal, if there was any: a line that is cut or late says less. Else the last thing that went wrong."""
        refusals = [told for told in self._told if not getattr(told, "retriable", False)]
        refusals += [told for told in self._told if "Handshake failed" in str(told)]
        return next(iter(refusals or self._told[-1:]), None)


# ------------------------------------------------------------------------------------------- receiving
_receive_pieces = KafkaTCPTransport._sock_recv
_receive_pieces_tls = KafkaSSLTransport._sock_recv


def _receive(self: Any) -> tuple[bytes, BaseException | None]:
    """Receives the rest of a large frame into the frame itself; its last byte comes the old way, and finishes it."""
    frame = _frame_of(self._protocol)
    if frame is not None:
        with memoryview(frame) as whole:
            while (position := frame.tell()) < len(whole) - 1:
                try:
                    count = self._sock.recv_into(whole[position:-1])
                except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return b"", None
                except OSError as broken:
                    return b"", KafkaConnectionError(broken)
                if not count:
                    return b"", KafkaConnectionError("socket disconnected")
                frame.seek(position + count)
    receive = _receive_pieces_tls if isinstance(self, KafkaSSLTransport) else _receive_pieces
    data, error = receive(self)
    # What a broker said before it hung up counts, such as that the password is wrong. That it has hung up comes again.
    return data, None if data else error


def _frame_of(connection: Any) -> Any:
    """The frame that a connection is filling, if there is much to come."""
    parser = getattr(connection, "parser", None)
    frame = parser._rbuffer if parser is not None and parser._receiving else None
    return frame if frame is not None and len(frame) - frame.tell() > LARGE_BYTES else None


_read_copy = KafkaBytes.read


def _read(self: Any, nbytes: int | None = None) -> Any:
    """All the rest of a large frame is looked at where it lies, and not copied twice."""
    start = self.tell()
    if nbytes is not None or len(self) - start <= LARGE_BYTES:
        return _read_copy(self, nbytes)
    self.seek(len(self))
    return memoryview(self)[start:]


# --------------------------------------------------------------------------------------------- records
_made = partial(tuple.__new__, Record)  # what calling Record does, without its detour through Python


class _Records(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of one partition, as records of ours: raw bytes, one copy, headers left out."""

    def __init__(self, prefix: str, *args: Any, **named: Any) -> None:
        self._prefix = prefix
        super().__init__(*args, **named)

    def _unpack_records(self, tp: Any, records: Any, *_: Any) -> Iterator[Record]:
        topic = tp.topic.removeprefix(self._prefix)
        data: bytes = records._buffer
        start = 0
        while len(data) - start >= _BATCH.size:
            header = _BATCH.unpack_from(data, start)
            base_offset, length, epoch, magic, crc, attributes, last_delta = header[:7]
            end = start + _LENGTH_END + length
            if end > len(data):
                break  # cut off by the limit of the fetch; it comes again
            if magic != MAGIC:
                raise CorruptRecordError(f"{tp.topic}/{tp.partition} holds records of before Kafka 0.11: {magic}")
            if self.check_crcs and calc_crc32c(memoryview(data)[start + _ATTRIBUTES_START : end]) != crc:
                raise CorruptRecordError(f"{tp.topic}/{tp.partition}: the batch at offset {base_offset} is damaged")
            self.leader_epoch = epoch
            if not attributes & _CONTROL:
                unpack = _packed if attributes & _CODEC else _plain
                for record in unpack(topic, tp.partition, data, start, end, header):
                    self.next_fetch_offset = record.offset + 1
                    yield record
            # Also where compaction has taken the last records of a batch.
            self.next_fetch_offset = base_offset + last_delta + 1
            start = end
        self.drain()


def _packed(topic: str, partition: int, data: bytes, start: int, end: int, _: tuple[int, ...]) -> Iterator[Record]:
    """A compressed batch: kafka-python unpacks it."""
    for record in DefaultRecordBatch(memoryview(data)[start:end]):
        yield Record(topic, partition, record.offset, record.timestamp, record.key, record.value)


def _plain(topic: str, partition: int, data: bytes, start: int, end: int, header: tuple[int, ...]) -> list[Record]:
    """The records of a batch. Numbers below 64 take one byte, and are read in place."""
    base_offset, attributes, first_stamp, last_stamp = header[0], header[5], header[7], header[8]
    is_stamped = attributes & _LOG_APPEND_TIME
    position = start + _BATCH.size
    found: list[Record] = []
    try:
        for _ in range(header[12]):
            size, position = decode_varint(data, position)
            next_record = position + size
            if data[position] == 0:
                position += 1
            else:
                _, position = decode_varint(data, position)  # attributes, of which there are none yet
            later, position = decode_varint(data, position)
            delta, position = decode_varint(data, position)
            if (size := data[position]) == 1:
                key, position = None, position + 1
            else:
                size, position = (size >> 1, position + 1) if size & 0x81 == 0 else decode_varint(data, position)
                key = None if size < 0 else data[position : (position := position + size)]
            size, position = decode_varint(data, position)
            value = None if size < 0 else data[position : (position := position + size)]
            position = position + 1 if data[position] == 0 else _past_headers(data, position)
            if position != next_record or position > end:
                raise CorruptRecordError(f"{topic}/{partition}: a record after offset {base_offset} has a wrong size")
            stamp = last_stamp if is_stamped else first_stamp + later
            found.append(_made((topic, partition, base_offset + delta, stamp, key, value)))
    except (IndexError, ValueError) as error:
        raise CorruptRecordError(f"{topic}/{partition}: a record after offset {base_offset} is damaged") from error
    if position != end:
        raise CorruptRecordError(f"{topic}/{partition}: the batch at offset {base_offset} is longer than its records")
    return found


def _past_headers(data: bytes, position: int) -> int:
    count, position = decode_varint(data, position)
    if count < 0:
        raise ValueError(f"{count} headers")
    for _ in range(count):
        size, position = decode_varint(data, position)
        if size < 0:
            raise ValueError("a header without a name")
        size, position = decode_varint(data, position + size)
        position += max(size, 0)
    return position


def read_plainly(consumer: Any, prefix: str) -> None:
    """Makes a new consumer return records of ours, of topics named without ``prefix``."""
    consumer._fetcher.PartitionRecords = partial(_Records, prefix)


def prepare() -> None:
    """Mends the library. Done before the first client is made; again is harmless."""
    KafkaNetSocket.sock_connect = _connect_or_close
    KafkaSSLTransport.handshake = _shake_hands_or_close
    KafkaTCPTransport._sock_recv = KafkaSSLTransport._sock_recv = _receive
    KafkaBytes.read = _read

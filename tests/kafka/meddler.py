"""Stands between a client and a broker, understands what they say, and changes the broker's answers.

For what a real broker cannot be brought to say at will: an error for a batch, or a leader that is on no list.
The broker needs a ``Door`` that advertises the meddler's port.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Self

from kafka.protocol.metadata import MetadataResponse
from kafka.protocol.producer import ProduceResponse

PRODUCE, METADATA = 0, 3
RESPONSES = {PRODUCE: ProduceResponse, METADATA: MetadataResponse}


class Meddler:
    """Listens on ``port`` and passes on to ``target_port``. ``change`` gets each answer of some kinds."""

    def __init__(self, target_port: int) -> None:
        self.changed = 0
        self.produce_error = 0
        self.produce_errors_left = 0
        self.hides_brokers = False
        self._target_port = target_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._ends: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def spoil(self, error_code: int, times: int) -> None:
        """The next batches are in the log's hands, and the client hears that they are not."""
        self.produce_error, self.produce_errors_left = error_code, times

    def drop(self) -> None:
        """Ends all connections; new ones may come."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="meddler", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who accepts
        self._listening.close()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                return
            self._ends += [client, server]
            asked: dict[int, tuple[int, int]] = {}
            for work, source, sink in ((self._there, client, server), (self._back, server, client)):
                threading.Thread(target=work, args=(source, sink, asked), name="meddler-line", daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket, asked: dict[int, tuple[int, int]]) -> None:
        def remember(frame: bytes) -> bytes:
            kind, version, number = struct.unpack(">hhi", frame[:8])
            asked[number] = (kind, version)
            return frame

        _pass_frames(client, server, remember)

    def _back(self, server: socket.socket, client: socket.socket, asked: dict[int, tuple[int, int]]) -> None:
        def change(frame: bytes) -> bytes:
            kind, version = asked.pop(struct.unpack(">i", frame[:4])[0], (-1, 0))
            if kind == PRODUCE and self.produce_errors_left:
                self.produce_errors_left -= 1
                return self._rewritten(kind, version, frame, self._refuse)
            if kind == METADATA and self.hides_brokers:
                return self._rewritten(kind, version, frame, self._hide)
            return frame

        _pass_frames(server, client, change)

    def _rewritten(self, kind: int, version: int, frame: bytes, change: Callable[[Any], None]) -> bytes:
        header_size = 5 if RESPONSES[kind].flexible_version_q(version) else 4  # a number, and no tags
        answer = RESPONSES[kind].decode(frame[header_size:], version=version)
        answer._header = None  # or it cannot be encoded again
        change(answer)
        self.changed += 1
        return frame[:header_size] + bytes(answer.encode(version=version))

    def _refuse(self, answer: Any) -> None:
        for topic in answer.responses:
            for partition in topic.partition_responses:
                partition.error_code, partition.base_offset = self.produce_error, -1

    def _hide(self, answer: Any) -> None:
        """The leader is not on the list of brokers; another one is, which leads nothing."""
        for broker in answer.brokers:
            broker.node_id += 1000


def _pass_frames(source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError, EOFError):
        while True:
            (size,) = struct.unpack(">i", _exactly(source, 4))
            frame = change(_exactly(source, size))
            sink.sendall(struct.pack(">i", len(frame)) + frame)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = source.recv(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)

"""A TCP proxy that spoils the line between two programs: cut, half-open, held, slow, late, in slices.

    with Proxy("127.0.0.1", 9092) as proxy:
        client = connect(proxy.host, proxy.port)
        proxy.become(Line(half_open=True))
        ...
        proxy.heal()

What holds applies to connections that are open and to those that come. A connection that was half-open stays
dead after ``heal``, as it does where a machine in between has forgotten it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Self

CHUNK_BYTES = 65_536
LOOK_SECONDS = 0.02
LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Line:
    """What is wrong with the line; nothing by default.

    ``cut`` ends connections and answers new ones by hanging up; ``reset`` does so rudely (RST); ``refuse`` lets
    nobody in and leaves who is in alone. ``half_open`` swallows what is sent for good, ``hold`` keeps it until the
    line heals. ``limit_bytes`` ends a connection after so many bytes of one direction. ``there`` and ``back`` say
    which direction is bad.
    """

    cut: bool = False
    reset: bool = False
    refuse: bool = False
    half_open: bool = False
    hold: bool = False
    bytes_per_second: int = 0
    delay_seconds: float = 0.0
    slice_bytes: int = 0
    limit_bytes: int = 0
    there: bool = True
    back: bool = True


SOUND = Line()


class Proxy:
    """Listens on a free port of this machine and passes on to ``host:port``, as well as the line allows."""

    def __init__(self, host: str, port: int, line: Line = SOUND) -> None:
        self.host = "127.0.0.1"
        self.line = line
        self.passed_bytes = 0
        self.connections = 0
        self._target = (host, port)
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._is_over = False
        self._listening = socket.create_server((self.host, 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    @property
    def address(self) -> str:
        """``host:port``, where the proxy listens."""
        return f"{self.host}:{self.port}"

    def become(self, line: Line) -> None:
        """Changes what is wrong, at once."""
        self.line = line
        for pair in self._open():
            pair.swallow(line)
        if line.cut or line.reset:
            self.drop(rudely=line.reset)

    def heal(self) -> None:
        """Nothing is wrong any more."""
        self.become(SOUND)

    def drop(self, *, rudely: bool = False) -> None:
        """Ends the connections that are open; new ones may come."""
        for pair in self._open():
            pair.end(rudely)

    def close(self) -> None:
        """Ends everything."""
        self._is_over = True
        self._listening.close()
        self.drop(rudely=True)
        self._thread.join(5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> list[_Pair]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        self._listening.settimeout(LOOK_SECONDS)
        while not self._is_over:
            try:
                client, _ = self._listening.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), name="proxy-connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        line = self.line
        try:
            if line.cut or line.reset or line.refuse:
                raise ConnectionError("nobody is let in")
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            _hang_up(client, rudely=line.reset)
            return
        pair = _Pair(self, client, server)
        with self._lock:
            self._pairs.add(pair)
        pair.swallow(self.line)
        pair.run()
        with self._lock:
            self._pairs.discard(pair)


class _Pair:
    """The two ends of one connection, and a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._ends = (client, server)
        self._swallows: set[str] = set()
        self._is_over = threading.Event()
        for end in self._ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(LOOK_SECONDS)

    def swallow(self, line: Line) -> None:
        """From a half-open line on, nothing gets through any more in its bad directions, not even that one end left."""
        if line.half_open:
            self._swallows |= {name for name, bad in (("there", line.there), ("back", line.back)) if bad}

    def run(self) -> None:
        """Passes on until one end hangs up."""
        client, server = self._ends
        back = threading.Thread(target=self._pump, args=(server, client, "back"), name="proxy-back", daemon=True)
        back.start()
        self._pump(client, server, "there")
        back.join()
        self.end(rudely=False)

    def end(self, rudely: bool) -> None:
        """Ends both."""
        self._is_over.set()
        for end in self._ends:
            _hang_up(end, rudely)

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        sent = 0
        try:
            while not self._is_over.is_set():
                line = self._line(direction)
                if line.hold:
                    time.sleep(LOOK_SECONDS)
                    continue
                try:
                    chunk = source.recv(min(CHUNK_BYTES, line.slice_bytes or CHUNK_BYTES))
                except TimeoutError:
                    continue
                if not chunk:
                    break
                sent += self._pass(chunk, sink, direction)
                if line.limit_bytes and sent >= line.limit_bytes:
                    break
        except OSError:
            self._is_over.set()
        if direction not in self._swallows:
            self._is_over.set()

    def _line(self, direction: str) -> Line:
        line = self._proxy.line
        return line if (line.back if direction == "back" else line.there) else SOUND

    def _pass(self, chunk: bytes, sink: socket.socket, direction: str) -> int:
        line = self._line(direction)
        pause = line.delay_seconds + (len(chunk) / line.bytes_per_second if line.bytes_per_second else 0)
        if pause and self._is_over.wait(pause):
            return 0
        while self._line(direction).hold and not self._is_over.is_set():
            time.sleep(LOOK_SECONDS)
        if direction in self._swallows:
            return 0
        chunk = chunk[: line.limit_bytes] if line.limit_bytes else chunk
        view = memoryview(chunk)
        while view and not self._is_over.is_set():
            try:
                view = view[sink.send(view) :]
            except TimeoutError:
                continue
        self._proxy.passed_bytes += len(chunk)
        return len(chunk)


def _hang_up(end: socket.socket, rudely: bool) -> None:
    with contextlib.suppress(OSError):
        if rudely:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        else:
            end.shutdown(socket.SHUT_RDWR)
    end.close()

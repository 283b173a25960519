"""The proxy spoils lines as it says: what the tests of cut connections prove rests on it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.crashes.proxy import Line, Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything back."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                end, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(end,), daemon=True).start()

    def answer(end: socket.socket) -> None:
        with end:
            try:
                while chunk := end.recv(65_536):
                    end.sendall(chunk)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def connected(proxy: Proxy, seconds: float = 10.0) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=seconds)


def said_back(end: socket.socket, text: bytes) -> bytes:
    end.sendall(text)
    found = b""
    while len(found) < len(text) and (chunk := end.recv(65_536)):
        found += chunk
    return found


@pytest.mark.parametrize("line", [Line(), Line(slice_bytes=3), Line(delay_seconds=0.05), Line(bytes_per_second=50_000)])
def test_a_line_that_is_only_slow_brings_everything_in_order(echo: int, line: Line) -> None:
    text = bytes(range(256)) * 4

    with Proxy("127.0.0.1", echo, line) as proxy, connected(proxy, 30) as end:
        assert said_back(end, text) == text


@pytest.mark.parametrize("line", [Line(cut=True), Line(reset=True)])
def test_a_line_that_is_cut_ends_what_was_open_and_lets_nobody_in(echo: int, line: Line) -> None:
    with Proxy("127.0.0.1", echo) as proxy, connected(proxy) as end:
        assert said_back(end, b"one") == b"one"

        proxy.become(line)

        assert ended(end)
        assert turned_away(proxy)
        proxy.heal()
        with connected(proxy) as third:
            assert said_back(third, b"three") == b"three"


def turned_away(proxy: Proxy) -> bool:
    """Whether whoever comes now is sent away: at the door, or as soon as he is in."""
    try:
        other = connected(proxy)
    except ConnectionError:
        return True
    with other:
        return ended(other)


def ended(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionError:
        return True


def test_what_a_half_open_line_has_swallowed_never_comes_and_nobody_is_told(echo: int) -> None:
    with Proxy("127.0.0.1", echo) as proxy, connected(proxy, 0.3) as end:
        assert said_back(end, b"one") == b"one"

        proxy.become(Line(half_open=True))
        end.sendall(b"two")
        time.sleep(0.1)
        proxy.heal()

        with pytest.raises(TimeoutError):
            said_back(end, b"three")
        with connected(proxy) as other:
            assert said_back(other, b"four") == b"four"


def test_what_a_line_holds_comes_when_it_heals(echo: int) -> None:
    with Proxy("127.0.0.1", echo, Line(hold=True)) as proxy, connected(proxy, 0.2) as end:
        end.sendall(b"held")
        with pytest.raises(TimeoutError):
            end.recv(1)
        proxy.heal()
        end.settimeout(10)

        assert end.recv(4) == b"held"


def test_a_line_with_a_limit_ends_after_so_many_bytes(echo: int) -> None:
    with Proxy("127.0.0.1", echo, Line(limit_bytes=5, there=False)) as proxy, connected(proxy) as end:
        assert said_back(end, b"0123456789") == b"01234"

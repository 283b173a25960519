"""Records as they come over the wire, and a short view of what became of them."""

from __future__ import annotations

from typing import NamedTuple

from doortab.schemas import wire
from doortab.schemas.events import Event, Usage
from doortab.schemas.log import Record

STAMP_MS = 1_774_000_000_000
"""When the log received every record here: in March 2026."""


def record(value: bytes | None, key: bytes | None = None, stamp_ms: int = STAMP_MS) -> Record:
    """A record of topic usage."""
    return Record("usage", 2, 17, stamp_ms, key, value)


def event(
    data: bytes = b'{"units":{"requests":1}}', id: str = "e", type: str = "request.validated", more: bytes = b""
) -> bytes:
    """An event as text; ``more`` stands among its attributes."""
    head = f'{{"specversion":"1.0","id":"{id}","source":"s","type":"{type}"'.encode()
    return head + more + b',"data":' + data + b"}"


def timed(time: str) -> bytes:
    """An event of that time."""
    return event(more=f',"time":"{time}"'.encode())


class Read(NamedTuple):
    """One event as it was read: the event, its instant, and the rest of its data."""

    event: Event
    time: int
    rest: str | None


def read(value: bytes | None, stamp_ms: int = STAMP_MS) -> list[Read | str]:
    """What became of each event of a record, in order: the event, or the reason why it was rejected."""
    decoded = wire.decode([record(value, stamp_ms=stamp_ms)])
    found: dict[int, Read | str] = {rejected.index: rejected.reason for rejected in decoded.rejected}
    for number, one in enumerate(decoded.events):
        _, _, index = decoded.place_of(number)
        found[index] = Read(plain(one), decoded.times[number], decoded.rest.get(number))
    assert sorted(found) == list(range(len(decoded.events) + len(decoded.rejected)))
    return [found[index] for index in sorted(found)]


def plain(one: Event) -> Event:
    """The event as one of the common class: how quickly it was read does not matter."""
    data = Usage(**{name: getattr(one.data, name) for name in Usage.__struct_fields__})
    return Event(**{name: getattr(one, name) for name in Event.__struct_fields__} | {"data": data})


def only(value: bytes | None) -> Read:
    """The one event of a record that must be read."""
    (one,) = read(value)
    assert isinstance(one, Read), one
    return one

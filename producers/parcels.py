"""What travels through the spool, and how it is packed for the log.

A parcel is an event with what is needed to send it: when it was recorded, and the text that decides on
its partition. Parcels of one partition are packed together, because it is the batch that makes the log
fast: a record holds one event, or a JSON array of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from doortab.schemas.instants import Microseconds
from doortab.schemas.log import Entry
from doortab.schemas.topics import partition_of

MAX_EVENTS = 500
MAX_BYTES = 200_000
"""A record holds at most so many events and bytes, unless one event alone is larger."""

EVENTS_PER_BREATH = 250

_HEAD = struct.Struct("<QH")


def parcel(recorded: Microseconds, routing: bytes, event: bytes) -> bytes:
    """An event as it lies in the spool."""
    return _HEAD.pack(recorded, len(routing)) + routing + event


def recorded_at(parcel: bytes) -> Microseconds:
    """When the event was recorded."""
    recorded: int = _HEAD.unpack_from(parcel)[0]
    return recorded


def event_in(parcel: bytes) -> bytes:
    """The event, as the log gets it."""
    _, length = _HEAD.unpack_from(parcel)
    return parcel[_HEAD.size + length :]


class _Package:
    """The events of one record to be."""

    __slots__ = ("events", "routing", "size_bytes")

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.routing: bytes | None = None
        self.size_bytes = 0


def pack(parcels: Iterable[bytes], partitions: int, breathe: Callable[[], object] = int) -> list[Entry]:
    """The records for these parcels. Within a partition their order stays.

    The record's key is the account, when all events of the record have the same. ``breathe`` is called
    now and then, by a thread that must not keep others waiting.
    """
    entries: list[Entry] = []
    packages: dict[int, _Package] = {}
    for count, whole in enumerate(parcels):
        if count % EVENTS_PER_BREATH == EVENTS_PER_BREATH - 1:
            breathe()
        _, length = _HEAD.unpack_from(whole)
        start = _HEAD.size + length
        routing, event = whole[_HEAD.size : start], whole[start:]
        partition = partition_of(routing, partitions)
        package = packages.get(partition)
        if package is None:
            package = packages[partition] = _Package()
        elif len(package.events) >= MAX_EVENTS or package.size_bytes + len(event) > MAX_BYTES:
            entries.append(_entry(partition, package))
            package = packages[partition] = _Package()
        if not package.events:
            package.routing = routing
        elif package.routing != routing:
            package.routing = None
        package.events.append(event)
        package.size_bytes += len(event) + 1
    entries.extend(_entry(partition, package) for partition, package in packages.items())
    return entries


def _entry(partition: int, package: _Package) -> Entry:
    events = package.events
    value = events[0] if len(events) == 1 else b"[" + b",".join(events) + b"]"
    return Entry(partition, package.routing, value)

"""What is told about events that could not be billed."""

from __future__ import annotations

import base64

import msgspec

from doortab.consumers.columns import Columns
from doortab.schemas import alerts, instants, topics, wire
from doortab.schemas.batch import Message
from doortab.schemas.wire import Rejected

PUBLISHED_BYTES = 4096
"""So much of a rejected value goes to topic ``rejected``; the store keeps more."""


def conflict(columns: Columns, index: int) -> Rejected:
    """The rejection of an event whose (source, id) already stands for another content."""
    event, (partition, offset, place) = columns[index], columns.place_of(index)
    event.time = instants.text(int(columns.times[index]))
    raw = wire.encode(event)
    detail = f"source {event.source!r} and id {event.id!r} name an earlier event with other content; the first stands"
    return Rejected(topics.USAGE, partition, offset, place, "id_conflict", detail, raw[: wire.KEPT_BYTES], len(raw))


def rejection_message(rejected: Rejected) -> Message:
    """The record in topic ``rejected``, keyed by the position it came from."""
    place = f"{rejected.topic}/{rejected.partition}/{rejected.offset}/{rejected.index}"
    told = {
        "topic": rejected.topic,
        "partition": rejected.partition,
        "offset": rejected.offset,
        "index": rejected.index,
        "reason": rejected.reason,
        "detail": rejected.detail,
        "size": rejected.size,
        "raw_base64": base64.b64encode(rejected.raw[:PUBLISHED_BYTES]).decode(),
    }
    return Message(f"rejected/{place}", topics.REJECTED, place.encode(), msgspec.json.encode(told))


def unattributed_message(logged: int) -> Message:
    """The alert that events came which name nobody, one a day."""
    day = instants.text(logged)[:10]
    alert = alerts.Alert(
        id=f"unattributed/{day}",
        kind="unattributed",
        severity="warning",
        subject="account:unattributed",
        account="unattributed",
        at=instants.text(logged),
        text="events name neither account, key nor subject; they are counted under 'unattributed'",
    )
    return Message(f"alert/{alert.id}", topics.ALERTS, alert.id.encode(), alerts.encode(alert))

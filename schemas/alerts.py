"""Alerts: something a person should look at. Kept in topic ``alerts``; the id follows from the cause."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
from msgspec import Struct

AlertKind = Literal["threshold", "cap", "spike", "unattributed", "leak", "drift"]
KINDS: tuple[AlertKind, ...] = get_args(AlertKind)


class Alert(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An alert: ``text`` is the sentence for people, ``facts`` what it rests on. ``at`` is RFC 3339 text."""

    id: str
    kind: AlertKind
    severity: Literal["info", "warning", "critical"]
    subject: str
    at: str
    text: str
    account: str | None = None
    key: str | None = None
    facts: dict[str, str] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Alert)


def encode(alert: Alert) -> bytes:
    """The record value."""
    return _encoder.encode(alert)


def decode(value: bytes) -> Alert:
    """The alert in a record value.

    Raises:
        msgspec.DecodeError: the bytes are not one.
    """
    return _decoder.decode(value)

"""The fact that a subject is refused, for one cause, perhaps until a time; and its end.

A subject is ``key:ID`` or ``account:ID``. A cap on a key hangs on its lineage: with reason ``cap`` and the
lineage as ID, which is the id of its first key, every key of the lineage is refused. Several causes may
hold at once, and lifting one does not lift the others. The record key is subject and cause, so that the
topic can be compacted and saying a thing twice is harmless.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

Kind = Literal["access.revoked", "access.restored"]
Refusal = Literal["cap", "revoked"]


class Revocation(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``access.revoked``, or ``access.restored`` of the same subject and cause.

    Times are RFC 3339 text in UTC. ``until`` absent means until restored. ``reason`` is what a gate
    answers. ``evidence`` says why, for people: counter, limit, and the log position of the event.
    """

    type: Kind
    id: str
    subject: str
    cause: str
    at: str
    reason: Refusal = "revoked"
    until: str | None = None
    evidence: dict[str, str] = {}

    @property
    def record_key(self) -> bytes:
        """The key of the record in topic ``revocations``."""
        return f"{self.subject}|{self.cause}".encode()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Revocation)


def encode(revocation: Revocation) -> bytes:
    """The record value."""
    return _encoder.encode(revocation)


def decode(value: bytes) -> Revocation:
    """The revocation in a record value.

    Raises:
        msgspec.DecodeError: the bytes are not one.
    """
    return _decoder.decode(value)

"""The usage event: what happened at one request, as a CloudEvent 1.0.

``Event`` is the envelope and ``Usage`` its data, as ``docs/reference/events.md`` has them. Both are
plain values: ``schemas.wire`` makes them from bytes and bytes from them, and whoever holds one may
rely on every bound written here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

REQUEST_VALIDATED = "request.validated"
UNATTRIBUTED = "unattributed"

Verdict = Literal["allowed", "refused"]
Reason = Literal[
    "missing_key",
    "malformed_key",
    "unknown_key",
    "revoked",
    "expired",
    "account_closed",
    "environment",
    "scope",
    "address",
    "rate",
    "cap",
    "lease",
    "stale_view",
]

MAX_EVENT_BYTES = 262_144
"""The largest event, in bytes of JSON. CloudEvents asks for 64 KiB at least."""

MAX_DIGITS = 60
MAX_DECIMALS = 24
"""A quantity has at most so many digits before the point, and so many after it."""

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=1024)]
Quantity = (
    Annotated[int, Meta(ge=0)] | Annotated[str, Meta(pattern=rf"^[0-9]{{1,{MAX_DIGITS}}}(\.[0-9]{{1,{MAX_DECIMALS}}})?$")]
)
"""How much of a unit: a whole number, or decimal text. Never negative, never binary floating point."""


class Usage(Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """The data of a usage event.

    ``units`` maps a unit to its quantity, ``dimensions`` a dimension to its text. ``account`` and
    ``key`` may be absent on the wire; the ledger then finds them. ``rest`` is whatever else the data
    held, as canonical JSON, for meters that read it.
    """

    account: Name | None = None
    key: Name | None = None
    verdict: Verdict = "allowed"
    reason: Reason | None = None
    billable: bool | None = None
    operation: Text | None = None
    units: dict[Name, Quantity] = {}
    dimensions: dict[Name, Text] = {}


class Event(Struct, gc=False):
    """A usage event in its envelope. ``source`` and ``id`` together name it; ``time`` is RFC 3339 text or absent."""

    id: Name
    source: Name
    type: Name
    data: Usage
    time: str | None = None
    subject: Name | None = None
    rest: str | None = None


def is_billable(usage: Usage) -> bool:
    """Whether the event is charged: allowed, and not marked otherwise."""
    return usage.verdict == "allowed" and usage.billable is not False

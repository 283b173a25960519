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

MAX_DEPTH = 64
"""So many objects and arrays may stand inside each other, the event itself being the first."""

MAX_DIGITS = 60
MAX_DECIMALS = 24
"""A quantity has at most so many digits before the point, and so many after it."""

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=1024)]
MAX_PLAIN = 2**63 - 1
DECIMAL_TEXT = rf"^[0-9]{{1,{MAX_DIGITS}}}(\.[0-9]{{1,{MAX_DECIMALS}}})?\Z"
Quantity = Annotated[int, Meta(ge=0, le=MAX_PLAIN)] | Annotated[str, Meta(pattern=DECIMAL_TEXT)]
"""How much of a unit: a whole number, or decimal text. Never negative, never binary floating point.

A whole number above ``MAX_PLAIN`` may stand on the wire; ``schemas.wire`` turns it into text.
"""


class Usage(Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """The data of a usage event.

    ``units`` maps a unit to its quantity, ``dimensions`` a dimension to its text. ``account`` and
    ``key`` may be absent on the wire; the ledger then finds them.
    """

    account: Name | None = None
    key: Name | None = None
    verdict: Verdict = "allowed"
    reason: Reason | None = None
    billable: bool | None = None
    operation: Text | None = None
    units: dict[Name, Quantity] = {}
    dimensions: dict[Name, Text] = {}


class Event(Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A usage event in its envelope, as it stands on the wire.

    ``source`` and ``id`` together name it. ``time`` is RFC 3339 text; absent, the moment the log
    received it counts. Other attributes may stand there; ``schemas.wire`` checks and drops them.
    """

    specversion: Literal["1.0"]
    id: Name
    source: Name
    type: Name
    data: Usage
    time: str | None = None
    subject: Name | None = None
    datacontenttype: Literal["application/json"] | None = None


def is_billable(usage: Usage) -> bool:
    """Whether the event is charged: allowed, and not marked otherwise."""
    return usage.verdict == "allowed" and usage.billable is not False

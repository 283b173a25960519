"""What the ledger commits at once: rows, rejections, counters, decisions, messages, positions.

The worker makes a ``Batch`` and the store writes it in one transaction: both know it from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from doortab.schemas.wire import Rejected


class Rows(msgspec.Struct):
    """Usage events as columns of equal length, in log order: lists, or arrays of numpy or Arrow.

    ``time`` and ``logged`` are instants: when it happened and when the log received it. ``units`` holds,
    by unit, whole numbers below 2^63; ``more`` holds the other quantities of an event as a JSON object
    of decimal text, ``rest`` what else its data held.
    """

    digest: Sequence[int] = ()
    source: Sequence[str] = ()
    id: Sequence[str] = ()
    type: Sequence[str] = ()
    subject: Sequence[str | None] = ()
    time: Sequence[int] = ()
    account: Sequence[str] = ()
    key: Sequence[str | None] = ()
    allowed: Sequence[bool] = ()
    reason: Sequence[str | None] = ()
    billable: Sequence[bool] = ()
    operation: Sequence[str | None] = ()
    units: dict[str, Sequence[int | None]] = {}
    dimensions: dict[str, Sequence[str | None]] = {}
    more: Sequence[str | None] = ()
    rest: Sequence[str | None] = ()
    part: Sequence[int] = ()
    off: Sequence[int] = ()
    idx: Sequence[int] = ()
    logged: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.id)


class CounterKey(NamedTuple):
    """Whose (``key:ID`` or ``account:ID``), of what (``amount``, a meter, or a charge's line), in which period."""

    subject: str
    measure: str
    period: str
    start: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A counter reached a cap, or a share of it (``percent``); or, where the id says ``lift:``, a new
    catalog took that back.

    ``id`` follows from the cause alone, so that deciding again is the same decision. ``value`` and
    ``limit`` are decimal text, ``at`` and ``event_time`` instants, ``place`` the log position of the
    event that crossed, absent where a new catalog did.
    """

    id: str
    cap: str
    subject: str
    account: str | None
    key: str | None
    measure: str
    period: str
    start: int
    end: int
    percent: int
    limit: str
    value: str
    currency: str | None
    hard: bool
    at: int
    event_source: str | None = None
    event_id: str | None = None
    event_time: int | None = None
    place: tuple[int, int, int] | None = None


class Message(NamedTuple):
    """A record that must reach the log once the batch is committed. ``id`` follows from its cause."""

    id: str
    topic: str
    key: bytes
    value: bytes


class Progress(NamedTuple):
    """What a batch did to one partition: it took the records from ``first`` until before ``next``.

    ``events`` counts what the records held: billed, not billable, duplicates and rejected together.
    """

    partition: int
    first: int
    next: int
    events: int
    billed: int
    not_billable: int
    duplicates: int
    rejected: int


class Batch(msgspec.Struct):
    """Everything one transaction writes."""

    rows: Rows
    rejected: list[Rejected]
    counters: dict[CounterKey, str]
    decisions: list[Decision]
    messages: list[Message]
    progress: list[Progress]
    adopted: dict[int, int] = {}
    """By partition, the offset of the catalog record in force from here on."""


class Resumed(msgspec.Struct):
    """Where a ledger goes on: what the store knew at the last commit."""

    positions: dict[int, int]
    counters: dict[CounterKey, str]
    adopted: dict[int, int]
    next_seq: int
    epoch: int


class StoredEvent(msgspec.Struct):
    """A row as the store returns it, to tell a repetition from a conflict."""

    digest: int
    source: str
    id: str
    type: str
    subject: str | None
    account: str
    key: str | None
    allowed: bool
    reason: str | None
    billable: bool
    operation: str | None
    units: dict[str, int]
    dimensions: dict[str, str]
    more: str | None
    rest: str | None

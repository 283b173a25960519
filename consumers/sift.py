"""Sifting a batch: which events are new, which were here before, and which only claim to have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from doortab.consumers.dedupe import Content, Digests, Hit, IdIndex, repeated
from doortab.schemas import money
from doortab.schemas.batch import StoredEvent
from doortab.schemas.events import Event, is_billable


class Events(Protocol):
    """The events of a batch, of which some can be picked."""

    def picked(self, numbers: Sequence[int]) -> Mapping[int, Event]: ...


class Accounts(Protocol):
    """By event whose it is."""

    def __getitem__(self, number: int, /) -> str | None: ...


class Finder(Protocol):
    """Where stored events are looked up."""

    def find(self, digests: Sequence[int], low: int, high: int) -> list[StoredEvent]:
        """The rows numbered from ``low`` until before ``high`` that have one of the digests."""
        ...


class Sifted(NamedTuple):
    """The numbers of a batch's events: new ones, repetitions, and those whose id stands for another content."""

    fresh: list[int]
    duplicates: list[int]
    conflicts: list[int]


def sift(
    events: Events,
    accounts: Accounts,
    rest: Mapping[int, str],
    digests: Digests,
    index: IdIndex,
    store: Finder,
) -> Sifted:
    """Tells new events from known ones; of several in the batch with one (source, id), the first stands.

    Only events of whose digest there is another are looked at.
    """
    repeats = repeated(digests)
    hits = index.hits(digests)
    if not repeats and not hits:
        return Sifted(list(range(len(digests))), [], [])
    known = _look_up(hits, store)
    sifted = Sifted([], [], [])
    suspects = sorted(set(repeats) | set(repeats.values()) | {hit.number for hit in hits})
    for i, event in events.picked(suspects).items():
        content = content_of(event, accounts[i], rest.get(i))
        before = known.setdefault((event.source, event.id), content)
        if before is not content:
            (sifted.duplicates if before == content else sifted.conflicts).append(i)
    known_before = {*sifted.duplicates, *sifted.conflicts}
    sifted.fresh.extend(i for i in range(len(digests)) if i not in known_before)
    return sifted


def _look_up(hits: Sequence[Hit], store: Finder) -> dict[tuple[str, str], Content]:
    by_range: dict[tuple[int, int], list[int]] = {}
    for hit in hits:
        by_range.setdefault((hit.low, hit.high), []).append(hit.digest)
    return {
        (stored.source, stored.id): content_of_stored(stored)
        for (low, high), digests in by_range.items()
        for stored in store.find(digests, low, high)
    }


def content_of(event: Event, account: str | None, rest: str | None) -> Content:
    """What must be equal for two events of one (source, id) to be one event. Their times may differ."""
    data = event.data
    return (
        event.type,
        event.subject,
        account,
        data.key,
        data.verdict == "allowed",
        data.reason,
        is_billable(data),
        data.operation,
        {unit: money.quantity(value) for unit, value in data.units.items()},
        data.dimensions,
        rest,
    )


def content_of_stored(stored: StoredEvent) -> Content:
    """The same of a row."""
    more: dict[str, Any] = msgspec.json.decode(stored.more) if stored.more else {}
    units = stored.units | more.get("units", {})
    return (
        stored.type,
        stored.subject,
        stored.account,
        stored.key,
        stored.allowed,
        stored.reason,
        stored.billable,
        stored.operation,
        {unit: money.quantity(value) for unit, value in units.items()},
        stored.dimensions | more.get("dimensions", {}),
        stored.rest,
    )

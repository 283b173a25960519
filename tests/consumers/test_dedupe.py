"""Which events are new, which were here before, and which only claim to have been: exactly, over any history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.consumers import dedupe
from doortab.consumers.dedupe import IdIndex, digests_of, repeated
from doortab.consumers.sift import Sifted, sift
from doortab.consumers.tabulation import whole
from doortab.schemas.batch import StoredEvent
from doortab.schemas.events import Event, Usage, is_billable

pytestmark = pytest.mark.promises("R10")

digests = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), max_size=30)


def as_array(values: Sequence[int]) -> dedupe.Digests:
    return np.array(values, dtype=np.uint64)


@given(st.lists(digests, max_size=12), digests)
def test_the_index_knows_what_a_set_knows(batches: list[list[int]], wanted: list[int]) -> None:
    index, low = IdIndex(), 0
    for batch in batches:
        index.add(as_array(batch), low)
        low += len(batch)

    hits = index.hits(as_array(wanted))

    stored = [digest for batch in batches for digest in batch]
    assert len(index) == len(stored)
    assert {hit.number for hit in hits} == {i for i, digest in enumerate(wanted) if digest in set(stored)}
    for hit in hits:
        assert wanted[hit.number] == hit.digest
        assert hit.digest in stored[hit.low : hit.high]


@given(st.lists(digests, max_size=12), digests)
def test_the_index_finds_every_row_of_a_digest(batches: list[list[int]], wanted: list[int]) -> None:
    index = IdIndex()
    for batch, low in zip(batches, accumulate([0, *map(len, batches)]), strict=False):
        index.add(as_array(batch), low)

    found = {(hit.number, row) for hit in index.hits(as_array(wanted)) for row in range(hit.low, hit.high)}

    stored = [digest for batch in batches for digest in batch]
    rows = {(i, row) for i, digest in enumerate(wanted) for row, old in enumerate(stored) if old == digest}
    assert rows <= found


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60))
def test_the_index_has_few_runs(sizes: list[int]) -> None:
    index, low = IdIndex(), 0

    for size in sizes:
        index.add(np.arange(low, low + size, dtype=np.uint64), low)
        low += size

    runs = index._runs
    assert all(len(one.digests) >= dedupe.GROWTH * len(other.digests) for one, other in pairwise(runs))
    assert len(runs) <= 1 + np.log(low) / np.log(dedupe.GROWTH)


@given(digests)
def test_a_repetition_within_a_batch_points_to_the_first(batch: list[int]) -> None:
    first = {digest: i for i, digest in reversed(list(enumerate(batch)))}

    assert repeated(as_array(batch)) == {i: first[d] for i, d in enumerate(batch) if first[d] != i}


@pytest.mark.parametrize(
    ("one", "other"), [(("a", "bc"), ("ab", "c")), (("", "a"), ("a", "")), (("a\n", "b"), ("a", "\nb"))]
)
def test_source_and_id_are_kept_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    first, second = digests_of([event(*one), event(*other)])

    assert first != second


# --------------------------------------------------------------------------------- a ledger in small


def event(source: str, id: str, data: Usage | None = None, time: str | None = None) -> Event:
    return Event("1.0", id, source, "request.validated", data or Usage(account="a", units={"n": 1}), time=time)


class Rows:
    """The store, as a list."""

    def __init__(self) -> None:
        self.rows: list[StoredEvent] = []

    def find(self, digests: Sequence[int], low: int, high: int) -> list[StoredEvent]:
        return [row for row in self.rows[low:high] if row.digest in digests]

    def add(self, digest: int, event: Event, rest: str | None) -> None:
        data = event.data
        plain = {unit: number for unit, value in data.units.items() if (number := whole(value)) is not None}
        more = {unit: str(value) for unit, value in data.units.items() if unit not in plain}
        self.rows.append(
            StoredEvent(
                digest,
                event.source,
                event.id,
                event.type,
                event.subject,
                data.account or "?",
                data.key,
                data.verdict == "allowed",
                data.reason,
                is_billable(data),
                data.operation,
                plain,
                dict(data.dimensions),
                msgspec.json.encode({"units": more}).decode() if more else None,
                rest,
            )
        )


class Picked:
    """Events, of which some can be picked."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events

    def picked(self, numbers: Sequence[int]) -> dict[int, Event]:
        return {number: self.events[number] for number in numbers}


def sifted_in_batches(batches: Sequence[Sequence[Event]], few: Callable[[int], int]) -> list[Sifted]:
    """Sifts batch after batch as the worker does, with digests that ``few`` makes collide."""
    index, rows, found = IdIndex(), Rows(), []
    for batch in batches:
        digests = as_array([few(int(digest)) for digest in digests_of(list(batch))])
        accounts = [one.data.account or "?" for one in batch]
        sifted = sift(Picked(batch), accounts, {}, digests, index, rows)
        index.add(digests[sifted.fresh], len(rows.rows))
        for i in sifted.fresh:
            rows.add(int(digests[i]), batch[i], None)
        found.append(sifted)
    return found


usages = st.builds(
    Usage,
    account=st.just("a"),
    key=st.sampled_from([None, "k"]),
    units=st.dictionaries(st.sampled_from(["n", "m"]), st.sampled_from([1, "1", "1.0", "1.5", 2**70]), max_size=2),
    billable=st.sampled_from([None, True, False]),
)
named = st.builds(event, st.sampled_from(["s", "t"]), st.sampled_from("abc"), usages, st.sampled_from([None, "2026"]))
batches = st.lists(st.lists(named, max_size=8), max_size=5)


def content(one: Event) -> Any:
    """What makes two events of one name the same, in plain words."""
    units = {unit: float(value) for unit, value in one.data.units.items()}
    return one.data.key, units, is_billable(one.data)


@given(batches, st.sampled_from([64, 3, 0]))
def test_the_first_of_a_name_stands_and_the_others_are_duplicates_or_conflicts(
    batches: list[list[Event]], bits: int
) -> None:
    found = sifted_in_batches(batches, lambda digest: digest % 2**bits)

    first: dict[tuple[str, str], Any] = {}
    for batch, sifted in zip(batches, found, strict=True):
        expected = Sifted([], [], [])
        for i, one in enumerate(batch):
            before = first.setdefault((one.source, one.id), (one, content(one)))
            kind = 0 if before[0] is one else 1 if before[1] == content(one) else 2
            expected[kind].append(i)
        assert sifted == expected


@given(st.lists(named, max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_how_events_are_cut_into_batches_changes_nothing(events: list[Event], cuts: list[int]) -> None:
    # A strategy may give one object twice, and the naive way above tells events by identity.
    events = [msgspec.structs.replace(one) for one in events]
    edges = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})

    (whole,) = sifted_in_batches([events], lambda digest: digest)
    parts = sifted_in_batches([events[a:b] for a, b in pairwise(edges)], lambda digest: digest % 8)

    moved = [[low + i for low, part in zip(edges, parts, strict=False) for i in part[kind]] for kind in range(3)]
    assert moved == [list(numbers) for numbers in whole]


def test_another_time_makes_it_no_other_event() -> None:
    one, other = event("s", "a", time="2026-03-10T00:00:00Z"), event("s", "a", time="2027-01-01T00:00:00Z")

    assert sifted_in_batches([[one], [other]], int) == [Sifted([0], [], []), Sifted([], [0], [])]


def test_another_content_is_a_conflict_and_what_follows_is_compared_with_the_first() -> None:
    one, other = event("s", "a"), event("s", "a", Usage(account="a", units={"n": 2}))

    assert sifted_in_batches([[one, other, one], [other, one]], int) == [Sifted([0], [2], [1]), Sifted([], [1], [0])]


def test_the_same_id_of_another_source_is_another_event() -> None:
    assert sifted_in_batches([[event("s", "a"), event("t", "a")]], lambda digest: 0) == [Sifted([0, 1], [], [])]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account", "b"),
        ("key", "other"),
        ("verdict", "refused"),
        ("reason", "rate"),
        ("billable", False),
        ("operation", "GET"),
        ("units", {"n": 1, "m": 0}),
        ("dimensions", {"model": "x"}),
    ],
)
def test_whatever_could_change_a_bill_is_content(field: str, value: Any) -> None:
    one = event("s", "a")
    other = msgspec.structs.replace(one, data=msgspec.structs.replace(one.data, **{field: value}))

    assert sifted_in_batches([[one], [other]], int)[1] == Sifted([], [], [0])

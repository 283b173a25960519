"""Counters: what accounts and keys have spent and used, and which event brought them to a cap."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.consumers.counters import Counters, Crossing
from doortab.schemas import catalog, money, periods, wire
from doortab.schemas.batch import CounterKey
from doortab.schemas.events import Event, is_billable
from doortab.schemas.tariff import Tariff
from tests import naive


class Stream:
    """Events as the worker hands them to the counters."""

    def __init__(self, raw: Sequence[Mapping[str, Any]]) -> None:
        read = [wire.decode_event(json.dumps(one).encode(), 0) for one in raw]
        self.events: list[Event] = [event for event, _, _ in read]
        self.times = [time for _, time, _ in read]
        self.accounts = [event.data.account or "?" for event in self.events]
        self.rests = {i: wire.decode_rest(rest) for i, (_, _, rest) in enumerate(read) if rest is not None}

    def fold(self, counters: Counters, tariff: Tariff, order: Sequence[int]) -> list[Crossing]:
        charged = [i for i in order if is_billable(self.events[i].data)]
        return counters.fold(tariff, charged, self.events, self.times, self.accounts, self.rests)


def tariff_of(document: Mapping[str, Any]) -> Tariff:
    return Tariff(catalog.parse(naive.document(document)))


def spent(counters: Mapping[CounterKey, str], scope: str) -> dict[str, Decimal]:
    """By subject, the spend of all months together."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for key, value in counters.items():
        if key.measure == "amount" and key.period == "month" and key.subject.startswith(scope):
            found[key.subject.removeprefix(scope)] = naive.EXACT.add(
                found[key.subject.removeprefix(scope)], Decimal(value)
            )
    return dict(found)


def summed(raw: Sequence[Mapping[str, Any]], amounts: Sequence[Decimal], name: str) -> dict[str, Decimal]:
    """The naive amounts of billable events by account or key."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for event, amount in zip(raw, amounts, strict=True):
        if naive.billable(event) and event["data"].get(name) is not None:
            found[event["data"][name]] = naive.EXACT.add(found[event["data"][name]], amount)
    return dict(found)


@given(naive.worlds())
def test_every_event_costs_what_one_reckons_by_hand(world: naive.World) -> None:
    counters = Counters()

    Stream(world.events).fold(counters, tariff_of(world.catalog), range(15))

    moved = counters.settle()
    amounts = naive.prices(world.catalog, world.events)
    assert spent(moved, "account:") == summed(world.events, amounts, "account")
    assert spent(moved, "key:") == summed(world.events, amounts, "key")


CAPS = [
    {"subject": "account:*", "amount": "1000", "period": "month"},
    {"subject": "account:a1", "amount": "0.001", "period": "day", "thresholds": [10, 20, 90]},
    {"subject": "key:*", "meter": "requests", "quantity": "3", "period": "hour", "thresholds": [34]},
    {"subject": "key:k1", "meter": "tokens", "quantity": "1500", "period": "total"},
    {"subject": "account:a3", "meter": "weight", "quantity": "0", "period": "week"},
]
cuts = st.lists(st.integers(0, 15), max_size=4)


def pieces(cuts: Sequence[int]) -> list[range]:
    edges = sorted({0, 15, *cuts})
    return [range(low, high) for low, high in itertools.pairwise(edges)]


@given(naive.worlds(), cuts)
def test_how_the_stream_is_cut_into_batches_changes_nothing(world: naive.World, cuts: list[int]) -> None:
    tariff, stream = tariff_of(world.catalog | {"caps": CAPS}), Stream(world.events)
    whole, parts = Counters(), Counters()

    expected = stream.fold(whole, tariff, range(15))
    moved: dict[CounterKey, str] = {}
    found = []
    for piece in pieces(cuts):
        found += stream.fold(parts, tariff, piece)
        moved |= parts.settle()

    assert found == expected
    assert moved == whole.settle()


@given(naive.worlds(), cuts)
def test_a_restart_from_stored_values_changes_nothing(world: naive.World, cuts: list[int]) -> None:
    tariff, stream = tariff_of(world.catalog | {"caps": CAPS}), Stream(world.events)
    whole = Counters()

    expected = stream.fold(whole, tariff, range(15))
    stored: dict[CounterKey, str] = {}
    found = []
    for piece in pieces(cuts):
        counters = Counters(stored)
        found += stream.fold(counters, tariff, piece)
        stored |= counters.settle()

    assert found == expected
    assert stored == whole.settle()


@given(naive.worlds(), cuts)
def test_adopting_an_equal_catalog_changes_nothing(world: naive.World, cuts: list[int]) -> None:
    stream = Stream(world.events)
    whole, counters = Counters(), Counters()

    expected = stream.fold(whole, tariff_of(world.catalog | {"caps": CAPS}), range(15))
    stored: dict[CounterKey, str] = {}
    found = []
    for piece in pieces(cuts):
        found += stream.fold(counters, tariff_of(world.catalog | {"caps": CAPS}), piece)
        stored |= counters.settle()

    assert found == expected
    assert stored == whole.settle()


@given(naive.worlds(count=20))
def test_each_level_is_reached_once_a_period_by_the_event_that_reaches_it(world: naive.World) -> None:
    tariff, stream = tariff_of(world.catalog | {"caps": CAPS}), Stream(world.events)
    counters, values = Counters(), dict[CounterKey, int]()
    crossings: list[Crossing] = []

    for i in range(20):
        for crossing in stream.fold(counters, tariff, [i]):
            assert crossing.number == i
            assert values.get(crossing.counter, -1) < crossing.level.limit <= crossing.value
            crossings.append(crossing)
        for key, text in counters.settle().items():
            values[key] = money.amount(text) if key.measure == "amount" else money.quantity(text)

    places = [(crossing.counter, crossing.level.cap.id, crossing.level.percent) for crossing in crossings]
    assert len(set(places)) == len(places)


# ------------------------------------------------------------------------------------------ by hand

PLAN = {"name": "p", "currency": "USD", "charges": [{"meter": "tokens", "model": "per_unit", "unit": "1"}]}


def usage(tokens: int | str = 1, time: str = "2026-03-10T12:00:00Z", **data: Any) -> dict[str, Any]:
    data = {"account": "a1", "key": "k1", "units": {"tokens": tokens}} | data
    head = {"specversion": "1.0", "id": "e", "source": "s", "type": "request.validated", "time": time}
    return head | {"data": data}


def levels(caps: list[dict[str, Any]], raw: list[dict[str, Any]], plan: Mapping[str, Any] = PLAN) -> list[Any]:
    """Which event reached which share of a cap, and what the counter stood at."""
    document = {"default_plan": "p", "meters": naive.METERS, "plans": [plan], "caps": caps}
    crossings = Stream(raw).fold(Counters(), tariff_of(document), range(len(raw)))
    return [(c.number, c.level.percent, money.quantity_text(c.value)) for c in crossings]


def test_one_event_may_reach_several_levels() -> None:
    cap = {"subject": "key:*", "meter": "tokens", "quantity": "100", "period": "day"}

    assert levels([cap], [usage(49), usage(200)]) == [(1, 50, "249"), (1, 80, "249"), (1, 95, "249"), (1, 100, "249")]


def test_a_new_period_begins_at_nothing_and_an_old_one_goes_on_where_it_was() -> None:
    cap = {"subject": "key:*", "meter": "tokens", "quantity": "100", "period": "day", "thresholds": []}
    raw = [usage(60), usage(60, "2026-03-11T00:00:00Z"), usage(60), usage(60, "2026-03-11T23:59:59Z"), usage(60)]

    assert levels([cap], raw) == [(2, 100, "120"), (3, 100, "120")]


def test_a_share_of_a_cap_is_reached_when_all_of_it_is() -> None:
    cap = {"subject": "key:*", "meter": "tokens", "quantity": "1", "period": "day", "thresholds": [33]}

    assert levels([cap], [usage("0.329999999999999999999999"), usage("0.000000000000000000000001")]) == [
        (1, 33, "0.33")
    ]


def test_a_cap_of_its_own_takes_the_place_of_one_for_each() -> None:
    caps = [
        {"subject": "key:*", "meter": "tokens", "quantity": "10", "period": "day", "thresholds": []},
        {"subject": "key:k1", "meter": "tokens", "quantity": "100", "period": "day", "thresholds": []},
    ]

    assert levels(caps, [usage(50), usage(50, key="k2"), usage(50)]) == [(1, 100, "50"), (2, 100, "100")]


@pytest.mark.parametrize("restart", [False, True])
def test_a_cap_of_nothing_is_reached_by_the_first_event_that_its_meter_takes(restart: bool) -> None:
    cap = {"subject": "key:*", "meter": "weight", "quantity": "0", "period": "day", "thresholds": []}
    document = {"default_plan": "p", "meters": naive.METERS, "plans": [PLAN], "caps": [cap]}
    counters, tariff = Counters(), tariff_of(document)
    stream = Stream([usage(5), usage(5) | {"type": "parcel.sent", "data": {"account": "a1", "key": "k1", "weight": 3}}])

    first = stream.fold(counters, tariff, [0])
    stored = counters.settle()
    second = stream.fold(Counters(stored) if restart else counters, tariff, [1])

    assert (first, [c.level.percent for c in second]) == ([], [100])


def test_an_event_that_is_refused_moves_nothing() -> None:
    cap = {"subject": "key:*", "meter": "tokens", "quantity": "1", "period": "day"}

    assert levels([cap], [usage(5, verdict="refused"), usage(5, billable=False)]) == []


def test_every_key_and_account_has_its_spend_counted() -> None:
    counters = Counters()
    tariff = tariff_of({"default_plan": "p", "meters": naive.METERS, "plans": [PLAN | {"timezone": "Asia/Kolkata"}]})

    Stream([usage(7)]).fold(counters, tariff, [0])

    start = periods.period_of("month", "Asia/Kolkata", Stream([usage()]).times[0]).start
    assert counters.settle() == {
        CounterKey("account:a1", "amount", "month", start): "7",
        CounterKey("key:k1", "amount", "month", start): "7",
    }
    assert counters.settle() == {}


def test_use_at_a_flat_price_counts_for_the_tiers_that_follow_it() -> None:
    charges = [
        {"meter": "tokens", "model": "per_unit", "unit": "1"},
        {
            "meter": "tokens",
            "model": "graduated",
            "tiers": [{"up_to": "10", "unit": "5"}, {"unit": "2"}],
            "effective_from": "2026-03-10T00:00:00Z",
        },
    ]
    cap = {"subject": "account:*", "amount": "1", "period": "total", "thresholds": []}
    raw = [usage(8, "2026-03-09T00:00:00Z"), usage(4, "2026-03-11T00:00:00Z")]
    counters = Counters()
    document = {
        "default_plan": "p",
        "meters": naive.METERS,
        "plans": [PLAN | {"charges": charges}],
        "caps": [cap],
    }

    Stream(raw).fold(counters, tariff_of(document), range(2))

    assert spent(counters.settle(), "account:") == {"a1": Decimal(8 + 2 * 5 + 2 * 2)}


def test_a_slot_does_not_grow_with_what_its_events_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doortab.consumers.counters.MAX_RATES", 3)
    charge = {"meter": "tokens", "model": "per_unit", "unit": "1", "where": {"operation": {"ne": "GET /7"}}}
    counters = Counters()
    document = {"default_plan": "p", "meters": naive.METERS, "plans": [{**PLAN, "charges": [charge]}]}
    raw = [usage(1, operation=f"GET /{i}") for i in range(20)]

    Stream(raw).fold(counters, tariff_of(document), range(20))

    assert all(len(slot.rates) <= 3 for slot in counters._slots.values())
    assert spent(counters.settle(), "account:") == {"a1": Decimal(19)}


def test_a_new_catalog_prices_what_comes_after_it() -> None:
    counters, stream = Counters(), Stream([usage(10), usage(10)])
    dearer = {**PLAN, "charges": [{"meter": "tokens", "model": "per_unit", "unit": "3"}]}
    tariffs = [tariff_of({"default_plan": "p", "meters": naive.METERS, "plans": [plan]}) for plan in (PLAN, dearer)]

    moved = {}
    for i, tariff in enumerate(tariffs):
        stream.fold(counters, tariff, [i])
        moved = counters.settle()

    assert spent(moved, "account:") == {"a1": Decimal(10 + 30)}


def test_who_has_no_plan_spends_nothing() -> None:
    counters = Counters()

    Stream([usage(10)]).fold(counters, tariff_of({"meters": naive.METERS}), [0])

    assert spent(counters.settle(), "account:") == {"a1": Decimal(0)}

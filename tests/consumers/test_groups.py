"""Counting in groups comes to what counting event by event comes to: the same counters, reached by the same events."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.consumers import counting
from doortab.consumers.attribution import accounts_of
from doortab.consumers.columns import Columns
from doortab.consumers.counters import Counters, Crossing
from doortab.consumers.intake import intake_of
from doortab.consumers.views import Views
from doortab.log.memory import MemoryLog
from doortab.schemas import catalog, topics, wire
from doortab.schemas.batch import CounterKey
from doortab.schemas.log import Record
from doortab.schemas.tariff import Tariff
from tests import naive

Moved = dict[CounterKey, str]


def columns_of(raw: Sequence[Mapping[str, Any]]) -> Columns:
    return intake_of([Record("usage", 0, 0, 0, None, json.dumps(list(raw)).encode())]).columns


def empty_views() -> Views:
    log = MemoryLog(lambda: 0.0)
    log.ensure_topics(topics.topics())
    return Views(log)


VIEWS = empty_views()


def counted(
    raw: Sequence[Mapping[str, Any]], tariff: Tariff, few: int, pieces: Sequence[Sequence[int]]
) -> tuple[list[Crossing], list[Moved]]:
    """What was reached, and how the counters moved, piece by piece. ``few`` events at most are walked at once."""
    columns, counters = columns_of(raw), Counters()
    accounts, rests = accounts_of(columns, VIEWS, {}), {i: wire.decode_rest(t) for i, t in columns.rests.items()}
    crossings: list[Crossing] = []
    moved: list[Moved] = []
    with patch.object(counting, "FEW", few):
        for piece in pieces:
            charged = np.array([i for i in piece if columns.billable[i]], np.int64)
            crossings += counting.fold(counters, tariff, columns, charged, accounts, rests)
            moved.append(counters.settle())
    return crossings, moved


def same_order(crossings: Sequence[Crossing]) -> list[Crossing]:
    """What one event reaches, it reaches at once."""
    return sorted(crossings, key=lambda c: (c.number, c.counter, c.level.limit, c.level.cap.id))


CAPS = [
    {"subject": "account:*", "amount": "0.5", "period": "month"},
    {"subject": "account:a1", "amount": "0.001", "period": "day", "thresholds": [10, 20, 90]},
    {"subject": "key:*", "meter": "requests", "quantity": "3", "period": "hour", "thresholds": [34]},
    {"subject": "key:k1", "meter": "tokens", "quantity": "1500", "period": "total"},
    {"subject": "key:k2", "amount": "2", "period": "total", "thresholds": [1, 2, 3, 50]},
    {"subject": "account:a3", "meter": "weight", "quantity": "0", "period": "week"},
    {"subject": "account:a2", "amount": "0", "period": "day"},
]


@st.composite
def plainer(draw: st.DrawFn) -> naive.World:
    """Worlds most of whose quantities are whole numbers, and whose events are close together."""
    world = draw(naive.worlds(count=30))
    whole = draw(st.booleans())
    for event in world.events if whole else ():
        units = event["data"].get("units", {})
        event["data"]["units"] = {unit: int(naive.number(value) or 0) % 2**63 for unit, value in units.items()}
        event["time"] = "2026-03-1" + event["time"][9] + "T12:00:00Z"
    return world


@given(plainer(), st.lists(st.integers(0, 30), max_size=2))
def test_a_batch_in_groups_comes_to_what_its_events_come_to(world: naive.World, cuts: list[int]) -> None:
    tariff = Tariff(catalog.parse(naive.document(world.catalog | {"caps": CAPS})))
    edges = sorted({0, 30, *cuts})
    pieces = [range(low, high) for low, high in itertools.pairwise(edges)]

    crossings, moved = counted(world.events, tariff, 0, pieces)
    walked, walked_moved = counted(world.events, tariff, 100, pieces)

    assert moved == walked_moved
    assert same_order(crossings) == same_order(walked)


# ------------------------------------------------------------------------------------------ by hand

TIERS = [{"up_to": "1000", "unit": "0.5"}, {"up_to": "100000", "unit": "0.25", "flat": "1"}, {"unit": "0.125"}]
CHARGES = {
    "per_unit": {"meter": "tokens", "model": "per_unit", "unit": "0.01"},
    "graduated": {"meter": "tokens", "model": "graduated", "tiers": TIERS},
    "tested": {"meter": "tokens", "model": "per_unit", "unit": "0.01", "where": {"units.tokens": {"lte": 200}}},
}


def usage(number: int, tokens: int, key: str) -> dict[str, Any]:
    data = {"account": "a1", "key": key, "units": {"tokens": tokens, "requests": 1}}
    head = {"specversion": "1.0", "id": f"e{number}", "source": "s", "type": "request.validated"}
    return head | {"time": f"2026-03-10T12:00:{number % 60:02}Z", "data": data}


def document(charge: str, cap: str) -> Mapping[str, Any]:
    plan = {"name": "p", "currency": "USD", "charges": [CHARGES[charge]]}
    caps = [{"subject": "account:*", "amount": cap, "period": "month"}, {"subject": "key:k2", "amount": "3"}]
    return {"default_plan": "p", "meters": naive.METERS, "plans": [plan], "caps": [{"period": "day"} | c for c in caps]}


def test_a_cap_of_nothing_is_reached_by_the_first_event_in_a_group_or_not() -> None:
    tariff = Tariff(catalog.parse(naive.document(document("per_unit", "0"))))
    whole = [usage(number, 1, "k1") for number in range(12)]
    half = usage(12, 1, "k3") | {"data": usage(12, 1, "k3")["data"] | {"units": {"tokens": "0.5"}}}

    in_groups = counted([*whole, half], tariff, 0, [range(13)])

    assert in_groups == counted([*whole, half], tariff, 100, [range(13)])
    assert {crossing.number for crossing in in_groups[0]} == {0}


def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events were walked, each time that some were."""
    seen: list[int] = []
    fold = Counters.fold

    def watched(self: Counters, tariff: Tariff, order: Any, *more: Any) -> list[Crossing]:
        seen.append(len(order))
        return fold(self, tariff, order, *more)

    monkeypatch.setattr(Counters, "fold", watched)
    return seen


@pytest.mark.parametrize("charge", ["per_unit", "tested"])
@pytest.mark.parametrize("cap", ["1000000", "7", "0.5"])
def test_events_of_one_price_are_not_walked_even_where_they_reach_a_cap(
    charge: str, cap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = [usage(i, 10 + i, f"k{i % 3}") for i in range(90)]
    tariff = Tariff(catalog.parse(naive.document(document(charge, cap))))
    expected = counted(raw, tariff, 1000, [range(90)])
    seen = walks(monkeypatch)

    crossings, moved = counted(raw, tariff, 0, [range(90)])

    assert seen == []
    assert (same_order(crossings), moved) == (same_order(expected[0]), expected[1])
    assert (len(crossings) > 4) == (cap != "1000000")


def test_only_a_batch_in_which_a_tier_ends_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = [usage(i, 10, f"k{i % 3}") for i in range(180)]
    tariff = Tariff(catalog.parse(naive.document(document("graduated", "500"))))
    pieces = [range(60), range(60, 120), range(120, 180)]
    expected = counted(raw, tariff, 1000, pieces)
    seen = walks(monkeypatch)

    crossings, moved = counted(raw, tariff, 0, pieces)

    assert seen == [60]
    assert (same_order(crossings), moved) == (same_order(expected[0]), expected[1])


def test_units_whose_sum_no_machine_word_holds_are_walked() -> None:
    raw = [usage(i, 2**62, "k1") for i in range(40)]
    tariff = Tariff(catalog.parse(naive.document(document("per_unit", "1000000"))))

    assert counted(raw, tariff, 0, [range(40)]) == counted(raw, tariff, 1000, [range(40)])


def test_a_group_in_two_months_shares_the_counters_of_both() -> None:
    """The other key's events of the second month reach the cap before its own do, or after: the order decides."""
    early = [usage(i, 10, "k1") for i in range(4)]
    late = [usage(10 + i, 40, ("k1", "k3")[i % 2]) for i in range(8)]
    for event in late:
        event["time"] = event["time"].replace("2026-03-10", "2026-04-01")
    tariff = Tariff(catalog.parse(naive.document(document("per_unit", "2"))))

    together = counted(early + late, tariff, 0, [range(12)])

    walked = counted(early + late, tariff, 1000, [range(12)])
    assert (same_order(together[0]), together[1]) == (same_order(walked[0]), walked[1])
    assert walked[0], "the test must reach a level"

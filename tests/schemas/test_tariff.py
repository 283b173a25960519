"""The tariff: which price is in force for an event, found quickly and found right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import catalog, charges, instants, money, wire
from doortab.schemas.events import Event, Usage
from doortab.schemas.periods import QUARTER_HOUR
from doortab.schemas.tariff import BEGINNING, PlanTariff, Tariff
from tests import naive

pytestmark = pytest.mark.promises("R18")


def tariff_of(document: Mapping[str, Any]) -> Tariff:
    return Tariff(catalog.parse(naive.document(document)))


def plan_of(*rows: Mapping[str, Any], **plan: Any) -> PlanTariff:
    """A plan of these charges, per unit and at 1 unless they say otherwise."""
    made = [{"meter": "tokens", "model": "per_unit", "unit": "1", **row} for row in rows]
    whole = {"name": "p", "currency": "USD", "charges": made, **plan}
    return tariff_of({"default_plan": "p", "meters": naive.METERS, "plans": [whole]}).plans["p"]


def price(plan: PlanTariff, event: Event, time: int, rest: Mapping[str, Any], used: dict[str, int]) -> int:
    """What the event costs, by the rates as the ledger reads them; ``used`` is how far into the tiers it is."""
    amount = 0
    for rate in plan.rates(event):
        if not rate.since <= time < rate.until or (rate.test is not None and not rate.test(event, rest)):
            continue
        quantity = rate.line.quantity(event, rest) or 0
        if rate.price is not None:
            amount += quantity * rate.price // money.QUANTITY_ONE
        else:
            before = used.get(rate.line.id, 0)
            amount += charges.marginal(rate.model, before, quantity)
            used[rate.line.id] = before + quantity
    return amount


@given(naive.worlds(count=12))
def test_the_rates_price_an_event_as_one_reckons_by_hand(world: naive.World) -> None:
    tariff = tariff_of(world.catalog)
    used: dict[Any, dict[str, int]] = {}
    found = []
    for raw in world.events:
        event, time, rest = wire.decode_event(json.dumps(raw).encode(), 0)
        account = event.data.account or "?"
        plan = tariff.plan_of(account)
        assert plan is not None
        place = used.setdefault((account, naive.month(raw, plan.timezone)), {})
        amount = 0
        if naive.billable(raw):
            amount = price(plan, event, time, wire.decode_rest(rest) if rest else {}, place)
        found.append(Decimal(money.amount_text(amount)))

    assert found == naive.prices(world.catalog, world.events)


@given(naive.worlds(count=12))
def test_the_quick_test_says_what_the_conditions_say(world: naive.World) -> None:
    tariff = tariff_of(world.catalog)
    for raw in world.events:
        event, _, text = wire.decode_event(json.dumps(raw).encode(), 0)
        rest = wire.decode_rest(text) if text else {}
        for plan in tariff.plans.values():
            rates = plan.rates(event)
            passing = [rate.line.id for rate in rates if rate.test is None or rate.test(event, rest)]
            taking = [line.id for line in plan.lines for _ in line.rows if line.takes(event, rest)]

            assert passing == taking


@given(naive.worlds(count=12))
def test_the_rates_of_a_quarter_of_an_hour_are_those_in_force_in_it(world: naive.World) -> None:
    tariff = tariff_of(world.catalog)
    for raw in world.events:
        event, time, _ = wire.decode_event(json.dumps(raw).encode(), 0)
        quarter = time - time % QUARTER_HOUR
        for plan in tariff.plans.values():
            within = plan.rates_within(plan.signature(event), quarter, quarter + QUARTER_HOUR)

            assert [r for r in plan.rates(event) if r.since <= time < r.until] == [
                r for r in within if r.since <= time < r.until
            ]


@given(naive.worlds(count=0))
def test_dated_rows_follow_each_other_without_gap_or_overlap(world: naive.World) -> None:
    for plan in tariff_of(world.catalog).plans.values():
        for line in plan.lines:
            assert [row.until for row in line.rows] == [*(row.since for row in line.rows[1:]), instants.LATEST]
            assert all(row.since < row.until for row in line.rows)


@given(naive.worlds(count=0))
def test_no_two_lines_share_an_id(world: naive.World) -> None:
    for plan in tariff_of(world.catalog).plans.values():
        assert len({line.id for line in plan.lines}) == len(plan.lines)


def test_values_that_hold_what_separates_values_are_told_apart() -> None:
    plan = plan_of(
        {"where": {"dimensions.m": "a|b"}},
        {"where": {"dimensions.m": ["a", "b"]}},
        {"where": {"dimensions.m": "a&dimensions.n in b"}},
        {"where": {"dimensions.m": "a", "dimensions.n": "b"}},
        {"where": {"dimensions.m": "a\\|b"}},
    )

    assert len({line.id for line in plan.lines}) == 5


def test_a_row_without_a_date_is_in_force_from_the_beginning_until_the_first_that_has_one() -> None:
    plan = plan_of(
        {"unit": "3", "effective_from": "2026-04-01T00:00:00Z"},
        {"unit": "1"},
        {"unit": "2", "effective_from": "1965-01-01T00:00:00Z"},
    )
    (line,) = plan.lines
    ancient, april = instants.parse("1965-01-01T00:00:00Z"), instants.parse("2026-04-01T00:00:00Z")

    rows = [(row.since, row.until, row.model.linear) for row in line.rows]

    one = money.PRICE_ONE
    assert rows == [(BEGINNING, ancient, one), (ancient, april, 2 * one), (april, instants.LATEST, 3 * one)]


@pytest.mark.parametrize(
    ("time", "unit"),
    [("2026-03-31T23:59:59.999999Z", "1"), ("2026-04-01T00:00:00Z", "2"), ("2026-04-01T02:00:00+02:00", "2")],
)
def test_a_price_takes_effect_at_its_very_instant(time: str, unit: str) -> None:
    plan = plan_of({"unit": "1"}, {"unit": "2", "effective_from": "2026-04-01T00:00:00Z"})

    row = plan.lines[0].row_at(instants.parse(time))

    assert row is not None
    assert row.model == charges.PerUnit(money.price(unit))


def test_before_its_first_date_a_charge_costs_nothing() -> None:
    plan = plan_of({"effective_from": "2026-04-01T00:00:00Z"})

    assert plan.lines[0].row_at(instants.parse("2026-03-31T23:59:59Z")) is None


def test_charges_on_one_meter_with_other_filters_are_added_up() -> None:
    plan = plan_of({}, {"where": {"dimensions.model": "m1"}, "unit": "10"})
    event = Event("1.0", "e", "s", "request.validated", Usage(units={"tokens": 2}, dimensions={"model": "m1"}))

    assert price(plan, event, 0, {}, {}) == money.amount("22")


def test_more_signatures_than_are_kept_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doortab.schemas.tariff.MAX_SIGNATURES", 2)
    plan = plan_of({"where": {"dimensions.model": "m1"}})

    def amount(model: str) -> int:
        event = Event("1.0", "e", "s", "request.validated", Usage(units={"tokens": 1}, dimensions={"model": model}))
        return price(plan, event, 0, {}, {})

    assert [amount(f"m{i % 5}") for i in range(10)] == [money.amount("1") if i % 5 == 1 else 0 for i in range(10)]


WHO = """
default_plan = "a"
plans = [ { name = "a", currency = "USD", timezone = "Asia/Kolkata" }, { name = "b", currency = "EUR" } ]
accounts = [ { id = "x", plan = "b", subjects = ["s1", "s2"] }, { id = "y" } ]
meters = [ { name = "n", event = "e", aggregation = "count" } ]
caps = [
  { subject = "key:*", amount = "5", period = "day" },
  { subject = "key:*", meter = "n", quantity = "7", period = "day", thresholds = [90, 10, 10] },
  { subject = "key:k", amount = "6", period = "day", hard = false },
  { subject = "key:k", amount = "9", period = "month" },
  { subject = "account:x", amount = "1", period = "total" },
]
"""


def test_an_account_pays_its_plan_or_the_default_one() -> None:
    tariff = Tariff(catalog.parse(WHO))

    plans = [plan.name for account in ("x", "y", "stranger") if (plan := tariff.plan_of(account))]

    assert plans == ["b", "a", "a"]
    assert [tariff.timezone_of(account) for account in ("x", "y")] == ["UTC", "Asia/Kolkata"]
    assert Tariff(catalog.parse("")).plan_of("x") is None


def test_a_subject_belongs_to_the_account_that_registered_it() -> None:
    tariff = Tariff(catalog.parse(WHO))

    assert [tariff.account_of_subject(subject) for subject in ("s1", "s2", "s3")] == ["x", "x", None]


def test_a_cap_of_its_own_takes_the_place_of_one_for_each_of_the_same_measure_and_period() -> None:
    tariff = Tariff(catalog.parse(WHO))

    own = [(cap.id, cap.limit, cap.hard) for cap in tariff.caps_of("key", "k")]
    others = [(cap.id, cap.thresholds) for cap in tariff.caps_of("key", "other")]

    assert own == [
        ("key:k/amount/day", money.amount("6"), False),
        ("key:k/amount/month", money.amount("9"), True),
        ("key:*/n/day", money.quantity("7"), True),
    ]
    assert others == [("key:*/amount/day", (50, 80, 95)), ("key:*/n/day", (10, 90))]
    assert [cap.id for cap in tariff.caps_of("account", "x")] == ["account:x/amount/total"]
    assert tariff.caps_of("account", "y") == []


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_a_dimension_is_compared_as_it_stands(wanted: str, found: str) -> None:
    entry = catalog.Charge(meter="tokens", model="per_unit", unit="1", where={"dimensions.model": wanted})
    plan = PlanTariff(
        catalog.Plan(name="p", currency="USD", charges=(entry,)),
        {meter["name"]: catalog.MeterEntry(**meter).meter() for meter in naive.METERS},
    )
    event = Event("1.0", "e", "s", "request.validated", Usage(units={"tokens": 1}, dimensions={"model": found}))

    assert bool(plan.rates(event)) == (wanted == found)

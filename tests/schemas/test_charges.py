"""Charges: what a quantity costs, whole or in parts."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import money
from doortab.schemas.charges import AnyModel, Graduated, PerUnit, Tier, ZeroUsage, marginal, unit_within

pytestmark = pytest.mark.promises("R18")

prices = st.integers(0, 10**6)
flats = st.just(0) | st.integers(0, 10**30)
eighths = st.integers(0, 40).map(lambda q: q * money.QUANTITY_ONE // 8)
bounds = st.lists(eighths.filter(bool), max_size=4, unique=True)


@st.composite
def graduated(draw: st.DrawFn, flats: st.SearchStrategy[int] = flats) -> Graduated:
    tops: list[int | None] = [*sorted(draw(bounds)), None]
    zero_usage: ZeroUsage = draw(st.sampled_from(["free", "bill_first_flat"]))
    return Graduated(tuple(Tier(top, draw(prices), draw(flats)) for top in tops), zero_usage)


models = st.builds(PerUnit, prices) | graduated()
quantity = eighths | st.integers(0, 5 * money.QUANTITY_ONE)


def naive(model: Graduated, quantity: int) -> int:
    """The total, band by band, as one would reckon by hand."""
    if quantity == 0:
        return model.tiers[0].flat if model.zero_usage == "bill_first_flat" else 0
    lows = [0, *(tier.up_to for tier in model.tiers)]
    bands = [
        (tier, min(quantity, tier.up_to if tier.up_to is not None else quantity) - low)
        for tier, low in zip(model.tiers, lows, strict=False)
        if low is not None and quantity > low
    ]
    return sum(tier.unit * inside + tier.flat for tier, inside in bands)


@given(models, st.lists(quantity, max_size=8))
def test_however_usage_is_split_its_parts_add_up_to_the_whole(model: AnyModel, parts: list[int]) -> None:
    befores = [0, *accumulate(parts)]

    amounts = [marginal(model, before, part) for before, part in zip(befores, parts, strict=False)]

    assert sum(amounts) == (model.total(sum(parts)) if sum(parts) else 0)


@given(graduated(), quantity)
def test_a_graduated_total_is_what_one_reckons_by_hand(model: Graduated, used: int) -> None:
    assert model.total(used) == naive(model, used)


@given(models, quantity, quantity)
def test_more_never_costs_less(model: AnyModel, one: int, other: int) -> None:
    low, high = sorted((one, other))

    assert model.total(low) <= model.total(high)


@given(graduated(flats=st.just(0)), quantity)
def test_without_flat_fees_the_total_has_no_jumps(model: Graduated, used: int) -> None:
    dearest = max(tier.unit for tier in model.tiers)

    assert 0 <= model.total(used + 1) - model.total(used) <= dearest


@given(graduated(), quantity, quantity)
def test_a_price_within_is_what_every_part_within_costs(model: Graduated, before: int, used: int) -> None:
    unit = unit_within(model, before, used)

    if unit is not None:
        assert marginal(model, before, used) == used * unit
        assert marginal(model, before, used // 3) == used // 3 * unit


@given(graduated(), quantity, quantity)
def test_there_is_a_price_within_wherever_no_bound_and_no_fee_is_met(model: Graduated, before: int, used: int) -> None:
    tops = [tier.up_to for tier in model.tiers if tier.up_to is not None]
    met = any(before < top < before + used for top in tops)
    starts = [0, *tops]
    pays = any(tier.flat and before == start for tier, start in zip(model.tiers, starts, strict=True))

    assert (unit_within(model, before, used) is None) <= (met or pays)


@given(graduated(), quantity)
def test_a_model_called_linear_is(model: Graduated, used: int) -> None:
    if model.linear is not None:
        assert model.total(used) == used * model.linear


def test_bands_of_one_price_and_no_fee_are_linear() -> None:
    assert Graduated((Tier(5, unit=7), Tier(None, unit=7))).linear == 7
    assert Graduated((Tier(5, unit=7), Tier(None, unit=8))).linear is None
    assert Graduated((Tier(5, unit=7, flat=1), Tier(None, unit=7))).linear is None
    assert Graduated((Tier(5, unit=7), Tier(None, unit=7, flat=1))).linear is None


@given(models, quantity, quantity)
def test_what_is_given_back_is_what_it_cost_but_for_a_fee_that_is_due_without_use(
    model: AnyModel, before: int, used: int
) -> None:
    left = marginal(model, before, used) + marginal(model, before + used, -used)

    assert left == (model.total(0) if used and not before else 0)


@pytest.mark.parametrize("zero_usage", ["free", "bill_first_flat"])
def test_less_than_nothing_enters_no_band(zero_usage: ZeroUsage) -> None:
    model = Graduated((Tier(None, unit=3, flat=100),), zero_usage)

    assert model.total(-5) == model.total(0) - 15


ONE = money.QUANTITY_ONE
# Amazon API Gateway, us-east-1, as in the example of the catalog.
GATEWAY = Graduated(
    (
        Tier(333_000_000 * ONE, money.price("0.0000035")),
        Tier(1_000_000_000 * ONE, money.price("0.0000028")),
        Tier(None, money.price("0.00000238")),
    )
)


@pytest.mark.parametrize(
    ("used", "amount"),
    [
        (0, "0"),
        (1, "0.0000035"),
        (333_000_000, "1165.5"),
        (333_000_001, "1165.5000028"),
        (1_000_000_000, "3033.1"),
        (2_000_000_000, "5413.1"),
    ],
)
def test_a_bound_belongs_to_the_band_below_it(used: int, amount: str) -> None:
    assert money.amount_text(GATEWAY.total(used * ONE)) == amount


def test_a_band_is_entered_once_and_its_fee_paid_once() -> None:
    model = Graduated((Tier(5 * ONE, flat=money.amount("100")), Tier(None, flat=money.amount("50"))))

    found = [money.amount_text(marginal(model, before * ONE, ONE)) for before in range(8)]

    assert found == ["100", "0", "0", "0", "0", "50", "0", "0"]


def test_where_nothing_is_used_the_first_fee_is_due_if_the_charge_says_so() -> None:
    fee = money.amount("100")

    assert Graduated((Tier(None, flat=fee),), "bill_first_flat").total(0) == fee
    assert Graduated((Tier(None, flat=fee),), "free").total(0) == 0
    assert Graduated((Tier(None, flat=fee),), "free").total(1) == fee
    assert Graduated((Tier(None, flat=fee),), "bill_first_flat").total(1) == fee

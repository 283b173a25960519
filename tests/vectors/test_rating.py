"""Prices that other projects agree on, reckoned by our charges."""

from __future__ import annotations

from typing import Any

import pytest

from doortab.schemas import money
from doortab.schemas.catalog import Charge
from doortab.schemas.charges import AnyModel
from doortab.schemas.tariff import model_of
from tests.vectors.cases import Case, cases, wait

RATING = cases("rating", "DOORTAB_RATING_VECTORS")

MODES: dict[str, money.Rounding] = {
    "half_away_from_zero": "half_up",
    "half_up": "half_up",
    "half_even": "half_even",
    "bankers": "half_even",
    "up": "up",
    "down": "down",
}
# What a price, a tier and a use may hold here. Anything else is a feature that is not there yet.
PRICE = {"currency", "rounding", "unit_amount", "tiers", "zero_usage"}
TIER = {"up_to", "unit", "flat"}
USAGE = {"quantity", "previous_quantity", "previous_billed", "position"}


def strange(case: Case) -> list[str]:
    """What the case holds that is more than a price per unit or by tiers."""
    price, usage = case["price"], case["usage"]
    tiers = {name for tier in price.get("tiers", []) for name, value in tier.items() if value is not None}
    return sorted(({*price} - PRICE) | ({*usage} - USAGE) | (tiers - TIER))


def model(case: Case) -> AnyModel:
    """The price as one of our models, made as a catalog makes it."""
    price = case["price"]
    written: dict[str, Any] = {"meter": "m", "model": case["model"]}
    if case["model"] == "per_unit":
        written["unit"] = price["unit_amount"]
    else:
        written["tiers"] = [
            {name: value for name, value in tier.items() if value is not None} for tier in price["tiers"]
        ]
        written["zero_usage"] = price.get("zero_usage", "free")
    return model_of(Charge.model_validate(written))


def amount(case: Case) -> int:
    """What the line of the case comes to, before it is rounded."""
    usage, charge = case["usage"], model(case)
    before = money.quantity(usage.get("previous_quantity") or "0")
    after = before + money.quantity(usage["quantity"])
    # What is due without any use belongs to the line that begins the period.
    begun = usage.get("position", "whole") not in ("whole", "first")
    return charge.total(after) - (charge.total(before) if before or begun else 0)


def rounded(case: Case, value: int) -> int:
    """The amount as the case wants it rounded."""
    rounding = case["price"].get("rounding")
    if rounding is None:
        return value
    mode = MODES.get(rounding["mode"])
    if mode is None:
        wait(f"rounding {rounding['mode']}")
    return money.rounded(value, int(rounding["scale"]), mode)


@pytest.mark.parametrize("case", RATING)
def test_a_price_comes_to_what_others_say(case: Case) -> None:
    if case["model"] not in ("per_unit", "graduated", "rounding"):
        wait(f"model {case['model']}")
    if case["model"] == "rounding":
        value = money.amount(case["usage"]["quantity"])
    elif missing := strange(case):
        wait(f"{case['model']} with {', '.join(missing)}")
    else:
        value = amount(case)

    found = rounded(case, value)

    assert found == money.amount(case["expected"]), (
        f"{case['id']}: {money.amount_text(found)}, expected {case['expected']} ({case['notes']}; {case['source']})"
    )

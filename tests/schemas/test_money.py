"""Exact arithmetic: texts, scaled numbers, and the one place that rounds."""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_UP, Context, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import money

pytestmark = pytest.mark.promises("R18")

EXACT = Context(prec=400)
MODES: dict[money.Rounding, str] = {
    "half_up": ROUND_HALF_UP,
    "half_even": ROUND_HALF_EVEN,
    "up": ROUND_UP,
    "down": ROUND_DOWN,
}

decimals = st.integers(0, money.AMOUNT_DECIMALS)
number = st.integers(-(10**80), 10**80)
modes = st.sampled_from(list(MODES))
digits = st.integers(0, 12)


@given(number, decimals)
def test_a_number_comes_back_from_its_text(value: int, places: int) -> None:
    assert money.scaled(money.text(value, places), places) == value


@given(number, decimals)
def test_a_text_is_the_number_and_nothing_more(value: int, places: int) -> None:
    text = money.text(value, places)

    assert Decimal(text) == Decimal(value).scaleb(-places, EXACT)
    assert text == text.strip()
    assert "." not in text or not text.endswith(("0", "."))


@given(st.integers(0, 10**60 - 1), st.integers(0, 24), st.integers(0, 5), st.integers(0, 5))
def test_zeros_before_and_behind_mean_nothing(value: int, places: int, before: int, behind: int) -> None:
    text = money.text(value, places)
    padded = "0" * before + text + ("" if "." in text else ".") + "0" * behind

    assert money.scaled(padded if not padded.endswith(".") else text, 24) == money.scaled(text, 24)


@pytest.mark.parametrize(
    "text",
    ["", "-", ".", ".5", "5.", "1e3", "1E3", "+1", "1_000", "1,5", " 1", "1 ", "1\n", "٣", "NaN", "inf", "--1", "0x1"],
)
def test_what_is_not_decimal_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not decimal text"):
        money.scaled(text, 12)


def test_more_decimals_than_there_are_is_refused_and_never_rounded() -> None:
    assert money.price("0.000000000001") == 1
    with pytest.raises(ValueError, match="more than 12 decimals"):
        money.price("0.0000000000001")
    assert money.price("0.1000000000000") == 10**11


@pytest.mark.parametrize("value", [1.5, 0.1, Decimal("1.5"), None, b"1"])
def test_binary_fractions_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        money.scaled(value, 12)


@given(number, digits, modes)
def test_rounding_is_what_decimal_says(value: int, places: int, mode: money.Rounding) -> None:
    exact = Decimal(value).scaleb(-money.AMOUNT_DECIMALS, EXACT)

    expected = exact.quantize(Decimal(1).scaleb(-places), rounding=MODES[mode], context=EXACT)

    assert Decimal(money.amount_text(money.rounded(value, places, mode))) == expected


@given(number, digits, modes)
def test_rounding_twice_is_rounding_once(value: int, places: int, mode: money.Rounding) -> None:
    once = money.rounded(value, places, mode)

    assert money.rounded(once, places, mode) == once


@given(number, digits, modes)
def test_rounding_has_no_favourite_sign(value: int, places: int, mode: money.Rounding) -> None:
    assert money.rounded(-value, places, mode) == -money.rounded(value, places, mode)


@given(number, number, digits, modes)
def test_rounding_keeps_order(one: int, other: int, places: int, mode: money.Rounding) -> None:
    low, high = sorted((one, other))

    assert money.rounded(low, places, mode) <= money.rounded(high, places, mode)


@given(number, digits, modes)
def test_rounding_moves_less_than_a_step(value: int, places: int, mode: money.Rounding) -> None:
    step = 10 ** (money.AMOUNT_DECIMALS - places)
    moved = abs(money.rounded(value, places, mode) - value)

    assert moved < step
    assert moved * 2 <= step or mode in ("up", "down")


@pytest.mark.parametrize(
    ("text", "half_up", "half_even", "up", "down"),
    [
        ("0.005", "0.01", "0", "0.01", "0"),
        ("0.015", "0.02", "0.02", "0.02", "0.01"),
        ("1.225", "1.23", "1.22", "1.23", "1.22"),
        ("1.2250000000000000000001", "1.23", "1.23", "1.23", "1.22"),
        ("1.2249999999999999999999", "1.22", "1.22", "1.23", "1.22"),
        ("-0.005", "-0.01", "0", "-0.01", "0"),
        ("2.675", "2.68", "2.68", "2.68", "2.67"),
    ],
)
def test_halves_go_where_the_mode_says(text: str, half_up: str, half_even: str, up: str, down: str) -> None:
    value = money.amount(text)

    found = [money.amount_text(money.rounded(value, 2, mode)) for mode in MODES]

    assert found == [half_up, half_even, up, down]


@pytest.mark.parametrize(
    ("currency", "places"), [("USD", 2), ("EUR", 2), ("JPY", 0), ("KRW", 0), ("KWD", 3), ("BHD", 3), ("XXX", 2)]
)
def test_a_currency_knows_its_minor_unit(currency: str, places: int) -> None:
    assert money.minor_digits(currency) == places


@given(st.integers(0, 2**63 - 1))
def test_a_whole_quantity_is_one_thing_as_number_and_as_text(value: int) -> None:
    assert money.quantity(value) == money.quantity(str(value)) == money.quantity(f"{value}.000")


@given(st.integers(0, 10**84), st.integers(0, 10**30))
def test_a_price_times_a_quantity_is_exact(used: int, unit: int) -> None:
    product = used * unit

    expected = EXACT.multiply(Decimal(money.quantity_text(used)), Decimal(money.text(unit, money.PRICE_DECIMALS)))

    assert Decimal(money.amount_text(product)) == expected

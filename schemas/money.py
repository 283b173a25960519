"""Exact arithmetic: quantities, prices and amounts as scaled whole numbers, decimal text outside.

A quantity has at most 24 decimals and a price 12, so their product has at most 36 and is exact as a
whole number of 10^-36. Nothing is rounded before an invoice line is, and that in ``rounded`` alone.
"""

from __future__ import annotations

import re
from typing import Literal

QUANTITY_DECIMALS = 24
PRICE_DECIMALS = 12
AMOUNT_DECIMALS = QUANTITY_DECIMALS + PRICE_DECIMALS

QUANTITY_ONE: int = 10**QUANTITY_DECIMALS
PRICE_ONE: int = 10**PRICE_DECIMALS
AMOUNT_ONE: int = 10**AMOUNT_DECIMALS

Rounding = Literal["half_up", "half_even", "up", "down"]

_DECIMAL = re.compile(r"(-?)([0-9]{1,200})(?:\.([0-9]{1,36}))?\Z")


def scaled(text: str, decimals: int) -> int:
    """The number that decimal text names, as a whole number of 10^-decimals.

    Raises:
        ValueError: not decimal text, or more decimals than that.
    """
    match = _DECIMAL.match(text)
    if match is None:
        raise ValueError(f'{text!r} is not decimal text; write digits such as "0.00003", no exponent')
    sign, whole, fraction = match[1], match[2], (match[3] or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"{text!r} has more than {decimals} decimals")
    number = int(whole + fraction.ljust(decimals, "0"))
    return -number if sign else number


def text(number: int, decimals: int) -> str:
    """Decimal text of a whole number of 10^-decimals, without trailing zeros."""
    sign, digits = ("-", str(-number)) if number < 0 else ("", str(number))
    digits = digits.rjust(decimals + 1, "0")
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :].rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole


def quantity(value: int | str) -> int:
    """A quantity as it stands in an event, as a whole number of 10^-24."""
    return value * QUANTITY_ONE if isinstance(value, int) else scaled(value, QUANTITY_DECIMALS)


def quantity_text(number: int) -> str:
    """Decimal text of a quantity."""
    return text(number, QUANTITY_DECIMALS)


def price(decimal_text: str) -> int:
    """A price as a whole number of 10^-12."""
    return scaled(decimal_text, PRICE_DECIMALS)


def amount(decimal_text: str) -> int:
    """An amount as a whole number of 10^-36."""
    return scaled(decimal_text, AMOUNT_DECIMALS)


def amount_text(number: int) -> str:
    """Decimal text of an amount."""
    return text(number, AMOUNT_DECIMALS)


def rounded(number: int, digits: int, mode: Rounding = "half_up") -> int:
    """The amount rounded to so many decimals, still a whole number of 10^-36.

    ``half_up`` takes halves away from zero, ``half_even`` to the even neighbour; ``up`` goes away from
    zero and ``down`` towards it.
    """
    step = 10 ** (AMOUNT_DECIMALS - digits)
    steps, left = divmod(abs(number), step)
    away: dict[Rounding, bool] = {
        "half_up": 2 * left >= step,
        "half_even": 2 * left > step or (2 * left == step and steps % 2 == 1),
        "up": left > 0,
        "down": False,
    }
    value: int = (steps + away[mode]) * step
    return -value if number < 0 else value


MINOR_DIGITS = {"BHD": 3, "CLP": 0, "ISK": 0, "JOD": 3, "JPY": 0, "KRW": 0, "KWD": 3, "OMR": 3, "TND": 3, "VND": 0}


def minor_digits(currency: str) -> int:
    """How many decimals the currency's minor unit has. Source: ISO 4217."""
    return MINOR_DIGITS.get(currency, 2)

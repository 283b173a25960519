"""Exact decimals as Arrow columns: what analysts add up without ever meeting a binary fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa

from doortab.schemas import money

DIGITS = 38
"""The widest decimal that DuckDB, Spark and the rest agree on."""

AMOUNT_SCALE = 12
"""Amounts have at least so many decimals, so that the type of the column stays the same from day to day."""


def amounts(numbers: Sequence[int | None]) -> pa.Array:
    """Amounts of 10^-36 as decimals."""
    return exact(numbers, money.AMOUNT_DECIMALS, AMOUNT_SCALE)


def quantities(numbers: Sequence[int | None]) -> pa.Array:
    """Quantities of 10^-24 as decimals; whole ones have no decimals."""
    return exact(numbers, money.QUANTITY_DECIMALS, 0)


def exact(numbers: Sequence[int | None], decimals: int, least: int) -> pa.Array:
    """Whole numbers of 10^-decimals as decimals, with ``least`` places or as many as they need.

    Where no decimal of 38 digits holds them all, the column is decimal text: longer, never wrong.
    """
    held = [number for number in numbers if number is not None]
    scale = _scale(held, decimals, least)
    texts = [None if number is None else money.text(number, decimals) for number in numbers]
    if max(map(abs, held), default=0) // 10 ** (decimals - scale) >= 10**DIGITS:
        return pa.array(texts, pa.string())
    return pa.array([None if text is None else Decimal(text) for text in texts], pa.decimal128(DIGITS, scale))


def _scale(numbers: Sequence[int], decimals: int, least: int) -> int:
    """The fewest places, ``least`` or more, that lose nothing of any number."""
    common = math.gcd(*numbers, 10**decimals)
    return next(scale for scale in range(least, decimals + 1) if common % 10 ** (decimals - scale) == 0)

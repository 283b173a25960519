from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from doortab.producers.usage import Usage
from doortab.schemas.errors import UsageError


def test_numbers_add_up_and_texts_are_set() -> None:
    usage = Usage({"requests": 1})

    usage.add(tokens=1834, model="m-large", gigabytes=Decimal("0.1"))
    usage.add({"tokens": 6, "x-region": "eu"}, gigabytes=Decimal("0.2"), model="m-small")

    assert usage.units == {"requests": 1, "tokens": 1840, "gigabytes": Decimal("0.3")}
    assert usage.dimensions == {"model": "m-small", "x-region": "eu"}


@pytest.mark.parametrize(
    "facts",
    [
        {"n": -1},
        {"n": 0.5},
        {"n": True},
        {"n": Decimal("NaN")},
        {"n": None},
        {"n": b"x"},
        {"n": 10**70},
        {"d": "x" * 2000},
        {"d": "a\0b"},
        {"d": "\ud800"},
        {"": 1},
        {"\ud800": 1},
        {"a\0": "d"},
        {f"n{n}": 1 for n in range(201)},
        {f"d{n}": "x" for n in range(41)},
    ],
)
def test_what_breaks_a_rule_is_refused_at_once_and_nothing_of_it_is_added(facts: dict[str, Any]) -> None:
    usage = Usage({"requests": 1})

    with pytest.raises(UsageError):
        usage.add({"good": 1, **facts})

    assert (usage.units, usage.dimensions) == ({"requests": 1}, {})


def test_a_sum_that_is_too_long_is_refused_before_it_stands() -> None:
    usage = Usage({"n": 9 * 10**59})

    with pytest.raises(UsageError, match="at most 60 digits"):
        usage.add(n=9 * 10**59)

    assert usage.units == {"n": 9 * 10**59}

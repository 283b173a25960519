"""A bound says of a range of quantities what it says of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import meters
from doortab.schemas.bounds import Bound, bound_of
from doortab.schemas.meters import Condition

OPERATORS = ["eq", "ne", "lt", "lte", "gt", "gte"]


@given(st.sampled_from(OPERATORS), st.integers(-3, 8), st.integers(0, 5), st.integers(0, 5))
def test_a_range_passes_when_each_of_it_does(operator: str, limit: int, least: int, more: int) -> None:
    bound = Bound("tokens", operator, limit)
    each = {bound.holds(value) for value in range(least, least + more + 1)}

    passes = bound.holds_between(least, least + more)

    if passes is not None:
        assert each == {passes}
    elif operator not in ("eq", "ne"):
        assert len(each) == 2


@pytest.mark.parametrize(
    ("path", "operator", "value"),
    [("units.tokens", "in", "5"), ("units.tokens", "lte", "5.5"), ("weight", "lte", "5"), ("units.tokens", "ne", "x")],
)
def test_what_is_no_bound_is_none(path: str, operator: str, value: str) -> None:
    condition = Condition(path, operator, (value,))  # type: ignore[arg-type]

    assert bound_of([(meters.path(path), condition)]) is None


def test_two_tests_are_no_bound() -> None:
    one = (meters.path("units.tokens"), Condition("units.tokens", "lte", ("5",)))

    assert bound_of([one]) == Bound("tokens", "lte", 5)
    assert bound_of([one, one]) is None

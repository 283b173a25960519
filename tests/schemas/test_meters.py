"""Meters: paths into an event, numbers there, and conditions on them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import meters, money
from doortab.schemas.events import Event, Usage
from doortab.schemas.meters import Condition, Path

EVENT = Event(
    "1.0",
    "e",
    "s",
    "request.validated",
    Usage(
        account="acme",
        key="key_1",
        verdict="refused",
        operation="POST /v1/chat",
        units={"tokens": 7, "seconds": "1.50", "big": "9" * 40},
        dimensions={"model": "gpt-4", "size": "12"},
    ),
)
REST = {"a": {"b": {"c": 5}}, "value": Decimal("2.5"), "flag": True, "list": [1], "units": {"odd": 1}}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("units.tokens", Path("units", "tokens")),
        ("data.units.tokens", Path("units", "tokens")),
        ("$.units.tokens", Path("units", "tokens")),
        ("units.a.b", Path("units", "a.b")),
        ("dimensions.model", Path("dimensions", "model")),
        ("verdict", Path("field", "verdict")),
        ("$.account", Path("field", "account")),
        ("value", Path("rest", "value")),
        ("$.a.b.c", Path("rest", "a.b.c")),
        ("units", Path("rest", "units")),
        ("billable", Path("rest", "billable")),
    ],
)
def test_a_path_names_a_place(text: str, path: Path) -> None:
    assert meters.path(text) == path


@pytest.mark.parametrize("text", ["", "$.", "units.", "dimensions.", "a."])
def test_a_path_to_nowhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path; write"):
        meters.path(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("units.tokens", 7),
        ("units.seconds", Decimal("1.50")),
        ("units.none", None),
        ("dimensions.model", "gpt-4"),
        ("dimensions.none", None),
        ("account", "acme"),
        ("verdict", "refused"),
        ("reason", None),
        ("value", Decimal("2.5")),
        ("a.b.c", 5),
        ("a.b.c.d", None),
        ("a.x", None),
        ("list.0", None),
        ("units", {"odd": 1}),
    ],
)
def test_a_path_is_read(text: str, value: Any) -> None:
    assert meters.read(meters.path(text), EVENT, REST) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (-7, "-7"),
        (2**80, str(2**80)),
        ("7", "7"),
        ("-0.5", "-0.5"),
        (Decimal("2.50"), "2.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-1E-3"), "-0.001"),
        (Decimal("0E+99"), "0"),
        (Decimal("1E-24"), "0.000000000000000000000001"),
        (Decimal("1E-25"), "0"),
        (Decimal("-1.9999999999999999999999999"), "-1.999999999999999999999999"),
        (Decimal("1E-999999"), "0"),
        (Decimal("9" * 60), "9" * 60),
        (10**60 - 1, "9" * 60),
        (Decimal("0." + "3" * 9000), "0." + "3" * 24),
        (Decimal("-" + "7" * 60 + "." + "3" * 9000), "-" + "7" * 60 + "." + "3" * 24),
    ],
)
def test_a_number_is_read_exactly_and_cut_where_it_is_finer_than_any_quantity(value: Any, text: str) -> None:
    number = meters.quantity(value)

    assert number is not None
    assert money.quantity_text(number) == text


@pytest.mark.parametrize(
    "value",
    [None, True, False, "", "x", "1e3", "1.", "--1", "+1", "٣", [], {}, 1.5, Decimal("NaN"), Decimal("Infinity")],
)
def test_what_is_no_number_has_no_quantity(value: Any) -> None:
    assert meters.quantity(value) is None


@pytest.mark.parametrize("value", [Decimal("1E+60"), Decimal("1E+999999"), "9" * 61, 10**60, -(10**4000)])
def test_a_number_of_more_than_60_digits_has_no_quantity(value: Any) -> None:
    assert meters.quantity(value) is None


@pytest.mark.parametrize(
    ("operator", "values", "value", "holds"),
    [
        ("in", ("gpt-4", "gpt-5"), "gpt-5", True),
        ("in", ("gpt-4",), "gpt-5", False),
        ("in", ("gpt-4",), None, False),
        ("in", ("true",), True, True),
        ("in", ("1",), True, False),
        ("in", ("5",), 5, True),
        ("in", ("5.0",), 5, True),
        ("in", ("5",), "5.0", False),
        ("in", ("5",), Decimal("5.0"), True),
        ("in", ("x",), 5, False),
        ("eq", ("gpt-4",), "gpt-4", True),
        ("ne", ("gpt-4",), "gpt-4", False),
        ("ne", ("gpt-4",), "gpt-5", True),
        ("ne", ("gpt-4",), None, True),
        ("ne", ("5",), 6, True),
        ("ne", ("x",), 6, True),
        ("lte", ("200000",), 200000, True),
        ("lte", ("200000",), 200001, False),
        ("lte", ("200000",), "200000.0", True),
        ("lt", ("200000",), 200000, False),
        ("gt", ("200000",), 200001, True),
        ("gt", ("200000",), "200000.000000000000000000000001", True),
        ("gte", ("-1",), 0, True),
        ("gte", ("200000",), None, False),
        ("gte", ("200000",), "much", False),
        ("lt", ("5",), True, False),
    ],
)
def test_a_condition_holds_or_not(operator: Any, values: tuple[str, ...], value: Any, holds: bool) -> None:
    assert Condition("p", operator, values).holds(value) is holds


@given(st.integers(-(10**40), 10**40), st.integers(-(10**40), 10**40))
def test_the_comparisons_of_two_numbers_agree(one: int, other: int) -> None:
    def holds(operator: Any) -> bool:
        return Condition("p", operator, (str(other),)).holds(one)

    assert holds("lt") == (one < other) == (not holds("gte"))
    assert holds("lte") == (one <= other) == (not holds("gt"))
    assert holds("eq") == (one == other) == (not holds("ne")) == holds("in")

"""Reports of a store as it may become: more units than columns, numbers of any size, and wrong questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from doortab.analytics.report import report
from doortab.analytics.store import MAX_COLUMNS
from doortab.schemas import catalog, money, periods, topics
from doortab.schemas.errors import UsageError
from doortab.schemas.log import Entry
from doortab.schemas.tariff import Tariff
from tests import naive
from tests.analytics.installation import START, Installation

Make = Callable[..., Installation]


def document(*charges: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A catalog of one plan with these charges."""
    plan = {"name": "p", "currency": "USD", "timezone": "UTC", "charges": list(charges)}
    return {"default_plan": "p", "meters": naive.METERS, "plans": [plan], **more}


def flat(unit: str, **more: Any) -> dict[str, Any]:
    """A charge per token."""
    return {"meter": "tokens", "model": "per_unit", "unit": unit, **more}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Installation] = []

    def make(*charges: Mapping[str, Any], **more: Any) -> Installation:
        made.append(Installation(tmp_path / str(len(made)), naive.document(document(*charges, **more))))
        return made[-1]

    yield make
    for installation in made:
        installation.close()


def filled(installation: Installation, *events: Mapping[str, Any]) -> Installation:
    """The installation after these events, each given by its data."""
    installation.add([installation.event(START, **data) for data in events])
    installation.fold()
    return installation


def test_quantities_of_any_size_and_fineness_are_added_up_exactly(make: Make) -> None:
    quantities: list[Any] = [
        1,
        2**63 - 1,
        2**63,
        10**59,
        "0.000000000000000000000001",
        "9" * 59 + "." + "9" * 24,
        "5.0",
    ]
    installation = filled(make(flat("0.000000000003")), *({"units": {"tokens": q}} for q in quantities))

    total = installation.report()["total"]

    used = naive.add(Decimal(q) for q in quantities)
    assert Decimal(total["units"]["tokens"]) == used
    assert Decimal(total["amount"]) == naive.EXACT.multiply(used, Decimal("0.000000000003"))


def test_what_has_a_column_and_what_has_none_are_priced_alike(make: Make) -> None:
    many = {f"u{i:03}": 1 for i in range(MAX_COLUMNS["units"] + 5)}
    installation = filled(make(flat("2")), {"units": many})
    filled(installation, {"units": {"tokens": 7}}, {"units": {"u001": 3}})

    total = installation.report()["total"]

    assert ("units", "tokens") not in installation.store.columns
    assert len([root for root, _ in installation.store.columns if root == "units"]) == MAX_COLUMNS["units"]
    assert (total["amount"], total["units"]["tokens"], total["units"]["u001"]) == ("14", "7", "4")
    assert len(total["units"]) == len(many) + 1


def test_a_dimension_without_a_column_is_a_heading_and_a_filter_like_any_other(make: Make) -> None:
    many = {f"d{i:03}": "x" for i in range(MAX_COLUMNS["dimensions"])}
    odd = 'mo"d/e~l'
    installation = filled(
        make(flat("1"), flat("10", where={f"dimensions.{odd}": "a"})),
        {"units": {"tokens": 1}, "dimensions": many},
    )
    filled(
        installation,
        {"units": {"tokens": 2}, "dimensions": {odd: "a"}},
        {"units": {"tokens": 4}, "dimensions": {odd: "b", "d001": "y"}},
    )

    rows = installation.report(f"dimensions.{odd}", "dimensions.d001")["rows"]

    assert ("dimensions", odd) not in installation.store.columns
    found = [(row[f"dimensions.{odd}"], row["dimensions.d001"], row["amount"]) for row in rows]
    assert found == [(None, "x", "1"), ("a", None, "22"), ("b", "y", "4")]


def test_names_that_differ_in_case_alone_are_two(make: Make) -> None:
    installation = filled(make(flat("1")), {"units": {"tokens": 1, "Tokens": 10, "TOKENS": 100}})

    total = installation.report()["total"]

    assert (total["units"], total["amount"]) == ({"TOKENS": "100", "Tokens": "10", "tokens": "1"}, "1")


NAMES = ["a'b", 'a"b', "a;--", "a%s", "{a}", "a\\b", "NULL", "日本", "a\nb", "\x7f", "ﬁ", "🙂" * 64]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_text_is_a_name(make: Make, name: str) -> None:
    tiers = [{"up_to": "5", "unit": "1"}, {"unit": "2"}]
    charge = {"meter": "tokens", "model": "graduated", "tiers": tiers, "where": {"dimensions.model": name}}
    data = {"units": {"tokens": 9, name: 3}, "dimensions": {"model": name, name: name}}
    installation = filled(make(charge), data | {"account": name, "key": name})

    (row,) = installation.report("account", "key", "dimensions.model", f"dimensions.{name}")["rows"]

    assert [row[h] for h in ("account", "key", "dimensions.model", f"dimensions.{name}")] == [name] * 4
    assert (row["units"], row["amount"]) == ({"tokens": "9", name: "3"}, "13")


LIMITS = ["0", "1", "200000", "200000.5", "9223372036854775806.5", "9223372036854775807", "9223372036854775808"]
LIMITS += ["0.000000000000000000000001", "9" * 60, "-1", "-0.5"]


@pytest.mark.parametrize("operator", ["lt", "lte", "gt", "gte", "eq", "ne"])
def test_a_filter_on_a_unit_says_in_sql_what_it_says_in_python(make: Make, operator: str) -> None:
    charges = [flat(str(10**i), where={"units.tokens": {operator: limit}}) for i, limit in enumerate(LIMITS)]
    quantities: list[Any] = [0, 1, 200000, 200001, 2**63 - 2, 2**63 - 1, 2**63, "200000.5", "0.5", 10**59]
    installation = filled(make(*charges), *({"units": {"tokens": q}, "operation": str(q)} for q in quantities))

    rows = installation.report("operation")["rows"]

    found = {row["operation"]: Decimal(row["amount"]) for row in rows}
    events = [
        {"type": "request.validated", "time": "2026-11-01T00:00:00Z", "data": {"account": "a", "units": {"tokens": q}}}
        for q in quantities
    ]
    expected = naive.prices(document(*charges), events)
    assert found == {str(q): amount for q, amount in zip(quantities, expected, strict=True)}


def test_numbers_elsewhere_in_the_data_are_charged_to_their_last_decimal(make: Make) -> None:
    weight = {"name": "kilos", "event": "parcel.sent", "aggregation": "sum", "value": "$.load.kilos"}
    charge = {"meter": "kilos", "model": "per_unit", "unit": "0.3", "where": {"express": True}}
    installation = make(charge, meters=[weight])
    texts = ["0.1", '"0.2"', "1e-3", "-0.05", "true", '"x"', "null", "1e400", "7"]
    head = '{"specversion":"1.0","source":"s","type":"parcel.sent","subject":"acme","id":"p'
    express = ["false" if text == "7" else "true" for text in texts]
    installation.log.append(
        topics.USAGE,
        [
            Entry(0, None, f'{head}{i}","data":{{"load":{{"kilos":{text}}},"express":{express[i]}}}}}'.encode())
            for i, text in enumerate(texts)
        ],
    )
    installation.fold()

    rows = installation.report("account", "meter")["rows"]

    assert rows == [
        {"account": "acme", "meter": "kilos", "currency": "USD", "quantity": "7.251", "amount": "0.0753"},
    ]
    assert set(installation.store.resume().counters.values()) == {"0.0753"}


@pytest.mark.parametrize("number", ["9" * 4000, "-" + "9" * 4000, "1e99999", "1e-99999", "0." + "3" * 9000, "1" * 61])
def test_no_number_is_too_long_for_the_ledger(make: Make, number: str) -> None:
    meter = {"name": "w", "event": "t", "aggregation": "sum", "value": "w", "where": {"w": {"ne": 5}}}
    cap = {"subject": "account:*", "meter": "w", "quantity": "1", "period": "day"}
    installation = make({"meter": "w", "model": "per_unit", "unit": "0.7"}, meters=[meter], caps=[cap])
    head = '{"specversion":"1.0","source":"s","type":"t","subject":"acme","id":"p","data":'
    installation.log.append(topics.USAGE, [Entry(0, None, f'{head}{{"w":{number}}}}}'.encode())])
    installation.fold()

    made = installation.report("account")

    third = Decimal("0." + "3" * 24) if number.startswith("0.") else Decimal(0)
    assert [Decimal(row["amount"]) for row in made["rows"]] == [third * Decimal("0.7")]
    assert made["control"]["billed"] == "1"


def test_a_flat_fee_is_paid_by_the_event_that_enters_the_tier(make: Make) -> None:
    tiers = [{"up_to": "5", "unit": "1", "flat": "100"}, {"unit": "2", "flat": "50"}]
    installation = make({"meter": "tokens", "model": "graduated", "tiers": tiers})
    installation.add(
        [
            installation.event(START + hour * 3_600_000_000, key=key, units={"tokens": tokens})
            for hour, key, tokens in [(30, "late", 10), (1, "first", 2), (2, "second", 3), (29, "third", 1)]
        ]
    )
    installation.fold()

    rows = installation.report("key", "day")["rows"]

    found = {row["key"]: (row["day"], row["amount"]) for row in rows}
    assert found == {
        "first": ("2026-11-01", "102"),
        "second": ("2026-11-01", "3"),
        "third": ("2026-11-02", "52"),
        "late": ("2026-11-02", "20"),
    }


def test_amounts_of_two_currencies_are_never_added_up(make: Make) -> None:
    plans = [
        {"name": name, "currency": currency, "charges": [flat("1")]} for name, currency in (("p", "USD"), ("e", "EUR"))
    ]
    installation = make(plans=plans, accounts=[{"id": "eu", "plan": "e"}])
    filled(installation, {"units": {"tokens": 1}}, {"units": {"tokens": 2}, "account": "eu"})

    made = installation.report()

    assert [(row["currency"], row["amount"]) for row in made["rows"]] == [("EUR", "2"), ("USD", "1")]
    assert "amount" not in made["total"]
    assert made["total"]["amounts"] == {"EUR": "2", "USD": "1"}


def test_who_has_no_plan_pays_nothing_and_is_counted(make: Make) -> None:
    installation = make(flat("1"))
    installation.apply("")
    filled(installation, {"units": {"tokens": 5}})

    total = installation.report()["total"]

    assert (total["currency"], total["amount"], total["events"], total["units"]) == (None, "0", "1", {"tokens": "5"})


def test_a_report_is_of_the_last_commit_while_the_next_one_is_being_made(make: Make) -> None:
    installation = filled(make(flat("1")), {"units": {"tokens": 5}})
    installation.add([installation.event(START, units={"a new unit": 1}, dimensions={"new": "yes"})])

    found = {step: installation.report("dimensions.new")["rows"] for step in installation.turn()}

    committed = list(found).index("committed")
    before, after = list(found.values())[:committed], list(found.values())[committed:]
    assert {"rows", "sealed"} <= {*list(found)[:committed]}, "there was something to see too early"
    assert [[row["dimensions.new"] for row in rows] for rows in before] == [[None]] * len(before)
    assert [[row["dimensions.new"] for row in rows] for rows in after] == [[None, "yes"]] * len(after)


def test_an_empty_store_has_an_empty_report(make: Make) -> None:
    made = make(flat("1")).report("account", "day", "meter")

    assert made["rows"] == []
    assert made["total"] == {
        "currency": None,
        "events": "0",
        "allowed": "0",
        "refused": "0",
        "billable": "0",
        "units": {},
        "amount": "0",
    }


@pytest.mark.parametrize("heading", ["colour", "units.tokens", "", "dimensions.", "day; DROP TABLE usage", "time"])
def test_an_unknown_heading_is_refused_in_words(make: Make, heading: str) -> None:
    installation = make(flat("1"))

    with pytest.raises(UsageError, match="there is account, key"):
        installation.report(heading)


def test_an_unknown_time_zone_is_refused_in_words(make: Make) -> None:
    installation = make(flat("1"))

    with pytest.raises(ValueError, match="is not a time zone; write"):
        report(installation.reader(), installation.tariff, periods.ALL_TIME, ["day"], "Mars/Base")


def test_a_report_is_priced_by_the_catalog_it_is_given(make: Make) -> None:
    installation = filled(make(flat("1")), {"units": {"tokens": 5}})
    dearer = Tariff(catalog.parse(naive.document(document(flat("3")))))

    made = report(installation.reader(), dearer, periods.ALL_TIME, [])

    assert made.total["amount"] == money.amount_text(money.amount("15"))

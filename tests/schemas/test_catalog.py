"""The catalog: every broken rule is named with its place, its value and the way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import catalog
from doortab.schemas.catalog import Catalog
from doortab.schemas.errors import CatalogError
from doortab.schemas.meters import Condition
from tests import naive

METERS = """
[[meters]]
name = "tokens"
event = "request.validated"
aggregation = "sum"
value = "units.tokens"
"""
PLAN = METERS + '[[plans]]\nname = "p"\ncurrency = "USD"\n'
CHARGE = PLAN + '[[plans.charges]]\nmeter = "tokens"\n'
FLAT = CHARGE + 'model = "per_unit"\nunit = "1"\n'
CAP = METERS + '[[caps]]\nsubject = "key:*"\nperiod = "month"\n'

BROKEN = {
    "an unknown field": ('colour = "red"', "catalog.colour", "colour: is no field here; correct its name", "red"),
    "an unknown field of a meter": (METERS + 'unit = "x"', "meters.1.unit", "is no field here", "x"),
    "no name": ('[[meters]]\nevent = "e"\naggregation = "count"', "meters.1.name", "is missing; write it", ""),
    "a name with a blank": (METERS.replace('"tokens"', '"a b"'), "meters.1.name", "should match pattern", "a b"),
    "a meter called amount": (METERS.replace('"tokens"', '"amount"'), "meters.1.name", "choose another name", "amount"),
    "a meter twice": (METERS + METERS, "catalog", "stands twice; keep one", "'tokens'"),
    "an unknown aggregation": (METERS.replace('"sum"', '"median"'), "meters.1.aggregation", "'count', 'sum'", "median"),
    "a sum of nothing": (
        METERS.replace('value = "units.tokens"', ""),
        "meters.1",
        "every other aggregation needs one",
        "",
    ),
    "a count of something": (METERS.replace('"sum"', '"count"'), "meters.1", "count reads no value", "tokens"),
    "a sum of texts": (METERS.replace("units.", "dimensions."), "meters.1", "write units.NAME", "dimensions.tokens"),
    "a path to nowhere": (METERS.replace("units.tokens", "units."), "meters.1", "write units.input_tokens", "'units.'"),
    "no currency": (PLAN.replace('currency = "USD"', ""), "plans.1.currency", "is missing; write it", ""),
    "a currency of four letters": (PLAN.replace("USD", "EURO"), "plans.1.currency", "such as USD", "'EURO'"),
    "an unknown time zone": (
        PLAN + 'timezone = "Mars/Base"',
        "plans.1.timezone",
        "such as Europe/Berlin",
        "'Mars/Base'",
    ),
    "a zone of this machine": (
        PLAN + 'timezone = "localtime"',
        "plans.1.timezone",
        "such as Europe/Berlin",
        "localtime",
    ),
    "a plan twice": (PLAN + '[[plans]]\nname = "p"\ncurrency = "EUR"', "catalog", "stands twice; keep one", "'p'"),
    "an unknown model": (
        CHARGE + 'model = "auction"',
        "plans.1.charges.1.model",
        "'per_unit' or 'graduated'",
        "auction",
    ),
    "an unknown meter": (
        FLAT.replace('meter = "tokens"', 'meter = "x"'),
        "catalog",
        "there is tokens",
        "plan 'p': meter 'x'",
    ),
    "no price": (CHARGE + 'model = "per_unit"', "plans.1.charges.1", 'per_unit takes unit = "…"', "tokens"),
    "a price in binary": (
        CHARGE + 'model = "per_unit"\nunit = 0.5',
        "charges.1.unit",
        'in quotes, such as "0.5"',
        "0.5",
    ),
    "infinity": (CHARGE + 'model = "per_unit"\nunit = inf', "charges.1.unit", "is a binary fraction", "inf"),
    "an exponent": (CHARGE + 'model = "per_unit"\nunit = "1e-5"', "charges.1.unit", 'such as "0.00003"', "'1e-5'"),
    "a negative price": (CHARGE + 'model = "per_unit"\nunit = "-1"', "charges.1.unit", "is negative", "'-1'"),
    "a price of 13 decimals": (
        CHARGE + 'model = "per_unit"\nunit = "0.0000000000001"',
        "plans.1.charges.1.unit",
        "more than 12 decimals",
        "'0.0000000000001'",
    ),
    "a price of 61 digits": (
        CHARGE + f'model = "per_unit"\nunit = "1{"0" * 60}"',
        "charges.1.unit",
        "60 digits",
        "'1000",
    ),
    "a flat price with tiers": (FLAT + 'tiers = [{ unit = "1" }]', "plans.1.charges.1", "and no tiers", "tokens"),
    "no tiers": (CHARGE + 'model = "graduated"', "plans.1.charges.1", "graduated takes tiers", "tokens"),
    "tiers and a unit": (
        CHARGE + 'model = "graduated"\nunit = "1"\ntiers = [{ unit = "1" }]',
        "plans.1.charges.1",
        "and no unit",
        "tokens",
    ),
    "a last tier with an end": (
        CHARGE + 'model = "graduated"\ntiers = [{ up_to = "5", unit = "1" }]',
        "plans.1.charges.1",
        "the last tier must have no up_to",
        "tokens",
    ),
    "a tier after the last": (
        CHARGE + 'model = "graduated"\ntiers = [{ unit = "1" }, { unit = "2" }]',
        "plans.1.charges.1",
        "so the next is never reached",
        "tier 1",
    ),
    "falling bounds": (
        CHARGE + 'model = "graduated"\ntiers = [{ up_to = "5" }, { up_to = 5 }, { unit = "1" }]',
        "plans.1.charges.1",
        "not above the one before",
        "tier 2 ends at 5",
    ),
    "a tier of nothing": (
        CHARGE + 'model = "graduated"\ntiers = [{ up_to = 0 }, { unit = "1" }]',
        "plans.1.charges.1",
        "not above the one before",
        "tier 1 ends at 0",
    ),
    "a charge twice": (
        FLAT + FLAT[FLAT.index("[[plans.charges]]") :],
        "plans.1",
        "same filter, from the beginning; keep one",
        "tokens",
    ),
    "a date without a zone": (
        FLAT + "effective_from = 2026-03-13T00:00:00",
        "effective_from",
        "end it with Z",
        "2026-03-13",
    ),
    "a date that is none": (
        FLAT + 'effective_from = "2026-02-30T00:00:00Z"',
        "effective_from",
        "names no date",
        "2026-02-30",
    ),
    "a filter of a fraction": (FLAT + 'where = { "units.tokens" = 0.5 }', "plans.1.charges.1", "decimal text", "0.5"),
    "a filter that says nothing": (
        FLAT + 'where = { "units.tokens" = {} }',
        "plans.1.charges.1",
        "says nothing; write",
        "units.tokens",
    ),
    "a filter that nothing meets": (
        FLAT + 'where = { "dimensions.m" = [] }',
        "plans.1.charges.1",
        "which no event meets; write",
        "dimensions.m",
    ),
    "an unknown comparison": (
        FLAT + 'where = { "units.tokens" = { like = "x" } }',
        "charges.1",
        "is not one of eq, ne",
        "'like'",
    ),
    "a comparison with a text": (
        FLAT + 'where = { "units.tokens" = { lt = "x" } }',
        "charges.1",
        'write "200000"',
        "'x'",
    ),
    "a comparison with 61 digits": (
        FLAT + f'where = {{ "units.tokens" = {{ lt = "{"9" * 61}" }} }}',
        "plans.1.charges.1",
        "compares numbers",
        "999",
    ),
    "an account twice": (
        '[[accounts]]\nid = "a"\n[[accounts]]\nid = "a"',
        "catalog",
        "stands twice; keep one",
        "account 'a'",
    ),
    "a subject of two": (
        '[[accounts]]\nid = "a"\nsubjects = ["s"]\n[[accounts]]\nid = "b"\nsubjects = ["s"]',
        "catalog",
        "stands twice; keep one",
        "subject 's'",
    ),
    "an account with a line end": (
        '[[accounts]]\nid = "a\\nb"',
        "accounts.1.id",
        "cannot be printed; leave it out",
        "'a\\nb'",
    ),
    "an account of an unknown plan": (PLAN + '[[accounts]]\nid = "a"\nplan = "x"', "catalog", "there is p", "plan 'x'"),
    "an unknown default plan": ('default_plan = "x"', "catalog", "there is none", "default_plan is 'x'"),
    "a cap of nobody": (CAP.replace("key:*", "me") + "amount = 1", "caps.1", "write key:ID, account:ID", "'me'"),
    "a cap on nothing": (CAP, "caps.1", 'write amount = "…", or meter and quantity', "key:*"),
    "a cap on everything": (
        CAP + 'amount = 1\nmeter = "tokens"\nquantity = 1',
        "caps.1",
        "or meter and quantity",
        "key:*",
    ),
    "a cap on an unknown meter": (CAP + 'meter = "x"\nquantity = 1', "catalog", "there is tokens", "meter 'x'"),
    "a cap on a maximum": (
        CAP.replace('"sum"', '"max"') + 'meter = "tokens"\nquantity = 1',
        "catalog",
        "only count and sum can be charged or capped",
        "'tokens' is a max",
    ),
    "a cap twice": (
        CAP + "amount = 1\n" + CAP[CAP.index("[[caps]]") :] + "amount = 2",
        "catalog",
        "keep one",
        "key:*/amount/month",
    ),
    "a cap a fortnight": (
        CAP.replace("month", "fortnight") + "amount = 1",
        "caps.1.period",
        "'week', 'month'",
        "fortnight",
    ),
    "a threshold of 100": (
        CAP + "amount = 1\nthresholds = [100]",
        "caps.1.thresholds.1",
        "less than or equal to 99",
        "100",
    ),
}


@pytest.mark.parametrize(("words", "place", "way_out", "value"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_named_with_its_place_its_value_and_the_way_out(
    words: str, place: str, way_out: str, value: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        catalog.parse(words, "prices.toml")

    first, line, *more = str(caught.value).splitlines()
    assert first == "prices.toml breaks a rule:"
    assert more == []
    assert place in line or place.removeprefix("catalog.") in line
    assert way_out in line
    assert value in line


def test_all_that_is_wrong_is_said_at_once() -> None:
    words = (
        '[[meters]]\nname = "a b"\naggregation = "sum"\n[[plans]]\nname = "p"\ncurrency = "usd"\ntimezone = "Mars"\n'
    )

    with pytest.raises(CatalogError) as caught:
        catalog.parse(words)

    first, *lines = str(caught.value).splitlines()
    assert first == "catalog breaks 4 rules:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "meters.1.name",
        "meters.1.event",
        "plans.1.currency",
        "plans.1.timezone",
    ]


def test_all_that_does_not_fit_together_is_said_at_once() -> None:
    words = FLAT.replace('meter = "tokens"', 'meter = "x"') + 'default_plan = "q"\n[[accounts]]\nid = "a"\nplan = "r"\n'

    with pytest.raises(CatalogError) as caught:
        catalog.parse('default_plan = "q"\n' + words.replace('default_plan = "q"\n', ""))

    assert str(caught.value).splitlines() == [
        "catalog breaks 3 rules:",
        "  catalog: plan 'p': meter 'x' is not in the catalog; there is tokens",
        "  catalog: account 'a' has plan 'r', which is not in the catalog; there is p",
        "  catalog: default_plan is 'q', which is not in the catalog; there is p",
    ]


@pytest.mark.parametrize("words", ["meters = ", "[[meters]", "a = 1\na = 2", "\0"])
def test_what_is_no_toml_is_refused_in_words(words: str) -> None:
    with pytest.raises(CatalogError, match=r"prices\.toml is not TOML"):
        catalog.parse(words, "prices.toml")


def test_an_empty_catalog_is_one() -> None:
    assert catalog.parse("") == Catalog()


def test_whole_numbers_may_stand_without_quotes() -> None:
    quoted, bare = (catalog.parse(CHARGE + f'model = "per_unit"\nunit = {unit}') for unit in ('"2"', "2"))

    assert quoted == bare


def test_equality_is_one_filter_however_it_is_written() -> None:
    written = ['"m"', '["m"]', '["m", "m"]', '{ eq = "m" }']

    found = {
        catalog.parse(FLAT + f'where = {{ "dimensions.x" = {one} }}').plans[0].charges[0].lineage for one in written
    }

    assert found == {("tokens", (Condition("dimensions.x", "in", ("m",)),))}


def test_a_path_is_one_however_it_is_written() -> None:
    written = ["units.tokens", "$.units.tokens", "data.units.tokens"]

    found = {
        catalog.parse(FLAT + f'where = {{ "{one}" = {{ lte = 5 }} }}').plans[0].charges[0].lineage for one in written
    }

    assert len(found) == 1


@pytest.mark.parametrize(
    "date", ["2026-03-13T00:00:00Z", "2026-03-13T01:00:00+01:00", "2026-03-13", '"2026-03-13T00:00:00Z"']
)
def test_a_date_is_an_instant_however_it_is_written(date: str) -> None:
    charge = catalog.parse(FLAT + f"effective_from = {date}").plans[0].charges[0]

    assert charge.effective_from == "2026-03-13T00:00:00Z"


def test_two_charges_from_one_instant_are_two_even_if_it_is_written_otherwise() -> None:
    second = FLAT[FLAT.index("[[plans.charges]]") :]

    with pytest.raises(CatalogError, match="from 2026-03-13T00:00:00Z; keep one"):
        catalog.parse(
            FLAT + "effective_from = 2026-03-13T00:00:00Z\n" + second + "effective_from = 2026-03-13T01:00:00+01:00"
        )


@given(naive.worlds(count=0))
def test_a_catalog_comes_back_from_the_log(world: naive.World) -> None:
    parsed = catalog.parse(naive.document(world.catalog))

    assert catalog.decode(catalog.encode(parsed)) == parsed
    assert catalog.encode(catalog.decode(catalog.encode(parsed))) == catalog.encode(parsed)


@given(st.binary(max_size=40) | st.sampled_from([b"null", b"[]", b'{"plans":[{"name":"p"}]}', b'{"x":1}']))
def test_what_is_no_catalog_in_the_log_is_a_catalog_error(value: bytes) -> None:
    if value in (b"{}",):
        return
    with pytest.raises(CatalogError, match="the record breaks"):
        catalog.decode(value)

"""Reports against bills reckoned by hand: by whatever they are split, and however the events came."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from doortab.analytics.recount import recount
from doortab.analytics.report import report
from doortab.consumers.counters import Counters, parse_value
from doortab.schemas import instants, periods
from doortab.schemas.batch import CounterKey
from doortab.schemas.periods import Period
from tests import naive
from tests.analytics.installation import Installation
from tests.consumers.test_counters import CAPS, Stream, tariff_of

pytestmark = pytest.mark.promises("R18")

FIRST = int(os.environ.get("DOORTAB_TEST_SEED", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("DOORTAB_TEST_EXAMPLES", "100")) // 33)
EVENTS = 80


class Case(NamedTuple):
    """A world, and an installation that its events went through."""

    world: naive.World
    installation: Installation


@pytest.fixture(scope="module", params=SEEDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    world = naive.World(request.param, EVENTS)
    installation = Installation(
        tmp_path_factory.mktemp("case"), naive.document({**world.catalog, "caps": CAPS}), records=5
    )
    random = Random(request.param)
    repeated = [random.choice(world.events) for _ in range(10)]
    installation.add(world.events + repeated, each=7)
    installation.fold()
    yield Case(world, installation)
    installation.close()


Head = Callable[[naive.Event], str | None]
DATES = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m", "year": "%Y"}


def head(name: str, zone: str) -> Head:
    """What stands under a heading of an event."""
    if name in DATES:
        return lambda event: datetime.fromisoformat(event["time"]).astimezone(ZoneInfo(zone)).strftime(DATES[name])
    if name in ("type", "source"):
        return lambda event: str(event[name])
    return lambda event: naive.at(event, name)


def by_hand(world: naive.World, by: Sequence[str], zone: str, period: Period) -> dict[Any, Any]:
    """The figures of each group, by what stands under the headings and the currency."""
    heads = [head(name, zone) for name in by]
    events = sorted(world.events, key=lambda event: (datetime.fromisoformat(event["time"]), event["id"]))
    found: dict[Any, Any] = {}
    for event, amount in zip(events, naive.prices(world.catalog, events), strict=True):
        if not period.start <= instants.parse(event["time"]) < period.end:
            continue
        currency = naive.plan_of(world.catalog, event["data"]["account"])["currency"]
        figures = found.setdefault((*(head(event) for head in heads), currency), [0, 0, 0, {}, Decimal(0)])
        figures[0] += 1
        figures[1] += event["data"].get("verdict", "allowed") == "allowed"
        figures[2] += naive.billable(event)
        for unit, value in event["data"]["units"].items():
            figures[3][unit] = naive.EXACT.add(figures[3].get(unit, Decimal(0)), Decimal(value))
        figures[4] = naive.EXACT.add(figures[4], amount)
    return found


def reported(case: Case, by: Sequence[str], zone: str, period: Period) -> dict[Any, Any]:
    """The same of the report."""
    installation = case.installation
    made = report(installation.reader(), installation.tariff, period, by, zone)
    found = {}
    for row in made.rows:
        heads = [row[name][:13] if name == "hour" else row[name] for name in by]
        if "hour" in by:  # the report names the instant, in UTC
            at = instants.moment(instants.parse(row["hour"])).astimezone(ZoneInfo(zone))
            heads[by.index("hour")] = at.strftime(DATES["hour"])
        units = {unit: Decimal(text) for unit, text in row["units"].items()}
        figures = [int(row[name]) for name in ("events", "allowed", "billable")]
        found[(*heads, row["currency"])] = [*figures, units, Decimal(row["amount"])]
    return found


HEADINGS = [
    ((), "UTC"),
    (("account", "key", "day"), "UTC"),
    (("account", "month"), "America/Havana"),
    (("key", "hour"), "Asia/Kolkata"),
    (("week", "dimensions.model"), "Europe/Berlin"),
    (("type", "operation", "year"), "UTC"),
    (("source",), "UTC"),
]


@pytest.mark.parametrize(("by", "zone"), HEADINGS)
def test_every_figure_is_what_one_reckons_by_hand(case: Case, by: Sequence[str], zone: str) -> None:
    period = periods.ALL_TIME

    assert reported(case, by, zone, period) == by_hand(case.world, by, zone, period)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z"),
        ("2026-03-10T12:34:56Z", "2026-03-31T23:59:59Z"),
        ("2026-03-17T03:14:15.926535Z", "2026-04-02T00:00:00Z"),
        ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
    ],
)
def test_a_report_may_begin_and_end_anywhere_in_a_month(case: Case, start: str, end: str) -> None:
    period, by = Period(instants.parse(start), instants.parse(end)), ("account", "key")

    assert reported(case, by, "UTC", period) == by_hand(case.world, by, "UTC", period)


def test_the_total_is_the_sum_of_the_rows_by_any_headings(case: Case) -> None:
    totals = [case.installation.report(*by)["total"] for by, _ in HEADINGS]

    assert all(total == totals[0] for total in totals)


def test_by_meter_it_says_what_was_used_and_what_that_costs(case: Case) -> None:
    events = sorted(case.world.events, key=lambda event: (datetime.fromisoformat(event["time"]), event["id"]))
    expected: dict[Any, list[Decimal]] = {}
    for event, bill in zip(events, naive.bills(case.world.catalog, events), strict=True):
        currency = naive.plan_of(case.world.catalog, event["data"]["account"])["currency"]
        for meter in case.world.catalog["meters"] if naive.billable(event) else ():
            quantity = naive.measured(meter, event)
            if quantity is not None:
                figures = expected.setdefault((event["data"].get("key"), meter["name"], currency), [Decimal(0)] * 2)
                figures[0] = naive.EXACT.add(figures[0], quantity)
                figures[1] = naive.EXACT.add(figures[1], bill.get(meter["name"], Decimal(0)))

    rows = case.installation.report("key", "meter")["rows"]

    found = {
        (row["key"], row["meter"], row["currency"]): [Decimal(row["quantity"]), Decimal(row["amount"])] for row in rows
    }
    assert found == expected


def test_the_control_equation_leaves_nothing_over(case: Case) -> None:
    charged = sum(naive.billable(event) for event in case.world.events)

    assert case.installation.report()["control"] == {
        "records": str(EVENTS + 10),
        "billed": str(charged),
        "not_billable": str(EVENTS - charged),
        "duplicates": "10",
        "rejected": "0",
        "unexplained": "0",
    }


def test_the_order_of_delivery_changes_nothing(case: Case, tmp_path: Path) -> None:
    shuffled = list(case.world.events)
    Random(0).shuffle(shuffled)
    other = Installation(tmp_path, naive.document(case.world.catalog), records=1)
    other.add(shuffled, each=3)
    other.fold()

    found = other.report("account", "key", "day")
    other.close()

    expected = case.installation.report("account", "key", "day")
    assert (found["rows"], found["total"]) == (expected["rows"], expected["total"])


# ------------------------------------------------------------------------------------------ recount


def counted(case: Case, document: Mapping[str, Any]) -> dict[CounterKey, int]:
    """Every counter, reckoned anew from the rows."""
    store, tariff = case.installation.store, tariff_of(document)
    found: dict[CounterKey, int] = {}
    for partition in range(4):
        found |= recount(case.installation.reader(), store.columns, tariff, partition)
    return found


def in_order(case: Case) -> Sequence[naive.Event]:
    """The events as the store has them, in the order in which they happened."""
    return sorted(case.world.events, key=lambda event: (datetime.fromisoformat(event["time"]), event["id"]))


def test_a_recount_of_events_that_came_in_order_is_what_the_stream_kept(case: Case) -> None:
    counters, document = Counters(), {**case.world.catalog, "caps": CAPS}

    Stream(in_order(case)).fold(counters, tariff_of(document), range(EVENTS))

    streamed = {key: parse_value(key, value) for key, value in counters.settle().items()}
    assert counted(case, document) == streamed


def test_a_recount_says_of_an_account_what_the_stream_kept_in_whatever_order_it_came(case: Case) -> None:
    # Tiers are filled in the order of arrival by the stream, and in that of time by a recount: what an account
    # spends in a month is the same, unless the price changes in that month. What its keys spend may differ.
    plans = [
        {**plan, "charges": [charge for charge in plan["charges"] if "effective_from" not in charge]}
        for plan in case.world.catalog["plans"]
    ]
    document, counters = {**case.world.catalog, "caps": CAPS, "plans": plans}, Counters()

    Stream(case.world.events).fold(counters, tariff_of(document), range(EVENTS))

    def of_accounts(values: Mapping[CounterKey, int]) -> dict[CounterKey, int]:
        long = {"month", "total"}
        return {k: v for k, v in values.items() if k.subject.startswith("account:") and k.period in long}

    streamed = {key: parse_value(key, value) for key, value in counters.settle().items()}
    assert of_accounts(counted(case, document)) == of_accounts(streamed)

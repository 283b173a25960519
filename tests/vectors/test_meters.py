"""Meters that other projects agree on, through catalog, log, ledger and report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doortab.analytics.report import report
from doortab.schemas import instants, periods, topics
from doortab.schemas.log import Entry
from doortab.schemas.periods import Period
from tests import naive
from tests.analytics.installation import Installation
from tests.vectors.cases import Case, cases, wait

METERS = cases("meters", "DOORTAB_METER_VECTORS")

AGGREGATIONS = {"SUM": "sum", "COUNT": "count"}
# What a query may hold here. The windows that it cuts time into are asked for one by one.
QUERY = {"from", "to", "window", "empty", "subjects", "by_subject"}
ROW = {"from", "to", "value", "subject"}
EVENT = {"id", "source", "subject", "time", "data", "type", "repeat", "repeat_same_id"}
METER = {"aggregation", "value_property", "filter"}
KIND = "vector"

_encoder = msgspec.json.Encoder(decimal_format="number")


def strange(case: Case) -> list[str]:
    """What the case holds that reports do not know."""
    rows = {name for row in case["expected"] for name in row}
    events = {name for event in case["events"] for name in event} - ({"stored_at"} - {*case["query"]})
    named = [({*case["query"]}, QUERY), (rows, ROW), (events, EVENT), ({*case["meter"]}, METER)]
    found = sorted({name for names, known in named for name in names - known})
    dedupe = case.get("dedupe", {"key": ["source", "id"], "keep": "first"})
    return found + ([] if dedupe == {"key": ["source", "id"], "keep": "first"} else [f"dedupe {dedupe}"])


def catalog(meter: Mapping[str, Any]) -> str:
    """The meter in a catalog, without any price."""
    written = {"name": "m", "event": KIND, "aggregation": AGGREGATIONS[meter["aggregation"]]}
    if written["aggregation"] != "count":
        written["value"] = meter["value_property"]
    return naive.document({"meters": [{**written, "where": meter.get("filter", {})}]})


def deliveries(events: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
    """The events as a client would send them."""
    for event in events:
        plain = {name: event[name] for name in ("id", "source", "subject", "time", "data")}
        for copy in range(event.get("repeat", 1)):
            own = {} if event.get("repeat_same_id") or not copy else {"id": f"{event['id']}/{copy}"}
            yield _encoder.encode({"specversion": "1.0", "type": KIND, **plain, **own})


def measured(installation: Installation, period: Period, subject: str | None) -> Decimal:
    """What the report says of the period, and of one subject or all."""
    made = report(installation.reader(), installation.tariff, period, ["meter", "subject"])
    rows = [row for row in made.rows if subject in (None, row["subject"])]
    return sum((Decimal(row["quantity"]) for row in rows), Decimal(0))


@pytest.mark.parametrize("case", METERS)
def test_a_meter_measures_what_others_say(case: Case, tmp_path: Path) -> None:
    if case["meter"]["aggregation"] not in AGGREGATIONS:
        wait(f"aggregation {case['meter']['aggregation']}")
    if missing := strange(case):
        wait(f"queries by {', '.join(missing)}")
    installation = Installation(tmp_path, catalog(case["meter"]))
    installation.log.append(topics.USAGE, [Entry(0, None, one) for one in deliveries(case["events"])])
    installation.fold()

    rows = [(Period(instants.parse(row["from"]), instants.parse(row["to"])), row) for row in case["expected"]]
    found = [measured(installation, period, row.get("subject")) for period, row in rows]
    subjects: list[str | None] = [*case["query"].get("subjects", [])] or [None]
    whole = sum(measured(installation, asked(case, rows), subject) for subject in subjects)
    installation.close()

    assert found == [Decimal(row["value"]) for _, row in rows], case["notes"]
    assert whole == sum(found), "what lies between the rows is not nothing"


def asked(case: Case, rows: Sequence[tuple[Period, Any]]) -> Period:
    """The range that was asked for, widened to the rows that answer."""
    query = case["query"]
    start = instants.parse(query["from"]) if "from" in query else periods.ALL_TIME.start
    end = instants.parse(query["to"]) if "to" in query else periods.ALL_TIME.end
    return Period(min([start, *(period.start for period, _ in rows)]), max([end, *(period.end for period, _ in rows)]))

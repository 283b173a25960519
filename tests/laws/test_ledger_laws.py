"""Whatever bytes come, the ledger goes on, accounts for every one of them, and can be asked about all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doortab.analytics.recount import recount
from doortab.consumers.counters import parse_value
from doortab.schemas import topics, wire
from doortab.schemas.batch import CounterKey
from doortab.schemas.log import Entry
from tests import naive
from tests.analytics.installation import Installation
from tests.conftest import EXAMPLES
from tests.schemas.test_wire_laws import events, nearly, strange, text

pytestmark = pytest.mark.promises("R4")

TIERS = [{"up_to": "3", "unit": "1", "flat": "0.5"}, {"unit": "0.000000000001"}]
CATALOG = {
    "default_plan": "p",
    "meters": [
        {"name": "n", "event": "request.validated", "aggregation": "count"},
        {"name": "a", "event": "request.validated", "aggregation": "sum", "value": "units.a"},
        {"name": "x", "event": "t", "aggregation": "sum", "value": "x"},
        {"name": "y", "event": "t", "aggregation": "count", "where": {"y": {"ne": "5"}, "x.b": ["true", "1"]}},
    ],
    "plans": [
        {
            "name": "p",
            "currency": "USD",
            "timezone": "Asia/Kolkata",
            "charges": [
                {"meter": "n", "model": "graduated", "tiers": TIERS},
                {"meter": "a", "model": "graduated", "tiers": TIERS, "where": {"units.a": {"gte": "0.5"}}},
                {"meter": "x", "model": "per_unit", "unit": "3", "where": {"x": {"gt": 0}}},
                {"meter": "x", "model": "graduated", "tiers": TIERS, "where": {"dimensions.a": {"ne": "b"}}},
                {"meter": "y", "model": "per_unit", "unit": "7"},
            ],
        }
    ],
    "caps": [
        {"subject": "key:*", "amount": "5", "period": "day"},
        {"subject": "account:*", "meter": "x", "quantity": "2", "period": "total"},
    ],
}

number = st.integers(-(10**70), 10**70) | st.floats() | st.integers(0, 5) | st.decimals(0, 9, places=30).map(str)
usage = st.fixed_dictionaries(
    {"type": st.just("request.validated")},
    optional={"data": st.fixed_dictionaries({"units": st.dictionaries(text, number | st.just(1), max_size=3)})},
).map(nearly)
other = st.fixed_dictionaries({"data": st.dictionaries(st.sampled_from("xy"), number | text, max_size=2)}).map(nearly)
one = st.binary(max_size=60) | strange | usage | other | events.map(wire.encode)
# Ids of their own, or nearly all would be repetitions.
named = st.tuples(one, st.integers(0, 10**6)).map(lambda pair: pair[0].replace(b'"id": "e"', b'"id": "%d"' % pair[1]))
records = st.lists(st.lists(named, min_size=1, max_size=4), min_size=30, max_size=60)


@pytest.mark.timeout(600)
@settings(max_examples=max(1, EXAMPLES // 20), suppress_health_check=list(HealthCheck))
@given(records)
def test_whatever_comes_the_ledger_goes_on_and_explains_it(records: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        installation = Installation(Path(directory), naive.document(CATALOG), records=7)
        values = [many[0] if len(many) == 1 else b"[" + b",".join(many) + b"]" for many in records]
        installation.log.append(topics.USAGE, [Entry(i % 4, None, value) for i, value in enumerate(values)])

        installation.fold()

        made = installation.report("account", "key", "day", "dimensions.a", "meter")
        plain = installation.report("type", "subject")
        stored = {key: parse_value(key, value) for key, value in installation.store.resume().counters.items()}
        counted: dict[CounterKey, int] = {}
        for partition in range(4):
            counted |= recount(installation.reader(), installation.store.columns, installation.tariff, partition)
        installation.close()

    assert made["control"]["unexplained"] == "0"
    assert made["total"] == plain["total"]
    assert json.dumps(made)
    accounts = {key for key in counted if key.subject.startswith("account:") and key.measure == "amount"}
    assert {key: counted[key] for key in accounts} == {
        key: value for key, value in stored.items() if key.subject.startswith("account:") and key.measure == "amount"
    }

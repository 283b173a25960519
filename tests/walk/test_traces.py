"""Real traces through the whole house, by the commands that people type: every figure is exact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands.conftest import Doortab
from tests.traces import TRACES, expected, total_of, write_catalog, write_events

DELIVERIES = {"azconv": 20367, "ccsess": 5245, "apache1718": 4746, "apieventsa": 828}
EVENTS = {"azconv": 19366, "ccsess": 5000, "apache1718": 4525, "apieventsa": 798}

each_trace = pytest.mark.parametrize("trace", TRACES)
clean_and_dirty = pytest.mark.parametrize("dirty", [False, True], ids=["clean", "dirty"])


@each_trace
@clean_and_dirty
def test_a_trace_comes_to_exactly_its_totals_on_the_file_log(trace: str, dirty: bool, tmp_path: Path) -> None:
    walk(Doortab(tmp_path / "data"), trace, dirty, tmp_path)


@pytest.mark.kafka
@each_trace
@clean_and_dirty
def test_a_trace_comes_to_exactly_its_totals_on_kafka(trace: str, dirty: bool, tmp_path: Path) -> None:
    prefix = f"walk-{os.getpid()}-{trace}-{dirty}-"
    walk(Doortab(tmp_path / "data", f"kafka://{os.environ['DOORTAB_TEST_KAFKA']}/{prefix}"), trace, dirty, tmp_path)


def walk(doortab: Doortab, trace: str, dirty: bool, directory: Path) -> None:
    doortab.ok("apply", str(write_catalog(trace, directory)))
    read = DELIVERIES[trace] if dirty else EVENTS[trace]

    counts = doortab.json("ingest", str(write_events(trace, directory, dirty=dirty)))
    told = doortab.json("report", "2000..2099", "--by", "account,key,day")
    reached = doortab.json("caps", "--reached")["rows"]

    exact = expected(trace)
    assert counts == {"read": read, "accepted": EVENTS[trace], "duplicates": read - EVENTS[trace], "rejected": 0}
    assert exact.differences(told["rows"]) == []
    assert total_of(told["total"]) == exact.total
    assert {row["subject"] for row in reached} == {f"key:{key}" for key in exact.capped_keys}
    alerts = doortab.json("alerts", "list", "--kind", "cap")["rows"]
    assert {alert["key"] for alert in alerts} == exact.capped_keys
    control = told["control"]
    parts = ("billed", "duplicates", "rejected", "not_billable")
    assert int(control["records"]) == read == sum(int(control[name]) for name in parts)
    assert control["unexplained"] == "0"

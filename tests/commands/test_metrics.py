"""What Prometheus is told by a running installation."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import Doortab
from tests.conftest import REPOSITORY


@pytest.fixture
def metrics(doortab: Doortab) -> Iterator[str]:
    """Of a process that is both a ledger and a gate."""
    doortab.ok("apply", str(REPOSITORY / "examples" / "catalog.toml"))
    doortab.ok("ingest", str(REPOSITORY / "examples" / "events.ndjson"))
    process = doortab.start("up", "--port", "0")
    try:
        yield scraped(doortab.data / "ledger.json")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def scraped(address: Path) -> str:
    """The metrics, once there was an audit."""
    deadline, told = time.monotonic() + 60, ""
    while "doortab_audit_time_seconds" not in told:
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
        if address.exists():
            try:
                url = json.loads(address.read_text())["url"]
                told = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
            except OSError:
                continue
    return told


def test_ledger_and_gate_tell_their_figures_on_one_page(metrics: str) -> None:
    assert re.search(r'^doortab_build_info\{python="3[^"]+",version="[^"]+"\} 1\.0$', metrics, re.MULTILINE)
    for line in (
        'doortab_events_total{outcome="billed"} 10.0',
        'doortab_events_total{outcome="duplicates"} 1.0',
        'doortab_rejected_total{reason="id_conflict"} 1.0',
        'doortab_lag_records{partition="0"} 0.0',
        'doortab_lag_seconds{partition="0"} 0.0',
        "doortab_unexplained_events 0.0",
        'doortab_audit_findings{kind="altered"} 0.0',
        "doortab_audit_rows 12.0",
        "doortab_recorded_events_total 0.0",
        "doortab_spool_bytes 0.0",
    ):
        assert line in metrics.splitlines()
    assert 'doortab_store_commit_seconds_bucket{le="+Inf"}' in metrics

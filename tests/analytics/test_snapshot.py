"""Snapshots: what finance reads is one moment, and there is always one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from doortab.analytics import durable
from doortab.analytics.snapshot import as_of, latest, publish
from doortab.schemas import instants
from tests.analytics.installation import CATALOG, HOUR, START, Installation

FILES = {"usage.parquet", "counters.parquet", "decisions.parquet", "daily.parquet"}
STEPS = [
    *("begun", "usage", "counters", "decisions", "daily"),
    *("as_of", "synced", "named", "current", "pruned"),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def busy(installation: Installation) -> Installation:
    add(installation, 60)
    return installation


def add(installation: Installation, count: int) -> None:
    """Events of four keys over some days, some of them refused, one of them with a fraction of a unit."""
    installation.add(
        [
            installation.event(
                START + i * HOUR,
                f"key_{i % 4}",
                f"acct_{i % 2}",
                units={"requests": 1, "tokens": 1000 * i} | ({"gb": "0.125"} if i == 3 else {}),
                dimensions={"model": f"m{i % 3}"},
                **({"verdict": "refused", "reason": "rate"} if i % 10 == 9 else {}),
            )
            for i in range(count)
        ]
    )
    installation.fold()


def published(installation: Installation, directory: Path, now: int = START, **how: Any) -> Path:
    list(publish(installation.reader(), directory, installation.tariff, now, **how))
    found = latest(directory)
    assert found is not None
    return found


def assert_whole(found: Path | None) -> dict[str, Any]:
    """A snapshot has every file it tells of, as it tells; returns what it tells."""
    assert found is not None
    told = as_of(found)
    assert set(told["files"]) == FILES
    for name, about in told["files"].items():
        assert durable.sha256(found / name) == about["sha256"]
    return told


def ask(query: str) -> list[Any]:
    connection = duckdb.connect()
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_the_steps_are_taken_in_the_order_that_is_written(busy: Installation, directory: Path) -> None:
    assert list(publish(busy.reader(), directory, busy.tariff, START)) == STEPS
    assert [path.name[:23] for path in sorted(directory.iterdir())] == ["20261101T000000.000000Z", "current"]


def test_what_finance_adds_up_is_what_the_report_says(busy: Installation, directory: Path) -> None:
    found = published(busy, directory)

    daily = pq.read_table(found / "daily.parquet")

    report = busy.report("account", "key", "day")
    assert daily.num_rows == len(report["rows"])
    for row, line in zip(daily.to_pylist(), report["rows"], strict=True):
        assert (row["account"], row["key"], str(row["day"])) == (line["account"], line["key"], line["day"])
        assert row["amount"] == Decimal(line["amount"])
    assert str(daily.schema.field("amount").type) == "decimal128(38, 12)"
    assert str(daily.schema.field("units.gb").type) == "decimal128(38, 3)"
    total = ask(f"SELECT sum(amount), sum(events), typeof(sum(amount)) FROM '{found}/daily.parquet'")
    assert total == [(Decimal(report["total"]["amount"]), 60, "DECIMAL(38,12)")]


def test_no_number_in_any_file_is_a_binary_fraction(busy: Installation, directory: Path) -> None:
    found = published(busy, directory)

    for name in FILES:
        kinds = {str(field.type) for field in pq.read_schema(found / name)}
        assert kinds & {"float", "double", "halffloat"} == set()


def test_the_rows_can_be_read_and_are_in_order(busy: Installation, directory: Path) -> None:
    found = published(busy, directory)

    names = pq.read_schema(found / "usage.parquet").names

    assert names[:7] == ["time", "account", "key", "allowed", "reason", "billable", "operation"]
    assert {"units.requests", "units.tokens", "dimensions.model"} < set(names)
    assert {"seq", "digest", "batch"} & set(names) == set()
    places = pq.read_table(found / "usage.parquet", columns=["part", "off", "idx"]).to_pylist()
    assert places == sorted(places, key=lambda place: tuple(place.values()))
    assert ask(f"SELECT sum(\"units.tokens\") FROM '{found}/usage.parquet' WHERE key = 'key_1'")[0][0] > 0


def test_it_says_where_it_stands_and_that_the_books_balance(busy: Installation, directory: Path) -> None:
    told = assert_whole(published(busy, directory, START + HOUR))

    assert told["created"] == "2026-11-01T01:00:00Z"
    assert told["format"] == 1
    assert sum(told["positions"].values()) == sum(busy.log.end_offsets("usage").values())
    assert told["control"]["unexplained"] == "0"
    assert told["files"]["usage.parquet"]["rows"] == 60


def test_all_files_are_of_one_moment_though_the_ledger_goes_on(busy: Installation, directory: Path) -> None:
    steps = publish(busy.reader(), directory, busy.tariff, START)
    for _ in steps:
        add(busy, 5)

    told = assert_whole(latest(directory))
    found = latest(directory)
    assert told["files"]["usage.parquet"]["rows"] == int(told["control"]["records"])
    assert ask(f"SELECT sum(events) FROM '{found}/daily.parquet'") == [(int(told["control"]["records"]),)]


def test_killed_after_any_step_there_is_the_old_one_or_the_new_one(busy: Installation, tmp_path: Path) -> None:
    left_where_they_are = []  # a process that is killed does not clean up
    for steps in range(len(STEPS) + 1):
        directory = tmp_path / f"killed after {steps}"
        old = published(busy, directory)
        rows = as_of(old)["files"]["usage.parquet"]["rows"]
        add(busy, 1)

        killed = publish(busy.reader(), directory, busy.tariff, START + HOUR, keep=2)
        left_where_they_are.append(killed)
        list(itertools.islice(killed, steps))

        told = assert_whole(latest(directory))
        assert (latest(directory) == old) == (steps < STEPS.index("current") + 1)
        assert told["files"]["usage.parquet"]["rows"] == rows + (latest(directory) != old)
        add(busy, 1)
        assert_whole(published(busy, directory, START + 2 * HOUR, keep=2))
        assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []
        assert len([path for path in directory.iterdir() if not path.is_symlink()]) == 2


def test_the_last_ones_are_kept_and_the_current_one_whatever_the_clock_says(
    busy: Installation, directory: Path
) -> None:
    for hour in range(5):
        add(busy, 1)
        published(busy, directory, START + hour * HOUR, keep=3)
    add(busy, 1)
    backwards = published(busy, directory, START - HOUR, keep=3)

    assert_whole(backwards)
    assert backwards.name.startswith("20261031T23")


def test_nothing_new_is_not_published_again_but_new_prices_are(busy: Installation, directory: Path) -> None:
    first = published(busy, directory)

    assert list(publish(busy.reader(), directory, busy.tariff, START + HOUR)) == ["unchanged"]
    busy.apply(CATALOG.replace('unit = "0.00001"', 'unit = "0.1"'))
    assert published(busy, directory, START + 2 * HOUR) != first


def test_an_empty_store_has_a_snapshot_too(installation: Installation, directory: Path) -> None:
    installation.fold()

    told = assert_whole(published(installation, directory))

    assert told["files"]["daily.parquet"]["rows"] == 0


def test_readers_never_see_half_of_anything(busy: Installation, directory: Path) -> None:
    published(busy, directory)
    seen: list[int] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        while not stop.is_set():
            try:
                seen.append(assert_whole(latest(directory))["batch"])
            except BaseException as failure:
                failures.append(failure)
                return

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 8):
        add(busy, 1)
        published(busy, directory, START + number)
    stop.set()
    reader.join()

    assert failures == []
    assert seen == sorted(seen)
    assert len(seen) > 1


def test_the_disk_is_asked_before_the_link_is_moved(
    busy: Installation, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    steps = publish(busy.reader(), directory, busy.tariff, instants.EARLIEST)
    monkeypatch.setattr(durable, "sync", lambda path: synced.append(path.name))
    _until(steps, "synced")

    assert {*FILES, "as_of.json"} <= set(synced)
    assert latest(directory) is None
    _until(steps, "current")
    assert synced[-2:] == ["snapshots", "snapshots"]


def _until(steps: Iterator[str], name: str) -> None:
    for step in steps:
        if step == name:
            return

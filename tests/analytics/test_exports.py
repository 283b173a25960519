"""The canonical exports: the same log gives the same bytes."""

from __future__ import annotations

import csv
import hashlib
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doortab.analytics.exports import write_exports
from doortab.log.memory import MemoryLog
from doortab.schemas.log import Log, Reader, Record, TopicPartition
from tests.analytics.installation import CATALOG, HOUR, START, Installation

FILES = ["usage.csv", "counters.csv", "decisions.csv", "revocations.csv", "rejected.csv"]


class Backwards:
    """A log whose readers give the partitions in the opposite order."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        return _BackwardsReader(self._log.reader(positions))


class _BackwardsReader:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def poll(self, *limits: Any) -> list[Record]:
        return sorted(self._reader.poll(*limits), key=lambda record: (-record.partition, record.offset))


@contextmanager
def rebuilt(log: Log, **how: Any) -> Iterator[tuple[Installation, Path]]:
    """A store made from the whole log in its own way, and its exports."""
    with tempfile.TemporaryDirectory() as directory:
        made = Installation(Path(directory), None, log=log, **how)
        made.fold()
        write_exports(made.reader(), Path(directory) / "exports")
        yield made, Path(directory) / "exports"
        made.store.close()


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def exports_of(log: Log, **how: Any) -> dict[str, bytes]:
    with rebuilt(log, **how) as (_, directory):
        return bytes_of(directory)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def busy(installation: Installation, more: Sequence[Mapping[str, Any]] = ()) -> Log:
    """Events of many accounts, repetitions, conflicts, unreadable ones, and caps that are reached."""
    events = [
        installation.event(START + i * HOUR // 60, *whose(i), units=units(i), dimensions=dims(i)) for i in range(240)
    ]
    conflict = {**events[5], "data": {**events[5]["data"], "operation": "other"}}
    installation.add([*events, *events[100:120], conflict, {**events[0], "id": "", "source": "x"}, *more], each=7)
    return installation.log


def whose(number: int) -> tuple[str, str]:
    """A key, and the account that it belongs to."""
    return f"key_{number % 39}", f"acct_{number % 13}"


def units(number: int) -> dict[str, Any]:
    return {"requests": 1, "tokens": number * 200} | ({"gb": f"0.{number:03}"} if number % 7 == 0 else {})


def dims(number: int) -> dict[str, str]:
    return {"model": f"m,{number % 3}"} if number % 2 else {"note": '=1+1\n"quoted"', "empty": ""}


@pytest.fixture
def log(installation: Installation) -> Log:
    return busy(installation)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Log, dict[str, bytes]]:
    """A log that nobody adds to, and what it exports."""
    installation = Installation(tmp_path_factory.mktemp("shared"))
    log = busy(installation)
    installation.store.close()
    return log, exports_of(log)


def test_the_exports_and_their_sums_are_written(log: Log) -> None:
    with rebuilt(log) as (made, directory):
        sums = write_exports(made.reader(), directory)

        assert sorted(path.name for path in directory.iterdir()) == sorted([*FILES, "SHA256SUMS"])
        assert sums == {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in FILES}
        listed = dict(line.split("  ")[::-1] for line in (directory / "SHA256SUMS").read_text().splitlines())
        assert listed == sums


def test_an_export_says_what_the_store_says(log: Log) -> None:
    with rebuilt(log) as (made, directory):
        usage = rows_of(directory / "usage.csv")
        rows = {name: len(rows_of(directory / name)) for name in FILES}

        count = made.reader()("SELECT (SELECT count(*) FROM usage), (SELECT count(*) FROM decisions)")[0]
        assert (rows["usage.csv"], rows["decisions.csv"]) == count
        assert rows["rejected.csv"] == 2
        assert rows["revocations.csv"] > 0
        assert {"seq", "batch", "committed"} & set(usage[0]) == set()
        assert sum(int(row["units.tokens"]) for row in usage) == sum(i * 200 for i in range(240))
        assert {row["dimensions.note"] for row in usage} == {"", '=1+1\n"quoted"'}
        assert usage[0]["time"].endswith("Z")


@pytest.mark.parametrize("how", [{"records": 1, "threads": 1}, {"records": 3, "threads": 4}])
def test_batches_and_threads_leave_no_trace(shared: tuple[Log, dict[str, bytes]], how: dict[str, int]) -> None:
    log, expected = shared

    assert exports_of(log, **how) == expected


def test_the_order_in_which_partitions_are_read_leaves_no_trace(shared: tuple[Log, dict[str, bytes]]) -> None:
    log, expected = shared

    assert exports_of(Backwards(log), records=5) == expected


@pytest.mark.parametrize("records", [2, 11])
def test_more_names_than_columns_leave_no_trace_either(tmp_path: Path, records: int) -> None:
    seed = random.Random(records)
    names = [f"{'aZ'[n % 2]}{n}" for n in range(90)] + ["Tokens", "tokens"]
    values = [1, 2**63 - 1, "5.0", "0.10", "99999999999999999999"]
    with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
        installation = Installation(Path(directory), log=MemoryLog(waits=False))
        crowd = [
            installation.event(
                START + number,
                account=f"acct_{number % 9}",
                key=None,
                units={seed.choice(names): seed.choice(values)},
                dimensions={seed.choice(names): "x", seed.choice(names): ""},
            )
            for number in range(120)
        ]
        installation.add(crowd, each=3)

        assert exports_of(Backwards(installation.log), records=records) == exports_of(installation.log)
        installation.store.close()


def crowd(installation: Installation, name: str, count: int, **more: Any) -> dict[str, Any]:
    """An event with so many dimensions."""
    return installation.event(START, dimensions={f"{name}{n:03}": "x" for n in range(count)} | more)


def test_names_of_events_that_are_not_stored_leave_no_trace(tmp_path: Path) -> None:
    plain, made = Installation(tmp_path / "plain"), Installation(tmp_path / "made")
    event = crowd(plain, "r", 60)
    plain.add([event])
    other = {**event, "data": {**event["data"], "dimensions": {f"A{n}": "x" for n in range(140)}, "units": {"U": 1}}}
    made.add([event, other, event], each=1)

    expected = exports_of(plain.log)["usage.csv"]
    assert exports_of(made.log)["usage.csv"] == expected
    assert exports_of(made.log, records=1)["usage.csv"] == expected


def test_a_unit_of_fractions_has_its_column_and_that_of_a_conflict_has_none(tmp_path: Path) -> None:
    made = Installation(tmp_path)
    event = made.event(START, units={"gb": "0.5"})
    other = {**event, "data": {**event["data"], "units": {"g": "0.5", "U": "1.5"}}}
    made.add([event, other])

    for records in (1, 200):
        with rebuilt(made.log, records=records) as (_, directory):
            (row,) = rows_of(directory / "usage.csv")
        assert (row["units.gb"], row["more"]) == ("", '{"units":{"gb":"0.5"}}')
        assert not row.keys() & {"units.g", "units.U"}


@pytest.mark.parametrize("records", [1, 200])
def test_a_name_that_has_a_column_stands_nowhere_else(tmp_path: Path, records: int) -> None:
    made = Installation(tmp_path, log=MemoryLog(waits=False))
    few = made.event(START, units={"zone": 7}, dimensions={"zone": "eu"})
    many = crowd(made, "d", 130, zone="eu")
    many["data"]["units"] = {f"u{n:03}": n for n in range(130)} | {"zone": "8.0", "half": "0.5"}
    made.add([few, many], each=1)

    with rebuilt(made.log, records=records) as (store, _):
        (row,) = store.report("dimensions.zone")["rows"]
        names = {name for _, name in store.store.columns}
        assert ("zone" in names) == (records == 1), "who comes first gets a column"
    assert (row["dimensions.zone"], row["events"]) == ("eu", "2")
    assert (row["units"]["zone"], row["units"]["half"]) == ("15", "0.5")
    assert exports_of(made.log, records=records) == exports_of(made.log, records=3)


def test_a_catalog_that_came_in_between_leaves_no_trace(installation: Installation, log: Log) -> None:
    installation.clock.now += HOUR
    installation.apply(CATALOG.replace('unit = "0.00001"', 'unit = "0.0001"'))
    installation.clock.now += HOUR
    installation.add([installation.event(START + i, *whose(i), units=units(99)) for i in range(99)])

    assert exports_of(log, records=2) == exports_of(log)


def test_a_new_event_changes_the_sum_of_the_usage_alone(installation: Installation, log: Log) -> None:
    before = exports_of(log)

    installation.add([installation.event(START, None, "acct_new", billable=False)])

    after = exports_of(log)
    assert [name for name in FILES if before[name] != after[name]] == ["usage.csv"]

"""What an older doortab left is opened and says what it said; what a newer one left is refused in words."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from doortab.analytics import opening, snapshot, tables
from doortab.analytics.store import Store
from doortab.auditing import Auditor
from doortab.ledger import Ledger
from doortab.log import file_database
from doortab.log.open import open_log
from doortab.producers import frames
from doortab.producers.client import Client
from doortab.questions import answer
from doortab.rebuilding import export_to
from doortab.schemas import topics
from doortab.schemas.errors import StoreDamaged, UsageError
from doortab.settings import Settings
from tests.care.conftest import settings_of
from tests.promises import note

pytestmark = pytest.mark.promises("R12")

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
VERSIONS = sorted(path.name for path in FIXTURES.glob("v*"))


class Left(NamedTuple):
    """What another version left, and what it said."""

    settings: Settings
    expected: dict[str, Any]


@pytest.fixture(params=VERSIONS)
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Left:
    with tarfile.open(FIXTURES / request.param / "data.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    expected = json.loads((FIXTURES / request.param / "expected.json").read_text())
    return Left(settings_of(tmp_path / "data"), expected)


def told(settings: Settings, place: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Report, sums of the exports, and how many findings an audit has."""
    ledger = Ledger(settings)
    try:
        ledger.catch_up()
        report = answer(ledger, "report", {"period": "2026", "by": ["account", "key"]})
        return report, export_to(ledger, place), len(Auditor(ledger).look().findings)
    finally:
        ledger.close()


def test_the_store_of_every_version_says_what_it_said(left: Left, tmp_path: Path) -> None:
    report, exports, findings = told(left.settings, tmp_path / "exports")

    assert report == left.expected["report"]
    assert exports == left.expected["exports"]
    assert findings == 0
    note("R12", versions=1, events=int(report["control"]["records"]), differences=0)


def test_the_log_of_every_version_gives_the_same_store_anew(left: Left, tmp_path: Path) -> None:
    ledger = Ledger(left.settings, store_path=tmp_path / "anew.duckdb", publishing=False)
    ledger.catch_up()
    exports = export_to(ledger, tmp_path / "exports")
    ledger.close()

    assert exports == left.expected["exports"]


def test_what_waited_in_the_spool_of_every_version_is_billed(left: Left, tmp_path: Path) -> None:
    log = open_log(left.settings.log_url)
    client = Client(log, left.settings.data / "spool", source="later")
    client.start()
    client.record(account="acct_later")
    assert client.close(timeout_seconds=30)
    log.close()

    report, _, _ = told(left.settings, tmp_path / "exports")

    before, after = (int(one["control"]["records"]) for one in (left.expected["report"], report))
    assert after == before + left.expected["spooled"] + 1
    (row,) = (row for row in report["rows"] if row["account"] == "acct_spool")
    assert row["events"] == str(left.expected["spooled"])
    assert row["units"]["tokens"] == str(sum(range(left.expected["spooled"])))


def crashed(store: Path, steps: int, place: Path) -> bool:
    """Migrates a copy, and leaves in ``place`` what a kill after so many steps leaves. False when there are fewer."""
    place.mkdir()
    draft = place / "draft"
    draft.mkdir()
    for path in store.parent.glob("ledger.duckdb*"):
        shutil.copy(path, draft)
    connection = duckdb.connect(str(draft / store.name))
    walk = opening.bring_up(connection, draft / store.name)
    try:
        for _ in range(steps):
            if next(walk, None) is None:
                return False
        for path in draft.glob("ledger.duckdb*"):
            shutil.copy(path, place)
        return True
    finally:
        walk.close()
        connection.close()
        shutil.rmtree(draft)


def test_a_migration_that_is_killed_at_any_step_changes_no_figure(left: Left, tmp_path: Path) -> None:
    points = 0
    while crashed(left.settings.store_path, points, tmp_path / f"killed{points}"):
        found = tmp_path / f"killed{points}" / "ledger.duckdb"
        ledger = Ledger(left.settings, store_path=found, publishing=False)
        try:
            ledger.catch_up()
            exports = export_to(ledger, tmp_path / f"exports{points}")
            assert Auditor(ledger).look().findings == []
        finally:
            ledger.close()
        assert exports == left.expected["exports"], f"killed after {points} steps"
        points += 1

    assert points >= 10
    note("R12", kills=points, differences=0)


def test_a_chain_of_migrations_is_walked_to_its_end_and_stops_at_the_one_that_fails(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [True]

    def later(connection: duckdb.DuckDBPyConnection) -> Any:
        connection.execute("CREATE TABLE later (x INTEGER)")
        yield "made"
        if failing:
            raise duckdb.IOException("no space left on device")

    monkeypatch.setattr(tables, "FORMAT", tables.FORMAT + 1)
    monkeypatch.setitem(opening.MIGRATIONS, tables.FORMAT - 1, later)

    with pytest.raises(StoreDamaged, match="no space left"):
        Store.open(left.settings.store_path)
    with duckdb.connect(str(left.settings.store_path)) as between:
        assert opening.meta(between)["format"] == str(tables.FORMAT - 1)
    failing.clear()
    store = Store.open(left.settings.store_path)
    assert opening.meta(store.cursor())["format"] == str(tables.FORMAT)
    store.close()


def test_a_store_that_another_duckdb_sealed_is_sealed_again(left: Left, tmp_path: Path) -> None:
    before = told(left.settings, tmp_path / "one")
    with duckdb.connect(str(left.settings.store_path)) as store:
        store.execute("UPDATE meta SET value = '0.0.1' WHERE name = 'sealed_by'")
        store.execute("UPDATE seals SET hash = hash + 1 WHERE hash < 1000000000")

    assert told(left.settings, tmp_path / "two") == before


def refusal_of(kind: str, settings: Settings) -> tuple[str, Path, int, int]:
    """What is said to a file of a newer format; the file, its format, and what is read."""
    if kind == "store":
        with duckdb.connect(str(settings.store_path)) as store:
            store.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
        with pytest.raises(StoreDamaged) as refused:
            Store.open(settings.store_path)
        return str(refused.value), settings.store_path, 99, tables.FORMAT
    if kind == "log":
        path = settings.data / "log" / "log.sqlite3"
        with sqlite3.connect(path) as log:
            log.execute("PRAGMA user_version = 99")
        log.close()
        with pytest.raises(UsageError) as wrong:
            open_log(settings.log_url).end_offsets(topics.USAGE)
        return str(wrong.value), path, 99, file_database.FORMAT
    if kind == "snapshot":
        path = published(settings) / snapshot.AS_OF
        path.write_text(path.read_text().replace(f'"format": {snapshot.FORMAT}', '"format": 99'))
        with pytest.raises(UsageError) as wrong:
            snapshot.as_of(path.parent)
        return str(wrong.value), path, 99, snapshot.FORMAT
    (path,) = (settings.data / "spool").glob("*/*.segment")
    held = path.read_bytes()
    path.write_bytes(held[:7] + b"\x63" + held[8:])
    with pytest.raises(UsageError) as wrong:
        frames.check_header(path.read_bytes(), str(path))
    return str(wrong.value), path, 99, frames.VERSION


def published(settings: Settings) -> Path:
    """The newest snapshot, after one was published."""
    ledger = Ledger(settings)
    for _ in snapshot.publish(ledger.reader(), settings.data / "snapshots", ledger.tariff(), time.time_ns() // 1000):
        pass
    ledger.close()
    newest = snapshot.latest(settings.data / "snapshots")
    assert newest is not None
    return newest


@pytest.mark.parametrize("kind", ["store", "log", "spool", "snapshot"])
def test_a_newer_format_is_refused_with_file_both_versions_and_the_way_out(kind: str, left: Left) -> None:
    words, path, newer, ours = refusal_of(kind, left.settings)

    assert str(path) in words
    assert f"format {newer}" in words
    assert f"up to {ours}" in words
    assert "doortab" in words
    note("R12", refused=1)


def test_a_newer_spool_is_left_as_it_is(left: Left) -> None:
    refusal_of("spool", left.settings)
    (path,) = (left.settings.data / "spool").glob("*/*.segment")
    before = path.read_bytes()
    log = open_log(left.settings.log_url)
    client = Client(log, left.settings.data / "spool", source="older")
    client.start()
    client.record(account="acct_later")
    client.close(timeout_seconds=2)
    log.close()

    assert path.read_bytes() == before


def test_a_snapshot_of_a_newer_doortab_does_not_keep_this_one_from_publishing_its_own(left: Left) -> None:
    refusal_of("snapshot", left.settings)

    assert snapshot.as_of(published(left.settings))["format"] == snapshot.FORMAT

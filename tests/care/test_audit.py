"""Whatever is changed behind the ledger's back is found, and said with partition and offsets."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any, get_args

import pytest

from doortab.alerting import alerts_in
from doortab.analytics import seals
from doortab.analytics.audit import REPAIRS, Kind
from doortab.analytics.cells import Read
from doortab.analytics.tables import TABLES, quoted
from doortab.auditing import Auditor
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.schemas import topics
from doortab.schemas.errors import StoreDamaged
from doortab.settings import Settings
from tests.analytics.installation import START, Installation
from tests.care.conftest import Lived, audited, feed, tampering
from tests.commands.conftest import Doortab
from tests.promises import note

ROW = "rowid = (SELECT rowid FROM {0} ORDER BY rowid LIMIT 1 OFFSET (SELECT count(*) // 2 FROM {0}))"
OTHER = {"VARCHAR": "'other'", "BIGINT": "4711", "INTEGER": "77", "UBIGINT": "4711", "BLOB": "'other'::BLOB"} | {
    "TIMESTAMP": "TIMESTAMP '1999-09-09 09:09:09'"
}


def alterations() -> list[tuple[str, str]]:
    """Every kind of change to every table that is sealed: a row deleted, doubled, and each column altered."""
    found = []
    for table in seals.SEALED:
        one = ROW.format(table)
        found += [(table, f"DELETE FROM {table} WHERE {one}")]
        found += [(table, f"INSERT INTO {table} SELECT * FROM {table} WHERE {one}")]
        found += [(table, f"UPDATE {table} SET {quoted(name)} = $other WHERE {one}") for name in TABLES[table]]
    found += [("usage", f'UPDATE usage SET "units.tokens" = $other WHERE {ROW.format("usage")}')]
    found += [("usage", "DELETE FROM usage WHERE part = (SELECT max(part) FROM usage)")]
    found += [("usage", "UPDATE usage SET billable = NOT billable WHERE seq = 7")]
    return found


def tamper(settings: Settings, statement: str) -> None:
    """Runs the statement, with a value that no row has in the place of ``$other``."""
    with tampering(settings) as store:
        if "$other" in statement:
            table, name = statement.split()[1], statement.split('"')[1]
            kind = {row[0]: row[1] for row in store.execute(f"DESCRIBE {table}").fetchall()}[name]
            others = OTHER | {"BOOLEAN": f"NOT coalesce({quoted(name)}, false)"}
            statement = statement.replace("$other", others[kind])
        store.execute(statement)


def check(settings: Settings, table: str, statement: str) -> None:
    tamper(settings, statement)
    ledger = Ledger(settings)
    try:
        findings = Auditor(ledger).look().findings
    finally:
        ledger.close()

    found = [finding for finding in findings if finding.table == table]
    assert found, f"nobody noticed {statement}: {findings}"
    if table in ("usage", "commits", "rejected"):
        assert any(finding.partition is not None for finding in found)
        assert any(finding.first is not None and finding.next is not None for finding in found)


SLICE = 12

pytestmark = pytest.mark.promises("R22")


@pytest.mark.parametrize(("table", "statement"), alterations()[::SLICE])
def test_a_row_that_is_changed_behind_the_ledgers_back_is_found(lived: Lived, table: str, statement: str) -> None:
    check(lived.settings, table, statement)
    note("R22", tampers=1, missed=0)


@pytest.mark.reliability
@pytest.mark.parametrize(("table", "statement"), alterations())
def test_every_change_to_every_table_is_found(lived: Lived, table: str, statement: str) -> None:
    check(lived.settings, table, statement)
    note("R22", tampers=1, missed=0)


def test_a_store_that_nobody_touched_has_no_findings(lived: Lived) -> None:
    audit = audited(lived.settings)

    assert audit.findings == []
    assert audit.unexplained == 0
    assert audit.rows == sum(part["billed"] + part["not_billable"] for part in audit.parts.values())
    note("R22", audits=1, false_alarms=0)


def test_what_one_partition_misses_is_not_made_up_for_by_another(lived: Lived) -> None:
    with tampering(lived.settings) as store:
        few, many = (
            row[0] for row in store.execute("SELECT part FROM usage GROUP BY part ORDER BY 1 LIMIT 2").fetchall()
        )
        store.execute(f"INSERT INTO usage SELECT * FROM usage WHERE part = {many} LIMIT 1")
        store.execute(f"DELETE FROM usage WHERE seq = (SELECT min(seq) FROM usage WHERE part = {few})")

    audit = audited(lived.settings)

    kinds = {(finding.kind, finding.partition) for finding in audit.findings}
    assert {("unexplained", few), ("unexplained", many), ("altered", few), ("altered", many)} <= kinds
    assert audit.unexplained >= 2


def test_an_older_copy_in_its_place_is_told_and_stays_told_until_somebody_accepts_it(
    lived: Lived, tmp_path: Path, doortab: Doortab
) -> None:
    shutil.copytree(lived.settings.store_path.parent, tmp_path / "older")
    feed(lived.settings, tmp_path, range(300, 330))
    ends = open_log(lived.settings.log_url).end_offsets(topics.USAGE)
    shutil.rmtree(lived.settings.store_path.parent)
    shutil.copytree(tmp_path / "older", lived.settings.store_path.parent)

    first, second = audited(lived.settings), audited(lived.settings)

    kinds = {finding.kind for finding in first.findings}
    assert kinds == {"rolled_back"}
    assert {finding.partition: finding.next for finding in first.findings}.items() <= ends.items()
    assert [finding.words for finding in second.findings] == [finding.words for finding in first.findings]
    doortab.data = lived.settings.data
    assert doortab.run("audit").returncode == 1
    assert doortab.json("audit", "--accept")["findings"] == []
    assert audited(lived.settings).findings == []
    note("R22", rollbacks=1, missed=0)


def test_another_store_in_its_place_is_told(lived: Lived, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    ledger = Ledger(lived.settings, store_path=other, publishing=False)
    ledger.catch_up()
    ledger.close()
    other.replace(lived.settings.store_path)

    assert {finding.kind for finding in audited(lived.settings).findings} == {"replaced"}


def test_totals_that_were_told_once_cannot_be_rewritten_with_their_seals(lived: Lived) -> None:
    audited(lived.settings)
    with tampering(lived.settings) as store:
        last = "(SELECT max(batch) FROM commits WHERE part >= 0)"
        store.execute(f"UPDATE commits SET events = events - 1, billed = billed - 1 WHERE batch = {last}")
        store.execute("DELETE FROM seals WHERE kind = 'commits'")
        store.execute(seals.sealing_anew("commits", {}))

    kinds = {finding.kind for finding in audited(lived.settings).findings}

    assert "rewritten" in kinds
    assert "altered" not in kinds


def test_a_log_that_is_not_the_one_that_was_read_is_told(lived: Lived) -> None:
    for path in (lived.settings.data / "log").glob("*"):
        path.unlink()
    ledger = Ledger(lived.settings)
    try:
        findings = Auditor(ledger).look().findings
    finally:
        ledger.close()

    assert {finding.kind for finding in findings} == {"ahead_of_log"}


def test_a_store_that_is_replaced_under_the_running_ledger_is_told(lived: Lived, tmp_path: Path) -> None:
    ledger = Ledger(lived.settings)
    try:
        shutil.copy(lived.settings.store_path, tmp_path / "copy")
        (tmp_path / "copy").replace(lived.settings.store_path)
        findings = Auditor(ledger).look().findings
    finally:
        ledger.close()

    assert [finding.kind for finding in findings] == ["moved"]


def test_a_part_that_cannot_be_read_any_more_is_told(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(lived.settings)
    whole = ledger.reader

    def reader() -> Read:
        read = whole()

        def failing(query: str) -> list[Any]:
            if "bit_xor" in query:
                raise StoreDamaged("computed checksum 1 does not match stored checksum 2 in block 3")
            return read(query)

        return failing

    monkeypatch.setattr(ledger, "reader", reader)
    try:
        auditor = Auditor(ledger)
        assert list(auditor.steps()) == ["looked", "told"]
        alerts = [alert for alert in alerts_in(ledger.log) if alert["kind"] == "drift"]
        assert ledger.audited is not None
        findings = ledger.audited.findings
    finally:
        ledger.close()

    assert [finding.kind for finding in findings] == ["unreadable"]
    assert "block 3" in alerts[0]["text"]
    assert "doortab rebuild" in alerts[0]["text"]


def test_a_store_that_was_deleted_is_read_again_without_an_alarm(lived: Lived) -> None:
    shutil.rmtree(lived.settings.store_path.parent)

    assert audited(lived.settings).findings == []


def test_a_finding_is_one_alert_however_often_it_is_found(lived: Lived) -> None:
    with tampering(lived.settings) as store:
        store.execute("UPDATE usage SET account = 'somebody' WHERE seq = 20")
    ledger = Ledger(lived.settings)
    try:
        for _ in range(2):
            auditor = Auditor(ledger)
            assert list(auditor.steps()) == ["looked", "told"]
            assert list(auditor.steps()) == ["looked", "told"]
        alerts = [alert for alert in alerts_in(ledger.log) if alert["kind"] == "drift"]
    finally:
        ledger.close()

    (alert,) = alerts
    assert alert["severity"] == "critical"
    assert "doortab rebuild" in alert["text"]
    assert {"partition", "first", "next"} <= alert["facts"].keys()


def test_seals_hold_through_merging_compaction_and_columns_that_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "MERGE_FROM", 20)
    monkeypatch.setattr(seals, "KEEP", 3)
    monkeypatch.setattr(seals, "MERGED", 4)
    monkeypatch.setattr("doortab.analytics.store.COMPACT_MINIMUM", 10)
    monkeypatch.setattr("doortab.analytics.store.COMPACT_FACTOR", 1)
    made = Installation(tmp_path, records=1)
    for turn in range(30):
        units = {"requests": 1, "tokens": turn} | ({f"late{turn}": 2} if turn % 7 == 0 else {})
        made.add([made.event(START + turn, account=f"acct_{n}", units=units) for n in range(5)])
        made.fold()

    many = made.reader()("SELECT count(*) FROM seals WHERE kind = 'usage'")[0][0]
    batches = made.reader()("SELECT count(DISTINCT batch) FROM commits")[0][0]
    assert many < batches
    assert seals.altered(made.reader(), made.store.columns) == []

    made.store.cursor().execute("UPDATE usage SET id = 'other' WHERE seq = 17")
    (piece,) = seals.altered(made.reader(), made.store.columns)
    (place,) = made.reader()("SELECT part, off FROM usage WHERE seq = 17")
    assert piece.partition == place[0]
    assert piece.first is not None
    assert piece.next is not None
    assert piece.first <= place[1] < piece.next
    made.close()


def test_counters_that_were_altered_are_not_sealed_as_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doortab.analytics.store.COMPACT_MINIMUM", 5)
    monkeypatch.setattr("doortab.analytics.store.COMPACT_FACTOR", 1)
    made = Installation(tmp_path)
    made.add([made.event(START)])
    made.fold()
    made.store.cursor().execute("UPDATE counters SET value = '1'")
    before = seals.altered(made.reader(), made.store.columns)
    assert before

    for turn in range(3):
        made.add([made.event(START + turn)])
        made.fold()

    assert set(before) <= set(seals.altered(made.reader(), made.store.columns))
    made.close()


def test_every_kind_of_finding_names_a_repair() -> None:
    assert set(REPAIRS) == set(get_args(Kind))


@pytest.fixture
def doortab(tmp_path: Path) -> Doortab:
    return Doortab(tmp_path / "data")


def test_a_running_ledger_tells_it_within_two_minutes(lived: Lived, doortab: Doortab) -> None:
    with tampering(lived.settings) as store:
        (place,) = store.execute("SELECT part, off FROM usage WHERE seq = 33").fetchall()
        store.execute("DELETE FROM usage WHERE seq = 33")
    doortab.data = lived.settings.data

    process = doortab.start("up", "--port", "0")
    try:
        deadline = time.monotonic() + 120
        told = ""
        while 'doortab_audit_findings{kind="altered"} 1.0' not in told:
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
            if lived.settings.address_path.exists():
                url = json.loads(lived.settings.address_path.read_text())["url"]
                try:
                    told = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
                except OSError:
                    continue
        assert "doortab_unexplained_events 1.0" in told
        report = doortab.json("report", "2026-03")
    finally:
        process.kill()
        process.communicate(timeout=30)

    assert report["control"]["unexplained"] == "1"
    assert any(f"partition {place[0]}, offsets" in words for words in report["audit"])
    note("R22", running=1, missed=0)

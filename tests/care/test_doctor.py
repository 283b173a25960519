"""The doctor says what is wrong, and which command mends it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from doortab import doctor as examined
from doortab.analytics import snapshot
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.producers import pepper
from doortab.producers.backlog import Losses
from doortab.producers.claims import claim_new
from doortab.producers.desk import Desk
from doortab.producers.spool import Spool
from doortab.schemas.errors import LogUnavailable
from doortab.settings import Settings
from tests.care.conftest import Lived, tampering
from tests.commands.conftest import Doortab


@pytest.fixture
def doortab(lived: Lived) -> Doortab:
    return Doortab(lived.settings.data)


def found(doortab: Doortab, part: str) -> list[dict[str, str]]:
    done = doortab.run("doctor", "--json")
    told = json.loads(done.stdout)["findings"]
    assert done.returncode == int(any(finding["state"] == "bad" for finding in told))
    return [finding for finding in told if finding["part"] == part and finding["state"] != "ok"]


def wait_in_spool(settings: Settings) -> None:
    spool = Spool(claim_new(settings.data / "spool", "dead"), Losses(), max_bytes=1_000_000)
    spool.append(b"x" * 100, durable=True)
    spool.close()
    for path in (settings.data / "spool").glob("*/*.segment"):
        os.utime(path, (time.time() - 500, time.time() - 500))


def spool_of_a_newer_doortab(settings: Settings) -> None:
    wait_in_spool(settings)
    (path,) = (settings.data / "spool").glob("*/*.segment")
    held = path.read_bytes()
    path.write_bytes(held[:7] + b"\x63" + held[8:])


def snapshot_that_was_changed(settings: Settings) -> None:
    ledger = Ledger(settings)
    list(snapshot.publish(ledger.reader(), settings.data / "snapshots", ledger.tariff(), time.time_ns() // 1000))
    ledger.close()
    newest = snapshot.latest(settings.data / "snapshots")
    assert newest is not None
    with (newest / "daily.parquet").open("r+b") as file:
        file.write(b"XXXX")


def garbage(settings: Settings) -> None:
    settings.store_path.write_bytes(b"garbage" * 10_000)


def altered(settings: Settings) -> None:
    with tampering(settings) as store:
        store.execute("DELETE FROM usage WHERE seq = 10")


def newer_store(settings: Settings) -> None:
    with tampering(settings) as store:
        store.execute("UPDATE meta SET value = '99' WHERE name = 'format'")


def ledger_that_was_killed(settings: Settings) -> None:
    settings.address_path.write_text('{"pid": 1, "url": "http://127.0.0.1:9", "token": "x"}')


def new_log(settings: Settings) -> None:
    shutil.rmtree(settings.data / "log")


def lost_pepper(settings: Settings) -> None:
    log = open_log(settings.log_url)
    desk = Desk(log, pepper.load_or_create(settings.pepper_path), actor="ada")
    desk.issue(account="acme", owner="o", purpose="p")
    log.close()
    settings.pepper_path.unlink()


def pepper_that_others_can_read(settings: Settings) -> None:
    pepper.load_or_create(settings.pepper_path)
    settings.pepper_path.chmod(0o644)


class Trouble(NamedTuple):
    """What is done, in which part the doctor sees it, how bad it is, and what is in its words."""

    make: Callable[[Settings], None]
    part: str
    state: str
    word: str
    mends: str


TROUBLES = [
    Trouble(wait_in_spool, "spool", "warn", "segments wait", "doortab up"),
    Trouble(spool_of_a_newer_doortab, "spool", "bad", "format 99", "newer doortab"),
    Trouble(snapshot_that_was_changed, "snapshots", "bad", "daily.parquet", "rm -r"),
    Trouble(garbage, "store", "bad", "ledger.duckdb", "doortab rebuild"),
    Trouble(altered, "store", "bad", "unexplained", "doortab rebuild"),
    Trouble(newer_store, "store", "bad", "format 99", "doortab rebuild"),
    Trouble(ledger_that_was_killed, "ledger", "warn", "nobody answers", "doortab up"),
    Trouble(lost_pepper, "keys", "bad", "does not hold", "restore pepper p"),
    Trouble(pepper_that_others_can_read, "keys", "bad", "chmod 600", "your copy"),
    Trouble(new_log, "store", "bad", "another log, or an older copy", "doortab rebuild"),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.make.__name__)
def test_every_trouble_is_named_with_what_mends_it(trouble: Trouble, lived: Lived, doortab: Doortab) -> None:
    trouble.make(lived.settings)

    seen = found(doortab, trouble.part)

    assert any(finding["state"] == trouble.state and trouble.word in finding["words"] for finding in seen), seen
    assert any(trouble.mends in finding.get("mends", "") for finding in seen), seen


@pytest.mark.parametrize("trouble", [garbage, altered, newer_store], ids=lambda make: make.__name__)
def test_what_the_doctor_prescribes_for_the_store_mends_it(
    trouble: Callable[[Settings], None], lived: Lived, doortab: Doortab
) -> None:
    trouble(lived.settings)
    (prescribed,) = {finding["mends"] for finding in found(doortab, "store")}

    done = doortab.run(*prescribed.removeprefix("doortab ").split())

    assert done.returncode == 0, done.stderr
    assert found(doortab, "store") == []


def test_a_healthy_installation_has_nothing_but_good_news(doortab: Doortab) -> None:
    done = doortab.run("doctor")

    assert done.returncode == 0, done.stdout
    parts = {line.split()[0] for line in done.stdout.decode().splitlines()}
    assert parts == {part for part, _ in examined.PARTS}
    assert {line.split()[1] for line in done.stdout.decode().splitlines()} == {"ok"}


def test_clocks_that_differ_and_a_disk_that_fills_are_told(
    lived: Lived, doortab: Doortab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examined, "_newest_record", lambda log: (time.time_ns() // 1000) + 90_000_000)
    usage = shutil.disk_usage(lived.settings.data)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000_000))

    (clock,), (disk,) = found(doortab, "clocks"), found(doortab, "disk")

    assert "clocks differ" in clock["words"]
    assert "NTP" in clock["mends"]
    assert disk["state"] == "bad"
    assert "make room" in disk["mends"]


def test_a_log_that_is_away_is_told_and_the_others_are_looked_at_all_the_same(
    lived: Lived, doortab: Doortab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def away(url: str) -> None:
        raise LogUnavailable(f"{url} does not answer")

    monkeypatch.setattr(examined, "open_log", away)

    (log,) = found(doortab, "log")

    assert log["state"] == "bad"
    assert "bring the log back" in log["mends"]
    assert found(doortab, "store") == []
    assert tmp_path.exists()

"""Rebuilding, going back, backing up and restoring: the store is the old one or the new one, and says which."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doortab.analytics import durable
from doortab.asking import asked
from doortab.exchanging import exchange, kept_stores, name_of
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.rebuilding import draft_of, rebuild
from doortab.schemas import topics
from doortab.schemas.errors import NotFound, RuleRefused, StoreBusy, StoreDamaged, UsageError
from doortab.schemas.log import Log
from doortab.settings import Settings
from tests.care.conftest import Lived, audited, exports_of, feed, tampering
from tests.commands.conftest import Doortab
from tests.promises import note

pytestmark = pytest.mark.promises("R13")


@pytest.fixture
def doortab(lived: Lived) -> Doortab:
    return Doortab(lived.settings.data)


def spoil(settings: Settings) -> None:
    """Somebody moves an event to another account, and forgets a decision."""
    with tampering(settings) as store:
        store.execute("UPDATE usage SET account = 'somebody' WHERE seq = 40")
        store.execute("DELETE FROM decisions WHERE id = (SELECT min(id) FROM decisions)")


@contextmanager
def running(doortab: Doortab) -> Iterator[None]:
    """A ledger in a process of its own."""
    process = doortab.start("ledger", "--port", "0")
    try:
        deadline = time.monotonic() + 60
        address = doortab.data / "ledger.json"
        while not (address.exists() and doortab.run("caps").returncode == 0):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()


# ---------------------------------------------------------------------------------------------- rebuild


def test_a_rebuild_shows_the_difference_in_money_and_decisions_before_it_is_promoted(
    lived: Lived, doortab: Doortab
) -> None:
    spoil(lived.settings)

    shown = doortab.json("rebuild", "--dry-run")

    assert shown["promoted"] is False
    assert shown["exact"] is True
    assert {row["account"] for row in shown["money"]} == {"somebody", "acct_0"}
    assert all(set(row) >= {"amount_before", "amount", "events_before", "events", "month"} for row in shown["money"])
    assert len(shown["decisions"]["new"]) == 1
    assert shown["decisions"]["gone"] == []
    assert audited(lived.settings).findings != []
    assert doortab.json("rebuild", "--promote")["promoted"] is True
    assert audited(lived.settings).findings == []
    assert exports_of(lived.settings, lived.settings.data / "exports") == lived.exports


def test_a_rebuild_goes_on_beside_a_running_ledger_which_goes_on_with_the_new_store(
    lived: Lived, doortab: Doortab
) -> None:
    spoil(lived.settings)
    with running(doortab):
        assert doortab.run("audit").returncode == 1
        done = doortab.run("rebuild")
        assert done.returncode == 0, done.stderr
        assert b"DIFFERS" in done.stdout
        assert b"somebody" in done.stdout
        assert doortab.json("audit")["findings"] == []
        doortab.ok("rebuild", "--rollback")
        assert doortab.run("audit").returncode == 1
        doortab.ok("rebuild", "--rollback")
        assert doortab.json("audit")["findings"] == []

    assert exports_of(lived.settings, lived.settings.data / "exports") == lived.exports


def test_what_came_while_a_rebuild_waited_is_in_it_when_it_is_promoted(
    lived: Lived, doortab: Doortab, tmp_path: Path
) -> None:
    doortab.ok("rebuild", "--dry-run")
    feed(lived.settings, tmp_path, range(300, 340))
    before = exports_of(lived.settings, tmp_path / "before")

    doortab.ok("rebuild", "--promote")

    assert exports_of(lived.settings, tmp_path / "after") == before


def test_a_store_that_came_to_stand_where_another_was_meant_is_not_exchanged(lived: Lived) -> None:
    rebuild(lived.settings, lambda _: None)
    meant = name_of(draft_of(lived.settings))
    rebuild(lived.settings, lambda _: None)  # whoever asked is dead by now, and somebody else builds

    with pytest.raises(StoreBusy, match="another rebuild has begun"):
        list(exchange(lived.settings, draft_of(lived.settings), "rebuilt", meant))

    assert kept_stores(lived.settings) == []
    assert draft_of(lived.settings).exists()


def killed_after(settings: Settings, steps: int) -> bool:
    """Exchanges the stores until after so many steps. False when there are fewer."""
    walk = exchange(settings, draft_of(settings), "rebuilt")
    return all(next(walk, None) is not None for _ in range(steps))


def test_an_exchange_that_is_killed_at_any_step_leaves_the_old_store_or_the_new_one(
    lived: Lived, tmp_path: Path
) -> None:
    rebuild(lived.settings, lambda _: None)
    shutil.copytree(lived.settings.data, tmp_path / "ready")
    points, names = 0, set()
    while True:
        shutil.rmtree(lived.settings.data)
        shutil.copytree(tmp_path / "ready", lived.settings.data)
        if not killed_after(lived.settings, points):
            break

        ledger = Ledger(lived.settings)
        names.add(ledger.store.name)
        ledger.close()
        assert audited(lived.settings).findings == [], f"killed after {points} steps"
        assert exports_of(lived.settings, tmp_path / "exports") == lived.exports, f"killed after {points} steps"
        points += 1

    assert points == 7
    assert len(names) == 2
    note("R13", exchange_kills=points, differences=0)


def test_a_second_kill_while_the_first_is_mended_changes_nothing(lived: Lived, doortab: Doortab) -> None:
    for steps in (5, 2, 4, 5, 3):
        rebuild(lived.settings, lambda _: None)
        assert killed_after(lived.settings, steps)

    doortab.ok("rebuild")

    assert audited(lived.settings).findings == []
    assert exports_of(lived.settings, lived.settings.data / "exports") == lived.exports


def test_there_is_nothing_to_promote_or_to_go_back_to_in_a_new_directory(lived: Lived, doortab: Doortab) -> None:
    assert doortab.run("rebuild", "--promote").returncode == NotFound.exit_code
    assert doortab.run("rebuild", "--rollback").returncode == NotFound.exit_code
    assert doortab.run("rebuild", "--rollback", "--dry-run").returncode == 2
    assert kept_stores(lived.settings) == []


def test_a_damaged_store_that_was_kept_is_not_gone_back_to(lived: Lived, doortab: Doortab) -> None:
    lived.settings.store_path.write_bytes(b"garbage" * 1000)
    doortab.ok("rebuild")

    done = doortab.run("rebuild", "--rollback")

    assert done.returncode == StoreDamaged.exit_code
    assert b"delete it, and --rollback takes the one before" in done.stderr
    assert audited(lived.settings).findings == []


def test_one_rebuild_at_a_time(lived: Lived) -> None:
    def second(_: int) -> None:
        with pytest.raises(StoreBusy, match="another rebuild"):
            rebuild(lived.settings, lambda _: None)

    rebuild(lived.settings, second)


# ---------------------------------------------------------------------------------------------- backup


def test_a_backup_of_a_running_ledger_is_restored_and_catches_up(
    lived: Lived, doortab: Doortab, tmp_path: Path
) -> None:
    with running(doortab):
        told = doortab.json("backup", str(tmp_path / "backup"))
        feed(lived.settings, tmp_path, range(300, 340))
    expected = exports_of(lived.settings, tmp_path / "expected")
    spoil(lived.settings)

    restored = doortab.json("restore", str(tmp_path / "backup"))

    assert restored["batch"] == told["batch"]
    assert restored["waiting"] > 0
    assert {"ledger.duckdb", "catalog.json", "backup.json"} == {p.name for p in (tmp_path / "backup").iterdir()}
    assert audited(lived.settings).findings == []
    assert exports_of(lived.settings, tmp_path / "exports") == expected
    note("R13", restored=1, differences=0)


def test_a_running_ledger_takes_a_backup_back(lived: Lived, doortab: Doortab, tmp_path: Path) -> None:
    doortab.ok("backup", str(tmp_path / "backup"))
    feed(lived.settings, tmp_path, range(300, 320))
    expected = exports_of(lived.settings, tmp_path / "expected")
    with running(doortab):
        doortab.ok("restore", str(tmp_path / "backup"))
        with asked(lived.settings) as ledger:
            log = open_log(lived.settings.log_url)
            ledger.settle(log.end_offsets(topics.USAGE))
            log.close()
        assert doortab.json("audit")["findings"] == []

    assert exports_of(lived.settings, tmp_path / "exports") == expected


@pytest.mark.parametrize("name", ["ledger.duckdb", "catalog.json", "backup.json"])
def test_a_backup_that_was_changed_is_refused_and_the_store_stays(
    name: str, lived: Lived, doortab: Doortab, tmp_path: Path
) -> None:
    doortab.ok("backup", str(tmp_path / "backup"))
    path = tmp_path / "backup" / name
    held = path.read_bytes()
    path.write_bytes(held[: len(held) // 2] + bytes([held[len(held) // 2] ^ 1]) + held[len(held) // 2 + 1 :])

    done = doortab.run("restore", str(tmp_path / "backup"))

    assert done.returncode == StoreDamaged.exit_code
    assert str(path).encode() in done.stderr or b"take another backup" in done.stderr
    assert audited(lived.settings).findings == []


def test_an_altered_store_is_not_backed_up(lived: Lived, doortab: Doortab, tmp_path: Path) -> None:
    spoil(lived.settings)

    done = doortab.run("backup", str(tmp_path / "backup"))

    assert done.returncode == StoreDamaged.exit_code
    assert b"doortab audit" in done.stderr
    assert not (tmp_path / "backup").exists()


def test_a_backup_wants_a_new_directory(doortab: Doortab, tmp_path: Path) -> None:
    (tmp_path / "something").write_text("here")

    assert doortab.run("backup", str(tmp_path)).returncode == UsageError.exit_code


def test_a_newer_backup_is_refused_in_words(doortab: Doortab, tmp_path: Path) -> None:
    doortab.ok("backup", str(tmp_path / "backup"))
    path = tmp_path / "backup" / "backup.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99, "unheard": "of"}))

    done = doortab.run("restore", str(tmp_path / "backup"))

    assert done.returncode == 1
    for word in (str(path), "format 99", "up to 1", "newer doortab"):
        assert word.encode() in done.stderr


def test_a_log_whose_retention_was_too_short_is_said(
    lived: Lived, doortab: Doortab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doortab.ok("backup", str(tmp_path / "backup"))
    kept = json.loads((tmp_path / "backup" / "backup.json").read_text())["positions"]
    shortened: dict[int, int] = {int(part): offset + 5 for part, offset in kept.items()}
    opened = open_log

    def short(url: str, *given: Any) -> Log:
        log = opened(url, *given)
        whole = log.begin_offsets
        monkeypatch.setattr(log, "begin_offsets", lambda t: shortened if t == topics.USAGE else whole(t))
        return log

    monkeypatch.setattr("doortab.backup.open_log", short)
    done = doortab.run("restore", str(tmp_path / "backup"))

    assert done.returncode == RuleRefused.exit_code
    assert b"retention is too short" in done.stderr
    assert f"partition 0: offsets {kept['0']} to {kept['0'] + 4}".encode() in done.stderr
    assert doortab.run("restore", str(tmp_path / "backup"), "--anyway").returncode == 0


def test_the_backup_of_another_log_is_refused(lived: Lived, doortab: Doortab, tmp_path: Path) -> None:
    doortab.ok("backup", str(tmp_path / "backup"))
    other = Doortab(tmp_path / "other")

    done = other.run("restore", str(tmp_path / "backup"))

    assert done.returncode == RuleRefused.exit_code
    assert b"another log" in done.stderr
    assert durable.sha256(tmp_path / "backup" / "ledger.duckdb")

"""After a kill the store is there again soon, and what no restart helps against stops the ledger."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from doortab import ledger as turning
from doortab.analytics import durable
from doortab.ledger import Ledger
from doortab.schemas.errors import UsageError
from tests.care.conftest import Lived, audited, settings_of
from tests.care.damaging import feed_log


@pytest.mark.parametrize("reading", [False, True], ids=["alone", "beside a reader"])
def test_the_write_ahead_log_is_brought_into_the_file_after_some_commits(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: bool
) -> None:
    monkeypatch.setattr(turning, "COMMITS_A_CHECKPOINT", 1)
    settings = settings_of(lived.settings.data)
    wal = Path(f"{settings.store_path}.wal")
    ledger = Ledger(settings)
    reader = ledger.store.cursor()
    if reading:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM usage").fetchall()
    feed_log(settings, tmp_path)

    ledger.catch_up()

    written = wal.stat().st_size if wal.exists() else 0
    assert ledger.events
    reader.close()
    ledger.close()
    assert written == 0 or reading
    assert audited(settings).findings == []


def test_a_right_that_was_taken_away_stops_a_running_ledger_with_its_words(
    lived: Lived, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(lived.settings)

    def refused(_: float = 0.0) -> bool:
        raise durable.failure(ledger.store.path, PermissionError(errno.EACCES, "Permission denied"))

    monkeypatch.setattr(ledger, "turn", refused)
    ledger.start()
    deadline = time.monotonic() + 5
    while ledger.failure is None and time.monotonic() < deadline:
        time.sleep(0.01)
    ledger.stop()

    assert isinstance(ledger.failure, UsageError)
    assert "Permission denied; let this user write there" in str(ledger.failure)

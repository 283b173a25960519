"""After a kill the store is there again soon: little of it stands in the write-ahead log alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from doortab import ledger as turning
from doortab.ledger import Ledger
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

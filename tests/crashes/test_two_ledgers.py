"""Two ledgers never write one store: not while its owner is stopped, not with another file in its place, not in
one process. Two stores that follow one log are two stores, and say the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doortab import asking
from doortab.ledger import Ledger
from doortab.rebuilding import export_to
from doortab.schemas import topics
from doortab.schemas.errors import StoreBusy
from doortab.settings import Settings, load
from tests.commands.conftest import Doortab
from tests.crashes.workloads import EVENTS, fill_log, prepare_whole, records_of, settings_in
from tests.promises import note

pytestmark = [pytest.mark.promises("R14"), pytest.mark.timeout(240)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    prepare_whole(tmp_path / "data")
    return settings_in(tmp_path / "data")


@contextmanager
def running(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """``doortab ledger`` in a process of its own, which has the store."""
    with Doortab(settings.data).start("ledger", "--port", "0") as process:
        try:
            assert process.stderr is not None
            while b"doortab \xc2\xb7 ledger" not in (line := process.stderr.readline()):
                assert line, "it ended"
            yield process
        finally:
            process.kill()


def exports_of(settings: Settings, place: Path) -> dict[str, str]:
    ledger = Ledger(settings)
    ledger.catch_up()
    exports = export_to(ledger, place)
    ledger.close()
    return exports


def test_a_second_ledger_beside_a_stopped_one_is_refused_with_its_process_and_what_to_do(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "OPEN_SECONDS", 0.1)
    doortab = Doortab(settings.data)
    with running(settings) as owner:
        os.kill(owner.pid, signal.SIGSTOP)

        refused = [doortab.run("ledger", "--port", "0"), doortab.run("report"), doortab.run("rebuild", "--rollback")]

        for done in refused:
            assert done.returncode == StoreBusy.exit_code
            for word in (str(settings.store_path), f"process {owner.pid}, which is stopped", f"kill -CONT {owner.pid}"):
                assert word in done.stderr.decode()
        os.kill(owner.pid, signal.SIGCONT)
        fill_log(settings.data, EVENTS, EVENTS + 12)
        assert doortab.json("audit")["findings"] == []
        owner.terminate()
        assert owner.wait(30) == 0

    assert exports_of(settings, tmp_path / "one") == anew(settings, tmp_path)
    note("R14", refused=len(refused), stores_written_by_two=0)


def anew(settings: Settings, place: Path) -> dict[str, str]:
    """What a store says that nobody but one ledger ever wrote."""
    ledger = Ledger(settings, store_path=place / "anew.duckdb", publishing=False)
    ledger.catch_up()
    exports = export_to(ledger, place / "anew")
    ledger.close()
    return exports


def test_another_file_in_the_place_of_the_store_does_not_let_a_second_ledger_in(settings: Settings) -> None:
    owner = Ledger(settings)
    copy = settings.store_path.with_name("copy")
    shutil.copy(settings.store_path, copy)
    copy.replace(settings.store_path)

    with pytest.raises(StoreBusy, match=f"open in this process \\({os.getpid()}\\)"):
        Ledger(settings)

    owner.close()
    Ledger(settings).close()
    note("R14", refused=1, stores_written_by_two=0)


def test_a_second_ledger_in_the_same_process_is_refused_until_the_first_is_closed(settings: Settings) -> None:
    first = Ledger(settings)
    with pytest.raises(StoreBusy):
        Ledger(settings)
    first.close()

    second = Ledger(settings)
    with pytest.raises(StoreBusy):
        Ledger(settings)
    second.close()
    note("R14", refused=2, stores_written_by_two=0)


def test_a_ledger_that_was_killed_owns_nothing(settings: Settings) -> None:
    with running(settings) as owner:
        owner.kill()
        owner.wait(30)

        Ledger(settings).close()


def test_two_copies_of_a_store_that_follow_one_log_say_the_same_and_nothing_twice(
    settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(settings.data / "store", tmp_path / "other" / "store")
    other = load({"data": str(tmp_path / "other"), "log": settings.log_url, "batch_records": 3}, {}).settings
    fill_log(settings.data, EVENTS, EVENTS + 36)

    first, second = Ledger(settings), Ledger(other)
    for _ in range(8):  # in turns
        first.turn()
        second.turn()
    for each in (first, second):
        each.catch_up()
    exports = [export_to(each, tmp_path / each.settings.data.name / "exports") for each in (first, second)]
    said = records_of(first.log, topics.REVOCATIONS)
    for each in (first, second):
        each.close()

    assert exports[0] == exports[1] == anew(settings, tmp_path)
    # Whatever the second one says stands under the same key and is the same, so that a gate learns nothing new.
    assert len({key for key, _ in said}) == len(set(said)) > 0

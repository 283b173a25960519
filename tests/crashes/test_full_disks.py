"""Disks that are really full, under the store, the spool and the log: one clear error, nothing acknowledged lost,
and it goes on by itself once there is room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doortab.ledger import Ledger
from doortab.log.memory import MemoryLog
from doortab.log.open import open_log
from doortab.producers.client import Client
from doortab.rebuilding import export_to
from doortab.schemas import topics
from doortab.schemas.errors import DiskFull, LogUnavailable, SpoolFull, TryAgain
from doortab.schemas.log import Log
from doortab.settings import Settings
from tests.commands.conftest import Doortab
from tests.crashes.workloads import EVENTS, catch_up, event, fill_log, records_of, settings_in
from tests.promises import note

PAGE = 4096
ROOM = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55]
"""Fill levels: so many pages are left."""

RECOVERED_SECONDS = 10.0

pytestmark = pytest.mark.timeout(300)


def levels(*few: int) -> list[object]:
    """All fill levels, of which a few are tried by every run."""
    slices = [pytest.mark.promises("R5"), pytest.mark.reliability]
    return [pytest.param(pages, marks=slices[0] if pages in few else slices[1]) for pages in ROOM]


@contextmanager
def disk(place: Path, size: str) -> Iterator[Path]:
    """A disk of that size in that place. Skips where none may be made."""
    place.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "doortab-test", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, pages: int) -> Path:
    """Leaves so many pages of the disk."""
    filler = place / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(PAGE, shutil.disk_usage(place).free - pages * PAGE))
    return filler


def soon(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Waits for it; how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - began


def recovered(seconds: float) -> None:
    assert seconds <= RECOVERED_SECONDS
    note("R5", full_disks=1, lost=0, recovery_milliseconds=int(1000 * seconds))


# ------------------------------------------------------------------------------------------ the store


@pytest.mark.parametrize("pages", levels(0, 8))
def test_a_ledger_whose_disk_is_full_says_so_waits_and_goes_on_when_there_is_room(pages: int, tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "data")
    with disk(settings.data / "store", "8m") as place:
        fill_log(settings.data, 0, EVENTS)
        ledger = Ledger(settings)
        ledger.start()
        soon(lambda: ledger.reached(ends(ledger.log)))
        filler = fill(place, pages)

        # A new dimension in every event: rows and columns, until nothing fits any more.
        for first in range(EVENTS, 40 * EVENTS, EVENTS):
            fill_log(settings.data, first, first + EVENTS)
            soon(lambda: ledger.trouble is not None or ledger.reached(ends(ledger.log)))
            if ledger.trouble is not None:
                break
        assert isinstance(ledger.trouble, DiskFull)
        words = str(ledger.trouble)
        filler.unlink()
        seconds = soon(lambda: ledger.trouble is None and ledger.reached(ends(ledger.log)))
        assert ledger.failure is None
        ledger.stop()

        assert said_by(Ledger(settings), tmp_path / "one") == anew(settings, tmp_path)
    for word in (str(settings.data), "No space left on device", "nothing acknowledged is lost", "free some"):
        assert word in words
    recovered(seconds)


@pytest.mark.promises("R5")
def test_a_command_that_finds_no_room_for_the_store_ends_with_75_and_one_line(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "data")
    fill_log(settings.data, 0, EVENTS)
    with disk(settings.data / "store", "1m") as place:
        filler = fill(place, 1)
        done = Doortab(settings.data).run("report", "2026")
        assert done.returncode == DiskFull.exit_code
        assert done.stderr.count(b"\n") == 1
        assert b"No space left on device; nothing acknowledged is lost" in done.stderr

        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
        assert Doortab(settings.data).run("report", "2026").returncode == 0
    note("R5", full_disks=1, lost=0)


def ends(log: Log) -> dict[int, int]:
    return log.end_offsets(topics.USAGE)


def said_by(ledger: Ledger, place: Path) -> dict[str, str]:
    ledger.catch_up()
    exports = export_to(ledger, place)
    ledger.close()
    return exports


def anew(settings: Settings, place: Path) -> dict[str, str]:
    return said_by(Ledger(settings, store_path=place / "anew.duckdb", publishing=False), place / "anew")


# ------------------------------------------------------------------------------------------- the spool


@pytest.mark.parametrize("pages", levels(0, 8))
def test_a_spool_whose_disk_is_full_refuses_in_words_and_takes_events_again_when_there_is_room(
    pages: int, tmp_path: Path
) -> None:
    log = MemoryLog(waits=False)
    log.ensure_topics(topics.topics())
    is_away = True

    def opened() -> Log:
        if is_away:
            raise LogUnavailable("no log today")
        return log

    with disk(tmp_path / "spool", "1m") as place:
        client = Client(opened, place, source="service")
        returned = [client.record(account="a")]
        filler = fill(place, pages)
        while recorded(client, returned):
            assert len(returned) < 100_000
        with pytest.raises(SpoolFull, match="No space left on device; free or mend the disk"):
            client.record(account="a", dimensions={"n": 300 * "x"})
        assert not client.has_room()

        filler.unlink()
        seconds = soon(lambda: recorded(client, returned))
        is_away = False
        soon(lambda: client.spool_bytes == 0)
        found = Counter(event_ids(log))
        assert client.close()
    assert found == Counter(returned)
    assert client.losses.damaged_bytes == 0
    recovered(seconds)


def recorded(client: Client, returned: list[str]) -> bool:
    try:
        returned.append(client.record(account="a", dimensions={"n": f"{len(returned):0200}"}))
    except SpoolFull:
        return False
    return True


def event_ids(log: Log) -> Iterator[str]:
    """The id of each event in the log."""
    for _, value in records_of(log, topics.USAGE):
        held = json.loads(value or b"[]")
        yield from (event["id"] for event in (held if isinstance(held, list) else [held]))


@pytest.mark.promises("R5")
def test_a_full_spool_that_may_let_requests_pass_counts_each_of_them(tmp_path: Path) -> None:
    def away() -> Log:
        raise LogUnavailable("no log today")

    with disk(tmp_path / "spool", "1m") as place:
        client = Client(away, place, source="service", when_full="allow")
        client.record(account="a")
        fill(place, 0)
        for number in range(100):
            client.record(account="a", dimensions={"n": f"{number:0200}"})
        told = client.unrecorded + client.recorded
        client.close(0)

    assert told == 101
    assert client.unrecorded > 0
    note("R5", full_disks=1, counted=client.unrecorded)


# --------------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize("pages", levels(0))
def test_a_log_whose_disk_is_full_acknowledges_nothing_that_it_does_not_have(pages: int, tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "data")
    with disk(settings.data / "log", "4m") as place:
        fill_log(settings.data, 0, EVENTS)
        filler = fill(place, pages)
        acknowledged = EVENTS
        while filled(settings.data, acknowledged):
            acknowledged += 1
            assert acknowledged < 10_000
        with pytest.raises(TryAgain, match=r"disk is full|Check space"):
            fill_log(settings.data, acknowledged, acknowledged + 1)

        filler.unlink()
        seconds = soon(lambda: filled(settings.data, acknowledged))
        log = open_log(settings.log_url)
        values = {value for _, value in records_of(log, topics.USAGE)}
        log.close()
        catch_up(settings.data)
    assert {event(number) for number in range(acknowledged)} <= values
    recovered(seconds)


def filled(data: Path, number: int) -> bool:
    try:
        fill_log(data, number, number + 1)
    except TryAgain:
        return False
    return True

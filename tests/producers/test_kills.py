"""Processes that record are killed at random moments. Whatever ``record`` has returned is in the log in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from doortab.log.open import open_log
from doortab.producers.client import Client
from tests.producers.test_client import events, wait_for
from tests.promises import note

KILLS = 60 if os.environ.get("DOORTAB_TEST_RELIABILITY") else 8
SEED = int(os.environ.get("DOORTAB_TEST_SEED") or int.from_bytes(os.urandom(4), "big"))
AGAIN = f"repeat it with: DOORTAB_TEST_SEED={SEED} make test ARGS=tests/producers/test_kills.py"

PROGRAM = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with whoever runs the test
from doortab.log.open import open_log
from doortab.producers.client import Client

where, outage = sys.argv[1], sys.argv[2] == "outage"
def opener():
    if outage:
        raise OSError("no log today")
    return open_log(f"file:{where}/log")
client = Client(opener, f"{where}/spool", source="s", max_spool_bytes=1 << 20)
returned = os.open(f"{where}/returned", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(1, b"ready")
while True:
    event_id = client.record(account="a", units={"n": 1}, dimensions={"pid": str(os.getpid())})
    os.write(returned, event_id.encode() + b"\\n")
"""


def run_and_kill(where: Path, outage: bool, seconds: float) -> None:
    arguments = [sys.executable, "-c", PROGRAM, str(where), "outage" if outage else "-"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 1), "1: the spool was full"


def segments_in(root: Path) -> list[str]:
    # Not by glob: directories disappear while it looks.
    return [name for *_, files in os.walk(root) for name in files if name.endswith(".segment")]


@pytest.mark.promises("R1")
@pytest.mark.timeout(300)
def test_no_event_that_record_returned_is_lost_whenever_the_process_is_killed(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(AGAIN)
    for number in range(KILLS):
        run_and_kill(tmp_path, outage=number % 3 == 0, seconds=chance.uniform(0, 0.15))
    returned = (tmp_path / "returned").read_text().split()

    last = Client(lambda: open_log(f"file:{tmp_path}/log"), tmp_path / "spool", source="s")
    last.start()
    wait_for(lambda: not last.spool_bytes and not segments_in(tmp_path / "spool"), seconds=60)
    assert last.losses.damaged_bytes == 0
    assert last.close()

    log = open_log(f"file:{tmp_path}/log")
    found = events(log)
    log.close()
    shipped = Counter(event["id"] for event in found)
    lost = set(returned) - set(shipped)
    assert lost == set(), AGAIN
    # At most one event of each process was recorded although record had not returned.
    assert len(set(shipped) - set(returned)) <= KILLS
    assert len(returned) > 1000, "the test must have had something to lose"
    assert [p.name for p in (tmp_path / "spool").iterdir() if not p.name.startswith(".new-")] == []
    note("R1", kills=KILLS, kills_client=KILLS, acknowledged=len(returned), lost=0)

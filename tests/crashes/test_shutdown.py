"""SIGTERM: whatever the moment, the exit is 0 within ten seconds, and nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from doortab.producers.client import Client
from tests.commands.conftest import Doortab
from tests.conftest import REPOSITORY
from tests.crashes import flowing
from tests.promises import note

SEED = int(os.environ.get("DOORTAB_TEST_SEED") or int.from_bytes(os.urandom(3), "big"))


def stopped(directory: Path, stops: int) -> None:
    command = [sys.executable, "-m", "tests.crashes.stopping", "--stops", str(stops), "--seed", str(SEED)]
    command += ["--directory"]
    done = subprocess.run([*command, str(directory)], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    again = " ".join(["python", *command[1:], "$(mktemp -d)"])
    assert done.returncode == 0, f"{done.stderr[-4000:]}\nrepeat it with: {again}"
    told = json.loads(done.stdout)
    print(f"seed={SEED} {told}")
    assert told["wrong"] == [], "\n".join([*told["wrong"], done.stderr[-4000:], f"repeat it with: {again}"])
    assert told["slowest_milliseconds"] < 10_000
    assert (told["lost"], told["doubled"], told["called"] > 0) == (0, 0, True)
    note("R20", stops=sum(told["stopped"].values()), slowest_stop_milliseconds=told["slowest_milliseconds"])
    note("R20", acknowledged=told["acknowledged"], lost=0)


@pytest.mark.promises("R20")
@pytest.mark.timeout(300)
def test_a_process_of_each_kind_that_is_told_to_end_does_and_loses_nothing(tmp_path: Path) -> None:
    stopped(tmp_path, 4)


@pytest.mark.reliability
@pytest.mark.timeout(900)
def test_a_hundred_processes_that_are_told_to_end_at_any_moment_do_and_lose_nothing(tmp_path: Path) -> None:
    stopped(tmp_path, 100)


@pytest.mark.reliability
@pytest.mark.timeout(120)
def test_a_command_that_is_told_to_end_while_the_log_hangs_does_within_ten_seconds(tmp_path: Path) -> None:
    flowing.prepare(tmp_path)
    settings = flowing.settings_in(tmp_path)
    doortab = Doortab(settings.data)
    with doortab.start("up", "--port", "0") as process, sqlite3.connect(settings.data / "log" / "log.sqlite3") as log:
        assert process.stderr is not None
        while b"http://" not in (line := process.stderr.readline()):
            assert line, "it ended"
        (tmp_path / "address").write_text(line.split(b"http://127.0.0.1:")[1].split(b" ")[0].decode())
        log.execute("BEGIN IMMEDIATE")  # nobody else can append any more
        bearer = f"Bearer {(tmp_path / 'secret').read_text()}"
        body = json.dumps({"operation": "last"}).encode()
        assert flowing.post(tmp_path, "/v1/check", bearer, body) == 200
        # Somebody posts as well, and waits for an answer.
        posting = threading.Thread(
            target=flowing.post, args=(tmp_path, "/api/v1/events", None, b"[" + flowing.event("s", "p1", 1) + b"]")
        )
        posting.start()
        time.sleep(0.3)

        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        seconds = time.monotonic() - began

        log.rollback()
        posting.join()
    log.close()
    assert process.returncode == 0, said.decode()
    assert seconds < 10, said.decode()
    assert waiting(settings.data / "spool") == 1
    note("R20", stops=1, slowest_stop_milliseconds=int(1000 * seconds))


def waiting(spool: Path) -> int:
    """How many events lie in the spool, of which each is whole."""
    from doortab.log.memory import MemoryLog
    from doortab.schemas.topics import USAGE, topics

    log = MemoryLog(waits=False)
    log.ensure_topics(topics())
    client = Client(log, spool, source="later")
    client.start()
    assert client.close(30)
    assert client.losses.damaged_bytes == 0
    assert sum(log.end_offsets(USAGE).values()) == client.shipped
    return client.shipped

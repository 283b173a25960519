"""Servers that load the application, make the client and fork then just work: everything is billed, once."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from doortab.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.crashes import flowing
from tests.producers.test_client import wait_for
from tests.promises import note

EVENTS = 1000 if os.environ.get("DOORTAB_TEST_RELIABILITY") else 100
WORKERS = 4
SERVERS = {
    "gunicorn": ["gunicorn", "--preload", "--workers", "4", "--bind", "127.0.0.1:0", "tests.crashes.preloaded:wsgi"],
    "gunicorn-asgi": [
        *("gunicorn", "--preload", "--workers", "4", "--worker-class", "asgi", "--bind", "127.0.0.1:0"),
        "tests.crashes.preloaded:asgi",
    ],
    "uvicorn": ["uvicorn", "--workers", "4", "--port", "0", "tests.crashes.preloaded:asgi"],
}

pytestmark = [pytest.mark.timeout(300)]


def recorded_by_children(kind: str, directory: Path) -> tuple[int, int]:
    """How many of the events of four children are billed, and how many twice."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.crashes.prefork", kind, str(directory), str(EVENTS)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there, twice = done.stdout.split()
    return int(there), int(twice)


@pytest.mark.promises("R21")
def test_a_client_made_before_the_fork_records_in_every_child_and_a_naive_one_loses_all_of_it(tmp_path: Path) -> None:
    assert recorded_by_children("ours", tmp_path / "ours") == (WORKERS * EVENTS, 0)
    assert recorded_by_children("naive", tmp_path / "naive") == (0, 0)
    note("R21", events=WORKERS * EVENTS, lost=0, doubled=0, naive_events_missing=WORKERS * EVENTS)


@contextmanager
def serving(server: str, directory: Path) -> Iterator[int]:
    """The server in processes of its own; its port."""
    environment = {**os.environ, "DOORTAB_TEST_PLACE": str(directory), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", *SERVERS[server]]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said: list[str] = []
            while (found := re.search(r"http://127\.0\.0\.1:(\d+)", "".join(said[-1:]))) is None:
                said.append(process.stderr.readline())
                assert said[-1], "".join(said)
            port = int(found[1])
            # uvicorn says where before anybody listens there.
            wait_for(lambda: listens(port), 60)
            yield port
            process.terminate()
            _, rest = process.communicate(timeout=30)
            # gunicorn says 0; uvicorn ends by the signal that it was sent, or says 0.
            assert process.returncode in (0, -15), "".join([*said, rest])
        finally:
            process.kill()


def listens(port: int) -> bool:
    """Whether somebody does."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 60):
        return True
    return False


def ask(port: int, number: int, secret: str) -> str:
    """One request on a connection of its own; the process that answered."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as there:
        there.request("GET", f"/call/{number}", headers={"Authorization": f"Bearer {secret}"})
        answer = there.getresponse()
        assert answer.status == 200, answer.read()
        return answer.read().decode()


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("gunicorn", marks=pytest.mark.promises("R21")),
        pytest.param("gunicorn-asgi", marks=pytest.mark.reliability),
        pytest.param("uvicorn", marks=pytest.mark.reliability),
    ],
)
def test_a_server_whose_workers_share_what_was_loaded_before_they_were_forked_bills_all_of_it(
    server: str, tmp_path: Path
) -> None:
    pytest.importorskip(SERVERS[server][0])
    flowing.prepare(tmp_path)
    settings, secret = flowing.settings_in(tmp_path), (tmp_path / "secret").read_text()

    with serving(server, tmp_path) as port:
        served = Counter(ask(port, number, secret) for number in range(WORKERS * EVENTS))

    assert flowing.shipped(settings)
    ledger = Ledger(settings)
    ledger.catch_up()
    billed = Counter(name for (name,) in ledger.reader()("SELECT operation FROM usage WHERE operation LIKE 'GET %'"))
    ledger.close()
    assert billed == Counter(f"GET /call/{number}" for number in range(WORKERS * EVENTS))
    assert len(served) > 1, "one worker did all of it"
    note("R21", events=WORKERS * EVENTS, lost=0, doubled=0)

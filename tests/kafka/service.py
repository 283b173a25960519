"""A service that records what happens in it, in a process of its own: what it notices of an outage is measured here.

    python -m tests.kafka.service URL SPOOL

It says in lines of JSON how it stands, each time it is told to by a line of input, and ends with its input.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from doortab.log.open import open_log
from doortab.producers.client import Client
from tests.kafka.naive import REPOSITORY, resident_bytes

PAUSE_SECONDS = 0.002
ACCOUNTS = 7


class Service:
    """The process, from outside."""

    def __init__(self, url: str, spool: Path) -> None:
        command = [sys.executable, "-m", "tests.kafka.service", url, str(spool)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self) -> dict[str, Any]:
        """How it stands; ``slowest`` and the quantiles are of the calls since it was last asked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]

    def end(self) -> dict[str, Any]:
        """Stops recording, and says what was recorded in all once the log has it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def main(url: str, spool: str) -> None:
    """Records without end, and listens."""
    client = Client(lambda: open_log(url), spool, source="service")
    seconds: list[float] = []
    is_over = threading.Event()

    def work() -> None:
        number = 0
        while not is_over.wait(PAUSE_SECONDS):
            began = time.perf_counter()
            client.record(account=f"account-{number % ACCOUNTS}", units={"requests": 1, "numbers": number})
            seconds.append(time.perf_counter() - began)
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    for _ in sys.stdin:
        since, seconds = seconds, []
        tell(client, sorted(since))
    is_over.set()
    thread.join()
    while client.spool_bytes:
        time.sleep(0.01)
    tell(client, [])
    client.close(10)


def tell(client: Client, since: list[float]) -> None:
    """Prints how it stands."""
    found: dict[str, Any] = {
        "recorded": client.recorded,
        "shipped": client.shipped,
        "error": client.error,
        "resident": resident_bytes(),
    }
    if since:
        found["p99"] = since[math.ceil(0.99 * len(since)) - 1]
        found["slowest"] = since[-1]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with whoever runs the test
    main(*sys.argv[1:])

"""Stops processes with SIGTERM at random moments, while others send to them, and counts afterwards.

    python -m tests.crashes.stopping --directory DIR --stops 100 [--seed 1]

In turn ``doortab up``, ``doortab ledger``, ``doortab gate``, and a service under uvicorn with the middleware. Each
is a fork, for everything is imported once, and is stopped as soon as it handles signals, or later. Prints as JSON
how often each was stopped, the slowest, and what is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import math
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from doortab.asgi import Meter
from doortab.wiring import run
from tests.crashes import flowing
from tests.crashes.forks import forked, reap, told
from tests.crashes.trials import acknowledge, acknowledged

LONGEST_SECONDS = 10.0
BY_SIGNAL = {"service": -signal.SIGTERM}
"""uvicorn ends as it was told to, by the signal, once it has shut down; ours end with 0."""


def up(directory: Path) -> None:
    """``doortab up``."""
    run(flowing.settings_in(directory), ledger=True, gate=True, say=flowing.noting(directory))


def ledger(directory: Path) -> None:
    """``doortab ledger``."""
    run(flowing.settings_in(directory), ledger=True, gate=False, say=ready(directory, "ledger"))


def gate(directory: Path) -> None:
    """``doortab gate``."""
    run(flowing.settings_in(directory), ledger=False, gate=True, say=flowing.noting(directory))


def service(directory: Path) -> None:
    """A service with the middleware, which opens its own gate."""
    settings = flowing.settings_in(directory)
    app = Meter(hello, log=settings.log_url, data=settings.data, source="service")
    listening = socket.create_server(("127.0.0.1", 0))
    draft = directory / "service.new"
    draft.write_text(str(listening.getsockname()[1]))
    draft.replace(directory / "service.address")
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=5)
    uvicorn.Server(config).run([listening])


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def ready(directory: Path, name: str) -> Callable[[str], None]:
    """Notes that something was said."""
    return lambda _: (directory / f"{name}.address").touch()


def call(directory: Path) -> None:
    """Calls the service, whenever one is there."""
    secret = (directory / "secret").read_text()
    for number in itertools.count():
        try:
            port = int((directory / "service.address").read_text())
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as there:
                there.request("GET", f"/call/{number}", headers={"Authorization": f"Bearer {secret}"})
                status = there.getresponse().status
        except (OSError, ValueError, http.client.HTTPException):
            time.sleep(0.01)
            continue
        if status == 200:
            acknowledge(directory, "asked", f"GET /call/{number}")


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "up": (up, "address"),
    "ledger": (ledger, "ledger.address"),
    "gate": (gate, "address"),
    "service": (service, "service.address"),
}


def handles_signals(process: int) -> bool:
    """Whether SIGTERM has a handler there: before that there is nothing to drain."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def answers(directory: Path) -> int:
    """How much has been acknowledged to those who send."""
    return sum(path.stat().st_size for path in directory.glob("*.acked"))


def stop(directory: Path, kind: str, takes: dict[str, float], chance: random.Random) -> tuple[float, str]:
    """Starts one and stops it; how many seconds it took to end, and what is wrong."""
    work, sign = KINDS[kind]
    (directory / sign).unlink(missing_ok=True)
    began = time.monotonic()
    process = forked(lambda: work(directory))
    while not handles_signals(process):
        time.sleep(0.002)
    if kind in takes:
        time.sleep(chance.uniform(0, 2 * takes[kind]))
    else:
        before = -1 if kind == "ledger" else answers(directory)
        while not (directory / sign).exists() or answers(directory) == before:
            time.sleep(0.002)
        takes[kind] = min(3.0, time.monotonic() - began)
    asked = time.monotonic()
    os.kill(process, signal.SIGTERM)
    status = reap(process, 3 * LONGEST_SECONDS)
    seconds = time.monotonic() - asked
    if status != BY_SIGNAL.get(kind, 0):
        return seconds, f"{kind} ended with {status} after {seconds:.1f} s"
    return seconds, f"{kind} took {seconds:.1f} s" if seconds > LONGEST_SECONDS else ""


def stops(directory: Path, number: int, chance: random.Random) -> Iterator[tuple[str, float, str]]:
    """Stops one after the other, while others send."""
    others = [forked(lambda: flowing.send(directory)), forked(lambda: call(directory))]
    takes: dict[str, float] = {}
    try:
        for kind in itertools.islice(itertools.cycle(KINDS), number):
            yield kind, *stop(directory, kind, takes, chance)
    finally:
        for process in others:
            os.kill(process, signal.SIGKILL)
            if reap(process) != -signal.SIGKILL:
                sys.exit("whoever sent was answered wrongly")


def main() -> None:
    """Runs the stops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--stops", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    directory = options.directory
    directory.mkdir(parents=True, exist_ok=True)
    if reap(forked(lambda: flowing.prepare(directory))) != 0:
        sys.exit("could not prepare")
    stopped: Counter[str] = Counter()
    slowest, wrong = -math.inf, []
    for kind, seconds, words in stops(directory, options.stops, random.Random(options.seed)):
        stopped[kind] += 1
        slowest = max(slowest, seconds)
        wrong += [words] if words else []
    found = json.loads(told(lambda: json.dumps(flowing.check(directory, ("posted", "asked"))), 300))
    wrong += found.pop("wrong")
    called = len([name for name in acknowledged(directory, "asked") if name.startswith("GET")])
    told_all = {"stopped": stopped, "slowest_milliseconds": int(1000 * slowest), "called": called, **found}
    print(json.dumps({**told_all, "wrong": wrong}))


if __name__ == "__main__":
    main()

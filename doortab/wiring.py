"""Puts the parts together and runs them until somebody stops them. The file that knows every room.

A ledger process is: the ledger's thread, the schedule (alerts, snapshots, deliveries) and the HTTP
server. A gate process is: a keyring that follows the log, a spool, and the HTTP server. ``doortab up``
is both in one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from fastapi import FastAPI

from doortab.ledger import Ledger
from doortab.server import Server, announce, ledger_routes, make_app, withdraw
from doortab.settings import Settings

Say = Callable[[str], None]


DRAIN_SECONDS = 8.0
"""So long the parts have together, after SIGTERM, to finish what they are at."""

EXIT_SECONDS = 9.0
"""After so long it is over. What still hangs is left as a kill would leave it, and that loses nothing."""


class Draining:
    """The end of a process: asked for by a signal, and then there is only so much time."""

    def __init__(self, say: Say) -> None:
        self.asked = threading.Event()
        self._say = say
        self._until = 0.0

    def ask(self, *_: object) -> None:
        """The handler of the signal."""
        if not self.asked.is_set():
            self._until = time.monotonic() + DRAIN_SECONDS
            self.asked.set()
            last = threading.Timer(EXIT_SECONDS, self._give_up)
            last.daemon = True
            last.start()

    def left(self) -> float:
        """How many seconds are left for the next part, and a little for each."""
        return max(0.2, self._until - time.monotonic()) if self.asked.is_set() else DRAIN_SECONDS

    def _give_up(self) -> None:
        self._say(f"not everything has ended within {EXIT_SECONDS:g} s; the rest is left, as a kill would leave it")
        os._exit(0)


def run(settings: Settings, *, ledger: bool, gate: bool, say: Say) -> None:
    """Runs the parts in this process until SIGTERM or SIGINT, then drains them within ten seconds.

    Raises:
        StoreBusy: another process owns the store.
        StoreDamaged, UsageError: the store gave up while running; start again.
    """
    draining = Draining(say)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, draining.ask)
    settings.data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as parts:
        app = make_app()
        running = start_ledger(settings, parts, draining) if ledger else None
        server = Server(app, settings.host, settings.port)
        parts.callback(server.close)
        if running is not None:
            token = announce(settings.address_path, server.url)
            parts.callback(withdraw, settings.address_path)
            ledger_routes(app, running, token)
        if gate:
            start_gate(settings, app, parts, draining)
        # The last part to start and the first to stop: the requests at hand still need all the others.
        parts.callback(lambda: server.stop(draining.left()))
        server.start()
        say(_greeting(settings, server.url, ledger=ledger, gate=gate))
        while not draining.asked.wait(0.2):
            if running is not None and running.failure is not None:
                raise type(running.failure)(str(running.failure))
        say("draining")


def start_ledger(settings: Settings, parts: ExitStack, draining: Draining) -> Ledger:
    """Starts ledger and schedule; ``parts`` stops them in the reverse order."""
    from doortab.scheduling import start_schedule

    ledger = Ledger(settings)
    parts.callback(lambda: ledger.stop(draining.left()))
    ledger.start()
    parts.callback(start_schedule(ledger, settings).stop)
    return ledger


def start_gate(settings: Settings, app: FastAPI, parts: ExitStack, draining: Draining) -> None:
    """Starts a gate and puts its routes into the application."""
    from doortab.embed import Gate
    from doortab.gate_routes import gate_routes, ingest_token
    from doortab.log.open import open_log
    from doortab.schemas.topics import topics

    log = open_log(settings.log_url)
    parts.callback(log.close)
    log.ensure_topics(topics(settings.usage_partitions))
    gate = Gate.open(
        settings.log_url,
        settings.data,
        max_spool_bytes=settings.spool_bytes,
        when_full=settings.when_full,
        max_staleness_seconds=settings.max_staleness,
    )
    parts.callback(lambda: gate.close(draining.left()))
    deadline = time.monotonic() + gate.ready_seconds
    while not gate.start(0.2) and not draining.asked.is_set() and time.monotonic() < deadline:
        pass
    gate_routes(app, gate, log, ingest_token(settings.data / "ingest-token"))


def _greeting(settings: Settings, url: str, *, ledger: bool, gate: bool) -> str:
    parts = " and ".join(name for name, there in (("ledger", ledger), ("gate", gate)) if there)
    return f"doortab · {parts} · {url} · log {settings.log_url} · data {settings.data}"

"""Puts the parts together and runs them until somebody stops them. The file that knows every room.

A ledger process is: the ledger's thread, the schedule (alerts, snapshots, deliveries) and the HTTP
server. A gate process is: a keyring that follows the log, a spool, and the HTTP server. ``doortab up``
is both in one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

from fastapi import FastAPI

from doortab.ledger import Ledger
from doortab.schemas.errors import StoreDamaged
from doortab.server import Server, announce, ledger_routes, make_app, withdraw
from doortab.settings import Settings

Say = Callable[[str], None]


def run(settings: Settings, *, ledger: bool, gate: bool, say: Say) -> None:
    """Runs the parts in this process until SIGTERM or SIGINT, then drains them within ten seconds.

    Raises:
        StoreBusy: another process owns the store.
        StoreDamaged: the store gave up while running; start again.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings.data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as parts:
        app = make_app()
        running = start_ledger(settings, parts) if ledger else None
        server = Server(app, settings.host, settings.port)
        parts.callback(server.stop)
        if running is not None:
            token = announce(settings.address_path, server.url)
            parts.callback(withdraw, settings.address_path)
            ledger_routes(app, running, token)
        if gate:
            start_gate(settings, app, parts)
        server.start()
        say(_greeting(settings, server.url, ledger=ledger, gate=gate))
        while not stopping.wait(0.2):
            if running is not None and running.failure is not None:
                raise StoreDamaged(str(running.failure))
        say("draining")


def start_ledger(settings: Settings, parts: ExitStack) -> Ledger:
    """Starts ledger and schedule; ``parts`` stops them in the reverse order."""
    from doortab.scheduling import start_schedule

    ledger = Ledger(settings)
    parts.callback(ledger.stop)
    ledger.start()
    parts.callback(start_schedule(ledger, settings).stop)
    return ledger


def start_gate(settings: Settings, app: FastAPI, parts: ExitStack) -> None:
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
    parts.callback(gate.close)
    gate.start()
    gate_routes(app, gate, log, ingest_token(settings.data / "ingest-token"))


def _greeting(settings: Settings, url: str, *, ledger: bool, gate: bool) -> str:
    parts = " and ".join(name for name, there in (("ledger", ledger), ("gate", gate)) if there)
    return f"doortab · {parts} · {url} · log {settings.log_url} · data {settings.data}"

"""The ledger's HTTP server: health, metrics, and what can be asked.

Everything under ``/v1`` needs the token that the ledger wrote beside its store, readable by its owner
alone.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from doortab.analytics.audit import REPAIRS, Audit
from doortab.ledger import Ledger
from doortab.questions import answer
from doortab.schemas.errors import DoortabError
from doortab.schemas.log import Supervised

STATUS = {1: 500, 2: 400, 3: 404, 4: 403, 75: 503}


def make_app() -> FastAPI:
    """An application that answers errors as problems (RFC 9457), and whether it is alive."""
    app = FastAPI(title="doortab", version="1", description="Usage metering and billing for API keys")
    app.state.faults = []

    @app.exception_handler(DoortabError)
    def explain(_: Request, error: DoortabError) -> JSONResponse:
        told = {"title": type(error).__name__, "detail": str(error), "exit_code": error.exit_code}
        return JSONResponse(told, STATUS.get(error.exit_code, 500), media_type="application/problem+json")

    @app.get("/livez")
    def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def ready() -> JSONResponse:
        faults = [fault for find in app.state.faults if (fault := find())]
        return JSONResponse({"status": "; ".join(faults) or "ok"}, 503 if faults else 200)

    return app


def ledger_routes(app: FastAPI, ledger: Ledger, token: str) -> None:
    """Lets the application answer for a ledger, to whoever has the token."""

    def authorized(authorization: str = Header("")) -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "send the token of ledger.json", {"WWW-Authenticate": 'Bearer realm="doortab"'})

    app.state.faults.append(lambda: str(ledger.failure) if ledger.failure is not None else "")

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        registry = CollectorRegistry()
        registry.register(LedgerCollector(ledger))
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/reports", dependencies=[Depends(authorized)])
    def reports(
        period: str | None = None, by: str = Query("account,key"), timezone: str | None = None
    ) -> dict[str, Any]:
        return answer(ledger, "report", {"period": period, "by": by.split(","), "timezone": timezone})

    @app.get("/v1/caps", dependencies=[Depends(authorized)])
    def caps(reached: bool = False) -> dict[str, Any]:
        return answer(ledger, "caps", {"reached": reached})

    @app.post("/v1/ask/{question}", dependencies=[Depends(authorized)])
    def ask(question: str, params: dict[str, Any]) -> dict[str, Any]:
        return answer(ledger, question, params)


class LedgerCollector:
    """The ledger's figures in Prometheus' names, read when they are asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        told = answer(self._ledger, "status", {})
        events = CounterMetricFamily("doortab_events", "Usage events in the store, by outcome", labels=["outcome"])
        for outcome in ("billed", "not_billable", "duplicates", "rejected"):
            events.add_metric([outcome], int(told["control"][outcome]))
        yield events
        lag = GaugeMetricFamily("doortab_lag_records", "Log records not in the store yet", labels=["partition"])
        for partition, records in told["lag_records"].items():
            lag.add_metric([partition], records)
        yield lag
        audit = self._ledger.audited
        unexplained = max(int(told["control"]["unexplained"]), audit.unexplained if audit is not None else 0)
        words = "Events that are not what the log says, at least; anything but 0 is an alarm"
        yield GaugeMetricFamily("doortab_unexplained_events", words, unexplained)
        if audit is not None:
            yield from audit_metrics(audit)
        yield GaugeMetricFamily("doortab_ledger_epoch", "How often the store was taken over", told["epoch"])
        if isinstance(self._ledger.log, Supervised):
            yield from log_metrics(self._ledger.log)


def log_metrics(log: Supervised) -> Iterator[Metric]:
    """How the clients of the ledger's log fare."""
    words = "Clients of the log that failed or fell silent, and were replaced"
    yield CounterMetricFamily("doortab_log_client_replaced", words, log.clients_replaced)
    yield GaugeMetricFamily("doortab_log_threads_leaked", "Threads of theirs that did not end", log.threads_leaked)


def audit_metrics(audit: Audit) -> Iterator[Metric]:
    """What the last audit found, and when it was."""
    kinds: Counter[str] = Counter(finding.kind for finding in audit.findings)
    findings = GaugeMetricFamily("doortab_audit_findings", "What the last audit found, by kind", labels=["kind"])
    for kind in REPAIRS:
        findings.add_metric([kind], kinds[kind])
    yield findings
    yield GaugeMetricFamily("doortab_audit_time_seconds", "When the last audit was, since 1970", audit.at // 1_000_000)
    yield GaugeMetricFamily("doortab_audit_rows", "Rows of usage that it covered", audit.rows)


class Server:
    """A server in a thread of its own. ``url`` is known once it is made; ``start`` returns when it answers."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._socket = socket.create_server((host, port))
        address = self._socket.getsockname()
        self.url = f"http://{host}:{address[1]}"
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="doortab-http", daemon=True
        )

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Lets the requests at hand finish, five seconds at most."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        self.close()

    def close(self) -> None:
        """Nobody is let in any more."""
        self._socket.close()


def announce(path: Path, url: str) -> str:
    """Writes where the ledger answers, readable by its owner alone, and returns the token that it asks for."""
    token = secrets.token_urlsafe(32)
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"pid": os.getpid(), "url": url, "token": token}, file)
    draft.replace(path)
    return token


def withdraw(path: Path) -> None:
    """Takes back what ``announce`` wrote, if it is still ours."""
    try:
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()
    except (OSError, ValueError, KeyError):
        return

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
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from doortab.ledger import Ledger
from doortab.metrics import BuildCollector, LedgerCollector, page
from doortab.questions import answer
from doortab.schemas.errors import DoortabError, UsageError

STATUS = {1: 500, 2: 400, 3: 404, 4: 403, 75: 503}


def make_app() -> FastAPI:
    """An application that answers errors as problems (RFC 9457), and whether it is alive."""
    app = FastAPI(title="doortab", version="1", description="Usage metering and billing for API keys")
    app.state.faults = []
    app.state.collectors = [BuildCollector()]

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

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        return page(app.state.collectors)

    return app


def ledger_routes(app: FastAPI, ledger: Ledger, token: str) -> None:
    """Lets the application answer for a ledger, to whoever has the token."""

    def authorized(authorization: str = Header("")) -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "send the token of ledger.json", {"WWW-Authenticate": 'Bearer realm="doortab"'})

    app.state.faults.append(lambda: str(ledger.failure) if ledger.failure is not None else "")

    app.state.collectors.append(LedgerCollector(ledger))

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


class Server:
    """A server in a thread of its own. ``url`` is known once it is made; ``start`` returns when it answers.

    Raises:
        UsageError: the port is taken, or the host is none of this machine's.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        try:
            self._socket = socket.create_server((host, port))
        except (OSError, OverflowError, UnicodeError) as error:
            words = (getattr(error, "strerror", None) or str(error)).split(" (while")[0]
            raise UsageError(
                f"cannot listen on host {host}, port {port}: {words}; choose others with --host and --port"
            ) from error
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
    except (OSError, ValueError, KeyError, TypeError):
        return

"""A gate over HTTP: check a key, answer for a proxy, take in events.

Every check records one usage event, refused ones too. Events that are posted are acknowledged once the
log has them durably: no sooner.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from doortab.embed import Gate
from doortab.metrics import ClientCollector
from doortab.producers.gate import Verdict
from doortab.producers.problem import Answer, no_room
from doortab.schemas import instants, topics, wire
from doortab.schemas.elements import split
from doortab.schemas.errors import UsageError
from doortab.schemas.events import MAX_EVENT_BYTES
from doortab.schemas.log import Entry, Log

RECORD_BYTES = 200_000
MAX_BODY_BYTES = 16 * MAX_EVENT_BYTES
IDENTITY = ("x-doortab-key", "x-doortab-account", "x-doortab-owner", "x-doortab-scopes")
"""Headers that say who asks. A proxy must strip them from what the client sent."""


class CheckRequest(BaseModel):
    """What a service asks: may this key do that?"""

    model_config = ConfigDict(extra="forbid")

    operation: str | None = None
    scopes: list[str] = []
    units: dict[str, int | str] = {}
    dimensions: dict[str, str] = {}
    environment: str | None = None
    address: str | None = None


def gate_routes(app: FastAPI, gate: Gate, log: Log, ingest_token: str) -> None:
    """Lets the application answer for a gate. ``ingest_token`` is what posting events takes."""
    app.state.faults.append(lambda: "" if gate.ready else "the gate is still reading keys and revocations")
    app.state.collectors.append(ClientCollector(gate.client))

    @app.post("/v1/check")
    def check(asked: CheckRequest, request: Request) -> Response:
        verdict = gate.check(
            _authorization(request),
            operation=asked.operation,
            scopes=asked.scopes,
            environment=asked.environment,
            address=asked.address,
        )
        units = asked.units or {"requests": 1}
        if verdict.allowed and gate.must_refuse():
            return _answered(no_room(gate.realm))
        gate.record(verdict, operation=asked.operation, units=units, dimensions=asked.dimensions)
        return JSONResponse(_identity(verdict)) if verdict.allowed else _answered(gate.answer_to(verdict))

    @app.api_route("/v1/forward-auth", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def forward_auth(request: Request, scope: str = "", compat: str = "") -> Response:
        operation = _forwarded_operation(request.headers)
        verdict = gate.check(_authorization(request), operation=operation, scopes=scope.split())
        if verdict.allowed and gate.must_refuse():
            return _answered(no_room(gate.realm))
        gate.record(verdict, operation=operation, units={"requests": 1})
        if verdict.allowed:
            told = _identity(verdict)
            values = (told["key"], told["account"], told["owner"], " ".join(told["scopes"]))
            return Response(status_code=200, headers=dict(zip(IDENTITY, (str(v or "") for v in values), strict=True)))
        return _answered(gate.answer_to(verdict), nginx=compat == "nginx")

    @app.post("/api/v1/events", status_code=204)
    async def ingest(request: Request) -> Response:
        if not hmac.compare_digest(_authorization(request).encode(), f"Bearer {ingest_token}".encode()):
            return _problem(401, "send the ingest token as Authorization: Bearer", {"www-authenticate": "Bearer"})
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            return _problem(413, f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES}: send smaller batches")
        await run_in_threadpool(append_events, log, body)
        return Response(status_code=204)


def append_events(log: Log, body: bytes) -> None:
    """Checks the events of a body and appends them, all or none.

    Raises:
        UsageError: one of them is not an event, or breaks a rule.
        LogUnavailable: the log did not acknowledge; send it again, ids make that harmless.
    """
    partitions = log.partition_count(topics.USAGE)
    gathered: dict[int, list[bytes]] = {}
    taken = 0
    try:
        for raw in split(body):
            event, _, _ = wire.decode_event(raw, instants.EARLIEST)
            owner = event.data.account or event.subject or event.data.key or event.id
            gathered.setdefault(topics.partition_of(owner.encode(), partitions), []).append(raw)
            taken += 1
    except wire.Unreadable as why:
        raise UsageError(f"event {taken + 1}: {why.reason}: {why.detail}; nothing of this body was taken") from None
    log.append(
        topics.USAGE,
        [Entry(p, None, wire.join(part)) for p, events in sorted(gathered.items()) for part in _records(events)],
    )


def _records(events: list[bytes]) -> Iterator[list[bytes]]:
    """The events of a partition in parts that a record holds well."""
    part: list[bytes] = []
    size = 0
    for event in events:
        if part and size + len(event) > RECORD_BYTES:
            yield part
            part, size = [], 0
        part.append(event)
        size += len(event)
    yield part


def ingest_token(path: Path) -> str:
    """The token that posting events takes: made on first use, readable by its owner alone, whole or not there."""
    token = path.read_text().strip() if path.exists() else ""
    if token:
        return token
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(descriptor)
        if path.exists():  # empty: whoever made it died on the way
            draft.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # somebody else was first
                os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text().strip()


def _authorization(request: Request) -> str:
    return ", ".join(request.headers.getlist("authorization"))


def _forwarded_operation(headers: Mapping[str, str]) -> str | None:
    """The request that a proxy asks about: Traefik and Caddy say X-Forwarded-*, nginx recipes X-Original-*."""
    method = headers.get("x-forwarded-method") or headers.get("x-original-method")
    target = headers.get("x-forwarded-uri") or headers.get("x-original-uri")
    # What stands behind the question mark may be a secret, and would make every request an operation of its own.
    path = target.split("?")[0] if target else None
    return " ".join(part for part in (method, path) if part)[:1024] or None


def _identity(verdict: Verdict) -> dict[str, Any]:
    return {
        "allowed": True,
        "key": verdict.key_id,
        "account": verdict.account,
        "owner": verdict.owner,
        "environment": verdict.environment,
        "scopes": list(verdict.scopes),
    }


def _answered(refusal: Answer, *, nginx: bool = False) -> Response:
    headers = dict(refusal.headers)
    status = refusal.status
    if nginx and status not in (401, 403):
        # auth_request takes any other status for an error of ours.
        headers["x-refusal-status"], status = str(status), 403
    return JSONResponse(refusal.problem, status, headers)


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, headers, media_type="application/problem+json")

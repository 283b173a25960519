"""Meters an ASGI application: checks the key before it runs, and records one event for every request.

    app.add_middleware(Meter, data="./.doortab")            # Starlette, FastAPI
    app = Meter(app, gate=gate)                             # anything else

A handler adds what it used: ``request.state.usage.add(tokens=1834, model="m-large")``; who asks stands in
``request.state.verdict``. A refused request never reaches the application.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from functools import partial
from typing import Any

import msgspec

from doortab.embed import Gate
from doortab.producers.gate import IN_URL, Verdict
from doortab.producers.keytext import PATTERN, redact
from doortab.producers.problem import Answer, no_room
from doortab.producers.usage import Usage
from doortab.schemas.errors import SpoolFull
from doortab.schemas.events import Reason

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_OPERATION_CHARACTERS = 256
POLICY_VIOLATION = 1008
CLOSING_SECONDS = 8.0
"""How long the shutdown of a server waits for the log; what it does not have by then waits in the spool."""

_encode = msgspec.json.Encoder().encode
_key_in_url = re.compile(PATTERN)


class Meter:
    """The middleware. It costs well below a millisecond, and never waits for the log."""

    def __init__(
        self,
        app: Application,
        gate: Gate | None = None,
        *,
        scopes: Collection[str] | Callable[[Scope], Collection[str]] = (),
        operation: Callable[[Scope], str] | None = None,
        exempt: Collection[str] = (),
        statuses: Mapping[Reason, int] | None = None,
        bill_failures: bool = False,
        **opening: Any,
    ) -> None:
        """Without a ``gate``, one is opened with the remaining arguments, as by ``Gate.open``, and closed at shutdown.

        ``scopes`` are needed by every request, or given by a function of the request. ``operation`` names
        what is done; it is asked when the request is over, and is the method and the route if absent.
        Paths in ``exempt`` are neither checked nor recorded. What ends with a status from 500 on, or an
        exception, is not charged unless ``bill_failures`` or the handler says so.
        """
        self.app = app
        self.gate = Gate.open(**opening) if gate is None else gate
        self._owns_gate = gate is None
        self._scopes = scopes
        self._operation = operation or operation_of
        self._exempt = frozenset(exempt)
        self._statuses = statuses
        self._bill_failures = bill_failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the server."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, partial(self._lifespan, send))
        elif kind not in ("http", "websocket") or scope["path"] in self._exempt:
            await self.app(scope, receive, send)
        else:
            verdict = self._check(scope)
            if not verdict.allowed:
                self._record(scope, verdict, Usage(), None)
                await _refuse(scope, receive, send, self.gate.answer_to(verdict, statuses=self._statuses))
            elif self.gate.must_refuse():
                await _refuse(scope, receive, send, no_room(self.gate.realm))
            else:
                await self._serve(scope, receive, send, verdict)

    async def _lifespan(self, send: Send, message: Message) -> None:
        """Starts when the application has started, so that it is ready before the first request; ends after it."""
        if message["type"] == "lifespan.startup.complete":
            self.gate.start()
        elif message["type"].startswith("lifespan.shutdown") and self._owns_gate:
            self.gate.close(CLOSING_SECONDS)
        await send(message)

    def _check(self, scope: Scope) -> Verdict:
        query = scope.get("query_string", b"")
        if b"dt_" in query and (found := _key_in_url.search(query.decode("latin-1"))):
            # Whose key it is goes into the event, so that somebody can be told: it stands in logs now.
            holder = self.gate.holder_of(found[0])
            who = {} if holder is None else {"key_id": holder.key_id, "account": holder.account}
            return msgspec.structs.replace(IN_URL, **who)
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        client = scope.get("client")
        return self.gate.check(
            b", ".join(headers) if headers else None,
            scopes=self._scopes(scope) if callable(self._scopes) else self._scopes,
            address=client[0] if client else None,
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send, verdict: Verdict) -> None:
        usage = Usage({"requests": 1})
        scope.setdefault("state", {}).update(usage=usage, verdict=verdict)
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            # Also when the client has gone or the server cancels: what was used until then was used.
            self._record(scope, verdict, usage, status)

    def _record(self, scope: Scope, verdict: Verdict, usage: Usage, status: int | None) -> None:
        """One event. What was served is never taken back: a spool that filled up meanwhile is counted."""
        dimensions = dict(usage.dimensions)
        if verdict.fault:
            dimensions["fault"] = verdict.fault
        if status is not None:
            dimensions.setdefault("status", str(status))
        failed = status is not None and status >= 500 and not self._bill_failures
        with contextlib.suppress(SpoolFull):
            self.gate.record(
                verdict,
                operation=_fitting(self._operation(scope)),
                units=usage.units,
                dimensions=dimensions,
                billable=False if usage.billable is None and failed else usage.billable,
            )


def operation_of(scope: Scope) -> str:
    """The method and, as far as the application says it, the route: ``GET /items/{item_id}``; otherwise the path."""
    method = scope.get("method", "WEBSOCKET")
    route = getattr(scope.get("route"), "path", None)
    if isinstance(route, str):
        return f"{method} {scope.get('root_path', '')}{route}"
    parameters = {str(value): name for name, value in (scope.get("path_params") or {}).items()}
    parts = scope["path"].split("/")
    return f"{method} " + "/".join(f"{{{parameters[part]}}}" if part in parameters else part for part in parts)


def _fitting(operation: str) -> str:
    """The operation without what an event does not take: a key, half characters, too much of it."""
    shown = redact(operation).replace("\0", "").encode("utf-8", "replace").decode()
    return shown[:MAX_OPERATION_CHARACTERS]


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Answer) -> None:
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            # Before it is accepted, the server turns this into 403.
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": str(refusal.problem["title"])})
            return
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    body = _encode(refusal.problem)
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in refusal.headers.items()]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{prefix}.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})

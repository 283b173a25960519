from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from doortab.asgi import Meter, operation_of
from doortab.embed import Gate
from doortab.log.memory import MemoryLog
from doortab.producers import pepper
from doortab.producers.desk import Desk, Issued
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate as PlainGate
from doortab.producers.keytext import make
from doortab.schemas.errors import UsageError
from doortab.schemas.topics import topics
from tests.producers.test_client import events
from tests.producers.test_embed import bearer

Message = MutableMapping[str, Any]


class Application:
    """Answers 200, and remembers that it ran."""

    def __init__(self) -> None:
        self.ran = 0
        self.status = 200
        self.error: BaseException | None = None
        self.is_silent = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.ran += 1
        if "state" in scope and "usage" in scope["state"]:
            scope["state"]["usage"].add(tokens=7, model="m")
        if self.error is not None:
            raise self.error
        if not self.is_silent:
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics(topics())
    return log


@pytest.fixture
def gate(log: MemoryLog, tmp_path: Path) -> Iterator[Gate]:
    gate = Gate.open(log=lambda: Unclosed(log), data=tmp_path, source="s")
    yield gate
    gate.close(2)


class Unclosed:
    """The same log for everybody, whoever closes it."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def close(self) -> None:
        pass


@pytest.fixture
def issued(log: MemoryLog, tmp_path: Path) -> Issued:
    return Desk(log, pepper.load_or_create(tmp_path / "pepper"), actor="ada").issue(
        account="acct", owner="o", purpose="p", scopes=("a",)
    )


@pytest.fixture
def app() -> Application:
    return Application()


def ask(
    meter: Any, *authorization: str, path: str = "/items/5", query: str = "", kind: str = "http", **more: Any
) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request" if kind == "http" else "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"host", b"x"), *((b"authorization", value.encode()) for value in authorization)],
        "client": ("192.0.2.1", 1234),
        **({"method": "GET"} if kind == "http" else {}),
        **more,
    }
    asyncio.run(meter(scope, receive, send))
    return sent


def data_of(gate: Gate, log: MemoryLog) -> dict[str, Any]:
    assert gate.close()
    (event,) = events(log)
    found: dict[str, Any] = event["data"]
    return found


def test_a_request_is_served_and_recorded_with_what_the_handler_added(
    gate: Gate, log: MemoryLog, app: Application, issued: Issued
) -> None:
    sent = ask(Meter(app, gate), bearer(issued), query="page=2")

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert data_of(gate, log) == {
        "account": "acct",
        "key": issued.key.key_id,
        "verdict": "allowed",
        "operation": "GET /items/5",
        "units": {"requests": 1, "tokens": 7},
        "dimensions": {"model": "m", "status": "200"},
    }


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ([], 401, "missing_key"),
        (["Basic x"], 401, "missing_key"),
        (["Bearer wrong"], 401, "malformed_key"),
        (["Bearer {unknown}"], 401, "unknown_key"),
        (["Bearer {key}", "Bearer {key}"], 400, "malformed_key"),
        (["bearer {key}"], 403, "scope"),
    ],
)
def test_a_refused_request_never_reaches_the_application(
    gate: Gate, log: MemoryLog, app: Application, issued: Issued, headers: list[str], status: int, reason: str
) -> None:
    names = {"key": issued.secret.reveal(), "unknown": make("live").reveal()}
    meter = Meter(app, gate, scopes=("b",))

    start, body = ask(meter, *(header.format(**names) for header in headers))

    assert (app.ran, start["status"]) == (0, status)
    answered = dict(start["headers"])
    assert answered[b"content-type"] == b"application/problem+json"
    assert (b"www-authenticate" in answered) == (status in (401, 400) or reason == "scope")
    assert int(answered[b"content-length"]) == len(body["body"])
    assert json.loads(body["body"])["status"] == status
    recorded = data_of(gate, log)
    assert (recorded["verdict"], recorded["reason"], recorded["units"]) == ("refused", reason, {})


def test_a_key_in_the_url_is_refused_and_its_owner_can_be_told(
    gate: Gate, log: MemoryLog, app: Application, issued: Issued
) -> None:
    secret = issued.secret.reveal()

    start, body = ask(Meter(app, gate), bearer(issued), path=f"/x/{secret}", query=f"a=1&api_key={secret}")

    assert (app.ran, start["status"]) == (0, 400)
    assert b"key-in-url" in body["body"]
    recorded = data_of(gate, log)
    assert (recorded["key"], recorded["dimensions"]) == (issued.key.key_id, {"fault": "in_url"})
    assert secret not in json.dumps(recorded)


@pytest.mark.parametrize("bill_failures", [False, True])
@pytest.mark.parametrize("error", [None, ZeroDivisionError("x")])
def test_what_fails_is_recorded_and_not_charged_unless_configured(
    gate: Gate, log: MemoryLog, app: Application, issued: Issued, error: Exception | None, bill_failures: bool
) -> None:
    app.error, app.status = error, 503

    if error is None:
        ask(Meter(app, gate, bill_failures=bill_failures), bearer(issued))
    else:
        with pytest.raises(ZeroDivisionError):
            ask(Meter(app, gate, bill_failures=bill_failures), bearer(issued))

    recorded = data_of(gate, log)
    assert recorded["units"] == {"requests": 1, "tokens": 7}
    assert recorded.get("billable", True) == bill_failures
    assert recorded["dimensions"]["status"] == ("500" if error else "503")


def test_a_client_that_goes_away_has_still_used_what_it_used(
    gate: Gate, log: MemoryLog, app: Application, issued: Issued
) -> None:
    app.error = asyncio.CancelledError()

    with pytest.raises(asyncio.CancelledError):
        ask(Meter(app, gate), bearer(issued))

    recorded = data_of(gate, log)
    assert recorded["units"] == {"requests": 1, "tokens": 7}
    assert "billable" not in recorded


def test_what_cannot_be_recorded_is_not_served(
    gate: Gate, app: Application, issued: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate.client, "has_room", lambda: False)

    start, _ = ask(Meter(app, gate), bearer(issued))
    assert (app.ran, start["status"], dict(start["headers"])[b"retry-after"]) == (0, 503, b"1")

    gate.client.when_full = "allow"
    ask(Meter(app, gate), bearer(issued))
    assert app.ran == 1


def test_exempt_paths_are_neither_checked_nor_recorded(gate: Gate, log: MemoryLog, app: Application) -> None:
    ask(Meter(app, gate, exempt=("/healthz",)), path="/healthz")

    assert app.ran == 1
    gate.close()
    assert events(log) == []


def test_scopes_operation_and_statuses_can_be_chosen_by_the_request(
    gate: Gate, log: MemoryLog, app: Application, issued: Issued
) -> None:
    meter = Meter(
        app,
        gate,
        scopes=lambda scope: ("b",) if scope["path"] == "/b" else ("a",),
        operation=lambda scope: f"op {scope['path']} \0\ud800" + "x" * 2000,
        statuses={"scope": 404},
    )

    assert ask(meter, bearer(issued), path="/b")[0]["status"] == 404
    assert ask(meter, bearer(issued), path="/a")[0]["status"] == 200

    gate.close()
    operations = {event["data"]["operation"] for event in events(log)}
    assert operations == {f"op {path} ?".ljust(256, "x") for path in ("/a", "/b")}


@pytest.mark.parametrize(
    ("scope", "operation"),
    [
        ({"method": "GET", "path": "/a/5"}, "GET /a/5"),
        ({"method": "GET", "path": "/a/5", "path_params": {"id": 5}}, "GET /a/{id}"),
        ({"path": "/ws"}, "WEBSOCKET /ws"),
    ],
)
def test_an_operation_is_method_and_route(scope: dict[str, Any], operation: str) -> None:
    assert operation_of(scope) == operation


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
def test_a_websocket_is_refused_before_it_is_accepted(
    gate: Gate, log: MemoryLog, app: Application, extensions: dict[str, Any]
) -> None:
    sent = ask(Meter(app, gate), kind="websocket", extensions=extensions)

    assert app.ran == 0
    if extensions:
        assert sent[0] == {**sent[0], "type": "websocket.http.response.start", "status": 401}
    else:
        assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
    assert data_of(gate, log)["reason"] == "missing_key"


def test_the_lifespan_starts_the_gate_and_ends_the_one_it_opened(tmp_path: Path, app: Application) -> None:
    meter = Meter(app, data=tmp_path, source="s")

    sent = ask(meter, kind="lifespan")

    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert meter.gate.follower.ready
    with pytest.raises(UsageError, match="closed"):
        meter.gate.client.record()


def test_the_middleware_works_in_a_real_application(gate: Gate, log: MemoryLog, issued: Issued) -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    async def item(request: Any, item_id: int) -> dict[str, Any]:
        request.state.usage.add(tokens=3)
        return {"item": item_id, "account": request.state.verdict.account}

    item.__annotations__["request"] = fastapi.Request
    app.get("/items/{item_id}")(item)
    app.add_middleware(Meter, gate=gate)

    start, body, *_ = ask(app, bearer(issued), root_path="", http_version="1.1", scheme="http", server=("x", 80))

    assert (start["status"], json.loads(body["body"])) == (200, {"item": 5, "account": "acct"})
    recorded = data_of(gate, log)
    assert (recorded["operation"], recorded["units"]) == ("GET /items/{item_id}", {"requests": 1, "tokens": 3})


def test_many_requests_at_once_record_one_event_each(
    gate: Gate, log: MemoryLog, app: Application, issued: Issued
) -> None:
    meter = Meter(app, gate)
    assert isinstance(gate, PlainGate)
    assert isinstance(gate.view, Follower)

    async def many() -> None:
        async def one() -> None:
            async def receive() -> Message:
                return {}

            async def send(message: Message) -> None:
                await asyncio.sleep(0)

            headers = [(b"authorization", bearer(issued).encode())]
            await meter(
                {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""}, receive, send
            )

        await asyncio.gather(*(one() for _ in range(300)))

    asyncio.run(many())
    gate.close()

    assert sum(event["data"]["units"]["requests"] for event in events(log)) == 300

"""The gate over HTTP: checks, answers for proxies, and events that are posted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from doortab.server import make_app
from doortab.settings import Settings, load
from doortab.wiring import Draining, start_gate
from tests.commands.conftest import Doortab


class House:
    """A gate and the command on one data directory."""

    def __init__(self, settings: Settings, http: TestClient, doortab: Doortab) -> None:
        self.settings = settings
        self.http = http
        self.doortab = doortab

    def issue(self, *more: str) -> dict[str, Any]:
        issued: dict[str, Any] = self.doortab.json(
            "keys", "issue", "--account", "acme", "--uncapped", "--reason", "test", *more
        )
        return issued

    def eventually(self, status: int, **request: Any) -> Any:
        """The first answer with that status: what the desk said reaches the gate within moments."""
        deadline = time.monotonic() + 10
        while True:
            answer = self.http.post("/v1/check", **request)
            if answer.status_code == status or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        if answer.status_code == status:
            return answer
        pytest.fail(f"still {answer.status_code}: {answer.text}")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings = load({"data": str(tmp_path / "data")}, {}).settings
    with ExitStack() as parts:
        app = make_app()
        start_gate(settings, app, parts, Draining(print))
        with TestClient(app) as http:
            yield House(settings, http, Doortab(tmp_path / "data"))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_key_is_let_in_and_named_and_its_request_is_counted(house: House) -> None:
    issued = house.issue("--scope", "chat")

    asked = {"operation": "POST /v1/chat", "scopes": ["chat"], "units": {"tokens": 7}, "dimensions": {"model": "m"}}
    answer = house.eventually(200, json=asked, headers=bearer(issued["secret"]))

    assert answer.json()["account"] == "acme"
    assert answer.json()["key"] == issued["key_id"]


def test_a_revoked_key_is_refused_like_an_unknown_one(house: House) -> None:
    issued = house.issue()
    house.eventually(200, json={}, headers=bearer(issued["secret"]))
    house.doortab.ok("keys", "revoke", issued["key_id"])

    revoked = house.eventually(401, json={}, headers=bearer(issued["secret"]))
    unknown = house.http.post("/v1/check", json={}, headers=bearer("dt_live_" + "a" * 38))

    assert revoked.headers["www-authenticate"].startswith("Bearer")
    assert unknown.status_code == 401


def test_a_scope_that_is_missing_is_named(house: House) -> None:
    issued = house.issue("--scope", "chat")

    answer = house.eventually(403, json={"scopes": ["admin"]}, headers=bearer(issued["secret"]))

    assert answer.json()["scope"] == "admin"
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_proxy_gets_identity_headers_and_nginx_only_statuses_it_understands(house: House) -> None:
    issued = house.issue()
    house.eventually(200, json={}, headers=bearer(issued["secret"]))
    forwarded = {"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/v1/things?secret=1"}

    allowed = house.http.get("/v1/forward-auth", headers=bearer(issued["secret"]) | forwarded)
    refused = house.http.get("/v1/forward-auth?compat=nginx", headers=forwarded)

    assert allowed.status_code == 200
    assert allowed.headers["x-doortab-account"] == "acme"
    assert refused.status_code == 401


def test_posted_events_are_in_the_log_when_they_are_acknowledged(house: House) -> None:
    token = (house.settings.data / "ingest-token").read_text()
    events = [
        {"specversion": "1.0", "id": str(n), "source": "s", "type": "request.validated", "subject": "acme", "data": {}}
        for n in range(3)
    ]

    single = house.http.post("/api/v1/events", json=events[0], headers=bearer(token))
    batch = house.http.post("/api/v1/events", json=events, headers=bearer(token))
    spoiled = house.http.post("/api/v1/events", json=[events[0], {"id": "x"}], headers=bearer(token))
    stranger = house.http.post("/api/v1/events", json=events[0])

    assert single.status_code == 204, single.text
    assert (single.status_code, batch.status_code, spoiled.status_code, stranger.status_code) == (204, 204, 400, 401)
    assert "event 2" in spoiled.json()["detail"]
    control = house.doortab.json("report")["control"]
    assert (control["billed"], control["duplicates"], control["rejected"]) == ("3", "1", "0")


def test_the_gate_is_ready_once_it_has_read_keys_and_revocations(house: House) -> None:
    assert house.http.get("/livez").status_code == 200
    assert house.http.get("/readyz").status_code == 200

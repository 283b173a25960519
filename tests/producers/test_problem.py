from __future__ import annotations

import typing

import pytest

from doortab.producers.gate import IN_URL, REPEATED, Verdict
from doortab.producers.problem import KINDS, answer, no_room
from doortab.schemas.events import Reason
from doortab.schemas.instants import SECOND
from tests.producers.conftest import NOW

STATUSES: dict[Reason, int] = {
    "missing_key": 401,
    "malformed_key": 401,
    "unknown_key": 401,
    "revoked": 401,
    "expired": 401,
    "account_closed": 401,
    "environment": 403,
    "scope": 403,
    "address": 403,
    "rate": 429,
    "cap": 402,
    "lease": 503,
    "stale_view": 503,
}


def refused(reason: Reason, **more: object) -> Verdict:
    return Verdict(allowed=False, reason=reason, **more)  # type: ignore[arg-type]


def test_every_reason_of_the_contract_has_an_answer() -> None:
    assert set(typing.get_args(Reason)) == set(KINDS) == set(STATUSES)


@pytest.mark.parametrize("reason", STATUSES)
def test_a_refusal_is_a_problem_with_the_status_of_its_reason(reason: Reason) -> None:
    got = answer(refused(reason), now=NOW)

    assert got.status == got.problem["status"] == STATUSES[reason]
    assert got.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail"} <= set(got.problem)
    # RFC 9110, 15.5.2: a 401 must have a challenge.
    assert ("www-authenticate" in got.headers) == (got.status == 401 or reason == "scope")


def test_without_credentials_the_challenge_names_no_error() -> None:
    assert answer(refused("missing_key"), now=NOW).headers["www-authenticate"] == 'Bearer realm="doortab"'
    assert (
        answer(refused("revoked"), now=NOW, realm="api").headers["www-authenticate"]
        == 'Bearer realm="api", error="invalid_token"'
    )


def test_a_missing_scope_is_named_in_the_challenge() -> None:
    got = answer(refused("scope", needed_scopes=("a:b", "c")), now=NOW)

    assert got.headers["www-authenticate"] == 'Bearer realm="doortab", error="insufficient_scope", scope="a:b c"'
    assert got.problem["scope"] == "a:b c"


@pytest.mark.parametrize(("seconds", "retry"), [(0.5, "1"), (59.2, "60"), (3600, "3600"), (3601, None), (None, None)])
def test_a_cap_says_when_to_come_back_only_if_that_is_soon(seconds: float | None, retry: str | None) -> None:
    until = None if seconds is None else NOW + int(seconds * SECOND)

    got = answer(refused("cap", cause="cap:1", until=until), now=NOW)

    assert got.headers.get("retry-after") == retry
    assert got.problem["cap"] == "cap:1"
    assert ("resets_at" in got.problem) == (until is not None)


def test_the_status_of_a_reason_can_be_chosen() -> None:
    got = answer(refused("cap"), now=NOW, statuses={"cap": 429}, instance="req_1")

    assert (got.status, got.problem["status"], got.problem["instance"]) == (429, 429, "req_1")


@pytest.mark.parametrize("verdict", [REPEATED, IN_URL])
def test_a_request_that_is_wrong_in_itself_is_a_bad_request(verdict: Verdict) -> None:
    assert answer(verdict, now=NOW).status == 400


def test_no_room_for_usage_asks_to_come_back() -> None:
    got = no_room()

    assert (got.status, got.headers["retry-after"]) == (503, "1")

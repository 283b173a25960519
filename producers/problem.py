"""A refusal as HTTP says it: status, headers and an RFC 9457 problem, as data.

A key that is malformed, unknown, revoked, expired or of a closed account gets one and the same body, so
that nobody learns from it which keys exist. What is wrong with the form of a key is no secret, and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from doortab.producers.gate import Verdict
from doortab.schemas import instants
from doortab.schemas.events import Reason
from doortab.schemas.instants import SECOND, Microseconds

CONTENT_TYPE = "application/problem+json"
REGISTERED = "https://iana.org/assignments/http-problem-types#"
OWN = "urn:doortab:problem:"
"""Problem types of our own have names and no address, so that they stay true wherever doortab runs."""

MOST_RETRY_SECONDS = 3600
"""A cap that resets later than this gives no ``Retry-After``: nobody should wait for it in a loop."""


class Answer(NamedTuple):
    """What to send instead of the service's answer. ``headers`` are lower-case, ``problem`` is the JSON body."""

    status: int
    headers: dict[str, str]
    problem: dict[str, str | int]


class _Kind(NamedTuple):
    status: int
    type: str
    title: str
    detail: str
    challenge: str | None = None
    retry_seconds: int | None = None


_INVALID = _Kind(
    401,
    OWN + "invalid-key",
    "The key is not valid",
    "No request passes with this key; send one that is in force.",
    'error="invalid_token"',
)
_BUSY = _Kind(
    503,
    REGISTERED + "temporary-reduced-capacity",
    "Not able to decide at the moment",
    "The same request may pass in a moment.",
    retry_seconds=1,
)

KINDS: dict[Reason, _Kind] = {
    "missing_key": _Kind(
        401, OWN + "missing-key", "A key is needed", "Send `Authorization: Bearer <key>`.", challenge=""
    ),
    "malformed_key": _INVALID._replace(
        detail="The key's form or checksum is wrong: mistyped or cut off? It has 46 characters and starts with dt_."
    ),
    "unknown_key": _INVALID,
    "revoked": _INVALID,
    "expired": _INVALID,
    "account_closed": _INVALID,
    "environment": _Kind(
        403, OWN + "wrong-environment", "A key for another environment", "Test keys pass here, or live keys; not both."
    ),
    "scope": _Kind(
        403,
        OWN + "insufficient-scope",
        "The key may not do this",
        "The key lacks a scope that the request needs.",
        'error="insufficient_scope"',
    ),
    "address": _Kind(403, OWN + "address-not-allowed", "Not from here", "The key is bound to other networks."),
    "rate": _Kind(429, REGISTERED + "quota-exceeded", "Too many requests", "Slow down and try again.", retry_seconds=1),
    "cap": _Kind(402, OWN + "spend-cap-exceeded", "A spending cap is reached", "Raise the cap, or wait for its reset."),
    "lease": _BUSY,
    "stale_view": _BUSY,
}

_FAULTS = {
    "repeated": _Kind(
        400,
        OWN + "repeated-authorization",
        "More than one Authorization header",
        "Send exactly one.",
        'error="invalid_request"',
    ),
    "in_url": _Kind(
        400,
        OWN + "key-in-url",
        "A key in the URL",
        "URLs are logged everywhere: rotate this key now, and send the new one as `Authorization: Bearer <key>`.",
    ),
}

NO_ROOM = _BUSY._replace(detail="What you use could not be recorded; the same request may pass in a moment.")


def answer(
    verdict: Verdict,
    *,
    now: Microseconds,
    realm: str = "doortab",
    statuses: Mapping[Reason, int] | None = None,
    instance: str | None = None,
) -> Answer:
    """What to answer to a refused request.

    ``statuses`` replaces the status of a reason, for instance ``{"cap": 429}``. ``instance`` names this
    one occurrence, usually a request id.
    """
    assert verdict.reason is not None, "an allowed request is answered by the service"
    kind = _FAULTS[verdict.fault] if verdict.fault else KINDS[verdict.reason]
    if statuses and not verdict.fault:
        kind = kind._replace(status=statuses.get(verdict.reason, kind.status))
    extra: dict[str, str | int] = {}
    if verdict.reason == "scope":
        extra["scope"] = " ".join(verdict.needed_scopes)
    if verdict.reason == "cap":
        extra |= _cap_facts(verdict)
        kind = kind._replace(retry_seconds=_seconds_until(verdict.until, now))
    if instance is not None:
        extra["instance"] = instance
    return _answer(kind, extra, realm, str(extra.get("scope", "")))


def no_room(realm: str = "doortab") -> Answer:
    """What to answer when a request was refused because its use could not be recorded."""
    return _answer(NO_ROOM, {}, realm, "")


def _answer(kind: _Kind, extra: dict[str, str | int], realm: str, scope: str) -> Answer:
    headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
    if kind.challenge is not None:
        parts = [f'realm="{realm}"', kind.challenge, f'scope="{scope}"' if scope else ""]
        headers["www-authenticate"] = "Bearer " + ", ".join(part for part in parts if part)
    if kind.retry_seconds is not None:
        headers["retry-after"] = str(kind.retry_seconds)
    problem: dict[str, str | int] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        **extra,
    }
    return Answer(kind.status, headers, problem)


def _cap_facts(verdict: Verdict) -> dict[str, str | int]:
    facts: dict[str, str | int] = {"cap": verdict.cause or ""}
    if verdict.until is not None:
        facts["resets_at"] = instants.text(verdict.until)
    return facts


def _seconds_until(until: Microseconds | None, now: Microseconds) -> int | None:
    if until is None:
        return None
    seconds = max(1, -(-(until - now) // SECOND))
    return seconds if seconds <= MOST_RETRY_SECONDS else None

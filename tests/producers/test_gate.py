from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from doortab.producers.desk import Desk, Issued
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import Peppers, make
from doortab.producers.problem import answer
from doortab.schemas.instants import SECOND
from tests.producers.conftest import Clock

CatchUp = Callable[[], Follower]


@pytest.fixture
def issued(desk: Desk) -> Issued:
    return desk.issue(
        account="acct_acme",
        owner="Ada's laptop",
        owner_kind="agent",
        purpose="nightly import",
        scopes=("chat:write", "embed:*"),
    )


def bearer(issued: Issued) -> str:
    return f"Bearer {issued.secret.reveal()}"


def test_a_key_in_force_passes_and_says_who_asks(gate: Gate, issued: Issued, catch_up: CatchUp) -> None:
    catch_up()

    verdict = gate.check(bearer(issued), scopes=("chat:write", "embed:read"))

    assert (verdict.allowed, verdict.reason) == (True, None)
    assert (verdict.key_id, verdict.account, verdict.owner) == (issued.key.key_id, "acct_acme", "Ada's laptop")
    assert (verdict.owner_kind, verdict.environment, verdict.lineage) == ("agent", "live", issued.key.key_id)
    assert verdict.scopes == ("chat:write", "embed:*")


@pytest.mark.parametrize(
    ("scheme", "space"), [("Bearer", " "), ("bearer", " "), ("BEARER", " "), ("bEaReR", "   "), (" Bearer", " ")]
)
def test_the_scheme_is_read_in_any_case(gate: Gate, issued: Issued, catch_up: CatchUp, scheme: str, space: str) -> None:
    catch_up()
    header = f"{scheme}{space}{issued.secret.reveal()} "

    assert gate.check(header).allowed
    assert gate.check(header.encode()).allowed


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        b"",
        " ",
        "Basic YWRhOnB3",
        "Bearer",
        "Bearer\t{key}",
        "Bearer{key}",
        "{key}",
        "Digest x",
        "Basic {key}",
    ],
)
def test_no_bearer_token_is_a_missing_key(gate: Gate, issued: Issued, catch_up: CatchUp, header: str | bytes) -> None:
    catch_up()
    text = header.format(key=issued.secret.reveal()) if isinstance(header, str) else header

    verdict = gate.check(text)

    assert verdict.reason == ("malformed_key" if text == "Bearer" else "missing_key")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer x",
        'Bearer realm="x"',
        "Bearer {key}x",
        "Bearer x {key}",
        "Bearer {key} {key}",
        "Bearer \x00{key}",
        "Bearer " + "a" * 1_000_000,
        "Bearer dt_live_" + "é" * 38,
        "Bearer dt_live_" + "\ud800" * 38,
        "Bearer " + base64.b64encode(b"\xff" * 400).decode(),
        b"Bearer \xff\xfe" + b"\x00" * 40,
        b"Bearer " + b"\xff" * 1_000_000,
    ],
)
def test_hostile_headers_are_malformed_and_nothing_worse(
    gate: Gate, issued: Issued, catch_up: CatchUp, header: str | bytes
) -> None:
    catch_up()
    text = header.replace("{key}", issued.secret.reveal()) if isinstance(header, str) else header

    verdict = gate.check(text)

    assert (verdict.allowed, verdict.reason, verdict.key_id) == (False, "malformed_key", None)


def test_two_headers_are_refused_even_if_both_are_right(gate: Gate, issued: Issued, catch_up: CatchUp) -> None:
    catch_up()

    verdict = gate.check(f"{bearer(issued)}, {bearer(issued)}")

    assert (verdict.reason, verdict.fault) == ("malformed_key", "repeated")


def test_a_well_formed_key_that_nobody_issued_is_unknown(gate: Gate, catch_up: CatchUp) -> None:
    catch_up()

    assert gate.check(f"Bearer {make('live').reveal()}").reason == "unknown_key"


def test_a_key_is_refused_at_the_very_instant_it_expires(
    gate: Gate, desk: Desk, clock: Clock, catch_up: CatchUp
) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p", expires_at=clock() + 60 * SECOND)
    catch_up()

    assert gate.check(bearer(issued), now=clock() + 60 * SECOND - 1).allowed
    assert gate.check(bearer(issued), now=clock() + 60 * SECOND).reason == "expired"


def test_a_rotated_key_works_for_its_overlap_and_its_successor_goes_on(
    gate: Gate, desk: Desk, clock: Clock, issued: Issued, catch_up: CatchUp
) -> None:
    successor = desk.rotate(issued.key.key_id, overlap_seconds=3600)
    catch_up()
    later = clock() + 3600 * SECOND

    assert gate.check(bearer(issued), now=later - 1).allowed
    assert gate.check(bearer(issued), now=later).reason == "expired"
    verdict = gate.check(bearer(successor), now=later)
    assert (verdict.allowed, verdict.lineage) == (True, issued.key.key_id)


def test_a_test_key_does_not_reach_live_data(gate: Gate, desk: Desk, catch_up: CatchUp) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p", environment="test")
    catch_up()

    assert gate.check(bearer(issued), environment="live").reason == "environment"
    assert gate.check(bearer(issued), environment="test").allowed
    gate.environment = "live"
    assert gate.check(bearer(issued)).reason == "environment"


@pytest.mark.parametrize(
    ("held", "needed", "allowed"),
    [
        ((), (), True),
        ((), ("chat:write",), False),
        (("chat:write",), ("chat:write",), True),
        (("chat:write",), ("chat:writer",), False),
        (("chat:write",), ("chat:write", "chat:read"), False),
        (("chat:*",), ("chat:read", "chat:write:all"), True),
        (("chat:*",), ("chatter:read",), False),
        (("chat:*",), ("chat",), False),
        (("*",), ("anything",), True),
        (("chat*",), ("chatter",), False),
    ],
)
def test_a_key_needs_every_scope_that_is_asked_for(
    gate: Gate, desk: Desk, catch_up: CatchUp, held: tuple[str, ...], needed: tuple[str, ...], allowed: bool
) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p", scopes=held)
    catch_up()

    verdict = gate.check(bearer(issued), scopes=needed)

    assert verdict.reason == (None if allowed else "scope")


def test_a_single_scope_is_one_and_not_its_characters(gate: Gate, desk: Desk, catch_up: CatchUp) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p", scopes="chat")
    catch_up()

    assert issued.key.scopes == ("chat",)
    assert gate.check(bearer(issued), scopes="chat").allowed


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("192.0.3.7", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        (None, False),
        ("", False),
        ("192.0.2.7, 1.1.1.1", False),
        ("999.0.0.1", False),
    ],
)
def test_a_key_bound_to_networks_is_refused_elsewhere(
    gate: Gate, desk: Desk, catch_up: CatchUp, address: str | None, allowed: bool
) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p", addresses=("192.0.2.0/24", "2001:db8::/32"))
    catch_up()

    assert gate.check(bearer(issued), address=address).reason == (None if allowed else "address")


def test_revoking_one_key_leaves_the_others_of_the_account_alone(
    gate: Gate, desk: Desk, issued: Issued, catch_up: CatchUp
) -> None:
    other = desk.issue(account="acct_acme", owner="o", purpose="p")
    successor = desk.rotate(issued.key.key_id)
    desk.revoke(issued.key.key_id)
    catch_up()

    assert gate.check(bearer(issued)).reason == "revoked"
    assert gate.check(bearer(other)).allowed
    assert gate.check(bearer(successor)).allowed


def test_a_closed_account_is_refused_until_it_is_opened_again(
    gate: Gate, desk: Desk, issued: Issued, catch_up: CatchUp
) -> None:
    desk.close_account("acct_acme")
    catch_up()
    assert gate.check(bearer(issued)).reason == "account_closed"

    desk.open_account("acct_acme")
    catch_up()

    assert gate.check(bearer(issued)).allowed


@pytest.mark.parametrize("subject", ["key:{key}", "account:acct_acme"])
def test_a_cap_refuses_until_its_time_by_the_gates_own_clock(
    gate: Gate, desk: Desk, issued: Issued, clock: Clock, catch_up: CatchUp, subject: str
) -> None:
    until = clock() + 3600 * SECOND
    desk.refuse(subject.format(key=issued.key.key_id), cause="cap:1:2026-11", reason="cap", until=until)
    catch_up()

    verdict = gate.check(bearer(issued), now=until - 1)

    assert (verdict.reason, verdict.cause, verdict.until) == ("cap", "cap:1:2026-11", until)
    assert gate.check(bearer(issued), now=until).allowed


def test_a_cap_on_the_lineage_is_not_escaped_by_rotation(
    gate: Gate, desk: Desk, issued: Issued, catch_up: CatchUp
) -> None:
    successor = desk.rotate(issued.key.key_id)
    desk.refuse(f"key:{issued.key.lineage}", cause="cap:1:2026-11", reason="cap")
    catch_up()

    assert gate.check(bearer(successor)).reason == "cap"


def test_lifting_one_cause_does_not_lift_the_others(gate: Gate, desk: Desk, issued: Issued, catch_up: CatchUp) -> None:
    subject = f"key:{issued.key.key_id}"
    desk.refuse(subject, cause="leak")
    desk.refuse(subject, cause="cap:1:2026-11", reason="cap")
    catch_up()
    assert gate.check(bearer(issued)).reason == "revoked", "the graver cause is named"

    desk.restore(subject, cause="leak")
    catch_up()
    assert gate.check(bearer(issued)).reason == "cap"

    desk.restore(subject, cause="cap:1:2026-11")
    catch_up()
    assert gate.check(bearer(issued)).allowed


class OldView:
    def __init__(self, age_seconds: float, ready: bool = True) -> None:
        self.age, self.ready = age_seconds, ready

    def age_seconds(self) -> float:
        return self.age


def test_an_old_view_refuses_or_goes_on_as_configured(gate: Gate, issued: Issued, catch_up: CatchUp) -> None:
    catch_up()
    gate.view = OldView(300.1)

    assert gate.check(bearer(issued)).reason == "stale_view"
    gate.when_stale = "allow"
    assert gate.check(bearer(issued)).allowed
    gate.view = OldView(299.9)
    gate.when_stale = "deny"
    assert gate.check(bearer(issued)).allowed


@pytest.mark.parametrize("policy", ["allow", "deny"])
def test_a_gate_that_has_not_read_everything_calls_no_key_unknown(gate: Gate, policy: str) -> None:
    gate.when_stale = policy  # type: ignore[assignment]

    for view in (OldView(0.0, ready=False), OldView(1e9)):
        gate.view = view
        assert gate.check(f"Bearer {make('live').reveal()}").reason == "stale_view"


def test_the_first_step_that_fails_gives_the_reason(
    gate: Gate, desk: Desk, issued: Issued, clock: Clock, catch_up: CatchUp
) -> None:
    """Everything is wrong with this key; one thing after the other is put right."""
    desk.close_account("acct_acme")
    desk.change(issued.key.key_id, addresses=("192.0.2.0/24",), expires_at=clock() + SECOND)
    desk.refuse("account:acct_acme", cause="cap", reason="cap")
    catch_up()
    gate.view = OldView(1e9)
    wrong = {"environment": "test", "scopes": ("other",), "address": "1.1.1.1", "now": clock() + SECOND}
    right = {"environment": "live", "scopes": ("chat:write",), "address": "192.0.2.1", "now": clock()}

    reasons = [gate.check(bearer(issued), **wrong).reason]  # type: ignore[arg-type]
    wrong["now"] = right["now"]
    reasons.append(gate.check(bearer(issued), **wrong).reason)  # type: ignore[arg-type]
    desk.open_account("acct_acme")
    catch_up()
    for name in ("environment", "scopes", "address"):
        reasons.append(gate.check(bearer(issued), **wrong).reason)  # type: ignore[arg-type]
        wrong[name] = right[name]
    reasons.append(gate.check(bearer(issued), **wrong).reason)  # type: ignore[arg-type]
    desk.restore("account:acct_acme", cause="cap")
    catch_up()
    reasons.append(gate.check(bearer(issued), **wrong).reason)  # type: ignore[arg-type]
    gate.view = None
    reasons.append(gate.check(bearer(issued), **wrong).reason)  # type: ignore[arg-type]

    assert reasons == [
        "expired",
        "account_closed",
        "environment",
        "scope",
        "address",
        "cap",
        "stale_view",
        None,
    ]


def test_keys_of_an_older_pepper_still_pass(log: object, desk: Desk, keyring: Keyring, catch_up: CatchUp) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p")
    catch_up()
    rotated = Peppers("p2", {"p1": bytes(range(32)), "p2": b"2" * 32})

    assert Gate(keyring, rotated).check(bearer(issued)).allowed
    assert Gate(keyring, Peppers("p2", {"p2": b"2" * 32})).check(bearer(issued)).reason == "unknown_key"


def test_unknown_revoked_expired_and_foreign_keys_get_the_same_answer(
    gate: Gate, desk: Desk, clock: Clock, catch_up: CatchUp
) -> None:
    revoked = desk.issue(account="a", owner="o", purpose="p")
    expired = desk.issue(account="b", owner="o", purpose="p", expires_at=clock() + SECOND)
    closed = desk.issue(account="c", owner="o", purpose="p")
    desk.revoke(revoked.key.key_id)
    desk.close_account("c")
    catch_up()
    now = clock() + SECOND

    headers = [bearer(revoked), bearer(expired), bearer(closed), f"Bearer {make('live').reveal()}"]
    answers = {str(answer(gate.check(header, now=now), now=now)) for header in headers}

    assert len(answers) == 1

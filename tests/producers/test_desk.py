from __future__ import annotations

from collections.abc import Sequence

import pytest

from doortab.log.memory import Fault, MemoryLog
from doortab.producers.desk import Desk
from doortab.producers.keytext import Peppers
from doortab.schemas import keys, revocations
from doortab.schemas.errors import LogUnavailable, NotFound, RuleRefused, UsageError
from doortab.schemas.instants import SECOND
from doortab.schemas.log import Entry, Record, TopicPartition
from doortab.schemas.topics import KEYS, REVOCATIONS
from tests.producers.conftest import Clock


def records(log: MemoryLog, topic: str) -> list[Record]:
    return log.reader({TopicPartition(topic, 0): 0}).poll(1000, 10**9, 0)


def test_an_issued_key_stands_in_the_log_without_its_secret(desk: Desk, log: MemoryLog, peppers: Peppers) -> None:
    issued = desk.issue(account="acct_acme", owner="Ada", owner_kind="person", purpose="laptop", scopes=("a:b",))

    (record,) = records(log, KEYS)
    secret = issued.secret.reveal()
    assert record.key == issued.key.key_id.encode()
    assert keys.decode(record.value or b"") == issued.key
    assert issued.key.digest == peppers.digest(secret).hex()
    assert issued.key.hint == f"dt_live_…{secret[-4:]}"
    assert (issued.key.changed_by, issued.key.version, issued.key.lineage) == ("ada", 1, issued.key.key_id)
    assert secret[8:40].encode() not in (record.value or b"")


def test_a_desk_sees_what_another_desk_wrote(desk: Desk, log: MemoryLog, peppers: Peppers) -> None:
    other = Desk(log, peppers, actor="bob")
    issued = desk.issue(account="a", owner="o", purpose="p")

    other.revoke(issued.key.key_id, note="left the company")

    shown = desk.show(issued.key.key_id)
    assert (shown.status, shown.changed_by, shown.note, shown.version) == ("revoked", "bob", "left the company", 2)
    assert shown.revoked_at == shown.changed_at


def test_a_revoked_key_is_also_told_to_every_gate(desk: Desk, log: MemoryLog) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p")

    desk.revoke(issued.key.key_id, note="leaked")

    (record,) = records(log, REVOCATIONS)
    said = revocations.decode(record.value or b"")
    assert (said.type, said.subject, said.reason) == ("access.revoked", f"key:{issued.key.key_id}", "revoked")
    assert said.evidence == {"by": "ada", "note": "leaked"}
    assert record.key == said.record_key == f"key:{issued.key.key_id}|desk".encode()


def test_revoking_twice_writes_no_second_state(desk: Desk, log: MemoryLog) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p")
    first = desk.revoke(issued.key.key_id)

    assert desk.revoke(issued.key.key_id) == first
    assert len(records(log, KEYS)) == 2


def test_a_revocation_that_got_half_way_is_finished_by_doing_it_again(peppers: Peppers) -> None:
    fail: list[str] = []

    def fault(topic: str, entries: Sequence[Entry]) -> Fault:
        return Fault.FAILED if topic in fail else Fault.NONE

    log = MemoryLog(waits=False, fault=fault)
    desk = Desk(log, peppers, actor="ada")
    issued = desk.issue(account="a", owner="o", purpose="p")
    fail.append(REVOCATIONS)
    with pytest.raises(LogUnavailable):
        desk.revoke(issued.key.key_id)
    assert desk.show(issued.key.key_id).status == "revoked"

    fail.clear()
    desk.revoke(issued.key.key_id)

    assert len(records(log, REVOCATIONS)) == 1


def test_what_the_log_did_not_acknowledge_is_not_believed(peppers: Peppers) -> None:
    faults = iter([Fault.FAILED, Fault.ACKNOWLEDGEMENT_LOST])
    log = MemoryLog(waits=False, fault=lambda topic, entries: next(faults))
    desk = Desk(log, peppers, actor="ada")

    with pytest.raises(LogUnavailable):
        desk.issue(account="a", owner="o", purpose="p")
    assert desk.list() == []
    with pytest.raises(LogUnavailable):
        desk.issue(account="a", owner="o", purpose="p")
    assert len(desk.list()) == 1, "it is in the log, so it is shown, and can be revoked"


def test_rotation_keeps_everything_but_the_secret(desk: Desk) -> None:
    old = desk.issue(account="a", owner="o", purpose="p", scopes=("x", "y"), addresses=("192.0.2.0/24",))

    new = desk.rotate(old.key.key_id, overlap_seconds=60)
    newer = desk.rotate(new.key.key_id, overlap_seconds=0)

    same = ("account", "lineage", "owner", "owner_kind", "purpose", "environment", "scopes", "addresses")
    assert [getattr(newer.key, name) for name in same] == [getattr(old.key, name) for name in same]
    assert (
        len({key.key.key_id for key in (old, new, newer)}) == len({k.secret.reveal() for k in (old, new, newer)}) == 3
    )
    shown = desk.show(old.key.key_id)
    assert (shown.status, shown.successor, shown.retires_at) == ("retiring", new.key.key_id, "2026-11-23T08:01:00Z")


def test_what_a_state_forbids_is_refused_in_words(desk: Desk) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p")
    desk.revoke(issued.key.key_id)

    with pytest.raises(RuleRefused, match=f"key {issued.key.key_id} is revoked, and only an active key is rotated"):
        desk.rotate(issued.key.key_id)
    with pytest.raises(RuleRefused, match=r"key.changed cannot follow revoked"):
        desk.change(issued.key.key_id, purpose="another")


def test_nothing_is_written_when_a_rotation_is_refused(desk: Desk, log: MemoryLog) -> None:
    issued = desk.issue(account="a", owner="o", purpose="p")
    desk.close_account("a")
    before = len(records(log, KEYS))

    with pytest.raises(RuleRefused, match="account a is closed"):
        desk.rotate(issued.key.key_id)
    with pytest.raises(RuleRefused, match="account a is closed"):
        desk.issue(account="a", owner="o", purpose="p")

    assert len(records(log, KEYS)) == before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"account": ""}, "account"),
        ({"account": "x" * 257}, "account"),
        ({"owner": "\ud800"}, "surrogates"),
        ({"owner_kind": "robot"}, "owner_kind"),
        ({"scopes": ("a b",)}, "scopes"),
        ({"scopes": ("",)}, "scopes"),
        ({"addresses": ("192.0.2.0/33",)}, "192.0.2.0/33"),
        ({"expires_at": 0}, "1970"),
    ],
)
def test_a_key_that_breaks_a_bound_is_refused_before_it_is_written(
    desk: Desk, log: MemoryLog, wrong: dict[str, object], words: str
) -> None:
    facts: dict[str, object] = {"account": "a", "owner": "o", "purpose": "p", **wrong}

    with pytest.raises(UsageError, match=words):
        desk.issue(**facts)  # type: ignore[arg-type]

    assert records(log, KEYS) == []


@pytest.mark.parametrize("subject", ["", "key:", "acct_acme", "key:a|b", "account:a|b", "keys:x"])
def test_a_subject_that_no_gate_would_recognise_is_refused(desk: Desk, subject: str) -> None:
    with pytest.raises(UsageError, match="write key:ID or account:ID"):
        desk.refuse(subject, cause="leak")


def test_a_cause_cannot_break_the_record_key(desk: Desk) -> None:
    with pytest.raises(UsageError, match="cause"):
        desk.refuse("key:a", cause="x|y")


def test_an_unknown_key_is_not_found(desk: Desk) -> None:
    for act in (desk.show, desk.revoke, desk.rotate):
        with pytest.raises(NotFound, match="key_nobody"):
            act("key_nobody")


def test_keys_are_listed_oldest_first_by_account_and_status(desk: Desk, clock: Clock) -> None:
    issued = []
    for account in ("b", "a", "b"):
        issued.append(desk.issue(account=account, owner="o", purpose="p").key.key_id)
        clock.now += SECOND
    desk.revoke(issued[2])

    assert [key.key_id for key in desk.list()] == issued
    assert [key.key_id for key in desk.list(account="b", status="active")] == [issued[0]]
    assert [key.key_id for key in desk.list(status="revoked")] == [issued[2]]


def test_closing_and_opening_an_account_twice_is_harmless(desk: Desk, log: MemoryLog) -> None:
    assert desk.account("a") is None
    assert desk.close_account("a").status == desk.close_account("a").status == "closed"
    assert desk.open_account("a").status == desk.open_account("a").status == "active"

    assert len(records(log, KEYS)) == 2
    found = desk.account("a")
    assert found is not None
    assert found.version == 2

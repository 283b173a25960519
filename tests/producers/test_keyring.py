from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest

from doortab.producers.gate import Gate
from doortab.producers.keyring import DAY, Keyring
from doortab.producers.keytext import Peppers, make
from doortab.producers.slots import Slots
from doortab.schemas import keys, revocations
from doortab.schemas.instants import SECOND
from doortab.schemas.log import Record
from doortab.schemas.revocations import Revocation
from doortab.schemas.topics import KEYS, REVOCATIONS
from tests.laws.test_keyring_laws import PEPPERS, SECRETS, first_state
from tests.producers.conftest import NOW

HEADER = f"Bearer {SECRETS[0]}"


def state(**changes: Any) -> Record:
    """The record of a key, changed where no desk would."""
    content = json.loads(keys.encode(first_state(0))) | changes
    return Record(KEYS, 0, 0, 0, b"key_0", json.dumps(content).encode())


def said(offset: int = 0, **changes: Any) -> Record:
    """The record of a revocation, changed where nobody of ours would."""
    good = Revocation(type="access.revoked", id="r", subject="key:key_0", cause="leak", at="2026-11-23T08:00:00Z")
    content = json.loads(revocations.encode(good)) | changes
    return Record(REVOCATIONS, 0, offset, 0, None, json.dumps(content).encode())


@pytest.fixture
def gate() -> Gate:
    keyring = Keyring()
    keyring.apply(state())
    return Gate(keyring, PEPPERS, clock=lambda: NOW)


@pytest.mark.parametrize(
    "changes",
    [{"status": "suspended"}, {"status": 5}, {"expires_at": "whenever"}, {"scopes": [1]}, {"owner": None}],
)
def test_a_key_state_that_cannot_be_read_refuses_until_a_readable_one_comes(
    gate: Gate, changes: dict[str, Any]
) -> None:
    assert gate.check(HEADER).allowed

    gate.keyring.apply(state(version=2, **changes))
    assert gate.check(HEADER).reason == "expired"
    assert gate.keyring.rejected == (changes != {"status": "suspended"})

    gate.keyring.apply(state(version=3))
    assert gate.check(HEADER).allowed


@pytest.mark.parametrize("changes", [{"reason": "mood"}, {"until": "whenever"}, {"type": "access.paused"}, {"at": 5}])
def test_a_revocation_that_cannot_be_read_refuses_until_it_is_restored(gate: Gate, changes: dict[str, Any]) -> None:
    gate.keyring.apply(said(**changes))
    assert (gate.check(HEADER).reason, gate.keyring.rejected) == ("revoked", 1)

    gate.keyring.apply(said(offset=1, type="access.restored"))
    assert gate.check(HEADER).allowed


def test_fields_of_a_later_version_do_no_harm(gate: Gate) -> None:
    gate.keyring.apply(state(version=2, colour="blue", scopes=["x"]))
    gate.keyring.apply(said(type="access.restored", colour="blue"))

    assert (gate.check(HEADER, scopes=("x",)).allowed, gate.keyring.rejected) == (True, 0)


@pytest.mark.parametrize("digest", ["", "00", "x" * 64, "00" * 33])
def test_a_state_without_a_digest_of_the_right_length_is_rejected(gate: Gate, digest: str) -> None:
    gate.keyring.apply(state(digest=digest))

    assert (gate.keyring.rejected, len(gate.keyring)) == (1, 1)


def test_two_keys_with_one_digest_are_counted_and_the_stricter_stands(gate: Gate) -> None:
    gate.keyring.apply(state(key_id="key_9", status="revoked"))

    assert (gate.check(HEADER).reason, gate.keyring.conflicts) == ("revoked", 1)


def test_what_was_lifted_or_is_long_over_is_forgotten(gate: Gate) -> None:
    keyring = gate.keyring
    keyring.apply(said(0, cause="lifted"))
    keyring.apply(said(1, cause="lifted", type="access.restored"))
    keyring.apply(said(2, cause="over", until="2026-11-23T08:00:01Z"))
    keyring.apply(said(3, cause="holds", until="2027-11-23T08:00:01Z"))

    keyring.sweep(NOW + SECOND)
    assert set(keyring._causes["key:key_0"]) == {"over", "holds"}
    keyring.sweep(NOW + SECOND + DAY + 1)
    assert set(keyring._causes["key:key_0"]) == {"holds"}
    keyring.sweep(NOW + 800 * DAY)
    assert keyring._causes == {}


def test_slots_keep_every_row_through_growth_and_compaction() -> None:
    chance = random.Random(5)
    slots, expected = Slots(), {}
    for number in range(20_000):
        digest = hashlib.sha256(b"%d" % chance.randrange(4_000)).digest()
        row = b"%d" % number * chance.randrange(1, 60)
        slots.put(digest, row)
        expected[digest] = row

    assert len(slots) == len(expected)
    assert all(slots.get(digest) == row for digest, row in expected.items())
    assert slots.get(bytes(32)) is None


def test_digests_that_share_their_beginning_are_told_apart() -> None:
    slots = Slots()
    digests = [bytes(8) + bytes([number]) * 24 for number in range(200)]

    for number, digest in enumerate(digests):
        slots.put(digest, b"%d" % number)

    assert [slots.get(digest) for digest in digests] == [b"%d" % number for number in range(200)]


def test_a_hundred_thousand_keys_take_little_memory() -> None:
    keyring, count = Keyring(), 100_000
    secret_digest = hashlib.blake2b
    for number in range(count):
        digest = secret_digest(b"%d" % number, digest_size=32).hexdigest()
        keyring.apply(state(key_id=f"key_{number:016d}", lineage=f"key_{number:016d}", digest=digest))

    slots = keyring._slots
    where, arena = slots._rows
    held = len(slots._table) * 4 + len(slots._digests) + len(where) * 8 + len(arena)
    assert len(keyring) == count
    assert held / count < 160


def test_no_secret_is_ever_compared() -> None:
    import ast
    from pathlib import Path

    import doortab.producers

    names = {"secret", "token", "authorization", "pepper"}
    found = [
        f"{path.name}:{node.lineno}"
        for path in Path(doortab.producers.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
        if any(isinstance(side, ast.Name) and side.id in names for side in (node.left, *node.comparators))
    ]

    assert found == []
    assert Gate(Keyring(), Peppers("p", {"p": b"p" * 32})).check(f"Bearer {make('live').reveal()}").allowed is False

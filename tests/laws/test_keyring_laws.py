from __future__ import annotations

import random as randomness
from functools import reduce

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import Peppers, make
from doortab.schemas import keys, revocations
from doortab.schemas.errors import RuleRefused
from doortab.schemas.keys import TRANSITIONS, Key, KeyChanged, KeyEvent, KeyExpired, KeyRevoked, KeyRotated
from doortab.schemas.log import Record
from doortab.schemas.revocations import Revocation
from doortab.schemas.topics import KEYS, REVOCATIONS
from tests.producers.conftest import NOW

pytestmark = pytest.mark.promises("R15")

PEPPERS = Peppers("p", {"p": b"p" * 32})
AT = "2026-11-23T08:00:00Z"
SECRETS = [make("live", randomness.Random(seed).randbytes).reveal() for seed in range(3)]


def first_state(number: int) -> Key:
    return Key(
        key_id=f"key_{number}",
        account=f"acct_{number % 2}",
        lineage="key_0",
        owner="o",
        owner_kind="app",
        purpose="p",
        environment="live",
        digest=PEPPERS.digest(SECRETS[number]).hex(),
        pepper_id="p",
        hint="h",
        created_at=AT,
        changed_at=AT,
        changed_by="b",
    )


scopes = st.lists(st.sampled_from(["a", "b", "c"]), max_size=2).map(tuple)
events = st.one_of(
    st.builds(KeyChanged, at=st.just(AT), by=st.sampled_from("xy"), scopes=scopes),
    st.just(KeyRotated(at=AT, by="b", retires_at="2026-12-01T00:00:00Z", successor="key_9")),
    st.just(KeyExpired(at=AT, by="b")),
    st.just(KeyRevoked(at=AT, by="b")),
)


def history(key: Key, steps: list[KeyEvent]) -> list[Key]:
    """The states of a key; what its state forbids is left out."""
    states = [key]
    for event in steps:
        if TRANSITIONS[states[-1].status].get(keys.kind(event)):
            states.append(keys.apply(states[-1], event))
    return states


@st.composite
def states(draw: st.DrawFn) -> list[Key]:
    """Two desks that do not know of each other write about the same keys."""
    found: list[Key] = []
    for number in range(len(SECRETS)):
        for _ in range(draw(st.integers(1, 2))):
            found += history(first_state(number), draw(st.lists(events, max_size=4)))
    return found


revoked_or_restored = st.builds(
    Revocation,
    type=st.sampled_from(["access.revoked", "access.restored"]),
    id=st.just("rev"),
    subject=st.sampled_from(["key:key_0", "key:key_1", "account:acct_1"]),
    cause=st.sampled_from(["desk", "cap:1"]),
    at=st.just(AT),
    reason=st.sampled_from(["cap", "revoked"]),
    until=st.sampled_from([None, "2026-11-23T07:00:00Z", "2026-11-23T09:00:00Z"]),
)


def fold(records: list[Record]) -> list[str]:
    """What the gate says about each key after these records."""
    keyring = Keyring()
    for record in records:
        keyring.apply(record)
    gate = Gate(keyring, PEPPERS)
    assert keyring.rejected == 0
    return [str(gate.check(f"Bearer {secret}", scopes=("a",), now=NOW)) for secret in SECRETS]


@given(states(), st.lists(revoked_or_restored, max_size=8), st.randoms())
def test_the_view_does_not_depend_on_order_or_repetition(
    found: list[Key], said: list[Revocation], random: randomness.Random
) -> None:
    records = [Record(KEYS, 0, number, 0, key.record_key, keys.encode(key)) for number, key in enumerate(found)]
    records += [
        Record(REVOCATIONS, 0, number, 0, one.record_key, revocations.encode(one)) for number, one in enumerate(said)
    ]
    shuffled = records + random.choices(records, k=len(records))
    random.shuffle(shuffled)

    assert fold(shuffled) == fold(records)


@given(states(), st.randoms())
def test_a_key_that_was_ever_revoked_is_refused_under_any_interleaving(
    found: list[Key], random: randomness.Random
) -> None:
    random.shuffle(found)
    records = [Record(KEYS, 0, number, 0, key.record_key, keys.encode(key)) for number, key in enumerate(found)]

    verdicts = fold(records)

    for number, verdict in enumerate(verdicts):
        ever = any(key.status == "revoked" and key.key_id == f"key_{number}" for key in found)
        assert ("reason='revoked'" in verdict) == ever


@given(states(), st.randoms())
def test_the_desk_and_the_gate_merge_alike(found: list[Key], random: randomness.Random) -> None:
    mine = [key for key in found if key.key_id == "key_0"]
    merged = reduce(keys.merge, mine)
    random.shuffle(mine)

    assert reduce(keys.merge, mine) == merged
    as_merged = fold([Record(KEYS, 0, 0, 0, None, keys.encode(merged))])[0]
    assert fold([Record(KEYS, 0, n, 0, None, keys.encode(key)) for n, key in enumerate(mine)])[0] == as_merged


@given(st.lists(events, max_size=6))
def test_no_event_changes_whose_key_it_is_or_which_secret_opens_it(steps: list[KeyEvent]) -> None:
    first = first_state(0)

    last = history(first, steps)[-1]

    fixed = ("key_id", "account", "lineage", "digest", "pepper_id", "environment", "created_at", "hint")
    assert [getattr(last, name) for name in fixed] == [getattr(first, name) for name in fixed]


@given(st.lists(events, max_size=6), events)
def test_no_event_follows_a_revocation(steps: list[KeyEvent], event: KeyEvent) -> None:
    revoked = history(first_state(0), [*steps, KeyRevoked(at=AT, by="b")])[-1]

    with pytest.raises(RuleRefused, match="cannot follow revoked"):
        keys.apply(revoked, event)


@given(states())
def test_a_state_survives_the_wire(found: list[Key]) -> None:
    for key in found:
        assert keys.decode(keys.encode(key)) == key


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5).map(msgspec.json.encode)
)
def test_no_record_makes_the_keyring_raise(value: bytes) -> None:
    keyring = Keyring()

    for topic in (KEYS, REVOCATIONS, "another"):
        keyring.apply(Record(topic, 0, 0, 0, None, value))

    assert keyring.rejected <= 2
    assert len(keyring) == 0

"""The key as a table of states, and the account that pays for it, as topic ``keys`` carries them.

Each record carries the whole new state, so that the last record of a key is the key. States are
merged by ``rank``: the order in which records arrive never matters, and a key that is revoked in any
of them is revoked for good. ``changed_at``, ``changed_by`` and ``event`` say when, who and what.

The secret itself stands nowhere: ``digest`` is its keyed hash, ``hint`` its prefix and last four characters.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from doortab.schemas.errors import RuleRefused
from doortab.schemas.events import Name, Text

State = Literal["active", "retiring", "expired", "revoked"]
AccountState = Literal["active", "closed"]
Environment = Literal["live", "test"]
OwnerKind = Literal["person", "app", "agent"]

KeyId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Scope = Annotated[str, Meta(pattern=r"^[!#-\[\]-~]{1,128}\Z")]
"""A scope is what RFC 6749 allows as one: printable ASCII without space, quote and backslash."""

TRANSITIONS: dict[str, dict[str, State]] = {
    "unknown": {"key.issued": "active"},
    "active": {
        "key.changed": "active",
        "key.rotated": "retiring",
        "key.expired": "expired",
        "key.revoked": "revoked",
    },
    "retiring": {
        "key.changed": "retiring",
        "key.expired": "expired",
        "key.revoked": "revoked",
    },
    "expired": {"key.revoked": "revoked"},
    "revoked": {},
}
"""``TRANSITIONS[state][event]`` is the next state. ``revoked`` is terminal: no event leads out of it."""

ACCOUNT_TRANSITIONS: dict[str, dict[str, AccountState]] = {
    "unknown": {"account.opened": "active", "account.closed": "closed"},
    "active": {"account.closed": "closed"},
    "closed": {"account.opened": "active"},
}

SEVERITY = {"active": 0, "retiring": 1, "expired": 2, "revoked": 3, "closed": 1}


class Key(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="key", tag_field="kind"):
    """A key as it is now. Times are RFC 3339 text in UTC; an absent one never comes.

    ``lineage`` is the id of the first key that was rotated into this one, or its own: caps hang on it.
    ``addresses`` are the networks it may be used from, in CIDR notation; none means from anywhere.
    ``retires_at`` ends a rotated key, whatever ``expires_at`` says.
    """

    key_id: KeyId
    account: Name
    lineage: KeyId
    owner: Name
    owner_kind: OwnerKind
    purpose: Text
    environment: Environment
    digest: Digest
    pepper_id: Name
    hint: Name
    created_at: str
    changed_at: str
    changed_by: Name
    event: str = "key.issued"
    status: State = "active"
    version: Annotated[int, Meta(ge=1)] = 1
    scopes: tuple[Scope, ...] = ()
    addresses: tuple[str, ...] = ()
    expires_at: str | None = None
    retires_at: str | None = None
    revoked_at: str | None = None
    successor: KeyId | None = None
    note: Text | None = None

    @property
    def record_key(self) -> bytes:
        """The key of its records in topic ``keys``."""
        return self.key_id.encode()


class Account(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="account", tag_field="kind"):
    """Whether an account is served. One without a record is active."""

    account: Name
    changed_at: str
    changed_by: Name
    event: str = "account.opened"
    status: AccountState = "active"
    version: Annotated[int, Meta(ge=1)] = 1
    note: Text | None = None

    @property
    def record_key(self) -> bytes:
        """The key of its records in topic ``keys``; no key id starts like this."""
        return b"account/" + self.account.encode()


class KeyIssued(Struct, frozen=True, tag="key.issued"):
    """A key was made. Its secret was handed over once."""

    key: Key


class KeyChanged(Struct, frozen=True, kw_only=True, tag="key.changed"):
    """Facts of a key are others now; what is absent stayed as it was."""

    at: str
    by: str
    scopes: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    purpose: str | None = None
    owner: str | None = None
    expires_at: str | None = None
    note: str | None = None


class KeyRotated(Struct, frozen=True, kw_only=True, tag="key.rotated"):
    """Another key takes over; this one works until ``retires_at``."""

    at: str
    by: str
    retires_at: str
    successor: str
    note: str | None = None


class KeyExpired(Struct, frozen=True, kw_only=True, tag="key.expired"):
    """Its time is over and somebody wrote that down. Gates refuse it from ``expires_at`` on by their own clock."""

    at: str
    by: str
    note: str | None = None


class KeyRevoked(Struct, frozen=True, kw_only=True, tag="key.revoked"):
    """The key never works again."""

    at: str
    by: str
    note: str | None = None


class AccountOpened(Struct, frozen=True, kw_only=True, tag="account.opened"):
    """The account is served, perhaps again."""

    account: str
    at: str
    by: str
    note: str | None = None


class AccountClosed(Struct, frozen=True, kw_only=True, tag="account.closed"):
    """No key of the account works until it is opened again."""

    account: str
    at: str
    by: str
    note: str | None = None


KeyEvent = KeyIssued | KeyChanged | KeyRotated | KeyExpired | KeyRevoked
AccountEvent = AccountOpened | AccountClosed


def kind(event: KeyEvent | AccountEvent) -> str:
    """The event's name, as ``TRANSITIONS`` has it."""
    return str(event.__struct_config__.tag)


def apply(key: Key | None, event: KeyEvent) -> Key:
    """The key after the event.

    Raises:
        RuleRefused: the event cannot follow the key's state.
    """
    before = "unknown" if key is None else key.status
    after = TRANSITIONS[before].get(kind(event))
    if after is None:
        name = "" if key is None else f" for key {key.key_id}"
        raise RuleRefused(f"{kind(event)} cannot follow {before}{name}; expected one of {sorted(TRANSITIONS[before])}")
    if isinstance(event, KeyIssued):
        return event.key
    assert key is not None, "only key.issued follows unknown"
    changes = {name: value for name in _FACTS if (value := getattr(event, name, None)) is not None}
    if after == "revoked":
        changes["revoked_at"] = event.at
    return structs.replace(
        key,
        status=after,
        version=key.version + 1,
        event=kind(event),
        changed_at=event.at,
        changed_by=event.by,
        **changes,
    )


_FACTS = ("scopes", "addresses", "purpose", "owner", "expires_at", "retires_at", "successor", "note")


def apply_to_account(account: Account | None, event: AccountEvent) -> Account:
    """The account after the event.

    Raises:
        RuleRefused: the event cannot follow the account's state.
    """
    before = "unknown" if account is None else account.status
    after = ACCOUNT_TRANSITIONS[before].get(kind(event))
    if after is None:
        raise RuleRefused(
            f"{kind(event)} cannot follow {before} for account {event.account}; "
            f"expected one of {sorted(ACCOUNT_TRANSITIONS[before])}"
        )
    return Account(
        account=event.account,
        status=after,
        version=1 if account is None else account.version + 1,
        event=kind(event),
        changed_at=event.at,
        changed_by=event.by,
        note=event.note,
    )


S = TypeVar("S", Key, Account)


def rank(state: Key | Account, value: bytes) -> tuple[bool, int, int, int]:
    """What orders two states of one thing: revoked, then version, then the stricter, then any fixed order.

    ``value`` is the record's value. Two desks may write the same version at the same time; every
    reader then picks the same one of them, in whatever order it meets them.
    """
    return state.status == "revoked", state.version, SEVERITY[state.status], zlib.crc32(value)


def merge(one: S, other: S) -> S:
    """The state that stands when both were written. Commutative, associative and idempotent."""
    return max(one, other, key=lambda state: rank(state, encode(state)))


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Key | Account)


def encode(state: Key | Account) -> bytes:
    """The record value: the whole state."""
    return _encoder.encode(state)


def decode(value: bytes) -> Key | Account:
    """The state in a record value. Fields that a later doortab added are ignored.

    Raises:
        msgspec.DecodeError: the bytes are not one.
    """
    state: Key | Account = _decoder.decode(value)
    return state

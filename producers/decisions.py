"""What the desk decides, as pure functions: ``decide(register, command)`` gives the events that follow from it.

Time, ids and digests stand in the command. Nothing here reads or writes.
"""

from __future__ import annotations

import ipaddress
import re

import msgspec
from msgspec import Struct

from doortab.schemas import instants, keys
from doortab.schemas.errors import NotFound, RuleRefused, UsageError
from doortab.schemas.instants import Microseconds
from doortab.schemas.keys import (
    Account,
    AccountClosed,
    AccountEvent,
    AccountOpened,
    Environment,
    Key,
    KeyChanged,
    KeyEvent,
    KeyIssued,
    KeyRevoked,
    KeyRotated,
    OwnerKind,
)

_SUBJECT = re.compile(r"(key:[A-Za-z0-9_.:-]{1,128}|account:[^|]{1,256})\Z")
_CAUSE = re.compile(r"[^|]{1,256}\Z")


class Fresh(Struct, frozen=True, kw_only=True):
    """What is new about a key that is made: its name, what is kept of its secret, when and by whom."""

    key_id: str
    digest: str
    pepper_id: str
    hint: str
    at: str
    by: str


class IssueKey(Struct, frozen=True, kw_only=True):
    """Make a key."""

    fresh: Fresh
    account: str
    owner: str
    owner_kind: OwnerKind
    purpose: str
    environment: Environment
    scopes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    expires_at: str | None = None
    note: str | None = None


class RotateKey(Struct, frozen=True, kw_only=True):
    """Make a key that takes over from an old one, which works until ``retires_at``."""

    fresh: Fresh
    old_key_id: str
    retires_at: str
    note: str | None = None


class ChangeKey(Struct, frozen=True, kw_only=True):
    """Change facts of a key."""

    key_id: str
    change: KeyChanged


class RevokeKey(Struct, frozen=True, kw_only=True):
    """End a key for good."""

    key_id: str
    at: str
    by: str
    note: str | None = None


class CloseAccount(Struct, frozen=True, kw_only=True):
    """Refuse all keys of an account."""

    account: str
    at: str
    by: str
    note: str | None = None


class OpenAccount(Struct, frozen=True, kw_only=True):
    """Serve an account."""

    account: str
    at: str
    by: str
    note: str | None = None


Command = IssueKey | RotateKey | ChangeKey | RevokeKey | CloseAccount | OpenAccount
Event = tuple[str, KeyEvent] | tuple[str, AccountEvent]
"""What happened, to the key or account of this name."""


class Register:
    """All keys and accounts as the log has them. ``rejected`` counts records that nobody could read."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.accounts: dict[str, Account] = {}
        self.rejected = 0

    def apply(self, value: bytes | None) -> None:
        """Folds a record of topic ``keys`` in; their order does not matter."""
        try:
            if value is not None:
                self.keep(keys.decode(value))
        except msgspec.MsgspecError:
            self.rejected += 1

    def keep(self, state: Key | Account) -> None:
        """Folds a state in."""
        if isinstance(state, Key):
            self.keys[state.key_id] = keys.merge(self.keys.get(state.key_id, state), state)
        else:
            self.accounts[state.account] = keys.merge(self.accounts.get(state.account, state), state)

    def peppers_in_use(self, now: Microseconds) -> set[str]:
        """The peppers of keys that still work at this instant."""
        return {key.pepper_id for key in self.keys.values() if _works(key, now)}


def _works(key: Key, now: Microseconds) -> bool:
    ends = [instants.parse(end) for end in (key.expires_at, key.retires_at) if end is not None]
    return key.status in ("active", "retiring") and all(now < end for end in ends)


def decide(register: Register, command: Command) -> list[Event]:
    """The events that the command leads to; none when things are already as they should be.

    Raises:
        NotFound: no such key.
        UsageError: a value breaks a rule.
        RuleRefused: the state of the key or its account forbids it.
    """
    match command:
        case IssueKey():
            return [_issued(register, _key_of(command))]
        case RotateKey():
            return _rotated(register, command)
        case ChangeKey():
            key = _held(register, command.key_id)
            _check(keys.apply(key, command.change))
            return [(command.key_id, command.change)]
        case RevokeKey(key_id=key_id):
            if _held(register, key_id).status == "revoked":
                return []
            return [(key_id, KeyRevoked(at=command.at, by=command.by, note=command.note))]
        case CloseAccount(account=name):
            if (account := register.accounts.get(name)) and account.status == "closed":
                return []
            return [(name, AccountClosed(account=name, at=command.at, by=command.by, note=command.note))]
        case OpenAccount(account=name):
            if (account := register.accounts.get(name)) and account.status == "active":
                return []
            return [(name, AccountOpened(account=name, at=command.at, by=command.by, note=command.note))]


def outcome(register: Register, event: Event) -> Key | Account:
    """The state after an event that was decided.

    Raises:
        RuleRefused: the event cannot follow the state.
    """
    name, what = event
    if isinstance(what, AccountOpened | AccountClosed):
        return keys.apply_to_account(register.accounts.get(name), what)
    return keys.apply(register.keys.get(name), what)


def retirement(now: Microseconds, overlap_seconds: int) -> str:
    """When a key ends that another takes over from.

    Raises:
        UsageError: before now, or after every instant there is.
    """
    longest = (instants.LATEST - now) // instants.SECOND
    if not 0 <= overlap_seconds <= longest:
        raise UsageError(f"overlap {overlap_seconds}; write seconds, from 0 to {longest}, such as 86400 for a day")
    return instants.text(now + overlap_seconds * instants.SECOND)


def check_subject(subject: str, cause: str) -> None:
    """That a revocation names something a gate will recognise.

    Raises:
        UsageError: it does not.
    """
    if not _SUBJECT.match(subject):
        raise UsageError(f"subject {subject!r} names nobody; write key:ID or account:ID")
    if not _CAUSE.match(cause):
        raise UsageError(f"cause {cause!r} will not do; write 1 to 256 characters without |")


def _held(register: Register, key_id: str) -> Key:
    key = register.keys.get(key_id)
    if key is None:
        raise NotFound(f"no key {key_id}; `doortab keys list` shows all")
    return key


def _issued(register: Register, key: Key) -> Event:
    account = register.accounts.get(key.account)
    if account is not None and account.status == "closed":
        raise RuleRefused(f"account {key.account} is closed; open it before it gets keys")
    if key.key_id in register.keys:
        raise RuleRefused(f"there is a key {key.key_id} already; ids are drawn at random: try again")
    return key.key_id, KeyIssued(_check(key))


def _key_of(command: IssueKey) -> Key:
    fresh = command.fresh
    return Key(
        key_id=fresh.key_id,
        account=command.account,
        lineage=fresh.key_id,
        owner=command.owner,
        owner_kind=command.owner_kind,
        purpose=command.purpose,
        environment=command.environment,
        digest=fresh.digest,
        pepper_id=fresh.pepper_id,
        hint=fresh.hint,
        created_at=fresh.at,
        changed_at=fresh.at,
        changed_by=fresh.by,
        scopes=command.scopes,
        addresses=command.addresses,
        expires_at=command.expires_at,
        note=command.note,
    )


def _rotated(register: Register, command: RotateKey) -> list[Event]:
    """The new key first: if only half of it reaches the log, the old one goes on."""
    old, fresh = _held(register, command.old_key_id), command.fresh
    if old.status != "active":
        follower = f"rotate {old.successor}, which took over from it" if old.successor else "issue another key"
        raise RuleRefused(f"key {old.key_id} is {old.status}, and only an active key is rotated; {follower}")
    new = msgspec.structs.replace(
        old,
        key_id=fresh.key_id,
        digest=fresh.digest,
        pepper_id=fresh.pepper_id,
        hint=fresh.hint,
        created_at=fresh.at,
        changed_at=fresh.at,
        changed_by=fresh.by,
        event="key.issued",
        status="active",
        version=1,
        note=command.note,
    )
    ended = KeyRotated(
        at=fresh.at, by=fresh.by, retires_at=command.retires_at, successor=fresh.key_id, note=command.note
    )
    keys.apply(old, ended)  # refuses before anything is written
    return [_issued(register, new), (old.key_id, ended)]


def _check(key: Key) -> Key:
    """The key, if it keeps the bounds that ``schemas.keys`` sets.

    Raises:
        UsageError: which one it breaks.
    """
    try:
        keys.decode(keys.encode(key))
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise UsageError(f"this cannot be a key: {error}") from None
    for network in key.addresses:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise UsageError(f"{network!r} is not a network; write 192.0.2.0/24 or 2001:db8::/32") from None
    if key.expires_at is not None and instants.parse(key.expires_at) <= instants.parse(key.changed_at):
        raise UsageError(f"the key would expire at {key.expires_at}, which is over; revoke it, or name a later time")
    return key

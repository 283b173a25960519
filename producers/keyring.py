"""The gate's view of the log: keys by digest, closed accounts, and who is refused for what.

``apply`` folds records of topics ``keys`` and ``revocations``, in any order and as often as they come;
the same records always leave the same view. It needs no clock: ``until`` is compared with the time
that the caller brings. One thread applies, any number may ask meanwhile.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import NamedTuple

import msgspec
from msgspec import Struct

from doortab.producers.keystates import (
    UNREADABLE,
    KeyState,
    UnclearKey,
    decode_state,
    decode_unclear_key,
    decode_unclear_revocation,
    digest_of,
    revocation_of,
)
from doortab.producers.slots import Slots
from doortab.schemas import instants, keys, revocations
from doortab.schemas.instants import Microseconds
from doortab.schemas.keys import Account
from doortab.schemas.log import Record
from doortab.schemas.revocations import Refusal, Revocation
from doortab.schemas.topics import KEYS, REVOCATIONS

DAY = 86_400 * instants.SECOND


class Holder(Struct, array_like=True, gc=False, frozen=True):
    """What the gate needs to know of a key. ``ends`` is the instant from which it no longer works."""

    key_id: str
    account: str
    owner: str
    owner_kind: str
    lineage: str | None
    environment: str
    status: str
    version: int
    tie: int
    profile: int
    ends: Microseconds | None = None
    pepper: int = 0

    def works(self, now: Microseconds) -> bool:
        """Whether the key may let anybody in at this instant, whatever else may refuse it."""
        return self.status in ("active", "retiring") and (self.ends is None or now < self.ends)


class Profile(NamedTuple):
    """What many keys have in common: what they may do, and from where."""

    scopes: tuple[str, ...]
    addresses: tuple[str, ...]


class Cause(NamedTuple):
    """One cause for which a subject is refused. ``offset`` orders what was said about it."""

    cause: str
    reason: Refusal
    until: Microseconds | None
    restored: bool
    offset: int
    id: str

    def holds(self, now: Microseconds) -> bool:
        """Whether it refuses at this instant."""
        return not self.restored and (self.until is None or now < self.until)


class Keyring:
    """Keys, accounts and revocations as of some offsets. See ``producers.follower`` for who feeds it.

    ``rejected`` counts records that could not be read or applied, ``conflicts`` digests that two keys claim;
    ``pepper_ids`` are those that keys were hashed with, and the number of each.
    """

    def __init__(self) -> None:
        self._slots = Slots()
        self._profiles: list[Profile] = []
        self._profile_numbers: dict[Profile, int] = {}
        self._accounts: dict[str, tuple[tuple[bool, int, int, int], bool]] = {}
        self._causes: dict[str, dict[str, Cause]] = {}
        self.pepper_ids: dict[str, int] = {}
        self.rejected = 0
        self.conflicts = 0

    def __len__(self) -> int:
        return len(self._slots)

    def apply(self, record: Record) -> Revocation | None:
        """Folds one record in; returns the revocation in it, if it is one. What cannot be read is counted.

        A record that names a key or a subject and is otherwise unreadable, perhaps from a later doortab,
        refuses it until a readable one comes: a gate that does not understand a refusal must not overlook it.
        """
        value = record.value
        if value is None or record.topic not in (KEYS, REVOCATIONS):
            return None
        try:
            if record.topic == REVOCATIONS:
                return self._apply_revocation(revocations.decode(value), record.offset)
            self._apply_state(decode_state(value), value)
        except UNREADABLE:
            self.rejected += 1
        else:
            return None
        with contextlib.suppress(*UNREADABLE):
            if record.topic == KEYS:
                self._refuse_unclear_key(decode_unclear_key(value), value)
            else:
                self._apply_revocation(revocation_of(decode_unclear_revocation(value)), record.offset)
        return None

    def find(self, digest: bytes) -> Holder | None:
        """The key with this digest."""
        row = self._slots.get(digest)
        return None if row is None else _decode_row(row)

    def profile(self, holder: Holder) -> Profile:
        """What the key may do."""
        return self._profiles[holder.profile]

    def peppers_in_use(self, now: Microseconds) -> set[str]:
        """The peppers of keys that still work. Looks at every key: a second for a million."""
        names = list(self.pepper_ids)
        holders = (_decode_row(row) for row in self._slots.rows())
        return {names[holder.pepper] for holder in holders if holder.works(now) and holder.pepper < len(names)}

    def is_closed(self, account: str) -> bool:
        """Whether the account is closed. One that was never heard of is not."""
        found = self._accounts.get(account)
        return found is not None and found[1]

    def cause_against(self, holder: Holder, now: Microseconds) -> Cause | None:
        """The gravest cause that refuses this key now, if any does.

        Caps hang on the lineage: one that names any key of it counts for all of them, while a key that
        was revoked takes no other with it.
        """
        causes = self._causes
        if not causes:
            return None
        found: Cause | None = None
        own, account = causes.get("key:" + holder.key_id), causes.get("account:" + holder.account)
        for named in (own, account):
            for cause in tuple(named.values()) if named else ():
                if cause.holds(now):
                    found = _graver(found, cause)
        if holder.lineage is not None:
            shared = causes.get("key:" + holder.lineage)
            for cause in tuple(shared.values()) if shared else ():
                if cause.reason == "cap" and cause.holds(now):
                    found = _graver(found, cause)
        return found

    def sweep(self, now: Microseconds) -> None:
        """Forgets causes that were lifted, or ended more than a day ago."""
        for subject, causes in list(self._causes.items()):
            kept = {
                name: cause
                for name, cause in causes.items()
                if not (cause.restored or (cause.until is not None and cause.until + DAY < now))
            }
            if not kept:
                del self._causes[subject]
            elif len(kept) < len(causes):
                self._causes[subject] = kept

    def forget_revocations(self) -> None:
        """For a reader that starts over: offsets of another log say nothing about the order in this one."""
        self._causes = {}

    def _apply_state(self, state: KeyState | Account, value: bytes) -> None:
        if isinstance(state, KeyState):
            self._put(digest_of(state.digest), self._holder(state, value))
            return
        rank = keys.rank(state, value)
        held = self._accounts.get(state.account)
        if held is None or held[0] < rank:
            self._accounts[state.account] = (rank, state.status == "closed")

    def _put(self, digest: bytes, new: Holder) -> None:
        row = self._slots.get(digest)
        if row is not None:
            held = _decode_row(row)
            if held.key_id != new.key_id:
                self.conflicts += 1
            if _rank(held) >= _rank(new):
                return
        self._slots.put(digest, _encode_row(new))

    def _holder(self, key: KeyState, value: bytes) -> Holder:
        ends = None if key.expires_at is None else instants.parse(key.expires_at)
        if key.retires_at is not None:
            ends = min(instants.parse(key.retires_at), instants.LATEST if ends is None else ends)
        return Holder(
            key.key_id,
            key.account,
            key.owner,
            key.owner_kind,
            None if key.lineage == key.key_id else key.lineage,
            key.environment,
            key.status,
            key.version,
            zlib.crc32(value),
            self._profile_number(Profile(key.scopes, key.addresses)),
            ends,
            self.pepper_ids.setdefault(key.pepper_id, len(self.pepper_ids)),
        )

    def _profile_number(self, profile: Profile) -> int:
        number = self._profile_numbers.get(profile)
        if number is None:
            number = self._profile_numbers[profile] = len(self._profiles)
            self._profiles.append(profile)
        return number

    def _refuse_unclear_key(self, key: UnclearKey, value: bytes) -> None:
        """As expired and not as revoked, which would be for good."""
        profile = self._profile_number(Profile((), ()))
        row = Holder(key.key_id, key.account, "", "", None, "", "expired", key.version, zlib.crc32(value), profile)
        self._put(digest_of(key.digest), row)

    def _apply_revocation(self, said: Revocation, offset: int) -> Revocation:
        causes = self._causes.get(said.subject, {})
        held = causes.get(said.cause)
        if held is None or held.offset < offset:
            until = None if said.until is None else instants.parse(said.until)
            cause = Cause(said.cause, said.reason, until, said.type == "access.restored", offset, said.id)
            # A new dictionary instead of a change: somebody may be walking through the old one.
            self._causes[said.subject] = {**causes, said.cause: cause}
        return said


def _graver(one: Cause | None, other: Cause) -> Cause:
    """The cause to name: being revoked says more than a cap, a later end more than an earlier, no end most."""
    return other if one is None else max(one, other, key=_gravity)


def _gravity(cause: Cause) -> tuple[bool, bool, int, str, int]:
    return cause.reason == "revoked", cause.until is None, cause.until or 0, cause.cause, cause.offset


def _rank(holder: Holder) -> tuple[bool, int, int, int, str]:
    """The order of ``schemas.keys.rank``, and of two keys with one digest."""
    severity = keys.SEVERITY.get(holder.status, 2)
    return holder.status == "revoked", holder.version, severity, holder.tie, holder.key_id


_encode_row = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(Holder).decode

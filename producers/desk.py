"""The desk: issues, rotates and revokes keys, closes accounts, and lifts what refuses them.

What is decided is a pure function of the state and the command; what is written is durable in the log
before it is confirmed. A secret is returned once, by ``issue`` and ``rotate``, and stands nowhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from doortab.producers import decisions
from doortab.producers.decisions import ChangeKey, CloseAccount, IssueKey, OpenAccount, Register, RevokeKey, RotateKey
from doortab.producers.keytext import ALPHABET, Environment, Peppers, PepperSource, Random, Secret, hint, make
from doortab.producers.reading import read_to_end
from doortab.schemas import instants, keys, revocations
from doortab.schemas.errors import NotFound
from doortab.schemas.instants import Microseconds
from doortab.schemas.keys import Account, Key, KeyChanged, OwnerKind
from doortab.schemas.log import Entry, Log, TopicPartition
from doortab.schemas.revocations import Refusal, Revocation
from doortab.schemas.topics import KEYS, REVOCATIONS, partition_of, topics

DESK_CAUSE = "desk"
ID_CHARACTERS = 16


Before = Callable[[Key], object]


class Issued(NamedTuple):
    """A new key, and its secret: show it once."""

    key: Key
    secret: Secret


class Desk:
    """Commands for one person or program, ``actor``, who is named in every record. One thread uses it."""

    def __init__(
        self,
        log: Log,
        peppers: Peppers | PepperSource,
        *,
        actor: str,
        clock: Callable[[], int] = time.time_ns,
        random: Random = os.urandom,
    ) -> None:
        """``clock`` gives nanoseconds, ``random(n)`` n unpredictable bytes. A source is asked when a secret is made."""
        self._log = log
        self._peppers = peppers
        self._actor = actor
        self._clock = clock
        self._random = random
        self._register = Register()
        self._offsets: dict[TopicPartition, int] = {}

    def issue(
        self,
        *,
        account: str,
        owner: str,
        purpose: str,
        owner_kind: OwnerKind = "app",
        environment: Environment = "live",
        scopes: Iterable[str] = (),
        addresses: Iterable[str] = (),
        expires_at: Microseconds | None = None,
        note: str | None = None,
        before: Before | None = None,
    ) -> Issued:
        """Makes a key. ``before`` gets it once nothing but the log can refuse it, and may still prevent it.

        Raises:
            UsageError: a value breaks a rule.
            RuleRefused: the account is closed.
            LogUnavailable: the log did not acknowledge; perhaps the key exists, but nobody has its secret.
        """
        self.refresh()
        secret, fresh = self._new_secret(environment)
        command = IssueKey(
            fresh=fresh,
            account=account,
            owner=owner,
            owner_kind=owner_kind,
            purpose=purpose,
            environment=environment,
            scopes=_several(scopes),
            addresses=_several(addresses),
            expires_at=None if expires_at is None else instants.text(expires_at),
            note=note,
        )
        return Issued(self._carry_out(command, before)[0], secret)

    def rotate(
        self, key_id: str, *, overlap_seconds: int = 86_400, note: str | None = None, before: Before | None = None
    ) -> Issued:
        """Makes a key that takes over from this one: same lineage, scopes and caps. The old one works on for a while.

        Raises:
            NotFound: no such key.
            UsageError: the old one cannot work on for so long.
            RuleRefused: its state or its account forbids it.
            LogUnavailable: the log did not acknowledge.
        """
        retires_at = decisions.retirement(self._now(), overlap_seconds)
        secret, fresh = self._new_secret(self.show(key_id).environment)
        command = RotateKey(fresh=fresh, old_key_id=key_id, retires_at=retires_at, note=note)
        return Issued(self._carry_out(command, before)[0], secret)

    def change(
        self,
        key_id: str,
        *,
        scopes: Iterable[str] | None = None,
        addresses: Iterable[str] | None = None,
        purpose: str | None = None,
        owner: str | None = None,
        expires_at: Microseconds | None = None,
        note: str | None = None,
    ) -> Key:
        """Changes what a key may do. What is left out stays.

        Raises:
            NotFound: no such key.
            UsageError: a value breaks a rule.
            RuleRefused: its state forbids it.
            LogUnavailable: the log did not acknowledge.
        """
        change = KeyChanged(
            at=instants.text(self._now()),
            by=self._actor,
            scopes=None if scopes is None else _several(scopes),
            addresses=None if addresses is None else _several(addresses),
            purpose=purpose,
            owner=owner,
            expires_at=None if expires_at is None else instants.text(expires_at),
            note=note,
        )
        self.refresh()
        return self._carry_out(ChangeKey(key_id=key_id, change=change))[0]

    def revoke(self, key_id: str, *, note: str | None = None) -> Key:
        """Ends a key for good, at once: as its state, and as a revocation that every gate obeys. Twice is harmless.

        Raises:
            NotFound: no such key.
            LogUnavailable: the log did not acknowledge; do it again.
        """
        self.refresh()
        self._carry_out(RevokeKey(key_id=key_id, at=instants.text(self._now()), by=self._actor, note=note))
        # Also when the state was there already: this may be the second try after half of the first.
        self.refuse(f"key:{key_id}", cause=DESK_CAUSE, note=note)
        return self._register.keys[key_id]

    def refuse(
        self,
        subject: str,
        *,
        cause: str,
        reason: Refusal = "revoked",
        until: Microseconds | None = None,
        note: str | None = None,
    ) -> Revocation:
        """Refuses a subject (``key:ID`` or ``account:ID``) for one cause, perhaps until a time; ``restore`` lifts it.

        Raises:
            UsageError: no such form of a subject or cause.
            LogUnavailable: the log did not acknowledge; do it again.
        """
        return self._say("access.revoked", subject, cause, reason, until, note)

    def restore(self, subject: str, *, cause: str, note: str | None = None) -> Revocation:
        """Lifts one cause; others stay. A key whose state is revoked stays revoked.

        Raises:
            UsageError: no such form of a subject or cause.
            LogUnavailable: the log did not acknowledge; do it again.
        """
        return self._say("access.restored", subject, cause, "revoked", None, note)

    def close_account(self, account: str, *, note: str | None = None) -> Account:
        """From now on no key of the account passes. Twice is harmless."""
        self.refresh()
        self._carry_out(CloseAccount(account=account, at=instants.text(self._now()), by=self._actor, note=note))
        return self._register.accounts[account]

    def open_account(self, account: str, *, note: str | None = None) -> Account:
        """Serves the account, perhaps again. Twice is harmless."""
        self.refresh()
        self._carry_out(OpenAccount(account=account, at=instants.text(self._now()), by=self._actor, note=note))
        return self._register.accounts[account]

    def list(self, *, account: str | None = None, status: str | None = None) -> Sequence[Key]:
        """The keys, oldest first; of one account, in one state."""
        self.refresh()
        every = self._register.keys.values()
        found = (key for key in every if account in (None, key.account) and status in (None, key.status))
        return sorted(found, key=lambda key: (key.created_at, key.key_id))

    def show(self, key_id: str) -> Key:
        """One key.

        Raises:
            NotFound: no such key.
        """
        self.refresh()
        key = self._register.keys.get(key_id)
        if key is None:
            raise NotFound(f"no key {key_id}; `doortab keys list` shows all")
        return key

    def peppers_in_use(self) -> set[str]:
        """The peppers of keys that still work, as of what was read."""
        return self._register.peppers_in_use(self._now())

    def account(self, account: str) -> Account | None:
        """The account's state; None when nobody ever said anything about it, which means active."""
        self.refresh()
        return self._register.accounts.get(account)

    def refresh(self, timeout_seconds: float = 30.0) -> None:
        """Reads what others wrote, up to the end of the topic as it is now.

        Raises:
            LogUnavailable: the log could not be read to its end in time.
        """
        self._log.ensure_topics(topic for topic in topics() if topic.name in (KEYS, REVOCATIONS))
        self._offsets = read_to_end(
            self._log, KEYS, self._offsets, self._register.apply, clock=self._clock, timeout_seconds=timeout_seconds
        )

    def _carry_out(self, command: decisions.Command, before: Before | None = None) -> Sequence[Key]:
        """Decides, writes, and only then believes it. Returns the keys that changed, a new one first."""
        states = [decisions.outcome(self._register, event) for event in decisions.decide(self._register, command)]
        if states:
            if before is not None and isinstance(states[0], Key):
                before(states[0])
            count = self._log.partition_count(KEYS)
            entries = [Entry(partition_of(s.record_key, count), s.record_key, keys.encode(s)) for s in states]
            self._log.append(KEYS, entries)
        for state in states:
            self._register.keep(state)
        return [state for state in states if isinstance(state, Key)]

    def _say(
        self,
        kind: revocations.Kind,
        subject: str,
        cause: str,
        reason: Refusal,
        until: Microseconds | None,
        note: str | None,
    ) -> Revocation:
        decisions.check_subject(subject, cause)
        evidence = {"by": self._actor} | ({"note": note} if note else {})
        said = Revocation(
            type=kind,
            id="rev_" + self._new_id(),
            subject=subject,
            cause=cause,
            at=instants.text(self._now()),
            reason=reason,
            until=None if until is None else instants.text(until),
            evidence=evidence,
        )
        self._log.ensure_topics(topic for topic in topics() if topic.name == REVOCATIONS)
        count = self._log.partition_count(REVOCATIONS)
        entry = Entry(partition_of(said.record_key, count), said.record_key, revocations.encode(said))
        self._log.append(REVOCATIONS, [entry])
        return said

    def _new_secret(self, environment: Environment) -> tuple[Secret, decisions.Fresh]:
        source = self._peppers
        peppers = source if isinstance(source, Peppers) else source(self.peppers_in_use())
        secret = make(environment, self._random)
        return secret, decisions.Fresh(
            key_id="key_" + self._new_id(),
            digest=peppers.digest(secret.reveal()).hex(),
            pepper_id=peppers.current_id,
            hint=hint(secret.reveal()),
            at=instants.text(self._now()),
            by=self._actor,
        )

    def _now(self) -> Microseconds:
        return self._clock() // 1000

    def _new_id(self) -> str:
        return "".join(ALPHABET[byte % 62] for byte in self._random(ID_CHARACTERS))


def _several(texts: Iterable[str]) -> tuple[str, ...]:
    """Several texts; a single one is one, and not its characters."""
    return (texts,) if isinstance(texts, str) else tuple(texts)

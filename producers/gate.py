"""The gate: looks at a key and decides. No I/O, no lock, a few microseconds.

The order of the steps is fixed; the first that fails gives the reason:

 1. the header is there and is a Bearer token            missing_key
 2. form and checksum of the key                         malformed_key
 3. a key with this digest is known                      unknown_key (stale_view while the view is not whole)
 4. its status is active or retiring                     revoked, expired
 5. its time is not over                                 expired
 6. its account is not closed                            account_closed
 7. it belongs to the environment                        environment
 8. it has every scope that is asked for                 scope
 9. it comes from where it may                           address
10. no revocation of the key or the account holds        revoked, cap
11. the view is not older than allowed                   stale_view

Nothing of the secret is kept, and no message contains any of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

from msgspec import Struct

from doortab.producers.keyring import Cause, Holder, Keyring
from doortab.producers.keytext import Environment, Peppers, environment_of
from doortab.schemas.events import Reason
from doortab.schemas.instants import Microseconds

Fault = Literal["repeated", "in_url"]

MAX_HEADER_CHARACTERS = 512


class Verdict(Struct, frozen=True, gc=False, kw_only=True):
    """What the gate decided, and about whom. ``producers.problem`` turns it into an HTTP answer.

    ``key_id`` and ``account`` stand there as soon as the key is known, allowed or not. ``cause`` and
    ``until`` say which revocation refuses, and when it ends. ``fault`` says what is wrong with the
    request itself.
    """

    allowed: bool
    reason: Reason | None = None
    key_id: str | None = None
    account: str | None = None
    owner: str | None = None
    owner_kind: str | None = None
    lineage: str | None = None
    environment: str | None = None
    scopes: tuple[str, ...] = ()
    needed_scopes: tuple[str, ...] = ()
    cause: str | None = None
    until: Microseconds | None = None
    fault: Fault | None = None


class View(Protocol):
    """How far the keyring is behind the log. ``producers.follower`` knows."""

    @property
    def ready(self) -> bool:
        """Whether everything that was in the log at the start has been applied."""
        ...

    def age_seconds(self) -> float:
        """For how long the view may have missed something."""
        ...


MISSING = Verdict(allowed=False, reason="missing_key")
MALFORMED = Verdict(allowed=False, reason="malformed_key")
REPEATED = Verdict(allowed=False, reason="malformed_key", fault="repeated")
IN_URL = Verdict(allowed=False, reason="malformed_key", fault="in_url")
UNKNOWN = Verdict(allowed=False, reason="unknown_key")
STALE = Verdict(allowed=False, reason="stale_view")


def _now() -> Microseconds:
    return time.time_ns() // 1000


class Gate:
    """Decides whether a request may pass. Threads may share it."""

    def __init__(
        self,
        keyring: Keyring,
        peppers: Peppers,
        *,
        view: View | None = None,
        environment: Environment | None = None,
        max_staleness_seconds: float = 300.0,
        when_stale: Literal["allow", "deny"] = "deny",
        clock: Callable[[], Microseconds] = _now,
    ) -> None:
        """``environment`` is what keys must belong to, unless ``check`` is told otherwise.

        Without a ``view`` the keyring counts as whole and fresh. ``when_stale="allow"`` goes on with an
        old view, and a key that was revoked meanwhile goes on too.
        """
        self.keyring = keyring
        self.peppers = peppers
        self.view = view
        self.environment = environment
        self.max_staleness_seconds = max_staleness_seconds
        self.when_stale = when_stale
        self._clock = clock

    def check(
        self,
        authorization: str | bytes | None,
        *,
        operation: str | None = None,
        scopes: Iterable[str] = (),
        environment: str | None = None,
        units: Mapping[str, object] | None = None,
        address: str | None = None,
        now: Microseconds | None = None,
    ) -> Verdict:
        """The verdict on a request with this ``Authorization`` header.

        A header that came more than once is passed joined by a comma, as RFC 9110 says; it is refused.
        ``scopes`` are all needed; ``address`` is the client's, and a key bound to networks is refused
        without one. ``operation`` and ``units`` decide nothing yet: they are what a lease will be asked for.
        """
        secret = _secret_in(authorization)
        if secret is None:
            return MISSING
        if environment_of(secret) is None:
            return REPEATED if "," in secret else MALFORMED
        holder = self.holder_of(secret)
        if holder is None:
            return UNKNOWN if self._is_whole() else STALE
        if now is None:
            now = self._clock()
        needed = (scopes,) if isinstance(scopes, str) else tuple(scopes)
        profile = self.keyring.profile(holder)
        cause: Cause | None = None
        reason = self._refusal(holder, now, needed, profile.scopes, environment or self.environment)
        if reason is None and profile.addresses and not _is_within(address, profile.addresses):
            reason = "address"
        if reason is None:
            cause = self.keyring.cause_against(holder, now)
            reason = cause.reason if cause else self._stale_reason()
        return Verdict(
            allowed=reason is None,
            reason=reason,
            key_id=holder.key_id,
            account=holder.account,
            owner=holder.owner,
            owner_kind=holder.owner_kind,
            lineage=holder.lineage or holder.key_id,
            environment=holder.environment,
            scopes=profile.scopes,
            needed_scopes=needed,
            cause=cause.cause if cause else None,
            until=cause.until if cause else None,
        )

    def holder_of(self, secret: str) -> Holder | None:
        """The key whose secret this is: by digest, so that no secret is ever compared with another."""
        for digest in self.peppers.digests(secret):
            holder = self.keyring.find(digest)
            if holder is not None:
                return holder
        return None

    def _refusal(
        self, holder: Holder, now: Microseconds, needed: tuple[str, ...], held: tuple[str, ...], environment: str | None
    ) -> Reason | None:
        """Steps 4 to 8."""
        if holder.status == "revoked":
            return "revoked"
        # Whatever else a later doortab may call it, only these two let anybody in.
        if holder.status not in ("active", "retiring") or (holder.ends is not None and holder.ends <= now):
            return "expired"
        if self.keyring.is_closed(holder.account):
            return "account_closed"
        if environment is not None and holder.environment != environment:
            return "environment"
        if needed and not all(_covers(held, scope) for scope in needed):
            return "scope"
        return None

    def _is_whole(self) -> bool:
        """Whether a key that is not in the keyring does not exist, rather than not having arrived yet."""
        view = self.view
        return view is None or (view.ready and view.age_seconds() <= self.max_staleness_seconds)

    def _stale_reason(self) -> Reason | None:
        view = self.view
        if view is None or (view.ready and self.when_stale == "allow"):
            return None
        return None if view.ready and view.age_seconds() <= self.max_staleness_seconds else "stale_view"


def _secret_in(authorization: str | bytes | None) -> str | None:
    """The credentials of a Bearer header; None when there is no such header, empty when it is senseless."""
    if not authorization:
        return None
    if isinstance(authorization, bytes):
        # Latin-1 takes every byte; what is not ASCII fails the form check.
        authorization = authorization[: MAX_HEADER_CHARACTERS + 1].decode("latin-1")
    # RFC 9110, 11.4: the scheme in any case, one or more spaces, the token.
    scheme, _, token = authorization.strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        return None
    return token.strip(" ") if len(authorization) <= MAX_HEADER_CHARACTERS else ""


def _covers(held: tuple[str, ...], scope: str) -> bool:
    """Whether a scope that is held is the one needed or covers it: ``chat:*`` covers ``chat:write``, ``*`` all."""
    if scope in held or "*" in held:
        return True
    return any(wide.endswith(":*") and scope.startswith(wide[:-1]) for wide in held)


def _is_within(address: str | None, networks: tuple[str, ...]) -> bool:
    """Whether the address lies in one of the networks. One that cannot be read lies in none."""
    import ipaddress  # only for keys bound to networks

    try:
        place = ipaddress.ip_address(address or "")
        if isinstance(place, ipaddress.IPv6Address) and place.ipv4_mapped:
            place = place.ipv4_mapped
        return any(place in ipaddress.ip_network(network, strict=False) for network in networks)
    except ValueError:
        return False

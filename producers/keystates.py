"""What the gate reads of the records in topics ``keys`` and ``revocations``, and the least that it makes do with."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from doortab.producers.slots import DIGEST_BYTES
from doortab.schemas import revocations
from doortab.schemas.keys import Account
from doortab.schemas.revocations import Revocation


class KeyState(Struct, gc=False, tag="key", tag_field="kind"):
    """What the gate reads of ``schemas.keys.Key``: a third of it, in a third of the time.

    It does not check what the desk has checked. A status of a later doortab is none that lets anybody in.
    """

    key_id: str
    account: str
    lineage: str
    owner: str
    owner_kind: str
    environment: str
    digest: str
    pepper_id: str
    status: str = "active"
    version: int = 1
    scopes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    expires_at: str | None = None
    retires_at: str | None = None


class UnclearKey(Struct):
    """The least that names a key."""

    key_id: str
    account: str
    digest: str
    version: int = 1


class UnclearRevocation(Struct):
    """The least that names a subject."""

    subject: str
    cause: str = "unclear"
    type: str = ""
    id: str = ""


def revocation_of(said: UnclearRevocation) -> Revocation:
    """A restoration stays one; anything else refuses until it is restored."""
    is_restored = said.type == "access.restored"
    kind: revocations.Kind = "access.restored" if is_restored else "access.revoked"
    return Revocation(type=kind, id=said.id, subject=said.subject, cause=said.cause, at="")


def digest_of(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    return digest


UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
decode_state = msgspec.json.Decoder(KeyState | Account).decode
decode_unclear_key = msgspec.json.Decoder(UnclearKey).decode
decode_unclear_revocation = msgspec.json.Decoder(UnclearRevocation).decode

"""The secrets that webhooks are signed with, as Standard Webhooks writes them."""

from __future__ import annotations

import base64
import binascii

from doortab.schemas.errors import UsageError

SECRET_BYTES = range(24, 65)


def secret_of(name: str, text: str) -> bytes:
    """The bytes of a secret of the webhook of this name.

    Raises:
        UsageError: it is none. It is told without the secret.
    """
    try:
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith("whsec_") or len(secret) not in SECRET_BYTES:
        raise UsageError(f"a secret of webhook {name!r} is not whsec_ and base64 of 24 to 64 bytes")
    return secret

"""The text of a key: how a secret is made, recognised, hashed and hidden.

``dt_live_`` or ``dt_test_``, 32 base62 characters (190 random bits), and 6 base62 characters of
CRC-32 over everything before them: 46 characters that a double click selects as one word. The
checksum stops typing errors, cut-off copies, ``test`` turned into ``live`` and false alarms of leak
scanners, offline. It is not a signature: anybody can compute it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal, NoReturn, Self
from zlib import crc32

Environment = Literal["live", "test"]
Random = Callable[[int], bytes]

PREFIXES: dict[str, Environment] = {"dt_live_": "live", "dt_test_": "test"}
PREFIX_CHARACTERS = 8
BODY_CHARACTERS = 32
CHECK_CHARACTERS = 6
CHARACTERS = PREFIX_CHARACTERS + BODY_CHARACTERS + CHECK_CHARACTERS
HINT_CHARACTERS = 4
DIGEST_BYTES = 32

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PATTERN = r"(?<![0-9A-Za-z_])dt_(?:live|test)_[0-9A-Za-z]{38}(?![0-9A-Za-z_])"
"""Finds what looks like a key in any text; ``environment_of`` then tells whether the checksum agrees."""

_BODY_END = PREFIX_CHARACTERS + BODY_CHARACTERS
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]
_FAIR = 256 - 256 % 62
_PERSON = b"doortab.key"
# Also finds what is longer or cut off: hiding too much does no harm. Patterns are compiled when needed: a
# service that embeds the gate should not notice its import.
_ANYTHING_LIKE_A_KEY = r"dt_(live|test)_[0-9A-Za-z_]{5,}"


class Secret:
    """A secret on its way to the one person who may see it. Shows itself only to ``reveal``.

    It has no equality: secrets are looked up by digest and never compared.
    """

    __slots__ = ("__text",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """The secret itself, to be shown once."""
        return self.__text

    def __repr__(self) -> str:
        return hint(self.__text)

    __str__ = __repr__

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("secrets are never compared; look the digest up")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled or copied")


def make(environment: Environment, random: Random = os.urandom) -> Secret:
    """A new secret. ``random(n)`` gives n unpredictable bytes."""
    body = ""
    while len(body) < BODY_CHARACTERS:
        # Bytes above the largest multiple of 62 are dropped, so that every character is equally likely.
        body += "".join(ALPHABET[byte % 62] for byte in random(48) if byte < _FAIR)
    start = f"dt_{environment}_{body[:BODY_CHARACTERS]}"
    return Secret(start + checksum(start))


def checksum(start: str) -> str:
    """The last characters of a key that starts like this: CRC-32 in base62, most significant first."""
    rest, low = divmod(crc32(start.encode()), 3844)
    high, middle = divmod(rest, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def environment_of(text: str) -> Environment | None:
    """The environment of a well-formed key; None for anything else. Costs about a microsecond and no hash."""
    if len(text) != CHARACTERS:
        return None
    environment = PREFIXES.get(text[:PREFIX_CHARACTERS])
    if environment is None or not (text.isascii() and text[PREFIX_CHARACTERS:].isalnum()):
        return None
    rest, low = divmod(crc32(text[:_BODY_END].encode()), 3844)
    high, middle = divmod(rest, 3844)
    if text[_BODY_END:] == _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]:
        return environment
    return None


class Peppers:
    """The secrets that hashes are keyed with, by id: one that new keys get, and those of older keys.

    They live outside the log, so that whoever reads the log can do nothing with the digests in it.
    """

    __slots__ = ("_seeds", "current_id")

    def __init__(self, current_id: str, values: Mapping[str, bytes]) -> None:
        """``values`` are 16 to 64 random bytes each.

        Raises:
            ValueError: the current one is missing, or one has the wrong length.
        """
        if current_id not in values:
            raise ValueError(f"pepper {current_id!r} is not among {sorted(values)}")
        if not all(16 <= len(value) <= hashlib.blake2b.MAX_KEY_SIZE for value in values.values()):
            raise ValueError(f"a pepper has 16 to {hashlib.blake2b.MAX_KEY_SIZE} bytes; make one with `doortab`")
        order = [current_id, *(name for name in values if name != current_id)]
        self.current_id = current_id
        self._seeds = {
            name: hashlib.blake2b(key=values[name], digest_size=DIGEST_BYTES, person=_PERSON) for name in order
        }

    @classmethod
    def none(cls) -> Self:
        """No pepper at all, with which every key is unknown: for a gate that has no file yet."""
        peppers = cls.__new__(cls)
        peppers.current_id, peppers._seeds = "", {}
        return peppers

    def __repr__(self) -> str:
        return f"Peppers(current_id={self.current_id!r}, ids={self.ids!r})"

    @property
    def ids(self) -> list[str]:
        """The names of the peppers, the current one first."""
        return list(self._seeds)

    def digest(self, secret: str, pepper_id: str | None = None) -> bytes:
        """The keyed hash of a secret, by the current pepper or the one named."""
        state = self._seeds[pepper_id or self.current_id].copy()
        state.update(secret.encode())
        return state.digest()

    def digests(self, secret: str) -> Iterator[bytes]:
        """The secret's hashes by every pepper, the current one first; each is made when it is asked for."""
        text = secret.encode()
        for seed in self._seeds.values():
            state = seed.copy()
            state.update(text)
            yield state.digest()


PepperSource = Callable[[Collection[str]], Peppers]
"""Gives the peppers; is told which of them keys that still work were hashed with."""


def hint(text: str) -> str:
    """What may be shown of a key: prefix and last four characters."""
    if len(text) != CHARACTERS or text[:PREFIX_CHARACTERS] not in PREFIXES:
        return "…"
    return f"{text[:PREFIX_CHARACTERS]}…{text[-HINT_CHARACTERS:]}"


def redact(text: str) -> str:
    """The text with every key in it hidden, whole or cut off. For logs, paths and error messages."""
    if "dt_" not in text:
        return text
    return re.sub(_ANYTHING_LIKE_A_KEY, lambda found: f"dt_{found[1]}_…", text)

"""The text of a usage event: its id, its checks, its bytes. Made once, and never changed on the way."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, get_args

import msgspec

from doortab.producers.keytext import Random, redact
from doortab.schemas import instants
from doortab.schemas.errors import UsageError
from doortab.schemas.events import (
    DECIMAL_TEXT,
    MAX_DECIMALS,
    MAX_DIGITS,
    MAX_EVENT_BYTES,
    MAX_PLAIN,
    Reason,
)
from doortab.schemas.instants import EARLIEST, LATEST, SECOND, Microseconds

Quantity = int | Decimal | str
IDS_PER_DRAW = 64
MAX_NAME_CHARACTERS = 256
MAX_TEXT_CHARACTERS = 1024

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_REASONS = frozenset(get_args(Reason))
_encode = msgspec.json.Encoder().encode
_WAY_OUT = "pass a whole number, a Decimal or decimal text such as '0.25'"


class EventIds:
    """Ids as UUIDv7 (RFC 9562, 5.7), each greater than the one before in this process.

    The 12 bits behind the millisecond hold its fraction, as method 3 of section 6.2 has it; when the
    clock stands still or steps back, they count on. 62 bits are random; they are drawn for some ids at
    once, because asking the system costs more than all the rest.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns, random: Random = os.urandom) -> None:
        """``clock`` gives nanoseconds, ``random(n)`` n unpredictable bytes; a forked child makes its own."""
        self._clock = clock
        self._random = random
        self._noise = ""
        self._used = 0
        self._last = 0
        self._lock = threading.Lock()

    def new(self) -> str:
        """The next id."""
        milliseconds, rest = divmod(self._clock(), 1_000_000)
        ticks = milliseconds << 12 | rest * 4096 // 1_000_000
        with self._lock:
            self._last = ticks = ticks if ticks > self._last else self._last + 1
            if self._used >= len(self._noise):
                self._noise, self._used = self._random(8 * IDS_PER_DRAW).hex(), 0
            at = self._used
            self._used = at + 16
            noise = self._noise
        head = f"{ticks:015x}"
        # Two bits of what is random make way for the variant.
        variant = _VARIANT[noise[at]]
        return f"{head[:8]}-{head[8:12]}-7{head[12:]}-{variant}{noise[at + 1 : at + 4]}-{noise[at + 4 : at + 16]}"


def event_bytes(
    *,
    event_id: str,
    source: str,
    event_type: str,
    time: Microseconds | str,
    subject: str | None,
    account: str | None,
    key: str | None,
    operation: str | None,
    verdict: Literal["allowed", "refused"],
    reason: str | None,
    billable: bool | None,
    units: Mapping[str, Quantity] | None,
    dimensions: Mapping[str, str] | None,
) -> bytes:
    """The event as JSON.

    Raises:
        UsageError: which rule a value breaks, and the way out.
    """
    data: dict[str, Any] = {}
    if account is not None:
        data["account"] = name("account", account)
    if key is not None:
        data["key"] = name("key", key)
    data["verdict"] = verdict
    if verdict != "allowed" or reason is not None or billable is not None:
        data |= _checked_verdict(verdict, reason, billable)
    if operation is not None:
        data["operation"] = _text("operation", operation)
    data["units"] = quantities = {}
    for unit, amount in (units or {}).items():
        checked = _often("unit", unit)
        # Nearly all quantities are plain whole numbers.
        is_plain = type(amount) is int and 0 <= amount <= MAX_PLAIN
        quantities[checked] = amount if is_plain else quantity(checked, amount)
    if dimensions:
        data["dimensions"] = {
            _often("dimension", dimension): _text(dimension, value) for dimension, value in dimensions.items()
        }
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": name("id", event_id),
        "source": source,
        "type": name("type", event_type),
    }
    if subject is not None:
        event["subject"] = name("subject", subject)
    event["time"] = _time(time)
    event["datacontenttype"] = "application/json"
    event["data"] = data
    return _encoded(event)


def _encoded(event: dict[str, Any]) -> bytes:
    try:
        text = _encode(event)
    except UnicodeEncodeError as error:
        raise UsageError(f"text in the event is not Unicode: {error.reason}; decode it with errors='replace'") from None
    if rb"\u0000" in text and _holds_nul(event):
        raise UsageError("text in the event holds the character U+0000, which no ledger takes; leave it out")
    if len(text) > MAX_EVENT_BYTES:
        raise UsageError(f"the event has {len(text)} bytes; it may have {MAX_EVENT_BYTES}: shorten its dimensions")
    return text


def _holds_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(_holds_nul(name) or _holds_nul(element) for name, element in value.items())
    return isinstance(value, str) and "\0" in value


def _checked_verdict(verdict: object, reason: object, billable: object) -> dict[str, Any]:
    """What an event says beside its verdict; most say nothing."""
    if verdict not in ("allowed", "refused"):
        raise UsageError(f"verdict is {_shown(verdict)}; write 'allowed' or 'refused'")
    if verdict == "allowed" and reason is not None:
        raise UsageError(f"reason is {_shown(reason)} and the verdict allowed; only a refused event has a reason")
    if reason is not None and reason not in _REASONS:
        raise UsageError(f"reason is {_shown(reason)}; it is one of {sorted(_REASONS)}")
    if not (billable is None or billable is True or billable is False):
        raise UsageError(f"billable is {_shown(billable)}; write True, False or None")
    said = {"reason": reason, "billable": billable}
    return {name: value for name, value in said.items() if value is not None}


def name(field: str, value: object) -> str:
    """A name as it stands in an event; ``field`` says of what.

    Raises:
        UsageError: which rule it breaks, and the way out.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS:
        raise UsageError(f"{field} is {_shown(value)}; it is text of 1 to {MAX_NAME_CHARACTERS} characters")
    if "dt_" in value and redact(value) != value:
        raise UsageError(f"{field} holds the secret of a key, {redact(value)}; name the key by its key_id")
    return value


_often = lru_cache(maxsize=1024)(name)
"""The same, for names of which there are few."""


def _text(field: str, value: object) -> str:
    """Free text may have met a secret on its way, in a path for instance: it goes on without it."""
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        raise UsageError(f"{field} is {_shown(value)}; it is text of at most {MAX_TEXT_CHARACTERS} characters")
    return redact(value) if "dt_" in value else value


@lru_cache(maxsize=1024)
def sound_name(field: str, value: str) -> str:
    """A name as it stands in an event, checked to the last character.

    Raises:
        UsageError: which rule it breaks, and the way out.
    """
    _encoded({field: name(field, value)})
    return value


def free_text(field: str, value: object) -> str:
    """Free text as it stands in an event: checked to the last character, and without a secret.

    Raises:
        UsageError: which rule it breaks, and the way out.
    """
    text = _text(field, value)
    if not text.isascii() or "\0" in text:
        _encoded({field: text})
    return text


def quantity(unit: str, value: object) -> int | str:
    """How much of a unit, as it stands in an event.

    Raises:
        UsageError: which rule it breaks, and the way out.
    """
    if type(value) is int and 0 <= value <= MAX_PLAIN:
        return value
    if isinstance(value, bool | float):
        raise UsageError(
            f"unit {unit} is {value!r}, a {type(value).__name__}, which counts nothing exactly; {_WAY_OUT}"
        )
    if isinstance(value, int | Decimal):
        if isinstance(value, Decimal) and not value.is_finite():
            raise UsageError(f"unit {unit} is {value}; a quantity is finite: {_WAY_OUT}")
        if value < 0:
            raise UsageError(f"unit {unit} is {_shown(value)}; a quantity is not negative: {_WAY_OUT}")
        value = _plain(value)
    if isinstance(value, str) and re.match(DECIMAL_TEXT, value):
        return value
    raise UsageError(
        f"unit {unit} is {_shown(value)}; a quantity has at most {MAX_DIGITS} digits before the point "
        f"and {MAX_DECIMALS} after it, no sign and no exponent: {_WAY_OUT}"
    )


def _plain(value: int | Decimal) -> str:
    """Without sign and exponent; what is far too long to be a quantity stays as it is, and is refused."""
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 4 * MAX_DIGITS else f"a number of {value.bit_length()} bits"
    return format(abs(value), "f") if abs(value.adjusted()) <= 2 * MAX_DIGITS else str(value)


def _time(time: Microseconds | str) -> str:
    try:
        instant = instants.parse(time) if isinstance(time, str) else time
        if EARLIEST <= instant < LATEST:
            if isinstance(time, str):
                return time
            second, fraction = divmod(time, SECOND)
            return f"{_second_text(second)}{fraction:06d}Z"
    except (ValueError, OverflowError, TypeError):
        pass
    raise UsageError(f"time is {_shown(time)}; it is RFC 3339 text or microseconds since 1970, from 2000 to 2099")


@lru_cache(maxsize=8)
def _second_text(second: int) -> str:
    """The text of a second up to the fraction: thousands of events share it."""
    return instants.text(second * SECOND)[:-1] + "."


def _shown(value: object) -> str:
    """A value as an error may show it: short, and without a secret."""
    if isinstance(value, int) and value.bit_length() > 4 * MAX_DIGITS:
        return f"a number of {value.bit_length()} bits"
    text = redact(value if isinstance(value, str) else str(value))
    shown = repr(text) if len(text) <= 80 else f"{text[:40]!r}… ({len(text)} characters)"
    return shown if isinstance(value, str | int | Decimal) else f"{type(value).__name__} {shown}"

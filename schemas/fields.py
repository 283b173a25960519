"""Fields: what the texts and numbers of a catalog may be, and how they are written."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from doortab.schemas import instants, money, periods
from doortab.schemas.events import MAX_DIGITS


def _in_one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a character that cannot be printed; leave it out")
    return text


Identifier = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_in_one_line)]


def _not_amount(name: str) -> str:
    if name == "amount":
        raise ValueError("no meter is called 'amount', which is what caps call money; choose another name")
    return name


MeterName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"), AfterValidator(_not_amount)]


def _currency(code: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", code):
        raise ValueError(f"{code!r} is not a currency; write its three letters, such as USD")
    return code


def _zone(name: str) -> str:
    periods.zone(name)
    return name


Currency = Annotated[str, AfterValidator(_currency)]
TimeZone = Annotated[str, AfterValidator(_zone)]


def _decimal(decimals: int) -> AfterValidator:
    def check(text: str) -> str:
        if money.scaled(text, decimals) < 0:
            raise ValueError(f"{text!r} is negative; prices, quantities and caps are not")
        if len(text.partition(".")[0]) > MAX_DIGITS:
            raise ValueError(f"{text[:80]!r} has more than {MAX_DIGITS} digits before the point; write less")
        return text

    return AfterValidator(check)


def _texted(value: Any) -> Any:
    """Whole numbers may be written without quotes; fractions may not, for TOML makes them binary."""
    if isinstance(value, float):
        raise ValueError(f'{value!r} is a binary fraction; write decimal text in quotes, such as "{value}"')
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Price = Annotated[str, BeforeValidator(_texted), _decimal(money.PRICE_DECIMALS)]
Quantity = Annotated[str, BeforeValidator(_texted), _decimal(money.QUANTITY_DECIMALS)]
Money = Annotated[str, BeforeValidator(_texted), _decimal(money.PRICE_DECIMALS)]


def _instant(value: Any) -> Any:
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone; end it with Z")
        return instants.text(instants.of(value))
    if isinstance(value, str):
        return instants.text(instants.parse(value))
    return value


Instant = Annotated[str, BeforeValidator(_instant)]

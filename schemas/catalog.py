"""The catalog: meters, plans, accounts and caps, as written in TOML and kept in topic ``catalog``.

It is checked whole: whatever is wrong is said at once, with the place, the value and the way out.
``schemas.tariff`` turns it into something that prices quickly.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from doortab.schemas import instants, meters, money, periods
from doortab.schemas.errors import CatalogError

MeterName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
Identifier = Annotated[str, Field(min_length=1, max_length=256)]
SUBJECT = re.compile(r"(key|account):(\*|.{1,256})\Z")


def _decimal(decimals: int) -> AfterValidator:
    def check(text: str) -> str:
        if money.scaled(text, decimals) < 0:
            raise ValueError(f"{text!r} is negative; prices, quantities and caps are not")
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


class Strict(BaseModel):
    """Unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Where = dict[str, Any]


def conditions(where: Where) -> tuple[meters.Condition, ...]:
    """The conditions of a ``where`` table, in a canonical order.

    Raises:
        ValueError: a path or comparison that is not one.
    """
    return tuple(sorted(c for path, wanted in where.items() for c in _conditions(path, wanted)))


def _conditions(path: str, wanted: Any) -> Iterable[meters.Condition]:
    meters.path(path)
    path = path.removeprefix("data.").removeprefix("$.")
    if not isinstance(wanted, dict):
        values = wanted if isinstance(wanted, list) else [wanted]
        if not values:
            raise ValueError(f"where {path!r} is an empty list, which no event meets")
        yield meters.Condition(path, "in", tuple(sorted(_condition_text(path, v) for v in values)))
        return
    if not wanted:
        raise ValueError(f"where {path!r} says nothing; write a value, a list or {{ lte = 200000 }}")
    for operator, value in wanted.items():
        if operator not in meters.OPERATORS:
            raise ValueError(f"where {path!r}: {operator!r} is not one of {', '.join(meters.OPERATORS)}")
        text = _condition_text(path, value)
        if operator not in ("eq", "ne"):
            money.scaled(text, money.QUANTITY_DECIMALS)
        yield meters.Condition(path, operator, (text,))


def _condition_text(path: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return str(value)
    raise ValueError(f"where {path!r} compares with {value!r}; write text, a whole number or decimal text")


class MeterEntry(Strict):
    """A meter."""

    name: MeterName
    event: Identifier
    aggregation: meters.Aggregation
    value: str | None = None
    where: Where = {}
    group_by: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if (self.value is None) != (self.aggregation == "count"):
            raise ValueError(f"meter {self.name!r}: count reads no value, every other aggregation needs one")
        for text in (*([self.value] if self.value else []), *self.group_by):
            meters.path(text)
        conditions(self.where)
        return self

    def meter(self) -> meters.Meter:
        """The meter as a value."""
        return meters.Meter(self.name, self.event, self.aggregation, self.value, conditions(self.where), self.group_by)


class TierEntry(Strict):
    """A band of a graduated charge."""

    up_to: Quantity | None = None
    unit: Price = "0"
    flat: Money = "0"


class Charge(Strict):
    """What every charge has, and the models there are: ``per_unit`` takes ``unit``, ``graduated`` takes ``tiers``."""

    meter: MeterName
    where: Where = {}
    model: Literal["per_unit", "graduated"]
    unit: Price | None = None
    tiers: tuple[TierEntry, ...] = ()
    zero_usage: Literal["free", "bill_first_flat"] = "free"
    effective_from: Instant | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        conditions(self.where)
        if self.model == "per_unit" and (self.unit is None or self.tiers):
            raise ValueError(f'charge on {self.meter!r}: per_unit takes unit = "…" and no tiers')
        if self.model == "graduated":
            if not self.tiers or self.unit is not None:
                raise ValueError(f"charge on {self.meter!r}: graduated takes tiers = [ … ] and no unit")
            self._check_bounds()
        return self

    def _check_bounds(self) -> None:
        below = 0
        for number, tier in enumerate(self.tiers, 1):
            if tier.up_to is None and number < len(self.tiers):
                raise ValueError(f"charge on {self.meter!r}: tier {number} has no up_to, so the next is never reached")
            top = money.quantity(tier.up_to) if tier.up_to is not None else None
            if top is not None and top <= below:
                raise ValueError(
                    f"charge on {self.meter!r}: tier {number} ends at {tier.up_to}, not above the one before"
                )
            below = top or below
        if self.tiers[-1].up_to is not None:
            raise ValueError(
                f"charge on {self.meter!r}: the last tier must have no up_to, or more use would cost nothing"
            )

    @property
    def lineage(self) -> tuple[str, tuple[meters.Condition, ...]]:
        """Rows of one lineage follow each other in time."""
        return self.meter, conditions(self.where)


class Plan(Strict):
    """Which charges an account pays, in which currency, and in whose time zone its periods lie."""

    name: Identifier
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    timezone: str = "UTC"
    charges: tuple[Charge, ...] = ()

    @model_validator(mode="after")
    def _dated(self) -> Self:
        periods.zone(self.timezone)
        seen = set()
        for charge in self.charges:
            row = (*charge.lineage, charge.effective_from)
            if row in seen:
                since = charge.effective_from or "the beginning"
                raise ValueError(
                    f"plan {self.name!r}: two charges on {charge.meter!r}, same filter, from {since}; keep one"
                )
            seen.add(row)
        return self


class Account(Strict):
    """Who is billed: its plan, and the subjects of events that are its own."""

    id: Identifier
    plan: Identifier | None = None
    subjects: tuple[Identifier, ...] = ()


class CapEntry(Strict):
    """The most that a subject may spend, or use of a meter, in a period."""

    subject: str
    amount: Money | None = None
    meter: MeterName | None = None
    quantity: Quantity | None = None
    period: Literal["hour", "day", "week", "month", "total"]
    thresholds: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (50, 80, 95)
    hard: bool = True

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if not SUBJECT.match(self.subject):
            raise ValueError(f"cap subject {self.subject!r}; write key:ID, account:ID, key:* or account:*")
        if (self.amount is None) == (self.meter is None) or (self.meter is None) != (self.quantity is None):
            raise ValueError(f'cap on {self.subject!r}: write amount = "…", or meter and quantity')
        return self

    @property
    def id(self) -> str:
        """What names the cap: whom it binds, what it measures, and for how long."""
        return f"{self.subject}/{self.meter or 'amount'}/{self.period}"


class Catalog(Strict):
    """Everything about prices and limits, as one value."""

    default_plan: Identifier | None = None
    meters: tuple[MeterEntry, ...] = ()
    plans: tuple[Plan, ...] = ()
    accounts: tuple[Account, ...] = ()
    caps: tuple[CapEntry, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        by_name = {meter.name: meter for meter in self.meters}
        plan_names = {plan.name for plan in self.plans}
        _unique("meter", [meter.name for meter in self.meters])
        _unique("plan", [plan.name for plan in self.plans])
        _unique("account", [account.id for account in self.accounts])
        _unique("subject", [subject for account in self.accounts for subject in account.subjects])
        _unique("cap", [cap.id for cap in self.caps])
        for plan in self.plans:
            for charge in plan.charges:
                _chargeable(f"plan {plan.name!r}", charge.meter, by_name)
        for cap in self.caps:
            if cap.meter is not None:
                _chargeable(f"cap on {cap.subject!r}", cap.meter, by_name)
        for account in self.accounts:
            if account.plan is not None and account.plan not in plan_names:
                raise ValueError(f"account {account.id!r} has plan {account.plan!r}, which is not in the catalog")
        if self.default_plan is not None and self.default_plan not in plan_names:
            raise ValueError(f"default_plan is {self.default_plan!r}, which is not in the catalog")
        return self


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{what} {twice[0]!r} stands twice; keep one")


def _chargeable(where: str, name: str, by_name: dict[str, MeterEntry]) -> None:
    meter = by_name.get(name)
    if meter is None:
        known = ", ".join(by_name) or "none"
        raise ValueError(f"{where}: meter {name!r} is not in the catalog; there is {known}")
    if meter.aggregation not in meters.ADDITIVE:
        raise ValueError(
            f"{where}: meter {name!r} is a {meter.aggregation}; only count and sum can be charged or capped"
        )


def parse(text: str, origin: str = "catalog") -> Catalog:
    """The catalog that TOML text describes.

    Raises:
        CatalogError: it is not TOML, or breaks a rule; every broken rule is named.
    """
    try:
        return Catalog.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{origin} is not TOML: {error}") from None
    except ValidationError as error:
        raise CatalogError(f"{origin} breaks {_count(error.errors())}:\n{_explain(error)}") from None


def _count(errors: list[Any]) -> str:
    return "a rule" if len(errors) == 1 else f"{len(errors)} rules"


def _explain(error: ValidationError) -> str:
    lines = []
    for entry in error.errors(include_url=False):
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in entry["loc"]) or "catalog"
        message = entry["msg"].removeprefix("Value error, ")
        value = "" if entry["type"] == "value_error" else f" (is {str(entry['input'])[:60]!r})"
        lines.append(f"  {place}: {message}{value}")
    return "\n".join(lines)


def encode(catalog: Catalog) -> bytes:
    """The record value in topic ``catalog``."""
    return catalog.model_dump_json(exclude_defaults=True).encode()


def decode(value: bytes) -> Catalog:
    """The catalog in a record value.

    Raises:
        CatalogError: the bytes are not one.
    """
    try:
        return Catalog.model_validate_json(value)
    except ValidationError as error:
        raise CatalogError(f"the record breaks {_count(error.errors())}:\n{_explain(error)}") from None

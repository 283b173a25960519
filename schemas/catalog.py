"""The catalog: meters, plans, accounts and caps, as written in TOML and kept in topic ``catalog``.

It is checked whole: whatever is wrong is said at once, with the place, the value and the way out.
``schemas.tariff`` turns it into something that prices quickly.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from doortab.schemas import filters, meters, money
from doortab.schemas.errors import CatalogError
from doortab.schemas.fields import Currency, Identifier, Instant, MeterName, Money, Price, Quantity, TimeZone

SUBJECT = re.compile(r"(key|account):(\*|.{1,256})\Z")


class Strict(BaseModel):
    """Unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MeterEntry(Strict):
    """A meter."""

    name: MeterName
    event: Identifier
    aggregation: meters.Aggregation
    value: str | None = None
    where: filters.Where = {}
    group_by: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if (self.value is None) != (self.aggregation == "count"):
            raise ValueError(f"meter {self.name!r}: count reads no value, every other aggregation needs one")
        for text in self.group_by:
            meters.path(text)
        source = meters.path(self.value) if self.value is not None else None
        if source is not None and source.root in ("dimensions", "field") and self.aggregation in meters.NUMERIC:
            raise ValueError(
                f"meter {self.name!r}: {self.value} is text, and {self.aggregation} needs a number; "
                "write units.NAME, or the place of a number elsewhere in the data"
            )
        filters.conditions(self.where)
        return self

    def meter(self) -> meters.Meter:
        """The meter as a value."""
        return meters.Meter(
            self.name, self.event, self.aggregation, self.value, filters.conditions(self.where), self.group_by
        )


class TierEntry(Strict):
    """A band of a graduated charge."""

    up_to: Quantity | None = None
    unit: Price = "0"
    flat: Money = "0"


class Charge(Strict):
    """What every charge has, and the models there are: ``per_unit`` takes ``unit``, ``graduated`` takes ``tiers``."""

    meter: MeterName
    where: filters.Where = {}
    model: Literal["per_unit", "graduated"]
    unit: Price | None = None
    tiers: tuple[TierEntry, ...] = ()
    zero_usage: Literal["free", "bill_first_flat"] = "free"
    effective_from: Instant | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        filters.conditions(self.where)
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
        return self.meter, filters.conditions(self.where)


class Plan(Strict):
    """Which charges an account pays, in which currency, and in whose time zone its periods lie."""

    name: Identifier
    currency: Currency
    timezone: TimeZone = "UTC"
    charges: tuple[Charge, ...] = ()

    @model_validator(mode="after")
    def _dated(self) -> Self:
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
    origin: Literal["file", "desk"] = "file"
    """``desk``: the key was issued with it, and applying another file leaves it there."""

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
        problems = [problem for rule in RULES for problem in rule(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _names_stand_once(catalog: Catalog) -> Iterable[str]:
    named = {
        "meter": [meter.name for meter in catalog.meters],
        "plan": [plan.name for plan in catalog.plans],
        "account": [account.id for account in catalog.accounts],
        "subject": [subject for account in catalog.accounts for subject in account.subjects],
        "cap": [cap.id for cap in catalog.caps],
    }
    for what, names in named.items():
        for name in (name for name, times in Counter(names).items() if times > 1):
            yield f"{what} {name!r} stands twice; keep one"


def _meters_are_there(catalog: Catalog) -> Iterable[str]:
    by_name = {meter.name: meter for meter in catalog.meters}
    wanted = [(f"plan {plan.name!r}", charge.meter) for plan in catalog.plans for charge in plan.charges]
    wanted += [(f"cap on {cap.subject!r}", cap.meter) for cap in catalog.caps if cap.meter is not None]
    for where, name in dict.fromkeys(wanted):
        meter = by_name.get(name)
        if meter is None:
            known = ", ".join(by_name) or "none"
            yield f"{where}: meter {name!r} is not in the catalog; there is {known}"
        elif meter.aggregation not in meters.ADDITIVE:
            yield f"{where}: meter {name!r} is a {meter.aggregation}; only count and sum can be charged or capped"


def _plans_are_there(catalog: Catalog) -> Iterable[str]:
    names = {plan.name for plan in catalog.plans}
    known = ", ".join(sorted(names)) or "none"
    for account in catalog.accounts:
        if account.plan is not None and account.plan not in names:
            yield f"account {account.id!r} has plan {account.plan!r}, which is not in the catalog; there is {known}"
    if catalog.default_plan is not None and catalog.default_plan not in names:
        yield f"default_plan is {catalog.default_plan!r}, which is not in the catalog; there is {known}"


RULES: tuple[Callable[[Catalog], Iterable[str]], ...] = (_names_stand_once, _meters_are_there, _plans_are_there)
"""What must hold between the parts; each says every place where it does not."""


def parse(text: str, origin: str = "catalog") -> Catalog:
    """The catalog that TOML text describes.

    Raises:
        CatalogError: it is not TOML, or breaks a rule; every broken rule is named.
    """
    try:
        return Catalog.model_validate(tomllib.loads(text))
    except RecursionError:
        raise CatalogError(f"{origin} is nested deeper than any catalog; take the brackets out") from None
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{origin} is not TOML: {error}") from None
    except ValidationError as error:
        raise CatalogError(f"{origin} {_explain(error)}") from None


_WAYS_OUT = {
    "extra_forbidden": "is no field here; correct its name or take it out",
    "missing": "is missing; write it",
}


def _explain(error: ValidationError) -> str:
    """Every broken rule on a line: the place, what is wrong, the value, and the way out."""
    lines = []
    for entry in error.errors(include_url=False):
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in entry["loc"]) or "catalog"
        value = "" if entry["type"] in ("value_error", "missing") else f" (is {str(entry['input'])[:60]!r})"
        message = _WAYS_OUT.get(entry["type"], entry["msg"].removeprefix("Value error, "))
        lines += [f"  {place}: {line}{value}" for line in message.split("\n")]
    return f"breaks {'a rule' if len(lines) == 1 else f'{len(lines)} rules'}:\n" + "\n".join(lines)


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
        raise CatalogError(f"the record {_explain(error)}") from None

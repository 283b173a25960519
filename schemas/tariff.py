"""The tariff: a catalog made ready to price with.

One arithmetic for both: the ledger prices an event the moment it comes, a report prices cells, sums of
many events that agree in everything a price can depend on. ``PlanTariff.matching`` says which lines
apply, ``charges.marginal`` says what a quantity costs on one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from doortab.schemas import catalog as written
from doortab.schemas import charges, instants, meters, money
from doortab.schemas.bounds import Bound, bound_of
from doortab.schemas.events import Event
from doortab.schemas.periods import PeriodKind

MAX_SIGNATURES = 100_000
BEGINNING = -(2**62)
"""Before any instant at which a price may take effect."""


class Row(NamedTuple):
    """A price in force from ``since`` until before ``until``, both instants."""

    since: int
    until: int
    model: charges.AnyModel


class Line(msgspec.Struct, frozen=True):
    """All rows of a charge on one meter with one filter, by date. ``id`` names it in counters and invoices.

    ``fixed`` are the conditions on text that many events share (dimensions, fields), ``tests`` those on
    what differs from event to event (units, the rest of the data).
    """

    id: str
    meter: meters.Meter
    source: meters.Path | None
    fixed: tuple[tuple[meters.Path, meters.Condition], ...]
    tests: tuple[tuple[meters.Path, meters.Condition], ...]
    rows: tuple[Row, ...]

    def row_at(self, time: int) -> Row | None:
        """The row in force, if one is."""
        return next((row for row in self.rows if row.since <= time < row.until), None)

    @property
    def linear(self) -> bool:
        """Whether no row's price depends on what was used before."""
        return all(row.model.linear is not None for row in self.rows)

    def passes(self, event: Event, rest: Mapping[str, Any]) -> bool:
        """Whether the event meets the tests."""
        return all(condition.holds(meters.read(path, event, rest)) for path, condition in self.tests)

    def takes(self, event: Event, rest: Mapping[str, Any]) -> bool:
        """Whether the event is of the line's type and meets all its conditions."""
        return (
            self.meter.event == event.type
            and all(condition.holds(meters.read(path, event, rest)) for path, condition in self.fixed)
            and self.passes(event, rest)
        )

    def quantity(self, event: Event, rest: Mapping[str, Any]) -> int | None:
        """What the event adds to the meter, of 10^-24; None if it has nothing there, or no number."""
        if self.source is None:
            return money.QUANTITY_ONE
        return meters.quantity(meters.read(self.source, event, rest))


Test = Callable[[Event, Mapping[str, Any]], bool]


class Rate(NamedTuple):
    """A row of a line as the hot path wants it.

    ``unit`` is the unit that is charged, or None where that needs ``line.quantity``. ``price`` is for one
    whole unit, of 10^-36, or None where there is no unit, or where some row's price depends on what was used
    before. ``test`` says whether the event meets the line's tests, None where it has none; ``bound`` is the
    same where there is just the usual one.
    """

    unit: str | None
    since: int
    until: int
    price: int | None
    test: Test | None
    line: Line
    model: charges.AnyModel
    bound: Bound | None


class PlanTariff:
    """A plan's lines, and which of them an event meets."""

    def __init__(self, plan: written.Plan, by_name: Mapping[str, meters.Meter]) -> None:
        self.name = plan.name
        self.currency = plan.currency
        self.timezone = plan.timezone
        self.lines = _lines(plan, by_name)
        self.paths = tuple(
            sorted({path for line in self.lines for path, _ in line.fixed}, key=lambda p: (p.root, p.name))
        )
        self._by_signature: dict[tuple[str | None, ...], tuple[Rate, ...]] = {}
        self._sole_dimension = self.paths[0].name if [p.root for p in self.paths] == ["dimensions"] else None

    def signature(self, event: Event) -> tuple[str | None, ...]:
        """What of the event the fixed conditions look at: events of one signature meet the same ones."""
        if self._sole_dimension is not None:
            return event.type, event.data.dimensions.get(self._sole_dimension)
        return event.type, *(meters.read(path, event, {}) for path in self.paths)

    def rates(self, event: Event) -> tuple[Rate, ...]:
        """The rates whose fixed conditions the event meets, of every date."""
        return self._rates_of(self.signature(event))

    def rates_within(self, signature: tuple[str | None, ...], since: int, until: int) -> tuple[Rate, ...]:
        """Those that are in force at some time from ``since`` until before ``until``."""
        return tuple(rate for rate in self._rates_of(signature) if rate.since < until and rate.until > since)

    def _rates_of(self, signature: tuple[str | None, ...]) -> tuple[Rate, ...]:
        rates = self._by_signature.get(signature)
        if rates is None:
            if len(self._by_signature) >= MAX_SIGNATURES:
                self._by_signature.clear()
            rates = tuple(self._rates(signature[0], dict(zip(self.paths, signature[1:], strict=True))))
            self._by_signature[signature] = rates
        return rates

    def _rates(self, kind: str | None, texts: Mapping[meters.Path, str | None]) -> Iterable[Rate]:
        for line in self.lines:
            if line.meter.event == kind and all(c.holds(texts[path]) for path, c in line.fixed):
                for row in line.rows:
                    yield _rate(line, row)


def _rate(line: Line, row: Row) -> Rate:
    unit = line.source.name if line.source is not None and line.source.root == "units" else None
    linear = row.model.linear if line.linear and unit is not None else None
    price = linear * money.QUANTITY_ONE if linear is not None else None
    return Rate(unit, row.since, row.until, price, _test(line), line, row.model, bound_of(line.tests))


def _test(line: Line) -> Test | None:
    """The line's tests as one function; the usual one is quick."""
    if not line.tests:
        return None
    bound = bound_of(line.tests)
    if bound is None:
        return line.passes

    def test(event: Event, rest: Mapping[str, Any]) -> bool:
        value = event.data.units.get(bound.unit)
        return bound.holds(value) if isinstance(value, int) else line.passes(event, rest)

    return test


def _lines(plan: written.Plan, by_name: Mapping[str, meters.Meter]) -> tuple[Line, ...]:
    families: dict[Any, list[written.Charge]] = {}
    for charge in plan.charges:
        families.setdefault(charge.lineage, []).append(charge)
    return tuple(line_of(by_name[name], conditions, _rows(family)) for (name, conditions), family in families.items())


def line_of(meter: meters.Meter, conditions: Iterable[meters.Condition], rows: tuple[Row, ...] = ()) -> Line:
    """A line on a meter with a filter beside the meter's own."""
    conditions = sorted(conditions)
    both = [(meters.path(c.path), c) for c in sorted({*meter.where, *conditions})]
    fixed = tuple((path, c) for path, c in both if path.root in ("dimensions", "field"))
    tests = tuple((path, c) for path, c in both if path.root not in ("dimensions", "field"))
    source = meters.path(meter.value) if meter.value is not None else None
    id = "&".join(
        [meter.name, *(f"{_plain(c.path)} {c.operator} {'|'.join(map(_plain, c.values))}" for c in conditions)]
    )
    return Line(id, meter, source, fixed, tests, rows)


def _plain(text: str) -> str:
    """The text, with a backslash before what separates texts in an id: two lines never share one."""
    return re.sub(r"([\\&| ])", r"\\\1", text)


def _rows(family: Iterable[written.Charge]) -> tuple[Row, ...]:
    dated = [(instants.parse(c.effective_from) if c.effective_from else BEGINNING, model_of(c)) for c in family]
    dated.sort(key=lambda pair: pair[0])
    ends = [since for since, _ in dated[1:]] + [instants.LATEST]
    return tuple(Row(since, end, model) for (since, model), end in zip(dated, ends, strict=True))


def model_of(charge: written.Charge) -> charges.AnyModel:
    """The charge's model as arithmetic."""
    if charge.model == "per_unit":
        assert charge.unit is not None
        return charges.PerUnit(money.price(charge.unit))
    tiers = tuple(
        charges.Tier(
            None if tier.up_to is None else money.quantity(tier.up_to), money.price(tier.unit), money.amount(tier.flat)
        )
        for tier in charge.tiers
    )
    return charges.Graduated(tiers, charge.zero_usage)


class Cap(NamedTuple):
    """The most that a subject may spend or use in a period.

    ``limit`` is an amount of 10^-36, or a quantity of 10^-24 of the meter that ``line`` measures.
    ``scope`` is key or account, ``name`` whose, or ``*`` for each.
    """

    id: str
    scope: str
    name: str
    measure: str
    line: Line | None
    limit: int
    period: PeriodKind
    thresholds: tuple[int, ...]
    hard: bool


AMOUNT = "amount"


class Tariff:
    """A whole catalog, compiled: plans by account, caps by subject, accounts by subject of events."""

    def __init__(self, catalog: written.Catalog) -> None:
        self.catalog = catalog
        self.meters = {entry.name: entry.meter() for entry in catalog.meters}
        self.plans = {plan.name: PlanTariff(plan, self.meters) for plan in catalog.plans}
        self._plan_names = {account.id: account.plan for account in catalog.accounts if account.plan}
        self._accounts = {subject: account.id for account in catalog.accounts for subject in account.subjects}
        self._caps: dict[str, list[Cap]] = {}
        for entry in catalog.caps:
            cap = self._cap(entry)
            self._caps.setdefault(f"{cap.scope}:{cap.name}", []).append(cap)
        fixed = [path for plan in self.plans.values() for path in plan.paths]
        fixed += [path for caps in self._caps.values() for cap in caps if cap.line for path, _ in cap.line.fixed]
        self.paths = tuple(dict.fromkeys(fixed))
        """All text that a price or a cap depends on."""

    def plan_of(self, account: str) -> PlanTariff | None:
        """The plan that the account pays, or None where it pays nothing."""
        name = self._plan_names.get(account, self.catalog.default_plan)
        return self.plans[name] if name is not None else None

    def timezone_of(self, account: str) -> str:
        """The zone in which the account's periods lie."""
        plan = self.plan_of(account)
        return plan.timezone if plan is not None else "UTC"

    def account_of_subject(self, subject: str) -> str | None:
        """The account that registered the subject."""
        return self._accounts.get(subject)

    def caps_of(self, scope: str, name: str) -> list[Cap]:
        """The caps that bind the subject.

        One of its own takes the place of one for each, of the same measure and period.
        """
        own = self._caps.get(f"{scope}:{name}", [])
        taken = {(cap.measure, cap.period) for cap in own}
        return own + [cap for cap in self._caps.get(f"{scope}:*", []) if (cap.measure, cap.period) not in taken]

    def _cap(self, entry: written.CapEntry) -> Cap:
        scope, _, name = entry.subject.partition(":")
        if entry.amount is not None:
            line, measure, limit = None, AMOUNT, money.amount(entry.amount)
        else:
            assert entry.meter is not None
            assert entry.quantity is not None
            line, measure = line_of(self.meters[entry.meter], ()), entry.meter
            limit = money.quantity(entry.quantity)
        return Cap(
            entry.id, scope, name, measure, line, limit, entry.period, tuple(sorted(set(entry.thresholds))), entry.hard
        )


NO_TARIFF = Tariff(written.Catalog())

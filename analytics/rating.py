"""Rating: what the events of each group come to, in counts, units and money.

Prices that do not depend on what was used before are multiplied with sums. Tiered ones are walked
through in the order of event time, day by day; only the days in which an account passes from one tier
to the next are read event by event. So a bill's parts always add up to it, whatever it is split by,
and the order in which events were delivered does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from doortab.analytics.cells import Cell, Columns, Heading, Read, Selection, Single, cells, literal, single_events
from doortab.analytics.zones import local_bucket
from doortab.schemas import charges, meters, money
from doortab.schemas.periods import Period, period_of
from doortab.schemas.tariff import Line, PlanTariff, Tariff, line_of


class Rated(msgspec.Struct):
    """A group's totals. Quantities are of 10^-24, amounts of 10^-36.

    ``quantities`` and ``amounts`` are by meter, of billable events only; ``units`` are of all events.
    """

    events: int = 0
    allowed: int = 0
    billable: int = 0
    amount: int = 0
    units: dict[str, int] = {}
    quantities: dict[str, int] = {}
    amounts: dict[str, int] = {}
    lines: dict[str, int] = {}
    """By charge line that is tiered: the billable quantity."""


Groups = dict[tuple[Any, ...], Rated]


def rate(
    read: Read,
    columns: Columns,
    tariff: Tariff,
    headings: Sequence[Heading],
    period: Period | None = None,
    condition: str = "true",
) -> Groups:
    """The totals of each group, by its headings' values, the account's currency last."""
    measured = [name for name, meter in tariff.meters.items() if meter.aggregation in meters.ADDITIVE]
    lines = {name: line_of(tariff.meters[name], ()) for name in measured}
    selection = Selection(columns, tariff, headings, period, condition).with_meters(measured, lambda m: lines[m.name])
    groups: Groups = {}
    for cell in cells(read, selection):
        _add_cell(groups, tariff, lines, cell)
    for single in single_events(read, selection):
        group = _group(groups, tariff, single.heads, single.account)
        group.events += single.copies
        group.allowed += single.copies * (single.event.data.verdict == "allowed")
        group.billable += single.copies * single.billable
        for unit, value in single.event.data.units.items():
            group.units[unit] = group.units.get(unit, 0) + money.quantity(value) * single.copies
        if single.billable:
            _add_single(group, tariff.plan_of(single.account), lines, single)
    for plan in tariff.plans.values():
        for line in plan.lines:
            if not line.linear:
                _add_tiered(read, groups, selection, plan, line, period)
    return groups


def _group(groups: Groups, tariff: Tariff, heads: tuple[Any, ...], account: str) -> Rated:
    plan = tariff.plan_of(account)
    place = (*heads, plan.currency if plan is not None else None)
    group = groups.get(place)
    if group is None:
        group = groups[place] = Rated()
    return group


def _add_cell(groups: Groups, tariff: Tariff, lines: Mapping[str, Line], cell: Cell) -> None:
    group = _group(groups, tariff, cell.heads, cell.account)
    group.events += cell.events
    group.allowed += cell.allowed
    group.billable += cell.events * cell.billable
    for unit, total in cell.units.items():
        group.units[unit] = group.units.get(unit, 0) + total * money.QUANTITY_ONE
    if not cell.billable:
        return
    for name, line in lines.items():
        if _meets(line, cell):
            group.quantities[name] = group.quantities.get(name, 0) + _quantity(line, cell)
    plan = tariff.plan_of(cell.account)
    for line in plan.lines if plan is not None else ():
        if line.linear and _meets(line, cell):
            row = line.row_at(cell.instant)
            if row is not None:
                _charge(group, line, row.model.total(_quantity(line, cell)))


def _meets(line: Line, cell: Cell) -> bool:
    return (
        line.meter.event == cell.type
        and all(condition.holds(cell.texts[path]) for path, condition in line.fixed)
        and all(cell.flags[test] for test in line.tests)
    )


def _quantity(line: Line, cell: Cell) -> int:
    if line.source is None:
        return cell.events * money.QUANTITY_ONE
    if line.source.root != "units":
        return 0
    return cell.units.get(line.source.name, 0) * money.QUANTITY_ONE


def _charge(group: Rated, line: Line, amount: int) -> None:
    group.amount += amount
    group.amounts[line.meter.name] = group.amounts.get(line.meter.name, 0) + amount


def _add_single(group: Rated, plan: PlanTariff | None, lines: Mapping[str, Line], single: Single) -> None:
    for name, line in lines.items():
        if line.takes(single.event, single.rest):
            used = (line.quantity(single.event, single.rest) or 0) * single.copies
            group.quantities[name] = group.quantities.get(name, 0) + used
    for rate_ in plan.rates(single.event) if plan is not None else ():
        inside = rate_.since <= single.instant < rate_.until
        if rate_.line.linear and inside and rate_.line.passes(single.event, single.rest):
            used = (rate_.line.quantity(single.event, single.rest) or 0) * single.copies
            _charge(group, rate_.line, rate_.model.total(used))


def _add_tiered(
    read: Read, groups: Groups, selection: Selection, plan: PlanTariff, line: Line, period: Period | None
) -> None:
    """Prices one tiered line of one plan, from the beginning of the billing month in which the period begins."""
    since = period_of("month", plan.timezone, period.start).start if period is not None else None
    reach = Period(since, period.end) if period is not None and since is not None else None
    day = local_bucket("day", plan.timezone)
    inside = "true"
    if period is not None:
        inside = f"time >= make_timestamp({period.start})"
    wide = Selection(
        selection.columns,
        selection.tariff,
        [*selection.headings, Heading("day", day), Heading("inside", inside)],
        reach,
        selection.base,
        selection.source,
    )
    wide.lines = [line]
    walk = _Walk(groups, selection.tariff, plan, line)
    days: dict[tuple[str, int], list[tuple[Cell, int]]] = {}
    for cell in cells(read, wide):
        if cell.billable and selection.tariff.plan_of(cell.account) is plan and _meets(line, cell):
            days.setdefault((cell.account, cell.heads[-2]), []).append((cell, _quantity(line, cell)))
    single_days = {
        (s.account, s.heads[-2]) for s in single_events(read, wide) if s.billable and line.takes(s.event, s.rest)
    }
    for account, start in sorted(days.keys() | single_days):
        if selection.tariff.plan_of(account) is not plan:
            continue
        found = days.get((account, start), [])
        if (account, start) in single_days or not walk.whole_day(account, start, found):
            only = (
                f"account = {literal(account)} AND {day} = {start} AND billable AND type = {literal(line.meter.event)}"
            )
            walk.events(account, start, single_events(read, wide, only, "time, source, id"))


class _Walk:
    """Goes through an account's days in order, keeping how much of the month's tiers is used.

    What was used while the line had no price does not count.
    """

    def __init__(self, groups: Groups, tariff: Tariff, plan: PlanTariff, line: Line) -> None:
        self._groups = groups
        self._tariff = tariff
        self._plan = plan
        self._line = line
        self._used: dict[tuple[str, int], int] = {}

    def whole_day(self, account: str, start: int, found: list[tuple[Cell, int]]) -> bool:
        """Takes a day at once, if all of it costs the same a unit; False if it must be read event by event."""
        place = self._place(account, start)
        before = self._used.get(place, 0)
        priced = [(cell, quantity, row) for cell, quantity in found if (row := self._line.row_at(cell.instant))]
        total = sum(quantity for _, quantity, _ in priced)
        units = {charges.unit_within(row.model, before, total) for row in {row for _, _, row in priced}}
        unit = units.pop() if units else 0
        if unit is None or units:
            return False
        for cell, quantity, _ in priced:
            self._add(cell.heads, account, quantity, quantity * unit)
        self._used[place] = before + total
        return True

    def events(self, account: str, start: int, singles: Iterator[Single]) -> None:
        """Takes a day event by event, in order."""
        place = self._place(account, start)
        for single in singles:
            row = self._line.row_at(single.instant)
            if row is None or not self._line.takes(single.event, single.rest):
                continue
            quantity = self._line.quantity(single.event, single.rest) or 0
            before = self._used.get(place, 0)
            self._add(single.heads, account, quantity, charges.marginal(row.model, before, quantity))
            self._used[place] = before + quantity

    def _place(self, account: str, start: int) -> tuple[str, int]:
        return account, period_of("month", self._plan.timezone, start).start

    def _add(self, heads: tuple[Any, ...], account: str, quantity: int, amount: int) -> None:
        if heads[-1]:
            group = _group(self._groups, self._tariff, heads[:-2], account)
            group.lines[self._line.id] = group.lines.get(self._line.id, 0) + quantity
            _charge(group, self._line, amount)

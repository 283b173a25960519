"""Rating: what the events of each group come to, in counts, units and money.

Prices that do not depend on what was used before are multiplied with sums, tiered ones are walked
through in the order of event time. So a bill's parts always add up to it, whatever it is split by, and
the order in which events were delivered does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from doortab.analytics.cells import Cell, Columns, Heading, Read, Selection, Single, cells, single_events
from doortab.analytics.tiers import tiered
from doortab.schemas import meters, money
from doortab.schemas.periods import Period
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
    zone: str | None = None,
) -> Groups:
    """The totals of each group, by its headings' values, the account's currency last.

    With ``zone`` only accounts whose periods lie in that time zone are looked at.
    """
    measured = [name for name, meter in tariff.meters.items() if meter.aggregation in meters.ADDITIVE]
    lines = {name: line_of(tariff.meters[name], ()) for name in measured}
    selection = Selection(columns, tariff, headings, period, condition).with_meters(measured, lambda m: lines[m.name])
    groups: Groups = {}
    for cell in cells(read, selection):
        if zone in (None, tariff.timezone_of(cell.account)):
            _add_cell(groups, tariff, lines, cell)
    for single in single_events(read, selection):
        if zone not in (None, tariff.timezone_of(single.account)):
            continue
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
            if not line.linear and zone in (None, plan.timezone):
                for part in tiered(read, selection, plan, line, period):
                    group = _group(groups, tariff, part.heads, part.account)
                    group.lines[line.id] = group.lines.get(line.id, 0) + part.quantity
                    _charge(group, line, part.amount)
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
        if cell.meets(line):
            group.quantities[name] = group.quantities.get(name, 0) + cell.quantity(line)
    plan = tariff.plan_of(cell.account)
    for line in plan.lines if plan is not None else ():
        if line.linear and cell.meets(line):
            row = line.row_at(cell.instant)
            if row is not None:
                _charge(group, line, row.model.total(cell.quantity(line)))


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

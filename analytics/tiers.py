"""Tiered prices of many events: how far each account is into the tiers of a month, day by day.

A day on which one price holds from its first unit to its last is priced as a whole. On the few others an
account passes from one tier to the next, or the price changes: they are read event by event, in the order
of time. How far an account is after a day does not depend on that order, so all of them are found first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from doortab.analytics.cells import Heading, Read, Selection, cells, literal, single_events, timestamp
from doortab.analytics.zones import local_bucket
from doortab.schemas import charges
from doortab.schemas.periods import Period, period_of
from doortab.schemas.tariff import Line, PlanTariff, Row

DAYS_A_QUERY = 500

Place = tuple[str, int]
"""An account, and the start of a day."""


class Part(NamedTuple):
    """What a quantity under these headings costs."""

    heads: tuple[Any, ...]
    account: str
    quantity: int
    amount: int


class Use(NamedTuple):
    """A quantity under these headings while a row was in force; not to be shown if it is not ``inside``."""

    heads: tuple[Any, ...]
    inside: bool
    quantity: int
    row: Row


def tiered(read: Read, selection: Selection, plan: PlanTariff, line: Line, period: Period | None) -> Iterator[Part]:
    """The parts of the selection on one tiered line of one plan.

    The tiers are filled from the beginning of the billing month in which the period begins. What was used
    while the line had no price does not count.
    """
    wide = _widened(selection, plan, line, period)
    days = _days(read, wide, plan, line)
    used: dict[Place, int] = {}
    uneven: dict[Place, int] = {}
    for account, start in sorted(days):
        month = account, period_of("month", plan.timezone, start).start
        before, uses = used.get(month, 0), days[account, start]
        total = sum(use.quantity for use in uses)
        used[month] = before + total
        unit = _unit(uses, before, total)
        if unit is None:
            uneven[account, start] = before
            continue
        yield from (Part(use.heads, account, use.quantity, use.quantity * unit) for use in uses if use.inside)
    yield from _by_event(read, wide, line, uneven)


def _widened(selection: Selection, plan: PlanTariff, line: Line, period: Period | None) -> Selection:
    """The selection by day as well, from the beginning of the month, and whether it lies in the period."""
    inside, reach = "true", None
    if period is not None:
        inside = f"time >= {timestamp(period.start)}"
        reach = Period(period_of("month", plan.timezone, period.start).start, period.end)
    headings = [*selection.headings, Heading("day", local_bucket("day", plan.timezone)), Heading("inside", inside)]
    wide = Selection(selection.columns, selection.tariff, headings, reach, selection.base, selection.source)
    wide.lines = [line]
    return wide


def _days(read: Read, wide: Selection, plan: PlanTariff, line: Line) -> dict[Place, list[Use]]:
    """What the accounts of the plan used on each day."""
    days: dict[Place, list[Use]] = {}
    for cell in cells(read, wide):
        row = line.row_at(cell.instant)
        if row is not None and cell.billable and cell.meets(line) and wide.tariff.plan_of(cell.account) is plan:
            *heads, day, inside = cell.heads
            days.setdefault((cell.account, day), []).append(Use(tuple(heads), inside, cell.quantity(line), row))
    for single in single_events(read, wide):
        row = line.row_at(single.instant)
        taken = single.billable and line.takes(single.event, single.rest)
        if row is not None and taken and wide.tariff.plan_of(single.account) is plan:
            *heads, day, inside = single.heads
            quantity = (line.quantity(single.event, single.rest) or 0) * single.copies
            days.setdefault((single.account, day), []).append(Use(tuple(heads), inside, quantity, row))
    return days


def _unit(uses: Sequence[Use], before: int, total: int) -> int | None:
    """The price that every unit of the day costs, or None where it is not the same for all."""
    units = {charges.unit_within(model, before, total) for model in {use.row.model for use in uses}}
    return units.pop() if len(units) == 1 else None


def _by_event(read: Read, wide: Selection, line: Line, uneven: Mapping[Place, int]) -> Iterator[Part]:
    """The parts of these days, each of which begins at so much use, event by event."""
    day = wide.headings[-2].sql
    used = dict(uneven)
    places = iter(uneven)
    while some := list(islice(places, DAYS_A_QUERY)):
        wanted = ", ".join(f"({literal(account)}, {start})" for account, start in some)
        only = f"billable AND type = {literal(line.meter.event)} AND (account, {day}) IN ({wanted})"
        for single in single_events(read, wide, only, "time, source, id"):
            row = line.row_at(single.instant)
            if row is None or not line.takes(single.event, single.rest):
                continue
            *heads, start, inside = single.heads
            place = single.account, start
            quantity = line.quantity(single.event, single.rest) or 0
            amount = charges.marginal(row.model, used[place], quantity)
            used[place] += quantity
            if inside:
                yield Part(tuple(heads), single.account, quantity, amount)

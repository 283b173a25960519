"""Counting a batch in groups: what ten thousand events cost, without looking at each.

Events that agree in all that a price or a cap depends on are a group, and a group moves its counters by one
sum. That is exact as long as nothing depends on the order within the batch: no counter reaches a level, no
price changes, no tier ends, no test divides the group. Where one does, the groups that it concerns are walked
event by event in the order of the log, as ``Counters.fold`` does with any; both come to the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from doortab.consumers.columns import Columns, Texts, Whole
from doortab.consumers.counters import NOTHING, Counter, Counters, Crossing, Slot
from doortab.consumers.groups import Groups, Terms
from doortab.schemas import charges, money
from doortab.schemas.tariff import Rate, Tariff

FEW = 8
"""So many events are walked at once: dividing them into groups would cost as much."""


class Tiered(NamedTuple):
    """A quantity whose price depends on how far the account is into the tiers."""

    position: Counter
    model: charges.AnyModel
    unit: str | None
    quantity: int


class Move:
    """What a group does to its counters. ``is_one`` says that it can be said of all its events at once.

    ``slots`` are those that its events fall into: one, unless a period ends between them.
    """

    __slots__ = ("is_one", "number", "slot", "slots", "tiered", "use", "worth")

    def __init__(self, number: int, slot: Slot) -> None:
        self.number = number
        self.slot = slot
        self.slots = [slot]
        self.is_one = False
        self.worth: Terms = []
        self.tiered: list[Tiered] = []
        self.use: list[tuple[Counter, Terms]] = []

    def steps(self) -> Iterator[tuple[Counter, Terms]]:
        """The counters with levels that move, and by what."""
        for counter in self.slot.spend:
            yield counter, self.worth
        yield from self.use


class Tally(NamedTuple):
    """A counter, what it will have come to, and which groups bring it there by what."""

    counter: Counter
    moves: list[tuple[int, Terms]]

    def grown(self, groups: Groups) -> int:
        """What it will have come to."""
        return self.counter.value + sum(groups.sum_of(number, terms) for number, terms in self.moves)


def fold(
    counters: Counters,
    tariff: Tariff,
    columns: Columns,
    charged: Whole,
    accounts: Texts,
    rests: Mapping[int, Mapping[str, Any]],
    lineages: Mapping[str, str] = NOTHING,
) -> list[Crossing]:
    """Counts the events numbered in ``charged``, and returns the levels they reached: what ``Counters.fold`` does.

    What depends on the account depends on the one that is billed, which the event need not have named.
    """
    columns = columns.attributed(accounts)

    def walk(numbers: list[int]) -> list[Crossing]:
        events = columns.picked(numbers)
        return counters.fold(tariff, numbers, events, columns.times, accounts, rests, lineages)

    if len(charged) <= FEW:
        return walk(charged.tolist())
    counters.adopt(tariff)
    groups = Groups(columns, charged, accounts, tariff.paths)
    moves = [_move(counters, groups, number, lineages) for number in range(len(groups))]
    _price_tiers(moves)
    tallies = _tallies(moves)
    walked = _walked(groups, moves, tallies)
    together = [move for move in moves if move.number not in walked]
    crossings = _apply(groups, together, tallies)
    if walked:
        crossings += walk(groups.events_of(walked))
    return sorted(crossings, key=lambda crossing: crossing.number)


def _move(counters: Counters, groups: Groups, number: int, lineages: Mapping[str, str]) -> Move:
    """What the group does to its counters."""
    first = groups.first[number]
    key, account = groups.columns.texts("key")[first], groups.accounts[first]
    assert account is not None
    place = (account, lineages.get(key, key) if key is not None else None)
    move = Move(number, slot := counters.slot_at(place, groups.earliest[number]))
    if groups.latest[number] >= slot.until:
        slots = (counters.slot_at(place, time) for time in groups.times_of(number))
        move.slots = list({id(slot): slot for slot in slots}.values())
    elif not groups.is_unusual[number]:
        move.is_one = _spends(groups, move) and _uses(groups, move)
    return move


def _spends(groups: Groups, move: Move) -> bool:
    """Adds what the group costs. False where that cannot be said of all its events at once."""
    plan, number = move.slot.plan, move.number
    if plan is None:
        return True
    first, earliest, latest = groups.first[number], groups.earliest[number], groups.latest[number]
    texts = groups.columns.text_at
    signature = (groups.columns.texts("type")[first], *(texts(path, first) for path in plan.paths))
    for rate in move.slot.rates_of(signature):
        if latest < rate.since or earliest >= rate.until:
            continue
        met = _meets(groups, number, rate)
        if earliest < rate.since or latest >= rate.until or met is None or not groups.sums(rate.line):
            return False
        if not met:
            continue
        unit = rate.line.source.name if rate.line.source is not None else None
        position, price = move.slot.tiers.get(rate.line.id), rate.model.linear
        if position is not None:
            quantity = groups.sum_of(number, [(unit, money.QUANTITY_ONE)])
            move.tiered.append(Tiered(position, rate.model, unit, quantity))
        elif price is None or price < 0:
            return False
        else:
            move.worth.append((unit, price * money.QUANTITY_ONE))
    return True


def _meets(groups: Groups, number: int, rate: Rate) -> bool | None:
    """Whether all events of the group meet the rate's test, or none does; None where some may."""
    if rate.test is None:
        return True
    used = groups.used(rate.bound.unit) if rate.bound is not None else None
    if rate.bound is None or used is None or used.missing[number]:
        return None
    return rate.bound.holds_between(used.least[number], used.most[number])


def _uses(groups: Groups, move: Move) -> bool:
    """Adds what caps on meters measure of the group. False where that cannot be said of all its events at once."""
    first, columns = groups.first[move.number], groups.columns
    for line, counter in move.slot.use:
        if line.tests or not groups.sums(line):
            return False
        takes = line.meter.event == columns.texts("type")[first]
        if takes and all(condition.holds(columns.text_at(path, first)) for path, condition in line.fixed):
            unit = line.source.name if line.source is not None else None
            move.use.append((counter, [(unit, money.QUANTITY_ONE)]))
    return True


def _price_tiers(moves: Sequence[Move]) -> None:
    """Prices what costs by tiers, where no tier ends within the batch. Where one does, its groups are not one."""
    totals: dict[int, int] = {}
    for move in moves:
        for tiered in move.tiered:
            totals[id(tiered.position)] = totals.get(id(tiered.position), 0) + tiered.quantity

    def price(tiered: Tiered) -> int | None:
        return charges.unit_within(tiered.model, tiered.position.value, totals[id(tiered.position)])

    tiers = [move for move in moves if any(slot.tiers for slot in move.slots)]
    changed = True
    while changed:
        changed = False
        # How far a group comes that is walked is not known beforehand, nor then where the others begin.
        unknown = {id(p) for move in tiers if not move.is_one for slot in move.slots for p in slot.tiers.values()}
        for move in tiers:
            if move.is_one and any(id(t.position) in unknown or price(t) is None for t in move.tiered):
                move.is_one, changed = False, True
    for move in tiers:
        if move.is_one:
            move.worth += [(t.unit, (price(t) or 0) * money.QUANTITY_ONE) for t in move.tiered]


def _tallies(moves: Sequence[Move]) -> dict[int, Tally]:
    """What the groups that are one bring to each counter."""
    tallies: dict[int, Tally] = {}
    for move in moves:
        if move.is_one:
            for counter, terms in move.steps():
                tallies.setdefault(id(counter), Tally(counter, [])).moves.append((move.number, terms))
    return tallies


def _walked(groups: Groups, moves: Sequence[Move], tallies: Mapping[int, Tally]) -> set[int]:
    """The groups that depend on each other's order: which are not one, or share a counter that may reach a level."""
    walked = {move.number for move in moves if not move.is_one}
    if not walked:
        return walked
    near = {place for place, tally in tallies.items() if tally.grown(groups) >= tally.counter.next}
    shared: set[int] = set()
    for move in moves:
        if not move.is_one:
            for slot in move.slots:
                shared.update(map(id, (*slot.spend, *(counter for _, counter in slot.use))))
    while True:
        more = {
            move.number
            for move in moves
            if move.number not in walked and any(id(counter) in shared for counter, _ in move.steps())
        }
        if not more:
            return walked
        walked |= more
        shared |= {id(c) for move in moves if move.number in more for c, _ in move.steps() if id(c) in near}


def _apply(groups: Groups, moves: Sequence[Move], tallies: Mapping[int, Tally]) -> list[Crossing]:
    """Moves the counters by whole groups; the levels they reach on the way."""
    applied = {move.number for move in moves}
    crossings: list[Crossing] = []
    for counter, parts in tallies.values():
        part = Tally(counter, [one for one in parts if one[0] in applied])
        grown = part.grown(groups)
        if part.moves and grown >= counter.next:  # a cap of nothing is reached before anything moves
            crossings += _crossings(groups, part, grown)
        counter.add(grown - counter.value)
    for move in moves:
        for counter, _ in move.use:
            counter.moved = True
        for tiered in move.tiered:
            tiered.position.moved = True
            tiered.position.add(tiered.quantity)
    return crossings


def _crossings(groups: Groups, tally: Tally, grown: int) -> Iterator[Crossing]:
    """The events that brought the counter to its levels, each looked for by halves: the value only grows."""
    counter, before = tally.counter, tally.counter.value
    running = [groups.running(number, terms) for number, terms in tally.moves]
    numbers = np.sort(np.concatenate([members for members, _ in running])).tolist()

    def value_at(number: int) -> int:
        value = before
        for members, sums in running:
            count = int(np.searchsorted(members, number, side="right"))
            value += sum(int(sum_[count - 1]) * worth for sum_, worth in sums) if count else 0
        return value

    while grown >= counter.next:
        number = numbers[bisect_left(numbers, counter.next, key=value_at)]
        value = counter.value = value_at(number)
        for level in counter.crossed():
            yield Crossing(number, counter.key, level, value)
    counter.value = before

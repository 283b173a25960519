"""Counters: what each key and account has spent and used in each period, in event order.

Plain whole numbers in dictionaries. They say at once which event crossed a cap, which no sum over a
batch could. The state is rebuilt from the store at the start, at the same commit as the positions in
the log, so counters and positions agree by construction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from doortab.consumers.columns import Whole
from doortab.consumers.sift import Accounts
from doortab.schemas import charges, money
from doortab.schemas.batch import CounterKey
from doortab.schemas.events import Event
from doortab.schemas.periods import Period, PeriodKind, period_of
from doortab.schemas.tariff import AMOUNT, Cap, Line, PlanTariff, Rate, Tariff

NEVER = 10**200
MAX_SLOTS = 200_000
MAX_RATES = 1_000
NOTHING: Mapping[str, Any] = {}

DEFAULT_PERIOD: PeriodKind = "month"
"""Every key and account has its spend of the month counted, capped or not."""


class Level(NamedTuple):
    """A share of a cap: ``percent`` of it is reached at ``limit``."""

    limit: int
    percent: int
    cap: Cap


class Counter:
    """A running total. ``value`` is an amount of 10^-36 or a quantity of 10^-24; ``next`` the level above it."""

    __slots__ = ("key", "levels", "moved", "next", "value")

    def __init__(self, key: CounterKey, value: int | None, levels: list[Level]) -> None:
        self.key = key
        self.value = value or 0
        # Whether anything was counted, were it nothing: a cap of nothing is reached then, and not before.
        self.moved = value is not None
        self.levels = levels
        # A stored value has fired every level up to it; a fresh counter not even a level of nothing.
        reached = -1 if value is None else value
        self.next = min((level.limit for level in levels if level.limit > reached), default=NEVER)

    def add(self, more: int) -> int:
        """The value, so much more than it was."""
        self.value += more
        return self.value

    def crossed(self) -> list[Level]:
        """The levels that the value has reached since ``next`` was set; moves ``next`` on."""
        reached = [level for level in self.levels if self.next <= level.limit <= self.value]
        self.next = min((level.limit for level in self.levels if level.limit > self.value), default=NEVER)
        return reached


class Slot:
    """The counters that one account's key moves as long as none of its periods ends, and the rates in force then."""

    __slots__ = ("plan", "rates", "since", "spend", "tiers", "until", "use")

    def __init__(
        self,
        lifetime: Period,
        plan: PlanTariff | None,
        spend: tuple[Counter, ...],
        use: tuple[tuple[Line, Counter], ...],
        tiers: dict[str, Counter],
    ) -> None:
        self.since, self.until = lifetime
        self.plan = plan
        self.spend = spend
        self.use = use
        self.tiers = tiers
        self.rates: dict[tuple[str | None, ...], tuple[Rate, ...]] = {}

    def rates_of(self, signature: tuple[str | None, ...]) -> tuple[Rate, ...]:
        """The rates of that signature which are in force at some time of the slot's life."""
        assert self.plan is not None
        rates = self.rates.get(signature)
        if rates is None:
            if len(self.rates) >= MAX_RATES:
                self.rates.clear()  # a filter reads something that nearly every event has another of
            rates = self.rates[signature] = self.plan.rates_within(signature, self.since, self.until)
        return rates


class Crossing(NamedTuple):
    """Event ``number`` brought ``counter`` to ``level``; ``value`` is what it stood at then."""

    number: int
    counter: CounterKey
    level: Level
    value: int


class Counters:
    """The state. ``fold`` moves it; ``touched`` are the counters that moved since ``settle``."""

    def __init__(self, stored: Mapping[CounterKey, str] | None = None) -> None:
        self._stored = {key: parse_value(key, value) for key, value in (stored or {}).items()}
        self._counters: dict[CounterKey, Counter] = {}
        self._slots: dict[tuple[str, str | None], Slot] = {}
        self._earlier: dict[tuple[str, str | None, int], Slot] = {}
        self._touched: dict[int, Slot] = {}
        self._tariff: Tariff | None = None

    def fold(
        self,
        tariff: Tariff,
        order: Iterable[int],
        events: Sequence[Event] | Mapping[int, Event],
        times: Sequence[int] | Whole,
        accounts: Accounts,
        rests: Mapping[int, Mapping[str, Any]],
        lineages: Mapping[str, str] = NOTHING,
    ) -> list[Crossing]:
        """Counts the events numbered in ``order``, all billable, and returns the levels they reached, in that order.

        ``lineages`` says of keys that took another's place which key began: rotation resets no budget.
        """
        self.adopt(tariff)
        crossings: list[Crossing] = []
        for i in order:
            event, time = events[i], int(times[i])
            key = event.data.key
            account = accounts[i]
            assert account is not None
            slot = self.slot_at((account, lineages.get(key, key) if key is not None else None), time)
            amount = self._amount(slot, event, time, rests.get(i, NOTHING)) if slot.plan is not None else 0
            for counter in slot.spend:
                value = counter.add(amount)
                if value >= counter.next:
                    crossings += [Crossing(i, counter.key, level, value) for level in counter.crossed()]
            if slot.use:
                crossings += self._use(slot, i, event, rests.get(i, NOTHING))
        return crossings

    def adopt(self, tariff: Tariff) -> None:
        """Counts by this tariff from here on."""
        if tariff is not self._tariff:
            self._forget()
            self._tariff = tariff

    def slot_at(self, place: tuple[str, str | None], time: int) -> Slot:
        """The slot that an account's key moves at that time; what it holds counts as touched."""
        slot = self._slots.get(place)
        if slot is None or not slot.since <= time < slot.until:
            assert self._tariff is not None
            slot = self._slots[place] = self._slot(self._tariff, place, time)
        self._touched[id(slot)] = slot
        return slot

    def _use(self, slot: Slot, index: int, event: Event, rest: Mapping[str, Any]) -> Iterator[Crossing]:
        """Counts what caps on meters measure of the event."""
        for line, counter in slot.use:
            if not line.takes(event, rest):
                continue
            counter.moved = True
            if counter.add(line.quantity(event, rest) or 0) >= counter.next:
                yield from [Crossing(index, counter.key, level, counter.value) for level in counter.crossed()]

    def _amount(self, slot: Slot, event: Event, time: int, rest: Mapping[str, Any]) -> int:
        """What the event costs, of 10^-36."""
        assert slot.plan is not None
        units = event.data.units
        amount = 0
        for rate in slot.rates_of(slot.plan.signature(event)):
            unit, since, until, price, test = rate[:5]
            if not since <= time < until or (test is not None and not test(event, rest)):
                continue
            if price is not None and unit is not None:
                used = units.get(unit)
                if used.__class__ is int:
                    amount += used * price
                elif used is not None:
                    amount += money.quantity(used) * price // money.QUANTITY_ONE
                continue
            amount += self._unusual(slot, rate, event, rest)
        return amount

    def _unusual(self, slot: Slot, rate: Rate, event: Event, rest: Mapping[str, Any]) -> int:
        """What is no unit, such as a count, or costs by tiers: then it moves on in them."""
        used = rate.line.quantity(event, rest) or 0
        position = slot.tiers.get(rate.line.id)
        if position is None:
            return charges.marginal(rate.model, 0, used)
        amount = charges.marginal(rate.model, position.value, used)
        position.moved = True
        position.value += used
        return amount

    def settle(self) -> dict[CounterKey, str]:
        """The counters that moved since the last time, with their values as decimal text."""
        moved: dict[CounterKey, str] = {}
        for slot in self._touched.values():
            for counter in (*slot.spend, *(counter for _, counter in slot.use), *slot.tiers.values()):
                if counter.moved:
                    moved[counter.key] = show_value(counter.key, counter.value)
        self._touched.clear()
        if len(self._earlier) > MAX_SLOTS:
            self._slots.clear()
            self._earlier.clear()
        return moved

    def replace(self, counted: Mapping[CounterKey, int]) -> None:
        """Puts recounted values in the place of what was counted, as after a change of prices."""
        self._forget()
        self._stored.update(counted)

    def _forget(self) -> None:
        """Keeps the values alone: which levels there are, another tariff says."""
        assert not self._touched, "settle before the tariff changes"
        self._stored.update({key: counter.value for key, counter in self._counters.items() if counter.moved})
        self._counters.clear()
        self._slots.clear()
        self._earlier.clear()

    def _slot(self, tariff: Tariff, place: tuple[str, str | None], time: int) -> Slot:
        """The slot of that time: one that was left for another, or a new one."""
        account, key = place
        scopes = tariff.caps_of("account", account) + (tariff.caps_of("key", key) if key is not None else [])
        zone = tariff.timezone_of(account)
        kinds = {DEFAULT_PERIOD, *(cap.period for cap in scopes)}
        lives = [period_of(kind, zone, time) for kind in kinds]
        # Weeks and months end across each other: a slot lives while none of its periods ends.
        lifetime = Period(max(life.start for life in lives), min(life.end for life in lives))
        slot = self._earlier.get((account, key, lifetime.start))
        if slot is None:
            slot = self._earlier[account, key, lifetime.start] = self._new_slot(tariff, place, lifetime, zone)
        return slot

    def _new_slot(self, tariff: Tariff, place: tuple[str, str | None], lifetime: Period, zone: str) -> Slot:
        account, key = place
        plan = tariff.plan_of(account)
        time = lifetime.start
        spend: dict[CounterKey, Counter] = {}
        use: list[tuple[Line, Counter]] = []
        subjects = [("account", account)] + ([("key", key)] if key is not None else [])
        for scope, name in subjects:
            caps = tariff.caps_of(scope, name)
            measures = {(AMOUNT, DEFAULT_PERIOD)} | {(cap.measure, cap.period) for cap in caps}
            for measure, kind in sorted(measures):
                start = period_of(kind, zone, time).start
                levels = levels_of(cap for cap in caps if (cap.measure, cap.period) == (measure, kind))
                counter = self._counter(CounterKey(f"{scope}:{name}", measure, kind, start), levels)
                if measure == AMOUNT:
                    counter.moved = True  # a slot is made for an event that is charged
                    spend[counter.key] = counter
                else:
                    line = levels[0].cap.line
                    assert line is not None
                    use.append((line, counter))
        return Slot(lifetime, plan, tuple(spend.values()), tuple(use), self._tiers(plan, account, zone, time))

    def _tiers(self, plan: PlanTariff | None, account: str, zone: str, time: int) -> dict[str, Counter]:
        """How far the account is into each charge whose price depends on that."""
        start = period_of(DEFAULT_PERIOD, zone, time).start
        lines = [line for line in plan.lines if not line.linear] if plan is not None else []
        return {
            line.id: self._counter(CounterKey(f"account:{account}", f"charge:{line.id}", DEFAULT_PERIOD, start), [])
            for line in lines
        }

    def _counter(self, key: CounterKey, levels: list[Level]) -> Counter:
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = Counter(key, self._stored.pop(key, None), levels)
        return counter


def levels_of(caps: Iterable[Cap]) -> list[Level]:
    """The thresholds of caps, and the caps themselves, from the lowest."""
    levels = [Level(-(-cap.limit * p // 100), p, cap) for cap in caps for p in (*cap.thresholds, 100)]
    return sorted(levels, key=lambda level: (level.limit, level.percent))


def parse_value(key: CounterKey, text: str) -> int:
    """A counter's value from its decimal text."""
    return money.amount(text) if key.measure == AMOUNT else money.scaled(text, money.QUANTITY_DECIMALS)


def show_value(key: CounterKey, value: int) -> str:
    """Decimal text of a counter's value."""
    return money.amount_text(value) if key.measure == AMOUNT else money.quantity_text(value)

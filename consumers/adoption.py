"""What a new catalog changes about the past: caps that are reached now, and caps that no longer are."""

from __future__ import annotations

import msgspec

from doortab.consumers import enforcer
from doortab.consumers.counters import Level, levels_of, show_value
from doortab.schemas.batch import CounterKey, Decision, Message
from doortab.schemas.instants import LATEST
from doortab.schemas.tariff import Tariff

Place = tuple[str, str, int, int, str]
"""Cap, subject, period start, percent, limit: what a decision stands for as long as it is not lifted."""


def redecide(
    tariff: Tariff,
    counted: dict[CounterKey, int],
    owners: dict[str, str],
    decided: list[Decision],
    catalog: int,
    at: int,
) -> tuple[list[Decision], list[Message]]:
    """The decisions that the catalog at that offset brings about by itself, given the recounted counters.

    ``owners`` says whose each subject is, for that decides on time zone and currency.

    Levels that are reached and were not decided are decided; revocations whose cap is gone, or higher
    than the counter now, are lifted. Periods that had ended by then are left alone.
    """
    standing = _standing(decided)
    made: list[Decision] = []
    reached: set[Place] = set()
    for counter, value in sorted(counted.items()):
        for level in _levels(tariff, counter):
            decision = enforcer.decision(
                tariff, counter, level, value, owners.get(counter.subject), _key(counter), {"at": at}
            )
            if value < level.limit or decision.end <= at:
                continue
            reached.add(_place(decision))
            if _place(decision) not in standing:
                made.append(msgspec.structs.replace(decision, id=f"{decision.id}@catalog/{catalog}"))
    messages = enforcer.messages(made)
    for place, decision in sorted(standing.items()):
        counter = CounterKey(decision.subject, decision.measure, decision.period, decision.start)
        # Of a subject without events here nothing is known; of one that has some, a counter that is not
        # among them is that of a cap that is gone, or of a period that now begins at another time.
        is_over = decision.end <= at and decision.end != LATEST
        if place in reached or counter.subject not in owners or is_over:
            continue
        made.append(_lifted(decision, catalog, at, show_value(counter, counted.get(counter, 0))))
        if decision.percent == enforcer.REACHED and decision.hard:
            messages.append(enforcer.lift(decision, at))
    # A cap that was moved lifts the old limit and may set a new one: what is set must come last.
    messages.sort(key=lambda message: not message.id.endswith(f"/restored/{at}"))
    return made, messages


def _standing(decided: list[Decision]) -> dict[Place, Decision]:
    standing: dict[Place, Decision] = {}
    for decision in decided:
        if decision.id.startswith("lift:"):
            standing.pop(_place(decision), None)
        else:
            standing[_place(decision)] = decision
    return standing


def _place(decision: Decision) -> Place:
    return decision.cap, decision.subject, decision.start, decision.percent, decision.limit


def _lifted(decision: Decision, catalog: int, at: int, value: str) -> Decision:
    return msgspec.structs.replace(
        decision,
        id=f"lift:{decision.id.split('@')[0]}@catalog/{catalog}",
        value=value,
        at=at,
        event_source=None,
        event_id=None,
        event_time=None,
        place=None,
    )


def _levels(tariff: Tariff, counter: CounterKey) -> list[Level]:
    scope, _, name = counter.subject.partition(":")
    caps = tariff.caps_of(scope, name)
    return levels_of(cap for cap in caps if (cap.measure, cap.period) == (counter.measure, counter.period))


def _key(counter: CounterKey) -> str | None:
    scope, _, name = counter.subject.partition(":")
    return name if scope == "key" else None

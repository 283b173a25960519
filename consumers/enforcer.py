"""From levels reached to decisions, and from decisions to what the gates and people are told.

Every id follows from its cause: a decision that is made again after a crash or a rebuild is the same
decision, and publishing it again is harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doortab.consumers.columns import Columns, Texts
from doortab.consumers.counters import Crossing, Level, show_value
from doortab.schemas import alerts, instants, revocations, topics
from doortab.schemas.batch import CounterKey, Decision, Message
from doortab.schemas.periods import PeriodKind, period_of
from doortab.schemas.tariff import AMOUNT, Tariff

REACHED = 100


def decide(tariff: Tariff, crossings: Sequence[Crossing], columns: Columns, accounts: Texts) -> list[Decision]:
    """The decisions of the crossings, each naming the event that brought it about."""
    decisions = []
    events = columns.picked(sorted({crossing.number for crossing in crossings}))
    for index, counter, level, value in crossings:
        event = events[index]
        cause = {
            "at": columns.logged_at(index),
            "event_source": event.source,
            "event_id": event.id,
            "event_time": int(columns.times[index]),
            "place": columns.place_of(index),
        }
        decisions.append(decision(tariff, counter, level, value, accounts[index], event.data.key, cause))
    return decisions


def decision(
    tariff: Tariff,
    counter: CounterKey,
    level: Level,
    value: int,
    account: str | None,
    key: str | None,
    cause: dict[str, Any],
) -> Decision:
    """That the counter reached the level."""
    zone = tariff.timezone_of(account) if account is not None else "UTC"
    plan = tariff.plan_of(account) if account is not None else None
    kind: PeriodKind = level.cap.period
    start = counter.start
    end = period_of(kind, zone, start).end
    limit = show_value(counter, level.cap.limit)
    return Decision(
        id="/".join([level.cap.id, counter.subject, instants.text(start), limit, str(level.percent)]),
        cap=level.cap.id,
        subject=counter.subject,
        account=account,
        key=key if counter.subject.startswith("key:") else None,
        measure=counter.measure,
        period=kind,
        start=start,
        end=end,
        percent=level.percent,
        limit=limit,
        value=show_value(counter, value),
        currency=plan.currency if plan is not None and counter.measure == AMOUNT else None,
        hard=level.cap.hard,
        **cause,
    )


def messages(decisions: Sequence[Decision]) -> list[Message]:
    """What has to be published: an alert for every decision, a revocation for every hard cap that is reached."""
    published = []
    for made in decisions:
        if made.percent == REACHED and made.hard:
            published.append(_revocation_message(_revocation(made)))
        alert = _alert(made)
        published.append(Message(f"alert/{alert.id}", topics.ALERTS, alert.id.encode(), alerts.encode(alert)))
    return published


def cause_of(made: Decision) -> str:
    """The cause that a revocation for this decision names; a higher limit lifts it, the next period is another."""
    return f"cap:{made.cap}:{instants.text(made.start)}"


def _revocation(made: Decision) -> revocations.Revocation:
    evidence = {"cap": made.cap, "limit": made.limit, "value": made.value, "measure": made.measure}
    if made.currency is not None:
        evidence["currency"] = made.currency
    if made.place is not None:
        evidence["event"] = f"{made.event_source} {made.event_id}"
        evidence["event_time"] = instants.text(made.event_time or 0)
        evidence["position"] = "/".join(map(str, made.place))
    return revocations.Revocation(
        type="access.revoked",
        id=f"{cause_of(made)}/{made.subject}/{made.limit}",
        subject=made.subject,
        cause=cause_of(made),
        at=instants.text(made.at),
        until=None if made.period == "total" else instants.text(made.end),
        reason="cap",
        evidence=evidence,
    )


def lift(made: Decision, at: int) -> Message:
    """The restoration that ends the revocation of an earlier decision."""
    revoked = _revocation(made)
    restored = revocations.Revocation(
        type="access.restored",
        id=f"{revoked.id}/restored/{at}",
        subject=revoked.subject,
        cause=revoked.cause,
        at=instants.text(at),
        reason="cap",
    )
    return _revocation_message(restored)


def _revocation_message(fact: revocations.Revocation) -> Message:
    return Message(fact.id, topics.REVOCATIONS, fact.record_key, revocations.encode(fact))


def _alert(made: Decision) -> alerts.Alert:
    reached = made.percent == REACHED
    unit = made.currency or made.measure
    share = "reached its cap of" if reached else f"has used {made.percent} % of its cap of"
    text = f"{made.subject} {share} {made.limit} {unit} per {made.period}: {made.value} so far"
    if reached:
        text += "; refused from now on" if made.hard else "; not refused, the cap is soft"
    facts = {"cap": made.cap, "percent": str(made.percent), "limit": made.limit, "value": made.value}
    return alerts.Alert(
        id=made.id,
        kind="cap" if reached else "threshold",
        severity="critical" if reached else "warning",
        subject=made.subject,
        account=made.account,
        key=made.key,
        at=instants.text(made.at),
        text=text,
        facts=facts,
    )

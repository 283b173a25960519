"""The invariants, at rest: what the log holds, what the oracle makes of it, and what the product has made of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from doortab.analytics import snapshot
from doortab.analytics.exports import write_exports
from doortab.consumers.worker import Worker
from doortab.schemas.topics import ALERTS, KEYS, REVOCATIONS, USAGE
from tests.simulation.ledgers import USAGE_ROWS, open_store
from tests.simulation.oracle import Answer, elements, instant, number, reckon
from tests.simulation.services import Checked

if TYPE_CHECKING:
    from tests.simulation.history import History

COUNTER_ROWS = (
    "SELECT subject, measure, period, epoch_us(start), arg_max(value, batch) FROM counters "
    "GROUP BY subject, measure, period, start"
)
DECISION_ROWS = "SELECT cap, subject, epoch_us(start), percent, value, part, off, idx FROM decisions"
REJECTED_ROWS = "SELECT part, off, idx FROM rejected WHERE topic = 'usage'"


def check_all(history: History) -> None:
    """All that can be checked at the end. Raises BrokenPromiseError."""
    keys = _keys(history)
    answer = reckon(_usage(history), history.prices_in_force, keys)
    _note_figures(history, answer)
    _conservation(history, answer)
    _billed(history, answer)
    _counters(history, answer)
    if not history.is_repriced and history.grown_at is None:
        _decisions(history, answer)
    _gates(history, keys)
    _alerts(history)
    _snapshots(history)
    _rebuilt(history)
    _secrets(history)


def _note_figures(history: History, answer: Answer) -> None:
    """How much was looked at."""
    figures, weights, counts = history.world.figures, history.world.weights, sum(answer.counts.values(), Counter[str]())
    topics = Counter(record.topic for record in history.world.history)
    figures["events"] = counts.total()
    figures["duplicates"], figures["rejected"] = counts["duplicates"], counts["rejected"]
    figures["decisions"], figures["revocations"] = len(answer.decisions), topics[REVOCATIONS]
    figures["alerts"], figures["attempts"] = topics[ALERTS], sum(history.ledger.receiver.attempts.values())
    figures["skewed"], figures["secrets"] = int(weights.skew > 0), len(history.audience.secrets)


def _usage(history: History) -> list[tuple[int, int, int, bytes | None]]:
    return [(r.partition, r.offset, r.stamp_ms, r.value) for r in history.world.history if r.topic == USAGE]


def _keys(history: History) -> dict[str, tuple[int, str, str]]:
    """Of each key, when the log first had it, whose it is, and which key began it."""
    found: dict[str, tuple[int, str, str]] = {}
    for record in history.world.history:
        state = json.loads(record.value or b"{}") if record.topic == KEYS else {}
        if state.get("kind") == "key":
            found.setdefault(state["key_id"], (record.stamp_ms, state["account"], state["lineage"]))
    return found


def _conservation(history: History, answer: Answer) -> None:
    """I1."""
    ledger, world = history.ledger, history.world
    ledger.audit()
    made: dict[int, Counter[str]] = {}
    for part, billable in ledger.read("SELECT part, billable FROM usage"):
        made.setdefault(part, Counter())["billed" if billable else "not_billable"] += 1
    for (part,) in ledger.read("SELECT part FROM rejected WHERE topic = 'usage'"):
        made.setdefault(part, Counter())["rejected"] += 1
    query = "SELECT part, sum(events), sum(duplicates), max(next) FROM commits WHERE part >= 0 GROUP BY part"
    for part, events, duplicates, _ in ledger.read(query):
        made.setdefault(part, Counter())["duplicates"] += int(duplicates)
        if sum(made[part].values()) != events:
            world.breaks("I1", f"partition {part}: {events} events were read, {dict(made[part])} explained")
    ends = {part: end for part, end in world.log.end_offsets(USAGE).items() if end}
    reached = {part: end for part, _, _, end in ledger.read(query)}
    if reached != ends:
        world.breaks("I1", f"the log ends at {ends}, the store at {reached}")
    if history.grown_at is None and {p: +c for p, c in made.items()} != {p: +c for p, c in answer.counts.items()}:
        world.breaks("I1", f"the log holds {answer.counts}, the store explains {made}")
    if sum(made.values(), Counter[str]()) != sum(answer.counts.values(), Counter[str]()):
        world.breaks("I1", f"the log holds {answer.counts}, the store explains {made}")


def _billed(history: History, answer: Answer) -> None:
    """I2."""
    world, audience = history.world, history.audience
    rows = {tuple(row[:3]): tuple(row[3:]) for row in history.ledger.read(USAGE_ROWS)}
    same_place = history.grown_at is None
    found, wanted = (rows, answer.usage) if same_place else (sorted(rows.values()), sorted(answer.usage.values()))
    if found != wanted:
        world.breaks("I2", f"the store has {_difference(rows, answer.usage)}")
    if same_place:
        history.ledger.check_rows()
    if same_place and (gone := set(history.ledger.rows) - set(rows)):
        world.breaks("I7", f"rows are gone: {sorted(gone)[:3]}")
    refused = {tuple(row) for row in history.ledger.read(REJECTED_ROWS)}
    if same_place and refused != answer.rejected:
        world.breaks("I2", f"rejected are {refused ^ answer.rejected}")
    names = [(source, id) for source, id, *_ in rows.values()]
    if len(set(names)) != len(names):
        world.breaks("I2", "an event is in the store twice")
    for name, recorded in audience.recorded.items():
        if name not in set(names) and not recorded.may_be_lost:
            world.breaks("I2", f"{name} was recorded and is not in the store")
    for record in world.history:
        if record.topic == USAGE and record.value not in audience.foreign:
            for event in elements(record.value):
                if json.dumps(event, sort_keys=True) not in audience.created:
                    world.breaks("I2", f"nobody recorded {event}")


def _difference(one: dict[Any, Any], other: dict[Any, Any]) -> str:
    return str(sorted(set(one.items()) ^ set(other.items()))[:6])


def _counters(history: History, answer: Answer) -> None:
    """I3. After a change of partitions or prices, only what no order can change: the accounts' months."""
    loose = history.is_repriced or history.grown_at is not None
    stored = {tuple(row[:4]): number(row[4], 36) for row in history.ledger.read(COUNTER_ROWS)}
    made = {place: value for place, value in stored.items() if not place[1].startswith("charge:")}
    wanted = dict(answer.counters)
    if loose:
        made, wanted = _months(made), _months(wanted)
    if made != wanted:
        history.world.breaks("I3", f"counters differ: {_difference(made, wanted)}")


def _months(counters: dict[Any, int]) -> dict[Any, int]:
    # What was counted before the first catalog came has no price, and months of another zone.
    return {k: v for k, v in counters.items() if v and k[0].startswith("account:") and k[1:3] == ("amount", "month")}


def _decisions(history: History, answer: Answer) -> None:
    """I5 and I8: the decisions are those of the oracle, and were said in the turn that saw them."""
    world = history.world
    made = sorted((*row[:4], number(row[4], 36), tuple(row[5:])) for row in history.ledger.read(DECISION_ROWS))
    if made != sorted(answer.decisions):
        world.breaks("I8", f"decisions differ: {sorted(set(made) ^ set(answer.decisions))[:4]}")
    hard = {cap["id"] for cap in history.prices_in_force["caps"] if cap["hard"]}
    said: dict[tuple[str, str], int] = {}
    for record in world.history:
        if record.topic == REVOCATIONS and record.value:
            fact = json.loads(record.value)
            said.setdefault((fact["subject"], fact["cause"].rsplit(":", 3)[0]), record.moment)
    for cap, subject, _, percent, _, (part, off, _) in answer.decisions:
        turns = [moment for moment, positions in history.ledger.clean_turns if positions.get(part, 0) > off]
        if percent == 100 and cap in hard and turns and said.get((subject, f"cap:{cap}"), turns[0] + 1) > turns[0]:
            world.breaks("I5", f"{cap} of {subject} was crossed at {part}/{off}, and nobody was told in time")


def _gates(history: History, keys: dict[str, tuple[int, str, str]]) -> None:
    """I5 and I6: who knows of a refusal lets nobody through, and neither does who knows nothing for too long."""
    world, audience = history.world, history.audience
    records = {t: [r for r in world.history if r.topic == t] for t in (KEYS, REVOCATIONS)}
    states: dict[str, dict[str, Any]] = {}
    causes: dict[tuple[str, str], dict[str, Any]] = {}
    for service in history.services:
        while service.fresh != world.now:
            service.follow()
        for secret in sorted(set(audience.secrets)):
            checked = service.serve(secret)
            wanted = _refusal(checked, _fold(records, checked, {}, {}), keys, audience.key_of[secret])
            if checked.reason != "full" and checked.allowed != (wanted is None):
                world.breaks("I6", f"{checked.service} says {checked.reason}, and not {wanted}")
    for checked in audience.checks:
        if not checked.allowed:
            continue
        if checked.fresh is None or checked.steady - checked.fresh > audience.staleness:
            world.breaks("I6", f"{checked.service} let somebody through and knew nothing since long")
        states, causes = _fold(records, checked, {}, {})
        wanted = _refusal(checked, (states, causes), keys, audience.key_of[checked.secret])
        if wanted is not None:
            world.breaks("I6", f"{checked.service} let {audience.key_of[checked.secret]} through: {wanted}")


Known = tuple[dict[str, dict[str, Any]], dict[tuple[str, str], dict[str, Any]]]


def _fold(records: dict[str, list[Any]], checked: Checked, states: dict[str, Any], causes: dict[Any, Any]) -> Known:
    """What a gate knew: of each key and account the gravest newest state, of each cause what was said last."""
    for record in records[KEYS][: checked.keys]:
        state = json.loads(record.value)
        name = state.get("key_id") or f"account/{state['account']}"
        rank = (state.get("status") == "revoked", state.get("version", 1))
        if name not in states or rank >= states[name]["rank"]:
            states[name] = {**state, "rank": rank}
    for record in records[REVOCATIONS][: checked.revocations]:
        fact = json.loads(record.value)
        causes[fact["subject"], fact["cause"]] = fact
    return states, causes


def _refusal(checked: Checked, known: Known, keys: dict[str, tuple[int, str, str]], key: str) -> str | None:
    """Why a gate that knows so much must refuse the key, or None."""
    states, causes = known
    state = states.get(key)
    if state is None or state.get("status", "active") in ("revoked", "expired"):
        return "unknown or revoked"
    if any(state.get(name) and instant(state[name]) <= checked.time for name in ("retires_at", "expires_at")):
        return "expired"
    if states.get(f"account/{state['account']}", {}).get("status") == "closed":
        return "account_closed"
    lineage = keys[key][2]
    for (subject, cause), fact in causes.items():
        holds = fact["type"] == "access.revoked" and ("until" not in fact or checked.time < instant(fact["until"]))
        own = subject in (f"key:{key}", f"account:{state['account']}")
        if holds and (own or (subject == f"key:{lineage}" and fact.get("reason") == "cap")):
            return cause
    return None


def _alerts(history: History) -> None:
    """I8: one id for each alert, all of them said and sent; none more often than the schedule has attempts."""
    world, ledger = history.world, history.ledger
    decided = {row[0] for row in ledger.read("SELECT id FROM decisions WHERE id NOT LIKE 'lift:%'")}
    said = {json.loads(record.value or b"")["id"] for record in world.history if record.topic == ALERTS}
    if not decided <= said:
        world.breaks("I8", f"decided and never said: {sorted(decided - said)[:3]}")
    strange = {alert for alert in said - decided if not alert.startswith("unattributed/")}
    # Where partitions were added, an account lies in two of them, and a store that falls back may read them in
    # another order: then another event is the one that reaches a tier, or a cap.
    if strange and history.grown_at is None:
        world.breaks("I8", f"said and not decided: {sorted(strange)[:3]}")
    doubled = [alert for alert, ids in ledger.receiver.got.items() if len(ids) > 1]
    if doubled:
        world.breaks("I8", f"{doubled[0]} came under several ids")
    states = {one.alert: one.state for one in ledger.deliveries.deliveries()}
    for alert in sorted(said):
        if states.get(alert) not in ("delivered", "expired", "given_up", "due"):
            world.breaks("I8", f"{alert} is {states.get(alert)}")
        if states[alert] == "delivered" and alert not in ledger.receiver.got:
            world.breaks("I8", f"{alert} counts as delivered, and nobody has it")
        if ledger.receiver.attempts.get(alert, 0) > 10 + ledger.incarnation:
            world.breaks("I10", f"{alert} was sent {ledger.receiver.attempts[alert]} times")


def _snapshots(history: History) -> None:
    """The newest snapshot is whole, and of one moment."""
    world = history.world
    newest = snapshot.latest(history.ledger.snapshots)
    if newest is None:
        return
    told = snapshot.as_of(newest)
    for name, facts in told["files"].items():
        if hashlib.sha256((newest / name).read_bytes()).hexdigest() != facts["sha256"]:
            world.breaks("I9", f"{newest.name}/{name} is not what was written")
    control = told["control"]
    if control["unexplained"] != "0":
        world.breaks("I1", f"snapshot {newest.name}: {control}")
    rows = told["files"]["usage.parquet"]["rows"]
    if rows != int(control["billed"]) + int(control["not_billable"]):
        world.breaks("I9", f"snapshot {newest.name} has {rows} rows: {control}")


def _rebuilt(history: History) -> None:
    """I9."""
    world, ledger = history.world, history.ledger
    batch = world.random.choice([7, 50, 20_000])
    fresh = open_store(world.root / "rebuilt" / "usage.duckdb", world)
    worker = Worker(world.log, fresh, max_records=batch, publishing=False)
    try:
        while len(list(worker.turn(0.0))) > 1:
            pass
        made = write_exports(ledger.read_all(), world.root / "exports-live")
        world.note("exports", *made.values())
        cursor = fresh.cursor()
        read = lambda query: cursor.execute(query).fetchall()  # noqa: E731
        again = write_exports(read, world.root / "exports-rebuilt")
        rows = [sorted(row[3:] for row in of(USAGE_ROWS)) for of in (ledger.read, read)]
    finally:
        worker.close()
        fresh.close()
    world.figures["rebuilt"] = 1
    if history.grown_at is not None:
        # Of two copies in different partitions either may be the first.
        made, again = ({"rows": str(one)} for one in rows)
    if made != again:
        world.breaks("I9", f"rebuilt otherwise: {[name for name in made if made[name] != again[name]]}")


def _secrets(history: History) -> None:
    """I12."""
    world = history.world
    secrets = [secret.encode() for secret in history.audience.secrets]
    held = [record.value or b"" for record in world.history]
    held += [path.read_bytes() for path in sorted(world.root.rglob("*")) if path.is_file()]
    if any(secret in content for secret in secrets for content in held):
        world.breaks("I12", "a secret stands in a file or record")

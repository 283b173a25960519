"""Bills reckoned in the most naive way: event by event, in decimals, from JSON to money.

Shares nothing with the product but the words of the contract, so that both being wrong alike is unlikely.
A ``World`` is what there is to reckon with.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

EXACT = Context(prec=500)
Event = Mapping[str, Any]
Charge = Mapping[str, Any]


def toml(value: Any) -> str:
    """The value as TOML; a document's tables all stand in a line each."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml(name)} = {toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[ " + ", ".join(map(toml, value)) + " ]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def document(catalog: Mapping[str, Any]) -> str:
    """A catalog as a TOML file."""
    return "\n".join(f"{name} = {toml(value)}" for name, value in catalog.items())


def number(value: Any) -> Decimal | None:
    """A quantity or number as a decimal, or None."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return Decimal(value)
    except ArithmeticError:
        return None


def at(event: Event, path: str) -> Any:
    """What stands in the event's data at a path."""
    data = event["data"]
    root, _, name = path.partition(".")
    if root in ("units", "dimensions"):
        return data.get(root, {}).get(name)
    return data.get(path, "allowed" if path == "verdict" else None)


def meets(event: Event, where: Mapping[str, Any]) -> bool:
    """Whether the event meets a filter."""
    for path, wanted in where.items():
        value = at(event, path)
        tests = wanted if isinstance(wanted, Mapping) else {"in": wanted if isinstance(wanted, list) else [wanted]}
        for operator, limit in tests.items():
            if not _holds(value, operator, limit, numeric=path.startswith("units.")):
                return False
    return True


def _holds(value: Any, operator: str, limit: Any, numeric: bool) -> bool:
    if operator in ("in", "eq", "ne"):
        wanted = limit if isinstance(limit, list) else [limit]
        same = [number(value) == number(one) if numeric else value == str(one) for one in wanted]
        return (value is not None and any(same)) == (operator != "ne")
    found, bound = number(value), number(limit)
    if found is None or bound is None:
        return False
    return {"lt": found < bound, "lte": found <= bound, "gt": found > bound, "gte": found >= bound}[operator]


def total(charge: Charge, used: Decimal) -> Decimal:
    """What so much costs from the beginning of a month."""
    if charge["model"] == "per_unit":
        return EXACT.multiply(used, Decimal(charge["unit"]))
    amount, low = Decimal(0), Decimal(0)
    for tier in charge["tiers"]:
        high = min(used, Decimal(tier["up_to"])) if "up_to" in tier else used
        if used > low:
            amount = EXACT.add(amount, EXACT.multiply(high - low, Decimal(tier.get("unit", 0))))
            amount = EXACT.add(amount, Decimal(tier.get("flat", 0)))
        low = high
    return amount


def month(event: Event, zone: str) -> tuple[int, int]:
    """The month of the event's time, by the clocks of the zone."""
    local = datetime.fromisoformat(event["time"]).astimezone(ZoneInfo(zone))
    return local.year, local.month


def billable(event: Event) -> bool:
    """Whether the event is charged at all."""
    return event["data"].get("verdict", "allowed") == "allowed" and event["data"].get("billable", True) is True


def prices(catalog: Mapping[str, Any], events: Iterable[Event]) -> list[Decimal]:
    """What each event costs, in the order in which they are given."""
    return [add(bill.values()) for bill in bills(catalog, events)]


def add(amounts: Iterable[Decimal]) -> Decimal:
    """The sum, exactly."""
    whole = Decimal(0)
    for amount in amounts:
        whole = EXACT.add(whole, amount)
    return whole


def measured(meter: Mapping[str, Any], event: Event) -> Decimal | None:
    """What the event adds to a meter; None if the meter does not take it."""
    if event["type"] != meter["event"] or not meets(event, meter.get("where", {})):
        return None
    return Decimal(1) if meter["aggregation"] == "count" else number(at(event, meter["value"])) or Decimal(0)


def plan_of(catalog: Mapping[str, Any], account: str) -> Mapping[str, Any]:
    """The plan that the account pays."""
    chosen = {one["id"]: one["plan"] for one in catalog.get("accounts", [])}.get(account, catalog["default_plan"])
    return next(plan for plan in catalog["plans"] if plan["name"] == chosen)


def bills(catalog: Mapping[str, Any], events: Iterable[Event]) -> list[dict[str, Decimal]]:
    """What each event costs by meter, in the order in which they are given."""
    meters = {meter["name"]: meter for meter in catalog["meters"]}
    used: dict[Any, Decimal] = defaultdict(Decimal)
    made = []
    for event in events:
        account = event["data"]["account"]
        plan = plan_of(catalog, account)
        bill: dict[str, Decimal] = defaultdict(Decimal)
        for charge in plan["charges"] if billable(event) else ():
            quantity = measured(meters[charge["meter"]], event)
            takes = quantity is not None and meets(event, charge.get("where", {}))
            if quantity is None or not takes or not in_force(charge, plan["charges"], event):
                continue
            place = (account, plan["name"], line(charge), month(event, plan.get("timezone", "UTC")))
            before = used[place]
            used[place] = EXACT.add(before, quantity)
            amount = EXACT.subtract(total(charge, used[place]), total(charge, before))
            bill[charge["meter"]] = EXACT.add(bill[charge["meter"]], amount)
        made.append(bill)
    return made


def line(charge: Charge) -> str:
    """What the dated rows of one charge have in common."""
    return json.dumps([charge["meter"], charge.get("where", {})], sort_keys=True)


def in_force(charge: Charge, among: Sequence[Charge], event: Event) -> bool:
    """Whether no other row of the charge takes its place at the event's time."""

    def since(one: Charge) -> datetime:
        return datetime.fromisoformat(one.get("effective_from", "0001-01-01T00:00:00Z"))

    rows = [one for one in among if line(one) == line(charge)]
    begun = [one for one in rows if since(one) <= datetime.fromisoformat(event["time"])]
    return bool(begun) and max(begun, key=since) is charge


# ------------------------------------------------------------------------------- what to reckon with

METERS: list[dict[str, Any]] = [
    {"name": "requests", "event": "request.validated", "aggregation": "count"},
    {"name": "tokens", "event": "request.validated", "aggregation": "sum", "value": "units.tokens"},
    {"name": "seconds", "event": "request.validated", "aggregation": "sum", "value": "units.seconds"},
    {
        "name": "large",
        "event": "request.validated",
        "aggregation": "sum",
        "value": "units.tokens",
        "where": {"units.tokens": {"gte": 500}, "dimensions.model": {"ne": "m3"}},
    },
    {"name": "weight", "event": "parcel.sent", "aggregation": "sum", "value": "weight"},
]
WHERES: list[dict[str, Any]] = [
    {},
    {"dimensions.model": "m1"},
    {"dimensions.model": ["m2", "m3"]},
    {"dimensions.model": {"ne": "m1"}},
    {"dimensions.model": "m1", "units.tokens": {"lte": "700"}},
    {"dimensions.model": "m1", "units.tokens": {"gt": "700"}},
    {"units.tokens": {"gt": "99.5", "lt": 1500}},
    {"units.seconds": {"gte": "0.25"}},
    {"units.tokens": ["0", "100", "1000"]},
    {"units.tokens": {"ne": 1000}},
    {"operation": "GET"},
    {"colour": "red"},
    {"account": {"ne": "a2"}},
]
CHANGES = ["2026-03-10T12:34:56Z", "2026-03-20T00:00:00Z", "2026-04-01T00:00:00Z"]

PRICES = ["0", "1", "0.5", "0.000000000001", "0.00003", "12.34", "999999999999"]
QUANTITIES = [0, 1, 2, 100, 499, 500, 700, 701, 1000, 2**53 + 1, 2**63 - 1, 2**70, "0.5", "1000.0"]
START = datetime(2026, 3, 1, tzinfo=UTC)


def some(random: Random, among: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, in their order."""
    chosen = set(random.sample(range(len(among)), random.randint(0, min(most, len(among)))))
    return [one for index, one in enumerate(among) if index in chosen]


def random_model(random: Random) -> dict[str, Any]:
    """How a charge reckons."""
    if random.random() < 0.5:
        return {"model": "per_unit", "unit": random.choice(PRICES)}
    tiers: list[dict[str, Any]] = [
        {"up_to": str(bound), "unit": random.choice(PRICES), "flat": random.choice(["0", "0.10", "7"])}
        for bound in some(random, [1, 2, 3, 10, 500, 1500, 3000], 3)
    ]
    # Whether a fee is due without any use, no event can tell.
    zero_usage = random.choice(["free", "bill_first_flat"])
    return {"model": "graduated", "tiers": [*tiers, {"unit": random.choice(PRICES)}], "zero_usage": zero_usage}


def random_plan(random: Random, name: str) -> dict[str, Any]:
    """A plan with some charges, some of which change in the course of time."""
    pairs = [(meter["name"], where) for meter in METERS for where in WHERES]
    charges = [
        {"meter": meter, "where": where, **random_model(random), **({"effective_from": since} if since else {})}
        for meter, where in random.sample(pairs, random.randint(1, 12))
        for since in some(random, ["", *CHANGES], 2) or [""]
    ]
    zone = random.choice(["UTC", "Europe/Berlin", "America/Havana", "Asia/Kolkata"])
    return {"name": name, "currency": random.choice(["USD", "EUR"]), "timezone": zone, "charges": charges}


def random_event(random: Random, id: str) -> dict[str, Any]:
    """An event of some kind, at some time around March 2026."""
    data: dict[str, Any] = {"account": random.choice(["a1", "a2", "a3"])}
    data["units"] = {unit: random.choice(QUANTITIES) for unit in some(random, ["tokens", "seconds", "images"], 3)}
    if random.random() < 0.7:
        data["key"] = random.choice(["k1", "k2"])
    if random.random() < 0.8:
        data["dimensions"] = {"model": random.choice(["m1", "m2", "m3"])}
    data |= random.choice([{}, {}, {"operation": "GET"}, {"colour": "red"}, {"verdict": "refused"}])
    data |= random.choice([{}, {}, {"billable": False}, {"weight": 7}, {"weight": "2.5"}, {"weight": "x"}])
    micros = random.randrange(-2 * DAY_MICROS, 40 * DAY_MICROS)
    return {
        "specversion": "1.0",
        "id": id,
        "source": "s",
        "type": random.choice(["request.validated", "request.validated", "parcel.sent"]),
        "time": (START + timedelta(microseconds=micros)).isoformat(),
        "data": data,
    }


DAY_MICROS = 86_400_000_000


class World:
    """A catalog and events, in any order of time. The same seed is the same world."""

    def __init__(self, seed: int, count: int = 15) -> None:
        random = Random(seed)
        self.seed = seed
        self.catalog: dict[str, Any] = {
            "default_plan": "first",
            "meters": METERS,
            "plans": [random_plan(random, "first"), random_plan(random, "second")],
            "accounts": [{"id": "a2", "plan": "second"}],
        }
        self.events = [random_event(random, f"e{index}") for index in range(count)]

    def __repr__(self) -> str:
        return f"World({self.seed}, {len(self.events)})"


def worlds(count: int = 15) -> st.SearchStrategy[World]:
    """Worlds of so many events."""
    return st.integers(0, 2**32).map(lambda seed: World(seed, count))

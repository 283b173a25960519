"""What should have come of a log: whole numbers and dictionaries, partition by partition, from scratch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

DAY, SCALE, BERLIN = 86_400_000_000, 10**36, "Europe/Berlin"
FIXED = {"UTC": 0, "Asia/Kolkata": 19800, "America/Phoenix": -25200}


class Answer(NamedTuple):
    """``usage``: place -> (source, id, account, billable); ``rejected``: places; ``counts``: per partition."""

    usage: dict[tuple[int, int, int], tuple[str, str, str, bool]]
    rejected: set[tuple[int, int, int]]
    counts: dict[int, Counter[str]]
    counters: dict[tuple[str, str, str, int], int]
    decisions: list[tuple[str, str, int, int, int, tuple[int, int, int]]]
    costs: dict[tuple[str, str], int]


def number(text: Any, decimals: int) -> int:
    """A decimal text as a whole number of 10^-decimals."""
    whole, _, fraction = str(text).partition(".")
    return int(whole + fraction.ljust(decimals, "0"))


def days(year: int, month: int, day: int) -> int:
    """Days since 1970 of a date, by counting the years' days in March order."""
    year, month = (year - 1, month + 9) if month < 3 else (year, month - 3)
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 719468


def offset(zone: str, time: int) -> int:
    """Seconds that the zone's clocks are ahead of UTC."""
    if zone != BERLIN:
        return FIXED[zone]
    year = 1970 + time // (DAY * 1461 // 4)
    start, end = [(last - (last + 4) % 7) * DAY + DAY // 24 for last in (days(year, 3, 31), days(year, 10, 31))]
    return 7200 if start <= time < end else 3600


def begin(kind: str, zone: str, time: int) -> int:
    """When the period of that kind began that holds the instant."""
    if kind == "total":
        return 0
    day, rest = divmod(time + offset(zone, time) * 10**6, DAY)
    if kind == "hour":
        return time - rest % (DAY // 24)
    if kind == "week":
        day -= (day + 3) % 7
    if kind == "month":
        year = 1970 + day * 4 // 1461
        year += (days(year + 1, 1, 1) <= day) - (days(year, 1, 1) > day)
        day = max(first for m in range(1, 13) if (first := days(year, m, 1)) <= day)
    guess = day * DAY - offset(zone, time) * 10**6
    return day * DAY - offset(zone, guess) * 10**6


def instant(text: str) -> int:
    """Of the form in which the world writes times."""
    date, (hours, minutes, seconds) = text[:10], text[11:-1].split(":")
    ahead = (int(hours) * 60 + int(minutes)) * 60 * 10**6 + number(seconds, 6)
    found = days(*map(int, date.split("-"))) * DAY + ahead
    if text[-1] != "Z" or not days(2000, 1, 1) * DAY <= found < days(2100, 1, 1) * DAY:
        raise ValueError(text)
    return found


def read(raw: Any, stamp: int) -> tuple[dict[str, Any], int]:
    """An event and its instant; raises ValueError or KeyError for what the world made unreadable."""
    data = raw["data"]
    if any(not isinstance(used, int) or used < 0 for used in data.get("units", {}).values()) or not raw["id"]:
        raise ValueError(raw)
    return raw, instant(raw["time"]) if "time" in raw else stamp


def elements(value: bytes | None) -> list[Any]:
    """The events in a record; one that is nothing, if it is no JSON."""
    try:
        found = json.loads(value or b"")
        return found if isinstance(found, list) and found else [found or None]
    except ValueError:
        return [None]


def cost(charge: Mapping[str, Any], used: int) -> int:
    """What so much costs from the beginning of a month, of 10^-36."""
    if "unit" in charge:
        return used * number(charge["unit"], 36)
    amount, low = 0, 0
    for tier in charge["tiers"]:
        if used > low:
            high = min(used, int(tier.get("up_to", used)))
            amount += (high - low) * number(tier["unit"], 36) + number(tier["flat"], 36)
        low = int(tier.get("up_to", used))
    return amount


def reckon(records: Iterable[tuple[int, int, int, bytes | None]], catalog: Any, keys: Mapping[str, Any]) -> Answer:
    """``records`` are (partition, offset, stamp in ms, value); ``keys``: id -> (stamp, account, lineage)."""
    answer, zone, seen, used = Answer({}, set(), {}, {}, [], {}), catalog["zone"], dict[Any, Any](), Counter[Any]()
    for partition, at, stamp, value in sorted(records, key=lambda record: record[:2]):
        counts = answer.counts.setdefault(partition, Counter())
        for index, raw in enumerate(elements(value)):
            place = (partition, at, index)
            try:
                event, time = read(raw, stamp * 1000)
            except (ValueError, KeyError, TypeError, AttributeError):
                answer.rejected.add(place)
                counts["rejected"] += 1
                continue
            data, subject, name = event["data"], event.get("subject"), (event["source"], event["id"])
            since, owner, lineage = keys.get(data.get("key"), (0, None, data.get("key")))
            owner = data.get("account") or (owner if since <= stamp else None)
            account = owner or catalog["subjects"].get(subject) or subject or "unattributed"
            content = [event["type"], subject, account, {**data, "account": account}]
            if seen.setdefault(name, content) is not content:
                counts["duplicates" if seen[name] == content else "rejected"] += 1
                answer.rejected.update({place} if seen[name] != content else ())
                continue
            charged = data.get("verdict") != "refused" and data.get("billable") is not False
            answer.usage[place] = (*name, account, charged)
            counts["billed" if charged else "not_billable"] += 1
            if not charged:
                continue
            units = {"requests": 1, "tokens": data.get("units", {}).get("tokens", 0)}
            amount, month = 0, begin("month", zone, time)
            for line, charge in enumerate(catalog["charges"]):
                if charge.get("model") in (None, data.get("dimensions", {}).get("model")):
                    before = used[account, line, month]
                    used[account, line, month] += units[charge["meter"]]
                    amount += cost(charge, before + units[charge["meter"]]) - cost(charge, before)
            answer.costs[name] = amount
            subjects = [("account", account)] + ([("key", lineage)] if lineage is not None else [])
            for scope, who in subjects:
                caps = [cap for cap in catalog["caps"] if cap["scope"] == scope]
                for measure, kind in sorted({("amount", "month")} | {(c["measure"], c["period"]) for c in caps}):
                    more = amount if measure == "amount" else units[measure] * SCALE
                    counter = (f"{scope}:{who}", measure, kind, begin(kind, zone, time))
                    before, value_now = answer.counters.get(counter, -1), answer.counters.get(counter, 0) + more
                    answer.counters[counter] = value_now
                    for cap in (cap for cap in caps if (cap["measure"], cap["period"]) == (measure, kind)):
                        for percent in (*cap["thresholds"], 100):
                            if before < -(-number(cap["limit"], 36) * percent // 100) <= value_now:
                                answer.decisions.append((cap["id"], counter[0], counter[3], percent, value_now, place))
    return answer

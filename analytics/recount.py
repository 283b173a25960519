"""Counters reckoned anew from the rows, as when a new catalog prices or caps what was counted before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from doortab.analytics.cells import Columns, Heading, Read, literal
from doortab.analytics.rating import Groups, Rated, rate
from doortab.analytics.zones import local_bucket
from doortab.schemas.batch import CounterKey
from doortab.schemas.periods import KINDS, PeriodKind
from doortab.schemas.tariff import AMOUNT, Tariff

DEFAULT_PERIOD: PeriodKind = "month"
ONE_EACH: Mapping[str, str] = {}
"""No key was rotated: each is a lineage of its own."""


def owners(read: Read, partition: int, lineages: Mapping[str, str] = ONE_EACH) -> dict[str, str]:
    """Whose the accounts and lineages are that have events in the partition: the account, by subject."""
    found = read(f"SELECT DISTINCT account, key FROM usage WHERE part = {partition} ORDER BY account, key")
    keys = {f"key:{lineages.get(key, key)}": account for account, key in found if key is not None}
    return keys | {f"account:{account}": account for account, _ in found}


def recount(
    read: Read, columns: Columns, tariff: Tariff, partition: int, lineages: Mapping[str, str] = ONE_EACH
) -> dict[CounterKey, int]:
    """Every counter of the accounts and keys that have events in the partition. Rotated keys count for their lineage.

    A key may have events of several accounts. Of each of them every event is read, for how deep an account
    is in its tiers decides what the key spent; but of accounts and keys without events here nothing is said.
    """
    subjects = owners(read, partition, lineages)
    if not subjects:
        return {}
    keys = f"key IN (SELECT key FROM usage WHERE part = {partition})"
    if rotated := {key for pair in lineages.items() if f"key:{pair[1]}" in subjects for key in pair}:
        keys += f" OR key IN ({', '.join(map(literal, sorted(rotated)))})"
    condition = f"account IN (SELECT account FROM usage WHERE {keys} OR part = {partition})"
    kinds = _kinds(tariff)
    counted: dict[CounterKey, int] = {}
    accounts = read(f"SELECT DISTINCT account FROM usage WHERE {condition}")
    for zone in sorted({tariff.timezone_of(account) for (account,) in accounts}):
        starts = [Heading(kind, local_bucket(kind, zone)) for kind in kinds]
        headings = [Heading("account", "account"), Heading("key", "key"), *starts]
        groups = rate(read, columns, tariff, headings, None, condition, zone)
        for key, value in _counters(tariff, groups, kinds, lineages):
            if key.subject in subjects:
                counted[key] = counted.get(key, 0) + value
    return counted


def _kinds(tariff: Tariff) -> list[PeriodKind]:
    capped = {cap.period for cap in tariff.catalog.caps}
    return [kind for kind in KINDS if kind == DEFAULT_PERIOD or kind in capped]


def _counters(
    tariff: Tariff, groups: Groups, kinds: list[PeriodKind], lineages: Mapping[str, str]
) -> Iterator[tuple[CounterKey, int]]:
    for (account, key, *starts, _), group in groups.items():
        if not group.billable and not group.lines:
            continue
        subjects = [("account", account)] + ([("key", lineages.get(key, key))] if key is not None else [])
        for kind, start in zip(kinds, starts, strict=True):
            for scope, name in subjects:
                for measure, value in _measured(tariff, group, kind, scope, name):
                    yield CounterKey(f"{scope}:{name}", measure, kind, start), value
            if kind == DEFAULT_PERIOD:
                for line, quantity in sorted(group.lines.items()):
                    yield CounterKey(f"account:{account}", f"charge:{line}", kind, start), quantity


def _measured(tariff: Tariff, group: Rated, kind: PeriodKind, scope: str, name: str) -> Iterator[tuple[str, int]]:
    """What is counted of the subject in periods of that kind."""
    measures = {cap.measure for cap in tariff.caps_of(scope, name) if cap.period == kind}
    if kind == DEFAULT_PERIOD or AMOUNT in measures:
        yield AMOUNT, group.amount
    for measure in sorted(measures & group.quantities.keys()):
        yield measure, group.quantities[measure]

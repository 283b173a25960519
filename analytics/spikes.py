"""The spike rule: a key against its own past.

In each bucket of time a key's use is compared with the most it used in any bucket of the last two
weeks: ``(x + prior) / (peak + prior)``. Above ``warn`` somebody is told, above ``page`` somebody is
woken. That beat seasonal models, tail probabilities and moving averages at the same rate of false
alarms, and it is a sentence that people on call can check.

An *episode* begins with the bucket that alerted and ends with the first whole bucket that no longer
would, or when it has lasted so long that it is the new normal. What the log holds of earlier alerts
says which episodes there were, so the rule keeps no state: the same rows, alerts and time give the
same alerts, with the same ids. The open bucket is judged as it fills, and the one before it again, for
what came late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from doortab.analytics.cells import Heading, Read, literal, timestamp
from doortab.analytics.episodes import (
    COST,
    REQUESTS,
    Episode,
    Measure,
    SpikeSettings,
    Standing,
    episodes_of,
    judge,
    level,
)
from doortab.analytics.rating import rate
from doortab.analytics.reading import columns_of
from doortab.schemas import instants
from doortab.schemas.alerts import Alert
from doortab.schemas.periods import Period
from doortab.schemas.tariff import Tariff


class Past(Struct):
    """What a key did before: when it was first seen, and its peaks by measure."""

    first: int | None
    peaks: dict[Measure, int]


class Memory(Struct):
    """The pasts, kept so that two weeks are read once a bucket and not every few seconds.

    They hold for the bucket that starts at ``before`` and these episodes. What comes later still to a
    bucket before that one is missed in its peak, until the next bucket begins.
    """

    before: int = -1
    episodes: Mapping[str, Sequence[Episode]] = {}
    pasts: dict[str, Past] = {}
    priced: set[str] = set()


class Use(Struct):
    """What a key did lately, by measure: in the bucket before the open one, and in the open one."""

    account: str | None
    currency: str | None
    counts: dict[Measure, tuple[int, int]]


def find_spikes(
    read: Read,
    now: int,
    settings: SpikeSettings,
    known: Sequence[Alert],
    tariff: Tariff | None = None,
    memory: Memory | None = None,
) -> list[Alert]:
    """The alerts that are due now, the ``known`` ones left out. Asked again with them, there are no more."""
    memory = memory if memory is not None else Memory()
    found: list[Alert] = []
    # What was found is known now: a key whose episode is over may have begun the next.
    while due := _due(read, now, settings, [*known, *found], tariff, memory):
        found += due
    return found


def _due(
    read: Read, now: int, settings: SpikeSettings, known: Sequence[Alert], tariff: Tariff | None, memory: Memory
) -> list[Alert]:
    """At most one alert of each key, in the order of the keys."""
    before = now // settings.bucket * settings.bucket - settings.bucket
    episodes = episodes_of(known)
    if (memory.before, memory.episodes) != (before, episodes):
        memory.before, memory.episodes = before, episodes
        memory.pasts, memory.priced = _pasts(read, before, settings, episodes), set()
    uses = _uses(read, before, settings)
    _look_up_first(read, before, settings, uses, memory)
    if tariff is not None:
        _add_cost(read, settings, uses, memory, tariff)
    going_on = {key: of_key[-1] for key, of_key in episodes.items() if of_key[-1].until is None}
    found = []
    for key in sorted(uses.keys() | going_on.keys()):
        standing = _standing(settings, before, key, uses.get(key), memory.pasts.get(key), going_on.get(key))
        found.append(judge(settings, now, before, standing, going_on.get(key)))
    return [alert for alert in found if alert is not None]


def _standing(
    settings: SpikeSettings, before: int, key: str, use: Use | None, past: Past | None, episode: Episode | None
) -> Standing:
    if use is None or past is None:
        account = use.account if use is not None else episode.account if episode is not None else None
        return Standing(key, account, episode.currency if episode is not None else None, (), ())
    if past.first is None or past.first > before - settings.warm_up_buckets * settings.bucket:
        return Standing(key, use.account, use.currency, (), ())
    opened = before + settings.bucket
    levels_before, levels_open = [], []
    for measure, (was, is_now) in use.counts.items():
        peak = past.peaks.get(measure, 0)
        levels_before.append(level(settings, before, measure, was, peak))
        # What the bucket before did is past as well, unless it alerted: then the episode goes on.
        hidden = episode is not None and episode.hides(before)
        levels_open.append(level(settings, opened, measure, is_now, peak if hidden else max(peak, was)))
    return Standing(
        key,
        use.account,
        use.currency,
        [found for found in levels_before if found is not None],
        [found for found in levels_open if found is not None],
    )


def _bucket_sql(settings: SpikeSettings) -> str:
    return f"epoch_us(time) // {settings.bucket} * {settings.bucket}"


def _uses(read: Read, before: int, settings: SpikeSettings) -> dict[str, Use]:
    """Every key's requests in the open bucket and the one before it."""
    opened, end = before + settings.bucket, before + 2 * settings.bucket
    was, is_now = (
        f"coalesce({settings.requests_sql} FILTER (time {sign} {timestamp(opened)}), 0)::BIGINT" for sign in ("<", ">=")
    )
    rows = read(
        f"SELECT key, min(account), {was}, {is_now} FROM usage "
        f"WHERE time >= {timestamp(before)} AND time < {timestamp(end)} AND key IS NOT NULL GROUP BY key"
    )
    return {key: Use(account, None, {REQUESTS: (x, y)}) for key, account, x, y in rows}


def _pasts(
    read: Read, before: int, settings: SpikeSettings, episodes: Mapping[str, Sequence[Episode]]
) -> dict[str, Past]:
    """The peak of every key in the buckets of the look-back; those that alerted count as no more than clipped."""
    start = before - settings.look_back_buckets * settings.bucket
    hidden = [e for of_key in episodes.values() for e in of_key if not e.accepted and (e.until or before) > start]
    values = ", ".join(f"({literal(e.key)}, {e.start}, {e.until or instants.LATEST})" for e in hidden)
    rows = read(
        f"WITH buckets AS (SELECT key, {_bucket_sql(settings)} AS start, {settings.requests_sql} AS x FROM usage "
        f"WHERE time >= {timestamp(start)} AND time < {timestamp(before)} AND key IS NOT NULL GROUP BY ALL), "
        f"hidden(key, start, until) AS (VALUES {values or '(NULL, 0, 0)'}) "
        "SELECT b.key, min(b.start), coalesce(max(b.x) FILTER (h.key IS NULL), 0)::BIGINT FROM buckets AS b "
        "LEFT JOIN hidden AS h ON b.key = h.key AND b.start >= h.start AND b.start < h.until GROUP BY b.key"
    )
    pasts = {key: Past(first, {REQUESTS: peak}) for key, first, peak in rows}
    for episode in hidden:
        past = pasts.get(episode.key)
        if past is not None and episode.until is not None:
            clipped = int(settings.clip * episode.normal)
            past.peaks[episode.measure] = max(past.peaks.get(episode.measure, 0), clipped)
    return pasts


def _look_up_first(read: Read, before: int, settings: SpikeSettings, uses: Mapping[str, Use], memory: Memory) -> None:
    """Tells a key that slept longer than the look-back from one that is new: a sleeper that wakes is news."""
    strangers = [
        key for key, use in uses.items() if key not in memory.pasts and max(use.counts[REQUESTS]) >= settings.minimum
    ]
    if not strangers:
        return
    start = before - settings.look_back_buckets * settings.bucket
    rows = read(
        f"SELECT key, epoch_us(min(time)) FROM usage WHERE time < {timestamp(start)} "
        f"AND key IN ({', '.join(map(literal, strangers))}) GROUP BY key"
    )
    seen: dict[str, int] = dict(rows)
    for key in strangers:
        memory.pasts[key] = Past(seen.get(key), {})


def _add_cost(read: Read, settings: SpikeSettings, uses: Mapping[str, Use], memory: Memory, tariff: Tariff) -> None:
    """Adds what the keys cost, of those that cost enough to be worth a look."""
    before, opened = memory.before, memory.before + settings.bucket
    spent: dict[str, dict[int, int]] = {}
    for key, start, currency, amount in _spent(read, settings, tariff, Period(before, opened + settings.bucket)):
        if key in uses:
            uses[key].currency = currency
            spent.setdefault(key, {})[start] = amount
    for key, by_start in spent.items():
        uses[key].counts[COST] = (by_start.get(before, 0), by_start.get(opened, 0))
    least = settings.minimum_of(COST)
    wanted = [key for key, by_start in spent.items() if max(by_start.values()) >= least and key not in memory.priced]
    if not wanted:
        return
    memory.priced.update(wanted)
    look_back = Period(before - settings.look_back_buckets * settings.bucket, before)
    condition = f"key IN ({', '.join(map(literal, wanted))})"
    for key, start, _, amount in _spent(read, settings, tariff, look_back, condition):
        past = memory.pasts.get(key)
        if past is not None and not any(episode.hides(start) for episode in memory.episodes.get(key, ())):
            past.peaks[COST] = max(past.peaks.get(COST, 0), amount)


def _spent(
    read: Read, settings: SpikeSettings, tariff: Tariff, period: Period, condition: str = "key IS NOT NULL"
) -> Iterator[tuple[str, int, str, int]]:
    """Key, start of the bucket, currency and amount of what cost anything."""
    headings = [Heading("key", "key"), Heading("start", _bucket_sql(settings))]
    groups = rate(read, columns_of(read), tariff, headings, period, condition)
    for (key, start, currency), group in groups.items():
        if group.amount > 0:
            yield key, start, currency, group.amount

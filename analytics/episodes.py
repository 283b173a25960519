"""Episodes: when a key's spike began, whether it goes on, and what people are told about it.

Nothing here reads or remembers: how high a key stands comes in, and so do the alerts of before, from
which the episodes follow.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from doortab.schemas import instants, money
from doortab.schemas.alerts import Alert

REQUESTS: Final = "requests"
COST: Final = "cost"
Measure = Literal["requests", "cost"]
"""Requests are counted, cost is an amount of 10^-36."""

DAY = 86_400


class SpikeSettings(Struct, frozen=True, kw_only=True):
    """How the rule looks. Durations are in buckets, so that a show can run it on buckets of seconds.

    ``requests_sql`` is the aggregate that counts requests; refused ones count as well.
    ``cost_minimum`` and ``cost_prior`` are decimal text, in whatever currency the account pays.
    """

    bucket_seconds: int = 3600
    look_back_buckets: int = 14 * 24
    warm_up_buckets: int = 7 * 24
    accept_after_buckets: int = 24
    settle_seconds: int = 60
    warn: Fraction = Fraction(3, 2)
    page: Fraction = Fraction(2)
    clip: Fraction = Fraction(5, 4)
    prior: int = 5
    minimum: int = 10
    cost_prior: str = "1"
    cost_minimum: str = "5"
    requests_sql: str = "count(*)"

    @property
    def bucket(self) -> int:
        """The length of a bucket in microseconds."""
        return self.bucket_seconds * instants.SECOND

    def prior_of(self, measure: Measure) -> int:
        """What is added to both sides, so that small numbers do not make large ratios."""
        return self.prior if measure == REQUESTS else money.amount(self.cost_prior)

    def minimum_of(self, measure: Measure) -> int:
        """Less than this in a bucket is never worth a look."""
        return self.minimum if measure == REQUESTS else money.amount(self.cost_minimum)


class Episode(NamedTuple):
    """A spike of a key from ``start`` until before ``until`` (None: still going on), in instants.

    ``normal`` is the peak of ``measure`` before it. ``accepted``: it lasted, and is the new normal.
    ``paged``: somebody was woken.
    """

    key: str
    start: int
    account: str | None
    currency: str | None
    until: int | None
    accepted: bool
    paged: bool
    measure: Measure
    normal: int

    def hides(self, instant: int) -> bool:
        """Whether the bucket that starts then says nothing about what is normal."""
        return not self.accepted and self.start <= instant and (self.until is None or instant < self.until)


def episodes_of(known: Iterable[Alert]) -> dict[str, list[Episode]]:
    """The episodes by key, in order, as the alerts tell them."""
    found: dict[tuple[str, int], Episode] = {}
    for alert in known:
        if alert.kind != "spike" or alert.key is None or "state" not in alert.facts:
            continue
        facts = alert.facts
        place = (alert.key, instants.parse(facts["since"]))
        measure: Measure = COST if facts["measure"] == COST else REQUESTS
        normal = money.amount(facts["normal"]) if measure == COST else int(facts["normal"])
        whose = (alert.account, facts.get("currency"))
        episode = found.get(place, Episode(*place, *whose, None, False, False, measure, normal))
        if facts["state"] != "spiking":
            episode = episode._replace(until=instants.parse(facts["until"]), accepted=facts["state"] == "accepted")
        found[place] = episode._replace(paged=episode.paged or alert.severity == "critical")
    by_key: dict[str, list[Episode]] = {}
    for _, episode in sorted(found.items()):
        by_key.setdefault(episode.key, []).append(episode)
    return by_key


class Level(NamedTuple):
    """How high a measure stands in the bucket that starts at ``start``, where the most of the past is ``peak``."""

    start: int
    measure: Measure
    value: int
    peak: int
    ratio: Fraction


class Standing(NamedTuple):
    """A key as it stands: whose it is, what it pays in, and its levels before and in the open bucket.

    A level is here only of what reached its minimum.
    """

    key: str
    account: str | None
    currency: str | None
    before: Sequence[Level]
    open: Sequence[Level]


def level(settings: SpikeSettings, start: int, measure: Measure, value: int, peak: int) -> Level | None:
    """The level, if the value is worth a look."""
    if value < settings.minimum_of(measure):
        return None
    prior = settings.prior_of(measure)
    return Level(start, measure, value, peak, Fraction(value + prior, peak + prior))


def judge(settings: SpikeSettings, now: int, before: int, standing: Standing, episode: Episode | None) -> Alert | None:
    """What there is to tell of a key whose last episode is this; ``before`` starts the bucket before the open one."""
    highest = max([*standing.before, *standing.open], key=lambda found: found.ratio, default=None)
    if episode is None or episode.until is not None:
        started = next((found for found in (standing.before, standing.open) if _above(found, settings.warn)), None)
        if started is None:
            return None
        top = max(started, key=lambda found: found.ratio)
        return _spiking(settings, now, standing, top, top.start, again=False)
    if not episode.paged and highest is not None and highest.ratio > settings.page:
        return _spiking(settings, now, standing, highest, episode.start, again=True)
    if before > episode.start and not _above(standing.before, settings.warn):
        settled = now >= before + settings.bucket + settings.settle_seconds * instants.SECOND
        return _ended(settings, now, standing, episode, before, accepted=False) if settled else None
    if before - episode.start >= settings.accept_after_buckets * settings.bucket:
        return _ended(settings, now, standing, episode, before, accepted=True)
    return None


def _above(levels: Sequence[Level], bound: Fraction) -> bool:
    return any(found.ratio > bound for found in levels)


def _spiking(settings: SpikeSettings, now: int, standing: Standing, found: Level, since: int, *, again: bool) -> Alert:
    paging = found.ratio > settings.page
    key, measure = standing.key, found.measure
    text = (
        f"{_who(standing)}: {_much(standing, measure, found.value)} since {instants.text(found.start)}, "
        f"{_times(found)}the most of any {_span(settings.bucket_seconds)} in the last "
        f"{_length(settings.bucket_seconds * settings.look_back_buckets)} ({_much(standing, measure, found.peak)}). "
        f"Look: doortab keys show {shlex.quote(key)}. Cut it off: doortab keys revoke {shlex.quote(key)}"
    )
    facts = {"state": "spiking", "since": instants.text(since), "value": _number(measure, found.value)}
    return Alert(
        id=f"spike/{key}/{instants.text(since)}" + ("/critical" if again else ""),
        kind="spike",
        severity="critical" if paging else "warning",
        subject=f"key:{key}",
        account=standing.account,
        key=key,
        at=instants.text(now),
        text=text,
        facts=facts | _facts(settings, standing, measure, found.peak) | {"ratio": _ratio(found.ratio)},
    )


def _ended(
    settings: SpikeSettings, now: int, standing: Standing, episode: Episode, until: int, *, accepted: bool
) -> Alert:
    span = _span(settings.bucket_seconds)
    lasted = f"{_who(standing)}: the spike since {instants.text(episode.start)} "
    if accepted:
        length = _length(settings.bucket_seconds * settings.accept_after_buckets)
        text = lasted + f"has lasted for {length} and is taken as normal from now on"
    else:
        most = _much(standing, episode.measure, episode.normal)
        text = lasted + f"ended at {instants.text(until)}: a whole {span} near what it was before (at most {most})"
    facts = {"state": "accepted" if accepted else "over", "since": instants.text(episode.start)}
    return Alert(
        id=f"spike/{episode.key}/{instants.text(episode.start)}/resolved",
        kind="spike",
        severity="info",
        subject=f"key:{episode.key}",
        account=standing.account,
        key=episode.key,
        at=instants.text(now),
        text=text,
        facts=facts | {"until": instants.text(until)} | _facts(settings, standing, episode.measure, episode.normal),
    )


def _facts(settings: SpikeSettings, standing: Standing, measure: Measure, normal: int) -> dict[str, str]:
    currency = {"currency": standing.currency} if measure == COST and standing.currency is not None else {}
    seconds = str(settings.bucket_seconds)
    return {"measure": measure, "normal": _number(measure, normal), "bucket_seconds": seconds} | currency


def _who(standing: Standing) -> str:
    return f"key {standing.key}" + (f" of {standing.account}" if standing.account else "")


def _number(measure: Measure, value: int) -> str:
    return str(value) if measure == REQUESTS else money.amount_text(value)


def _much(standing: Standing, measure: Measure, value: int) -> str:
    if measure == REQUESTS:
        return f"{value:,} request{'s' * (value != 1)}"
    shown = money.amount_text(money.rounded(value, 2)) if standing.currency else money.amount_text(value)
    return f"{shown} {standing.currency or ''}".strip()


def _times(found: Level) -> str:
    """``62.3 times ``, of what is not nothing."""
    if found.peak <= 0:
        return "more than "
    tenths = found.value * 10 // found.peak
    return f"{tenths // 10:,}.{tenths % 10} times "


def _ratio(ratio: Fraction) -> str:
    hundredths = ratio.numerator * 100 // ratio.denominator
    return f"{hundredths // 100}.{hundredths % 100:02}"


def _length(seconds: int) -> str:
    """A length of time in the largest unit that it is a whole number of: ``14 days``."""
    units = ((DAY, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    length, unit = next((length, unit) for length, unit in units if seconds % length == 0)
    return f"{seconds // length} {unit}{'s' * (seconds != length)}"


def _span(seconds: int) -> str:
    """The same after ``any``: ``hour``, ``5 minutes``."""
    return _length(seconds).removeprefix("1 ")

"""Planted bugs: each is a mistake that somebody could make, put in the place of what the product does.

A simulator that does not find them would not find the real ones. Where another layer of safety would hide
a mistake, that layer is off while it is planted. Of what the design lists, closed invoices and the retry of
rejected events do not exist yet: in their place stand events that are billed by arrival, and a catalog that
counts twice what it counts again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from doortab.analytics import deliveries, notify, snapshot
from doortab.analytics.deliveries import Deliveries
from doortab.analytics.store import Store
from doortab.consumers import counters, enforcer, worker
from doortab.consumers.counters import Counter, Counters
from doortab.consumers.dedupe import IdIndex
from doortab.consumers.sift import Sifted
from doortab.consumers.views import Views
from doortab.consumers.worker import Worker
from doortab.producers import eventtext, frames, parcels
from doortab.producers.follower import Follower
from doortab.producers.frames import Taken
from doortab.producers.keyring import Keyring
from doortab.producers.shipper import Shipper
from doortab.producers.spool import Spool
from doortab.schemas import alerts, money, topics, wire
from doortab.schemas.batch import Batch, Message, Resumed, Rows
from tests.simulation.history import run
from tests.simulation.ledgers import LedgerProcess
from tests.simulation.world import BrokenPromiseError, InterruptedRetryError, World

Plant = Callable[[], AbstractContextManager[Any]]


class Bug(NamedTuple):
    """A mistake, how it is made, and a seed that is known to find it.

    ``only`` is the invariant that finds it in that seed while all others hold; None where several do.
    """

    name: str
    plant: Plant
    seed: int
    only: str | None = None


def replaced(target: Any, name: str, make: Callable[[Any], Any]) -> Plant:
    """Puts what ``make`` makes of the original in its place."""
    return lambda: patch.object(target, name, make(getattr(target, name)))


@contextmanager
def store_class(kind: type[Store]) -> Iterator[None]:
    """Lets the ledger use another store."""
    with patch.object(LedgerProcess, "store_class", kind):
        yield


class PositionsFirst(Store):
    """Commits how far it has read before it commits what it has read."""

    def write(self, batch: Batch) -> Iterator[str]:
        if batch.progress:
            yield from super().write(Batch(Rows(), [], {}, [], [], batch.progress))
        rest = msgspec.structs.replace(batch, progress=[])
        yield from super().write(rest)


class TwoTransactions(Store):
    """Commits counters and decisions in a transaction of their own."""

    def write(self, batch: Batch) -> Iterator[str]:
        first = msgspec.structs.replace(batch, counters={}, decisions=[], messages=[])
        yield from super().write(first)
        if batch.counters:
            yield from super().write(Batch(Rows(), [], batch.counters, batch.decisions, batch.messages, []))


class SecondThoughts(Store):
    """Changes what it has committed long ago, whenever prices change."""

    def write(self, batch: Batch) -> Iterator[str]:
        if batch.adopted:
            self.cursor().execute("UPDATE usage SET billable = NOT billable WHERE off = 0 AND idx = 0")
        yield from super().write(batch)


class ForgetsPending(Store):
    """Knows only in memory what has to be published."""

    def pending(self) -> list[Message]:
        return []


class StaleCounters(Store):
    """Begins to count anew after a restart."""

    def resume(self) -> Resumed:
        return msgspec.structs.replace(super().resume(), counters={})


def only_the_newest_run(hits: Any) -> Any:
    """Looks for repetitions in the newest batch alone."""

    def found(index: IdIndex, digests: Any) -> Any:
        newest = max((run.high for run in index._runs), default=0)
        return [hit for hit in hits(index, digests) if hit.low >= newest - 20]

    return found


def split_runs(add: Any) -> Any:
    """Keeps each batch apart, so that a window can be told."""

    def added(index: IdIndex, digests: Any, low: int) -> None:
        runs, index._runs = index._runs, []
        add(index, digests, low)
        index._runs = runs + index._runs

    return added


@contextmanager
def short_window() -> Iterator[None]:
    hits, add = only_the_newest_run(IdIndex.hits), split_runs(IdIndex.add)
    with patch.object(IdIndex, "hits", hits), patch.object(IdIndex, "add", add):
        yield


def counts_duplicates(fold: Any) -> Any:
    """Counts what was here before as well."""

    def folded(self: Worker, *given: Any) -> Any:
        changed = [g._replace(fresh=sorted(g.fresh + g.duplicates)) if isinstance(g, Sifted) else g for g in given]
        return fold(self, *changed)

    return folded


def last_one_stands(sift: Any) -> Any:
    """Of two that differ, the later one in the batch is taken."""

    def sifted(*given: Any) -> Sifted:
        found: Sifted = sift(*given)
        events = given[0]
        for number in list(found.conflicts):
            name = (events[number].source, events[number].id)
            first = next((i for i in found.fresh if (events[i].source, events[i].id) == name), None)
            if first is not None:
                found.fresh[found.fresh.index(first)] = number
                found.conflicts[found.conflicts.index(number)] = first
        return found

    return sifted


def reads_less_than_it_says(progress: Any) -> Any:
    """What was rejected does not count among what was read."""

    def progressed(*given: Any) -> Any:
        return [p._replace(events=p.events - p.rejected) for p in progress(*given)]

    return progressed


def reads_now(begin: Any) -> Any:
    """Whoever builds anew sees keys as they are now, and not as they were."""

    def begun(self: Worker, *given: Any, **more: Any) -> None:
        begin(self, *given, **more)
        if not self._publishing:
            of = self._views.account_of_key
            self._views.account_of_key = lambda key, timestamp_ms: of(key, 2**62)  # type: ignore[method-assign]

    return begun


def poison_takes_all(decode: Any) -> Any:
    """One event that cannot be read takes the whole record with it."""

    def decoded(records: Sequence[Any], *more: Any) -> Any:
        bad = [record for record in records if decode([record]).rejected]
        found = decode([record for record in records if record not in bad], *more)
        for record in bad:
            why = wire.Unreadable("invalid", "planted")
            found.rejected.append(wire.reject(record, 0, record.value or b"", why))
        return found

    return decoded


def by_arrival(decode: Any) -> Any:
    """The time of an event is when it arrived."""

    def decoded(*given: Any) -> Any:
        found = decode(*given)
        for number in range(len(found.times)):
            found.times[number] = found.span_of(number).logged
        return found

    return decoded


def with_fractions(add: Any) -> Any:
    """Money as a binary fraction."""
    return lambda counter, more: add(counter, int(float(more)))  # the planted mistake itself


def to_the_cent(add: Any) -> Any:
    """Rounds whatever is counted."""
    cent = money.AMOUNT_ONE // 100
    return lambda counter, more: add(counter, (more + cent // 2) // cent * cent)


def publishes_after_noting(publish: Any) -> Any:
    """Notes that messages are in the log, and then brings them there."""

    def published(self: Worker) -> Iterator[str]:
        if self._pending and self._publishing:
            self._store.published([message.id for message in self._pending])
            yield "published"
        yield from publish(self)

    return published


def other_id_each_time(publish: Any) -> Any:
    """An alert gets another id whenever a process tries to say it."""

    def published(self: Worker) -> Iterator[str]:
        for number, message in enumerate(self._pending):
            if message.topic == topics.ALERTS and self._publishing:
                alert = json.loads(message.value)
                alert["id"] += f"/{self.epoch}"
                self._pending[number] = message._replace(value=json.dumps(alert).encode())
        yield from publish(self)

    return published


def another_id_each_time(make: Any) -> Any:
    """A message's id is made when it is sent."""
    sent = iter(range(10**9))
    return lambda alert: f"{make(alert)}{next(sent)}"


def acknowledged_anyway(append: Any) -> Any:
    """Takes the end of a flush for the success of what was flushed."""

    def appended(self: Shipper, batch: Any) -> bool:
        with suppress(InterruptedRetryError):
            append(self, batch)
        return True

    return appended


def named_when_sent(pack: Any) -> Any:
    """An event's id is made when it is sent."""
    sent = iter(range(10**9))

    def packed(parcels: Any, *more: Any) -> Any:
        renamed = []
        for parcel in parcels:
            start = 10 + int.from_bytes(parcel[8:10], "little")
            event = json.loads(parcel[start:])
            event["id"] = f"sent-{next(sent)}"
            renamed.append(parcel[:start] + json.dumps(event).encode())
        return pack(renamed, *more)

    return packed


def torn_is_whole(take: Any) -> Any:
    """Half a frame at the end of a segment is taken for a whole one."""

    def taken(chunk: bytes, offset: int, at_end: bool) -> Taken:
        found: Taken = take(chunk, offset, at_end)
        rest = chunk[len(chunk) - found.torn_bytes :]
        if found.torn_bytes > 30 and rest[:2] == b"\xff\xfd":
            return found._replace(payloads=[*found.payloads, rest[10:]], torn_bytes=0)
        return found

    return taken


def ready_at_once(keep_time: Any) -> Any:
    """A gate counts as whole before it has read anything."""

    def kept(self: Follower) -> None:
        keep_time(self)
        self.ready, self._fresh_at = True, self._steady()

    return kept


def noted_before_sent(deliver: Any) -> Any:
    """A delivery is noted before it is made."""

    def delivered(self: Deliveries, now: int) -> Iterator[str]:
        for channel in self._channels:
            for alert, value, attempts in self._due(channel.name, now):
                self._note(alert, channel.name, attempts + 1, notify.Outcome("delivered", ""), now)
                yield "noted"
                channel.send(alerts.decode(value), now)
                yield "sent"

    return delivered


@contextmanager
def without_dedupe() -> Iterator[None]:
    with patch.object(IdIndex, "hits", lambda index, digests: []):
        yield


def counted_on_top(replace: Any) -> Any:
    def replaced_by(self: Counters, counted: Any) -> None:
        replace(self, {key: value + self._stored.get(key, 0) for key, value in counted.items()})

    return replaced_by


def refused_for_ever_or_never(cause: Any) -> Any:
    """Caps hang on the key, and not on all that it was rotated into."""

    def against(self: Keyring, holder: Any, now: int) -> Any:
        return cause(self, msgspec.structs.replace(holder, lineage=None), now)

    return against


def something_else_each_time(random_bytes: Any) -> Any:
    """Ids come from elsewhere than from the seed."""
    return lambda self, count: os.urandom(count)


BUGS = (
    Bug("the position is committed before the effects", lambda: store_class(PositionsFirst), 1, "I4"),
    Bug("the effects are committed in two transactions", lambda: store_class(TwoTransactions), 4),
    Bug("repetitions are found only within the batch", without_dedupe, 0),
    Bug("repetitions are found only within a window", short_window, 0),
    Bug("counters count duplicates", replaced(Worker, "_fold", counts_duplicates), 0),
    Bug("counters begin anew after a restart", lambda: store_class(StaleCounters), 0),
    Bug("what must be published is known only in memory", lambda: store_class(ForgetsPending), 0),
    Bug("messages are noted as published before they are", replaced(Worker, "_publish", publishes_after_noting), 4),
    Bug("an alert that is said again has another id", replaced(Worker, "_publish", other_id_each_time), 0, "I8"),
    Bug(
        "a webhook that is sent again has another id",
        replaced(notify, "webhook_id", another_id_each_time),
        0,
    ),
    Bug(
        "the spool is acknowledged after a flush",
        replaced(Shipper, "_append_until_acknowledged", acknowledged_anyway),
        12,
    ),
    Bug("an event gets its id when it is sent", replaced(parcels, "pack", named_when_sent), 0, "I2"),
    Bug("a torn frame is taken for a whole one", replaced(frames, "take", torn_is_whole), 8),
    Bug("an event is billed by its arrival", replaced(wire, "decode", by_arrival), 0),
    Bug("money is a binary fraction", replaced(Counter, "add", with_fractions), 0),
    Bug("each event is rounded", replaced(Counter, "add", to_the_cent), 4, "I3"),
    Bug("of two contents the last one stands", replaced(worker, "sift", last_one_stands), 2),
    Bug("poison takes its neighbours along", replaced(wire, "decode", poison_takes_all), 0),
    Bug("an old worker commits beside the new one", lambda: patch.object(LedgerProcess, "zombies", True), 19),
    Bug(
        "periods end by another zone's clock",
        replaced(counters, "period_of", lambda period: lambda kind, zone, time: period(kind, "Asia/Tokyo", time)),
        0,
    ),
    Bug("a key that was rotated begins a budget of its own", lambda: patch.object(Views, "_take_key", _no_lineage), 1),
    Bug(
        "a rotated key is not refused with its lineage",
        replaced(Keyring, "cause_against", refused_for_ever_or_never),
        4,
    ),
    Bug(
        "an event sees keys that came after it",
        replaced(Views, "account_of_key", lambda of: lambda self, key, stamp: of(self, key, 2**62)),
        0,
    ),
    Bug("attempts have no end", lambda: patch.object(deliveries, "WAITS_SECONDS", (5,) * 1000), 0, "I10"),
    Bug("a new catalog counts on top of what was counted", replaced(Counters, "replace", counted_on_top), 9),
    Bug("a gate counts as whole before it has read", replaced(Follower, "_keep_time", ready_at_once), 2, "I6"),
    Bug(
        "a snapshot is not of one moment",
        lambda: patch.object(snapshot, "one_moment", lambda read: nullcontext()),
        0,
        "I9",
    ),
    Bug("a delivery is noted before it is made", replaced(Deliveries, "deliver_due", noted_before_sent), 0),
    Bug("what is rejected was never read", replaced(Worker, "_progress", reads_less_than_it_says), 0, "I1"),
    Bug("who builds anew sees keys as they are now", replaced(Worker, "__init__", reads_now), 0),
    Bug("a row is changed after its commit", lambda: store_class(SecondThoughts), 2),
    Bug("a spool forgets what it holds", replaced(Spool, "_occupied_bytes", lambda bytes: lambda self: 0), 5, "I11"),
    Bug(
        "what looks like a key is not hidden", replaced(eventtext, "redact", lambda redact: lambda text: text), 0, "I12"
    ),
    Bug("ids are not drawn from the seed", replaced(World, "random_bytes", something_else_each_time), 0, "I13"),
    Bug(
        "a cap is said to people and not to gates",
        replaced(enforcer, "messages", lambda made: lambda d: [m for m in made(d) if m.topic != topics.REVOCATIONS]),
        1,
        "I5",
    ),
)
_take_key = Views._take_key


def _no_lineage(self: Views, record: Any) -> None:
    _take_key(self, record)
    self.lineages = {}


def broken_by(bug: Bug, seed: int) -> frozenset[str]:
    """Which invariants do not hold in a history with the bug in it."""
    with bug.plant():
        try:
            trace = run(seed).trace
            again = trace if bug.only != "I13" else run(seed).trace
        except BrokenPromiseError as error:
            return error.promises
    return frozenset() if trace == again else frozenset({"I13"})


def first_seed(bug: Bug, seeds: Iterable[int]) -> tuple[int, frozenset[str]] | None:
    """The first of the seeds that finds the bug, as it is wanted (by one invariant alone, if it is said which)."""
    for seed in seeds:
        broken = broken_by(bug, seed)
        if broken and bug.only in (None, *broken) and (bug.only is None or len(broken) == 1):
            return seed, broken
    return None

"""The worker: the one loop that turns the log into the store.

One turn takes these steps, in this order, and names each as it is done:

1. ``polled``: records of ``usage`` are read, then catalog and keys to their ends.
2. ``decoded``: bytes became events, or rejections with a reason.
3. ``sifted``: repetitions and conflicts are told from new events.
4. ``folded``: counters moved in event order; what crossed a cap became a decision.
5. the steps of ``Store.write``, the last of them ``committed``: rows, rejections, counters, decisions,
   messages, positions and control totals, in one transaction.
6. ``published``: what the decisions say is in the log. Before that the store knows it as pending.

It may die between any two. Then whoever starts again reads the last commit and goes on; ids that
follow from their causes make the repetition of step 6 harmless. After an error the worker's memory is
not to be trusted: make a new one.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from doortab.consumers import counting, enforcer
from doortab.consumers.adoption import redecide
from doortab.consumers.attribution import accounts_of
from doortab.consumers.columns import Columns, Texts
from doortab.consumers.counters import Counters, show_value
from doortab.consumers.dedupe import IdIndex
from doortab.consumers.intake import Inline, Intake, Source, uncollected
from doortab.consumers.recorder import rows_of
from doortab.consumers.rejections import conflict, rejection_message, unattributed_message
from doortab.consumers.sift import Finder, Sifted, sift
from doortab.consumers.views import NO_CATALOG, Views
from doortab.schemas import topics, wire
from doortab.schemas.batch import Batch, CounterKey, Decision, Message, Progress, Resumed, Rows
from doortab.schemas.events import UNATTRIBUTED
from doortab.schemas.log import Entry, Log, TopicPartition
from doortab.schemas.tariff import Tariff

MAX_RECORDS = 60_000
MAX_BYTES = 24_000_000
"""A turn takes at most so much, about 60,000 events, one a record or hundreds: fewer cost more each, more take longer
until they are committed."""


class Store(Finder, Protocol):
    """What the worker needs of the store."""

    def resume(self) -> Resumed: ...
    def digests(self) -> npt.NDArray[np.uint64]: ...
    def write(self, batch: Batch) -> Iterator[str]: ...
    def pending(self) -> list[Message]: ...
    def published(self, ids: Sequence[str]) -> None: ...
    def room_for(self, root: str, names: set[str]) -> set[str]: ...
    def recount(self, tariff: Tariff, partition: int, lineages: Mapping[str, str]) -> dict[CounterKey, int]: ...
    def owners(self, partition: int, lineages: Mapping[str, str]) -> dict[str, str]: ...
    def unreadable(self) -> set[tuple[str, int, int]]: ...
    def decided(self) -> list[Decision]: ...
    def compact(self) -> bool: ...


class Worker:
    """Owns the store and every partition of ``usage``."""

    def __init__(
        self,
        log: Log,
        store: Store,
        *,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
        publishing: bool = True,
        source: Callable[[Mapping[TopicPartition, int]], Source] | None = None,
    ) -> None:
        """``publishing`` off leaves what was decided pending in the store, as a rebuild wants it.

        ``source`` makes what reads ``usage`` from the given positions on; without it the log is read here.
        """
        self._log = log
        self._store = store
        self._max = (max_records, max_bytes)
        self._publishing = publishing
        self._views = Views(log)
        self._views.catch_up()
        resumed = store.resume()
        self._counters = Counters(resumed.counters)
        self._next_seq = resumed.next_seq
        self._index = IdIndex()
        self._index.add(store.digests(), 0)
        self._adopted = resumed.adopted
        self._pending = store.pending()
        self._announced: set[str] = set()
        self._known_unreadable = store.unreadable()
        self.epoch = resumed.epoch
        self.positions = {p: resumed.positions.get(p, 0) for p in range(log.partition_count(topics.USAGE))}
        self.totals: Tally[str] = Tally()
        places = {TopicPartition(topics.USAGE, p): at for p, at in self.positions.items()}
        self._source = source(places) if source is not None else Inline(log.reader(places))

    def turn(self, timeout_seconds: float) -> Iterator[str]:
        """One turn of the loop. Yields a name after each step; nothing is held between two turns.

        Raises:
            LogUnavailable: the log could not be reached; call again later.
            StoreDamaged: the store must be opened again.
        """
        self._follow_new_partitions()
        intake = self._source.poll(*self._max, timeout_seconds)
        self._views.catch_up()
        yield "polled"
        yield from self._reject_unreadable()
        if intake is not None:
            yield from self._take(intake)
        else:
            yield from self._adopt(self._idle_partitions())
            self._store.compact()
        yield from self._publish()

    def _reject_unreadable(self) -> Iterator[str]:
        """Keeps what no catalog and no key could be made of, once."""
        found, self._views.unreadable = self._views.unreadable, []
        new = [r for r in found if (r.topic, r.partition, r.offset) not in self._known_unreadable]
        if new:
            yield from self._write(Batch(Rows(), new, {}, [], [rejection_message(r) for r in new], []))
            self._known_unreadable |= {(r.topic, r.partition, r.offset) for r in new}

    def _follow_new_partitions(self) -> None:
        """A topic may grow while the ledger runs."""
        new = range(len(self.positions), self._log.partition_count(topics.USAGE))
        if new:
            self._source.seek({TopicPartition(topics.USAGE, partition): 0 for partition in new})
            self.positions |= dict.fromkeys(new, 0)

    def wake(self) -> None:
        """Ends a waiting turn at once. Callable from any thread."""
        self._source.wake()

    def close(self) -> None:
        """Frees the readers; log and store stay open."""
        self._source.close()
        self._views.close()

    def _take(self, intake: Intake) -> Iterator[str]:
        """Commits the records, stopping in each partition wherever a new catalog comes into force."""
        while len(intake):
            due, waits = self._catalogs_due(intake)
            ready, later = intake.divided(~waits) if due else (intake, None)
            if len(ready):
                with uncollected():
                    yield from self._commit(ready)
            yield from self._adopt(due)
            if later is None:
                return
            intake = later

    def _catalogs_due(self, intake: Intake) -> tuple[dict[int, int], npt.NDArray[np.bool_]]:
        """By partition the catalog that must be adopted first, and which records wait for that."""
        seen = intake.seen
        due: dict[int, int] = {}
        waits = np.zeros(len(intake), np.bool_)
        newest = self._views.newest
        if all(self._adopted.get(partition, NO_CATALOG) == newest for partition in self.positions):
            return due, waits
        for number, (partition, stamp_ms) in enumerate(
            zip(seen.partition.tolist(), seen.stamp_ms.tolist(), strict=True)
        ):
            wanted = self._views.catalog_at(stamp_ms)
            if partition in due or wanted > self._adopted.get(partition, NO_CATALOG):
                due.setdefault(partition, wanted)
                waits[number] = True
        return due, waits

    def _idle_partitions(self) -> dict[int, int]:
        """The partitions that may adopt the newest catalog, for nothing that came before it is still to be read.

        That nothing was read does not say so: a broker may be slow, and an event may have come just before the
        catalog. The ends are asked for after the catalog was read, so whatever came before it lies before them.
        """
        newest = self._views.newest
        waiting = [p for p in self.positions if self._adopted.get(p, NO_CATALOG) != newest]
        if not waiting:
            return {}
        ends = self._log.end_offsets(topics.USAGE)
        return {p: newest for p in waiting if self.positions[p] >= ends.get(p, 0)}

    def _commit(self, intake: Intake) -> Iterator[str]:
        columns = intake.columns
        accounts = accounts_of(columns, self._views, self._adopted)
        yield "decoded"
        digests = columns.digests
        sifted = sift(columns, accounts, columns.rests, digests, self._index, self._store)
        yield "sifted"
        moved, decisions = self._fold(columns, sifted, accounts)
        yield "folded"
        rows = rows_of(sifted.fresh, columns, accounts, self._store.room_for)
        rejected = intake.rejected + [conflict(columns, i) for i in sifted.conflicts]
        messages = enforcer.messages(decisions) + [rejection_message(r) for r in rejected]
        messages += self._unattributed(columns, accounts, sifted.fresh)
        progress = self._progress(intake, sifted, rejected)
        yield from self._write(Batch(rows, rejected, moved, decisions, messages, progress))
        self._index.add(digests[sifted.fresh], self._next_seq)
        self._next_seq += len(rows)
        for step in progress:
            self.positions[step.partition] = step.next
            for name in ("events", "billed", "not_billable", "duplicates", "rejected"):
                self.totals[name] += getattr(step, name)

    def _write(self, batch: Batch) -> Iterator[str]:
        yield from self._store.write(batch)
        self._pending += batch.messages

    def _fold(self, columns: Columns, sifted: Sifted, accounts: Texts) -> tuple[dict[CounterKey, str], list[Decision]]:
        """Counts the new events that are charged, each under the catalog in force where it stands."""
        fresh = np.asarray(sifted.fresh, np.int64)
        charged = fresh[columns.billable[fresh]]
        rests: dict[int, Any] = {i: wire.decode_rest(text) for i, text in columns.rests.items()}
        moved: dict[CounterKey, str] = {}
        decisions: list[Decision] = []
        for offset, order in self._by_catalog(columns, charged).items():
            tariff = self._views.tariff(offset)
            crossings = counting.fold(self._counters, tariff, columns, order, accounts, rests, self._views.lineages)
            decisions += enforcer.decide(tariff, crossings, columns, accounts)
            moved |= self._counters.settle()
        return moved, decisions

    def _by_catalog(self, columns: Columns, order: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.int64]]:
        adopted = {partition: self._adopted.get(partition, NO_CATALOG) for partition in self.positions}
        if len(set(adopted.values())) == 1:
            return {next(iter(adopted.values())): order}
        catalogs = np.array([adopted[partition] for partition in range(len(adopted))])[columns.numbers("part")[order]]
        return {int(offset): order[catalogs == offset] for offset in dict.fromkeys(catalogs.tolist())}

    def _progress(self, intake: Intake, sifted: Sifted, rejected: list[wire.Rejected]) -> list[Progress]:
        columns = intake.columns
        part, billable = columns.numbers("part"), columns.billable
        fresh = np.asarray(sifted.fresh, np.int64)
        stored = Tally(part[fresh].tolist())
        billed = Tally(part[fresh[billable[fresh]]].tolist())
        duplicates = Tally(part[np.asarray(sifted.duplicates, np.int64)].tolist())
        refused = Tally(r.partition for r in rejected)
        return [
            Progress(
                p,
                self.positions[p],
                end,
                stored[p] + duplicates[p] + refused[p],
                billed[p],
                stored[p] - billed[p],
                duplicates[p],
                refused[p],
            )
            for p, end in sorted(intake.seen.ends().items())
        ]

    def _unattributed(self, columns: Columns, accounts: Texts, fresh: Sequence[int]) -> list[Message]:
        if UNATTRIBUTED not in accounts.names:
            return []
        # Requests without a key are refused by the thousand; only use that nobody pays for is worth a word.
        nobodys = (i for i in fresh if accounts[i] == UNATTRIBUTED and columns.billable[i])
        first = next((columns.logged_at(i) for i in nobodys), None)
        message = unattributed_message(first) if first is not None else None
        if message is None or message.id in self._announced:
            return []
        self._announced.add(message.id)
        return [message]

    def _adopt(self, due: dict[int, int]) -> Iterator[str]:
        """Puts newer catalogs in force, one after the other, counting again what they price or cap otherwise."""
        for partition, wanted in sorted(due.items()):
            for offset in self._views.versions(self._adopted.get(partition, NO_CATALOG), wanted):
                tariff = self._views.tariff(offset)
                at = self._views.stamp_of(offset) * 1000
                lineages = self._views.lineages
                counted = self._store.recount(tariff, partition, lineages)
                self._counters.replace(counted)
                decisions, messages = redecide(
                    tariff, counted, self._store.owners(partition, lineages), self._store.decided(), offset, at
                )
                values = {key: show_value(key, value) for key, value in counted.items()}
                batch = Batch(Rows(), [], values, decisions, messages, [], {partition: offset})
                yield from self._write(batch)
                self._adopted[partition] = offset
                yield "adopted"

    def _publish(self) -> Iterator[str]:
        """Appends what is pending to the log, then notes that it is there."""
        if not self._pending or not self._publishing:
            return
        by_topic: dict[str, list[Message]] = {}
        for message in self._pending:
            by_topic.setdefault(message.topic, []).append(message)
        # Revocations first: they are what somebody waits for.
        for topic in sorted(by_topic, key=lambda name: name != topics.REVOCATIONS):
            self._log.append(topic, [Entry(0, message.key, message.value) for message in by_topic[topic]])
            yield "appended"
        self._store.published([message.id for message in self._pending])
        self._pending = []
        yield "published"

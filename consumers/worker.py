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

import gc
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from doortab.consumers import enforcer
from doortab.consumers.adoption import redecide
from doortab.consumers.counters import Counters, show_value
from doortab.consumers.dedupe import IdIndex, digests_of
from doortab.consumers.recorder import Places, rows_of
from doortab.consumers.rejections import conflict, rejection_message, unattributed_message
from doortab.consumers.sift import Finder, Sifted, sift
from doortab.consumers.views import NO_CATALOG, Views
from doortab.schemas import topics, wire
from doortab.schemas.batch import Batch, CounterKey, Decision, Message, Progress, Resumed, Rows
from doortab.schemas.events import UNATTRIBUTED, Event, is_billable
from doortab.schemas.log import Entry, Log, Record, TopicPartition
from doortab.schemas.tariff import Tariff

MAX_RECORDS = 20_000
MAX_BYTES = 8_000_000
"""A turn takes at most so much: about 20,000 events, one a record or hundreds, so that a commit stays short."""


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
    ) -> None:
        """``publishing`` off leaves what was decided pending in the store, as a rebuild wants it."""
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
        self._reader = log.reader({TopicPartition(topics.USAGE, p): at for p, at in self.positions.items()})

    def turn(self, timeout_seconds: float) -> Iterator[str]:
        """One turn of the loop. Yields a name after each step; nothing is held between two turns.

        Raises:
            LogUnavailable: the log could not be reached; call again later.
            StoreDamaged: the store must be opened again.
        """
        self._follow_new_partitions()
        records = self._reader.poll(*self._max, timeout_seconds)
        self._views.catch_up()
        yield "polled"
        yield from self._reject_unreadable()
        if records:
            yield from self._take(records)
        else:
            yield from self._adopt(dict.fromkeys(self.positions, self._views.newest))
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
            self._reader.seek({TopicPartition(topics.USAGE, partition): 0 for partition in new})
            self.positions |= dict.fromkeys(new, 0)

    def wake(self) -> None:
        """Ends a waiting turn at once. Callable from any thread."""
        self._reader.wake()

    def close(self) -> None:
        """Frees the readers; log and store stay open."""
        self._reader.close()
        self._views.close()

    def _take(self, records: list[Record]) -> Iterator[str]:
        """Commits the records, stopping in each partition wherever a new catalog comes into force."""
        while records:
            ready: list[Record] = []
            later: list[Record] = []
            due: dict[int, int] = {}
            for record in records:
                wanted = self._views.catalog_at(record.timestamp_ms)
                if record.partition in due or wanted > self._adopted.get(record.partition, NO_CATALOG):
                    due.setdefault(record.partition, wanted)
                    later.append(record)
                else:
                    ready.append(record)
            if ready:
                # Thousands of small objects at once, none in a cycle: the collector would only walk them.
                gc.disable()
                try:
                    yield from self._commit(ready)
                finally:
                    gc.enable()
            yield from self._adopt(due)
            records = later

    def _commit(self, records: list[Record]) -> Iterator[str]:
        decoded = wire.decode(records)
        accounts = self._accounts(decoded)
        yield "decoded"
        digests = digests_of(decoded.events)
        sifted = sift(decoded.events, accounts, decoded.rest, digests, self._index, self._store)
        yield "sifted"
        billable = np.array([is_billable(event.data) for event in decoded.events], np.bool_)
        moved, decisions = self._fold(decoded, sifted, accounts, billable)
        yield "folded"
        places = Places(decoded)
        rows = rows_of(sifted.fresh, decoded, accounts, billable, places, digests, self._store.room_for)
        rejected = decoded.rejected + [conflict(decoded, i) for i in sifted.conflicts]
        messages = enforcer.messages(decisions) + [rejection_message(r) for r in rejected]
        messages += self._unattributed(decoded, accounts, sifted.fresh)
        progress = self._progress(records, places, sifted, billable, rejected)
        yield from self._write(Batch(rows, rejected, moved, decisions, messages, progress))
        self._index.add(np.asarray(rows.digest, dtype=np.uint64), self._next_seq)
        self._next_seq += len(rows)
        for step in progress:
            self.positions[step.partition] = step.next
            for name in ("events", "billed", "not_billable", "duplicates", "rejected"):
                self.totals[name] += getattr(step, name)

    def _write(self, batch: Batch) -> Iterator[str]:
        yield from self._store.write(batch)
        self._pending += batch.messages

    def _accounts(self, decoded: wire.Decoded) -> list[str]:
        accounts = [event.data.account for event in decoded.events]
        if None in accounts:
            for i, account in enumerate(accounts):
                if account is None:
                    span = decoded.span_of(i)
                    accounts[i] = self._account(decoded.events[i], span.partition, span.logged // 1000)
        return accounts  # type: ignore[return-value]

    def _account(self, event: Event, partition: int, stamp_ms: int) -> str:
        """Whose an event is that does not say: its key's, else its subject's, else the subject itself."""
        owner = self._views.account_of_key(event.data.key, stamp_ms) if event.data.key is not None else None
        if owner is not None:
            return owner
        if event.subject is None:
            return UNATTRIBUTED
        tariff = self._views.tariff(self._adopted.get(partition, NO_CATALOG))
        return tariff.account_of_subject(event.subject) or event.subject

    def _fold(
        self, decoded: wire.Decoded, sifted: Sifted, accounts: list[str], billable: npt.NDArray[np.bool_]
    ) -> tuple[dict[CounterKey, str], list[Decision]]:
        """Counts the new events that are charged, each under the catalog in force where it stands."""
        fresh = np.asarray(sifted.fresh, np.int64)
        charged: list[int] = fresh[billable[fresh]].tolist()
        rests: dict[int, Any] = {i: wire.decode_rest(text) for i, text in decoded.rest.items()}
        lineages = self._views.lineages
        moved: dict[CounterKey, str] = {}
        decisions: list[Decision] = []
        for offset, order in self._by_catalog(decoded, charged).items():
            tariff = self._views.tariff(offset)
            crossings = self._counters.fold(tariff, order, decoded.events, decoded.times, accounts, rests, lineages)
            decisions += enforcer.decide(tariff, crossings, decoded, accounts)
            moved |= self._counters.settle()
        return moved, decisions

    def _by_catalog(self, decoded: wire.Decoded, order: list[int]) -> dict[int, list[int]]:
        catalogs = {self._adopted.get(partition, NO_CATALOG) for partition in self.positions}
        if len(catalogs) == 1:
            return {catalogs.pop(): order}
        found: dict[int, list[int]] = {}
        for i in order:
            found.setdefault(self._adopted.get(decoded.span_of(i).partition, NO_CATALOG), []).append(i)
        return found

    def _progress(
        self,
        records: list[Record],
        places: Places,
        sifted: Sifted,
        billable: npt.NDArray[np.bool_],
        rejected: list[wire.Rejected],
    ) -> list[Progress]:
        fresh = np.asarray(sifted.fresh, np.int64)
        stored = Tally(places.part[fresh].tolist())
        billed = Tally(places.part[fresh[billable[fresh]]].tolist())
        duplicates = Tally(places.part[np.asarray(sifted.duplicates, np.int64)].tolist())
        refused = Tally(r.partition for r in rejected)
        ends = {record.partition: record.offset + 1 for record in records}
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
            for p, end in sorted(ends.items())
        ]

    def _unattributed(self, decoded: wire.Decoded, accounts: list[str], fresh: Sequence[int]) -> list[Message]:
        if UNATTRIBUTED not in accounts:
            return []
        # Requests without a key are refused by the thousand; only use that nobody pays for is worth a word.
        nobodys = (i for i in fresh if accounts[i] == UNATTRIBUTED and is_billable(decoded.events[i].data))
        first = next((decoded.span_of(i).logged for i in nobodys), None)
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

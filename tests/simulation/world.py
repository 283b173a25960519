"""What every actor stands in: one random number generator, a clock, a log with faults, and wires that are cut."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import NamedTuple
from zlib import crc32

from doortab.log.memory import Fault, MemoryLog
from doortab.producers import shipper, spool
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry, Reader, Record, TopicPartition
from doortab.schemas.topics import USAGE, Topic
from tests.simulation.oracle import elements

SECOND = 1_000_000
DAY = 86_400 * SECOND
# The ends of months and years, a leap day, and the nights in which Berlin's clocks are moved (UTC).
STARTS = {
    "2026-11-28": 20_785,
    "2026-12-30": 20_817,
    "2027-03-26": 20_903,
    "2027-10-29": 21_120,
    "2028-02-27": 21_241,
}


THEN = "then"
"""Under this stands the error that a history ended with after something did not hold."""


class KilledError(BaseException):
    """The process that made this call dies in it."""


class InterruptedRetryError(BaseException):
    """A retry that the product would wait for goes on later: others have their turn."""


class BrokenPromiseError(AssertionError):
    """Invariants that do not hold, each with what was seen first of it."""

    def __init__(self, seen: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{promise}: {what}" for promise, what in seen.items()))
        self.promises = frozenset(seen) - {THEN}


class Logged(NamedTuple):
    """A record as it was appended, and when, in the order of everything that happens."""

    moment: int
    topic: str
    partition: int
    offset: int
    stamp_ms: int
    key: bytes | None
    value: bytes | None


THEMES: tuple[dict[str, int], ...] = (
    {"kill_service": 6, "doom": 8, "kill_desk": 2},
    {"kill_ledger": 10, "tear_store": 4, "doom": 4, "checkpoint": 2},
    {"replace_worker": 16, "unreachable": 3, "cut": 4},
    {"cut_power_of_service": 10, "sync_fails": 4, "fill_disk": 4},
    {"unreachable": 4, "cut": 8, "freeze": 4, "swizzle": 4, "late": 8},
    {"receiver": 12, "kill_ledger": 2, "late": 4},
    {"step_clock": 10, "compact": 6, "kill_service": 2},
    {},
)
"""Kinds of faults that go together, with their weights: most histories have one such theme, and a little of all."""

SPARSE = 2


class Weights:
    """What happens in this history, and how often: drawn anew for each seed, so that some know no fault at all."""

    def __init__(self, random: Random) -> None:
        self.calm = random.random() < 0.08
        self.append_faults = [fault for fault in Fault if fault is not Fault.NONE and random.random() < 0.6]
        self.append_percent = 0 if self.calm else random.choice([0, 0, 10, 20, 40])
        self.chaos = 0 if self.calm else random.choice([4, 10, 25])
        self.kinds = dict.fromkeys(sorted({kind for theme in THEMES for kind in theme}), 0)
        for kind in self.kinds:
            self.kinds[kind] = random.choice([0, SPARSE // 2, SPARSE])
        # It costs next to nothing, and nothing else stops a turn where it can do most harm.
        self.kinds["replace_worker"] *= 3
        for theme in random.sample(THEMES, random.choice([1, 2, 2, 3])):
            for kind, weight in theme.items():
                self.kinds[kind] += SPARSE * weight
        self.partitions = random.choice([1, 2, 2, 3])
        self.ticks = random.choice([60, 110, 170])
        self.mean_step = random.choice([20_000, SECOND, 60 * SECOND, 1800 * SECOND, 7200 * SECOND])
        self.duplicates = random.choice([0, 10, 30, 60])
        self.poison = random.choice([0, 5, 20])
        self.skew = random.choice([0, SECOND, 300 * SECOND, 2 * DAY])
        self.small_spool = random.random() < 0.3
        self.grows = random.random() < 0.15
        self.reprices = random.random() < 0.25
        self.max_records = random.choice([1, 4, 20, 20_000])
        self.snapshots = random.random() < 0.35
        self.sync_percent = random.choice([2, 20])
        """How often the disk is synced right after an event."""
        self.hates = random.random() < 0.4
        """Whether the receiver refuses some alerts always, and never says that it has taken others."""


class World:
    """Time, chance, the log, and everything that was ever appended to it."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = seed
        self.root = root
        self.random = Random(seed)
        self.weights = Weights(self.random)
        self.begin = self.random.choice(list(STARTS.values())) * DAY + self.random.randrange(2 * DAY)
        self.now = self.begin
        self.moment = 0
        self.tick = 0
        self.healed = False
        self.history: list[Logged] = []
        self.events: dict[int, list[int]] = defaultdict(lambda: [0])
        """By partition of ``usage``: how many events stand before each offset."""
        self.seen: dict[str, str] = {}
        self.figures = Counter[str]()
        self._trace = hashlib.sha256()
        self.log = SimLog(self)

    def clock(self) -> int:
        """Microseconds since 1970, by the clock that is right."""
        return self.now

    def note(self, *words: object) -> None:
        """Adds to the trace, and counts as a moment of its own."""
        self.moment += 1
        self._trace.update(repr((self.tick, self.now, *words)).encode())

    @property
    def trace(self) -> str:
        """The hash of everything that has happened."""
        return self._trace.hexdigest()

    def random_bytes(self, count: int) -> bytes:
        return self.random.randbytes(count)

    def happens(self, percent: int) -> bool:
        """Whether something does that does in so many of a hundred cases, as long as there are faults."""
        return not self.healed and self.random.randrange(100) < percent

    def fault(self, topic: str, entries: Sequence[Entry]) -> Fault:
        """What becomes of an append."""
        weights = self.weights
        if not weights.append_faults or not self.happens(weights.append_percent):
            return Fault.NONE
        self.figures["faults"] += 1
        return self.random.choice(weights.append_faults)

    def breaks(self, promise: str, *what: object) -> None:
        """Remembers that an invariant does not hold; the history goes on, for others may not hold either."""
        self.seen.setdefault(promise, " ".join(map(str, what))[:600])


class SimLog(MemoryLog):
    """The log in memory, whose every record is remembered."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda: world.now / 1e6, world.fault, waits=False)
        self._world = world

    def _put(self, topic: str, entries: Iterable[Entry]) -> list[int]:
        entries = list(entries)
        offsets = super()._put(topic, entries)
        for (partition, key, value), offset in zip(entries, offsets, strict=True):
            self._world.note("log", topic, partition, offset, crc32(value or b""))
            moment, stamp = self._world.moment, self.stamps.last_ms
            self._world.history.append(Logged(moment, topic, partition, offset, stamp, key, value))
            if topic == USAGE:
                before = self._world.events[partition][-1]
                self._world.events[partition].append(before + len(elements(value)))
        return offsets


class Wire:
    """A process' way to the log: may be cut, and the process may die in the middle of an append."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.is_cut = False
        self.doom: str | None = None
        self._world = world
        self._log = world.log

    def _check(self) -> None:
        if self.is_cut:
            raise LogUnavailable("simulated: the line is cut")

    def ensure_topics(self, topics: Iterable[Topic]) -> None:
        self._check()
        self._log.ensure_topics(topics)

    def partition_count(self, topic: str) -> int:
        self._check()
        return self._log.partition_count(topic)

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        self._check()
        doom, self.doom = self.doom, None
        if doom == "before":
            raise KilledError(self.name)
        offsets = self._log.append(topic, entries, timeout_seconds)
        if doom == "after":
            raise KilledError(self.name)
        return offsets

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        self._check()
        return WireReader(self, self._world, self._log.reader(positions), positions)

    def begin_offsets(self, topic: str) -> dict[int, int]:
        self._check()
        return self._log.begin_offsets(topic)

    def end_offsets(self, topic: str) -> dict[int, int]:
        self._check()
        return self._log.end_offsets(topic)

    def close(self) -> None:
        """The log is everybody's."""

    def check(self) -> None:
        """Raises LogUnavailable while the line is cut."""
        self._check()


class WireReader:
    """A reader that sees only some at a time, and says so when it does not move although there is more."""

    def __init__(self, wire: Wire, world: World, inner: Reader, positions: Mapping[TopicPartition, int]) -> None:
        self._wire = wire
        self._world = world
        self._inner = inner
        self._places = list(positions)

    def poll(self, max_records: int, max_bytes: int, timeout_seconds: float) -> list[Record]:
        self._wire.check()
        count = self._world.random.choice([2, 8, 500])
        # When all is over there is nothing to learn from reading slowly.
        records = self._inner.poll(500 if self._world.healed else min(max_records, count), max_bytes, 0.0)
        if not records and any(place in self._world.log.frozen for place in self._places):
            if any(place.topic != USAGE for place in self._places) or self._world.random.random() < 0.3:
                raise LogUnavailable("simulated: the reader does not move")
        return records

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self._places += [place for place in positions if place not in self._places]
        self._inner.seek(positions)

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._inner.close()


@contextmanager
def simulated_time(world: World) -> Iterator[None]:
    """The clocks that shipper and spool look at by themselves are the world's, and nobody sleeps."""
    fake = SimpleNamespace(monotonic=lambda: world.now / 1e6, time=lambda: world.now / 1e6, sleep=lambda seconds: None)
    modules = (shipper, spool)
    real = [getattr(module, "time") for module in modules]  # noqa: B009
    for module in modules:
        setattr(module, "time", fake)  # noqa: B010
    try:
        yield
    finally:
        for module, time in zip(modules, real, strict=True):
            setattr(module, "time", time)  # noqa: B010

"""A history: the actors of one seed, step by step, until everything has come to rest; then the invariants."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from doortab.schemas import topics
from doortab.schemas.errors import LogUnavailable
from tests.simulation.chaos import Chaos, staleness_of
from tests.simulation.invariants import check_all
from tests.simulation.ledgers import LedgerProcess
from tests.simulation.services import Audience, Service
from tests.simulation.traffic import DeskProcess, Foreigner, Prices
from tests.simulation.world import SECOND, THEN, BrokenPromiseError, KilledError, World, simulated_time

ROUNDS_TO_REST = 400
ROUNDS_OF_DELIVERY = 60
ATTEMPTS = 12
"""No alert is tried so often."""


class Outcome(NamedTuple):
    """What a seed came to: its trace's hash, and how much happened."""

    trace: str
    figures: Counter[str]


class History:
    """All actors of one seed."""

    def __init__(self, seed: int, root: Path) -> None:
        self.world = world = World(seed, root)
        world.log.ensure_topics(topics.topics(world.weights.partitions))
        self.audience = Audience(staleness_of(world.weights.mean_step))
        self.prices = Prices(world)
        self.ledger = LedgerProcess(world)
        self.desk = DeskProcess(world, self.audience)
        self.foreigner = Foreigner(world, self.audience)
        self.services = [
            Service(world, f"service-{number}", self.audience) for number in range(world.random.randint(1, 3))
        ]
        self.chaos = Chaos(self)
        self.grown_at: int | None = None
        self.must_publish = True

    @property
    def is_repriced(self) -> bool:
        """Whether a catalog came after an event, were it the same: then counters are reckoned anew from the rows."""
        told = [record.topic for record in self.world.history if record.topic in (topics.CATALOG, topics.USAGE)]
        return topics.CATALOG in told[told.index(topics.USAGE) :] if topics.USAGE in told else False

    @property
    def prices_in_force(self) -> dict[str, Any]:
        """The newest catalog in the log, which need not be the one that was written last."""
        values = [record.value for record in self.world.history if record.topic == topics.CATALOG]
        return self.prices.written[values[-1]]

    def run(self) -> Outcome:
        """The whole history. Raises BrokenPromiseError for what does not hold."""
        try:
            self._live()
        except Exception as error:
            # Once something does not hold, nothing that follows needs to.
            if not self.world.seen:
                raise
            self.world.seen.setdefault(THEN, repr(error)[:200])
        if self.world.seen:
            raise BrokenPromiseError(self.world.seen)
        return Outcome(self.world.trace, self.world.figures)

    def _live(self) -> None:
        world = self.world
        self._publish_catalog()
        for _ in range(world.weights.ticks):
            self._tick()
        self.chaos.heal()
        if self.must_publish:
            self._publish_catalog()
        self._come_to_rest()
        check_all(self)
        world.figures["ticks"] = world.tick

    def _publish_catalog(self) -> None:
        """One attempt; an operator who is told that it failed tries again."""
        try:
            self.ledger.tariff = self.prices.publish(self.desk.wire)
            self.must_publish = False
        except (LogUnavailable, KilledError):
            self.world.note("catalog", "again")

    def _tick(self) -> None:
        world, random = self.world, self.world.random
        world.tick += 1
        world.now += random.randint(1, 2 * world.weights.mean_step) if random.random() < 0.8 else 1
        self.chaos.act()
        actor = random.choices(["ledger", "service", "foreigner", "desk"], [20, 20, 4, 3])[0]
        if actor == "ledger":
            for _ in range(random.randint(1, 12)):
                self.ledger.act()
        elif actor == "service":
            random.choice(self.services).act()
        elif actor == "foreigner":
            self.foreigner.act()
        else:
            self.desk.act()
        third = world.weights.ticks // 3
        if world.weights.grows and world.tick == third:
            world.log.grow(topics.USAGE, world.weights.partitions + 1)
            self.grown_at = world.moment
            world.note("grown")
        if world.weights.reprices and world.tick == 2 * third:
            self.prices.reprice(world)
            self.must_publish = True
        if self.must_publish:
            self._publish_catalog()

    def _come_to_rest(self) -> None:
        """I10: without faults, in so many rounds, nothing is left to do."""
        world = self.world
        for number in range(ROUNDS_TO_REST):
            world.tick += 1
            # Orphans are looked for every ten seconds, ends every second.
            world.now += 11 * SECOND
            busy = False
            for service in self.services:
                service.follow()
                service.sync()
                service.busy_until = 0
                busy |= service.ship() or service.fresh != world.now
            self.ledger.busy_until = 0
            while (came := self.ledger.turn()) is None:
                if self.ledger.busy_until:
                    break
            busy |= came is not False or bool(self.ledger.read(UNPUBLISHED)) or self._lag()
            if not busy and number > 3:
                break
        else:
            world.breaks("I10", f"not at rest after {ROUNDS_TO_REST} rounds; lag {self._lag()}")
        for service in self.services:
            if service.running.spool.waiting_bytes or service.running.shipper.orphans:
                world.breaks("I10", f"{service.name} does not ship what it has")
        self._deliver_everything()
        while self.ledger.publish():
            pass

    def _lag(self) -> bool:
        worker = self.ledger.worker
        return worker is None or any(
            worker.positions.get(partition, 0) < end
            for partition, end in self.world.log.end_offsets(topics.USAGE).items()
        )

    def _deliver_everything(self) -> None:
        """The schedule of retries takes days; here they pass at once."""
        ledger, due = self.ledger, self.ledger.deliveries.deliveries("due")
        alerts = sum(record.topic == topics.ALERTS for record in self.world.history)
        for number in range(ROUNDS_OF_DELIVERY + ATTEMPTS * alerts):
            for channel in ledger.deliveries.gone():
                ledger.deliveries.enable(channel)
            while ledger.deliver():
                pass
            due = ledger.deliveries.deliveries("due")
            if number and not due and not ledger.deliveries.gone():
                return
            self.world.now = max(self.world.now + 1, min((one.next_attempt for one in due), default=0))
        self.world.breaks("I10", f"{len(due)} alerts are still on their way")

    def close(self) -> None:
        """Frees everything."""
        for service in self.services:
            service.kill()
        self.ledger.close()


UNPUBLISHED = "SELECT id FROM outbox WHERE id NOT IN (SELECT id FROM published) LIMIT 1"


def run(seed: int) -> Outcome:
    """Lives through a seed, on a disk of its own that is gone afterwards."""
    with disk() as root:
        world = History(seed, root)
        try:
            with simulated_time(world.world):
                return world.run()
        finally:
            world.close()


@contextmanager
def disk() -> Iterator[Path]:
    """A directory in memory, where the machine has one."""
    shared = Path("/dev/shm")
    base = shared if shared.is_dir() and os.access(shared, os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="doortab-simulation-", dir=base))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)

"""What goes wrong: single faults, and bursts of them that end by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from doortab.schemas.log import TopicPartition
from doortab.schemas.topics import KEYS, REVOCATIONS, USAGE
from tests.simulation.ledgers import BEFORE_WRITING
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.history import History

STEPS = ("decoded", "sifted", "folded", "began", "rows", "counters", "commits", "sealed", "committed", "appended")
MODES = ("good", "flaky", "fails", "hangs", "drops", "busy", "gone")


class Chaos:
    """Draws a fault now and then; what it broke for a while is mended when its time has come."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.world = history.world
        self.mending: list[tuple[int, Callable[[], None]]] = []

    def act(self) -> None:
        """Perhaps a fault."""
        world = self.world
        while self.mending and self.mending[0][0] <= world.tick:
            self.mending.pop(0)[1]()
        kinds = world.weights.kinds
        if not any(kinds.values()) or not world.happens(world.weights.chaos):
            return
        kind = world.random.choices(list(kinds), list(kinds.values()))[0]
        world.figures["faults"] += 1
        world.note("chaos", kind)
        getattr(self, kind)()

    def heal(self) -> None:
        """Everything is mended, for good."""
        world = self.world
        world.healed = True
        for _, mend in self.mending:
            mend()
        self.mending.clear()
        world.log.deliver_late()
        self.history.ledger.receiver.mode = "good"
        self.history.ledger.wire.doom = self.history.ledger.doom = None
        for service in self.history.services:
            service.wire.doom = None
        world.note("healed")

    def _later(self, mend: Callable[[], None]) -> None:
        self.mending.append((self.world.tick + self.world.random.randint(2, 40), mend))
        self.mending.sort(key=lambda pair: pair[0])

    def kill_service(self) -> None:
        service = self.world.random.choice(self.history.services)
        service.kill()
        service.boot()

    def cut_power_of_service(self) -> None:
        service = self.world.random.choice(self.history.services)
        service.cut_power()
        service.boot()

    def kill_ledger(self) -> None:
        if self.world.random.random() < 0.5:
            self.history.ledger.crash()
        else:
            self.history.ledger.doom = (self.world.random.choice(STEPS), "crash")

    def tear_store(self) -> None:
        self.history.ledger.crash(tear=True)

    def replace_worker(self) -> None:
        early = self.world.random.random() < 0.6
        self.history.ledger.doom = (self.world.random.choice(BEFORE_WRITING if early else STEPS), "give up")

    def doom(self) -> None:
        wires = [self.history.ledger.wire, self.history.desk.wire, *(s.wire for s in self.history.services)]
        self.world.random.choice(wires).doom = self.world.random.choice(["before", "after"])

    def kill_desk(self) -> None:
        self.history.desk.boot()

    def unreachable(self) -> None:
        log = self.world.log
        log.unreachable = True
        self._later(lambda: setattr(log, "unreachable", False))

    def cut(self) -> None:
        history = self.history
        wires = [history.ledger.wire, history.desk.wire, history.foreigner.wire, *(s.wire for s in history.services)]
        wire = self.world.random.choice(wires)
        wire.is_cut = True
        self._later(lambda: setattr(wire, "is_cut", False))

    def freeze(self) -> None:
        self._freeze(self.world.random.choice(self._places()))

    def swizzle(self) -> None:
        places = self._places()
        for place in self.world.random.sample(places, self.world.random.randint(1, len(places))):
            self._freeze(place)

    def _places(self) -> list[TopicPartition]:
        usage = range(self.world.log.partition_count(USAGE))
        return [*(TopicPartition(USAGE, p) for p in usage), TopicPartition(KEYS, 0), TopicPartition(REVOCATIONS, 0)]

    def _freeze(self, place: TopicPartition) -> None:
        self.world.log.frozen.add(place)
        self._later(lambda: self.world.log.frozen.discard(place))

    def step_clock(self) -> None:
        service = self.world.random.choice(self.history.services)
        self.world.figures["clock_steps"] += 1
        service.skew += self.world.random.randint(-1, 1) * self.world.weights.skew

    def sync_fails(self) -> None:
        service = self.world.random.choice(self.history.services)
        service.sync_fails = True
        self._later(lambda: setattr(service, "sync_fails", False))

    def fill_disk(self) -> None:
        service = self.world.random.choice(self.history.services)
        service.is_full = True
        self._later(lambda: setattr(service, "is_full", False))

    def receiver(self) -> None:
        receiver = self.history.ledger.receiver
        receiver.mode = self.world.random.choice(MODES)
        self._later(lambda: setattr(receiver, "mode", "good"))

    def compact(self) -> None:
        self.world.log.compact(TopicPartition(REVOCATIONS, 0))

    def late(self) -> None:
        self.world.log.deliver_late()

    def checkpoint(self) -> None:
        self.history.ledger.checkpoint()


def staleness_of(mean_step: int) -> int:
    """How old a gate's view may be in a world that moves at this pace."""
    return max(5 * SECOND, 40 * mean_step)

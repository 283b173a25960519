"""A service with an embedded gate: it checks keys, records what they use, and ships it. One process each."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from doortab.producers import gate as gates
from doortab.producers.backlog import Segment
from doortab.producers.claims import claim_new
from doortab.producers.client import Client, _Running
from doortab.producers.follower import Follower
from doortab.producers.frames import frame
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import Peppers
from doortab.producers.shipper import Shipper
from doortab.producers.spool import Spool
from doortab.schemas.errors import DoortabError, SpoolFull
from doortab.schemas.log import TopicPartition
from doortab.schemas.topics import KEYS, REVOCATIONS
from tests.simulation.world import SECOND, InterruptedRetryError, KilledError, Wire, World

PEPPERS = Peppers("p1", {"p1": bytes(range(32))})
SMALL_SPOOL = 16_384


class Checked(NamedTuple):
    """What a gate said, and how much of the log it knew then."""

    moment: int
    service: str
    time: int
    steady: int
    secret: str
    allowed: bool
    reason: str | None
    keys: int
    revocations: int
    fresh: int | None
    event: tuple[str, str] | None


class Recorded:
    """An event that a service has recorded. ``may_be_lost`` once power was cut before it was on the disk."""

    def __init__(self, service: str, raw: bytes) -> None:
        self.service = service
        self.raw = raw
        self.is_synced = False
        self.may_be_lost = False


class Pauses:
    """Stands for the event that the shipper's thread waits on: whoever would wait lets others go on."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._attempts = 0

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        world = self._service.world
        self._attempts += 1
        if self._attempts > 1 or world.random.random() < 0.5:
            self._attempts = 0
            self._service.busy_until = world.now + int(seconds * SECOND)
            raise InterruptedRetryError
        return False


class SimSpool(Spool):
    """A spool whose disk may be full, so that half a frame is written."""

    service: Service

    def _try_to_write(self, segment: Segment, payload: bytes) -> OSError | None:
        if not self.service.is_full:
            return super()._try_to_write(segment, payload)
        assert self._file is not None
        os.write(self._file, frame(payload, segment.size_bytes)[: len(payload) // 2])
        self._take_back(segment)
        return OSError(errno.ENOSPC, "simulated: the disk is full")


class SimClient(Client):
    """The client without its threads."""

    service: Service

    def _started(self) -> _Running:
        service = self.service
        world = service.world
        held = claim_new(service.spools, f"p-{world.random_bytes(6).hex()}")
        spool = SimSpool(held, self.losses, max_bytes=self.max_spool_bytes, fdatasync=service.fdatasync)
        spool.service = service
        spool.syncer.wake = lambda: None  # type: ignore[method-assign]
        shipper = Shipper(spool, service.spools, lambda: service.wire, False)
        shipper._stopping = Pauses(service)  # type: ignore[assignment]
        return _Running(spool, shipper)


class Service:
    """A process, and the machine that it runs on: its clock, its disk, its line to the log."""

    def __init__(self, world: World, name: str, audience: Audience) -> None:
        self.world = world
        self.name = name
        self.audience = audience
        self.spools: Path = world.root / name
        self.wire = Wire(world, name)
        self.skew = world.random.randint(-world.weights.skew, world.weights.skew)
        self.busy_until = 0
        self.sync_fails = False
        self.is_full = False
        self.synced: dict[str, int] = {}
        self.buffered: list[Recorded] = []
        self.left: list[Recorded] = []
        self.boot()

    def clock(self) -> int:
        """Microseconds, by this machine's clock."""
        return self.world.now + self.skew

    def boot(self) -> None:
        """Starts the process; what an earlier one left in the spool is found when it ships."""
        weights = self.world.weights
        self.client = SimClient(
            self.wire,
            self.spools,
            source=self.name,
            max_spool_bytes=SMALL_SPOOL if weights.small_spool else 1 << 20,
            clock=lambda: self.clock() * 1000,
            random=self.world.random_bytes,
        )
        self.client.service = self
        self.client.start()
        steady = lambda: self.world.now / 1e6  # noqa: E731
        keyring = Keyring()
        self.follower = Follower(keyring, lambda: self.wire, clock=lambda: self.clock() * 1000, steady=steady)
        self.fresh: int | None = None
        self.captures: list[tuple[int, dict[TopicPartition, int]]] = []
        self.gate = gates.Gate(
            keyring,
            PEPPERS,
            view=self.follower,
            max_staleness_seconds=self.audience.staleness / SECOND,
            clock=self.clock,
        )

    @property
    def running(self) -> _Running:
        running = self.client._running
        assert running is not None
        return running

    def fdatasync(self, descriptor: int) -> None:
        if self.sync_fails:
            raise OSError(5, "simulated: the disk fails")
        self.synced[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    def follow(self) -> None:
        """One step of the follower."""
        self.captures.append((self.world.now, self._ends()))
        try:
            self.follower.step(0.0)
        except DoortabError as error:
            self.follower._recover(error)
            self.world.note(self.name, "cannot follow")
            return
        while self.captures and self._has(self.captures[0][1]):
            self.fresh = self.captures.pop(0)[0]
        self.world.note(self.name, "followed", self.offset_of(KEYS), self.offset_of(REVOCATIONS))

    def _has(self, ends: dict[TopicPartition, int]) -> bool:
        return all(self.follower.offsets.get(place, 0) >= end for place, end in ends.items())

    def _ends(self) -> dict[TopicPartition, int]:
        return {TopicPartition(t, 0): self.world.log.held(TopicPartition(t, 0)).end for t in (KEYS, REVOCATIONS)}

    def offset_of(self, topic: str) -> int:
        """How far this process has read the topic."""
        return self.follower.offsets.get(TopicPartition(topic, 0), 0)

    def serve(self, secret: str) -> Checked:
        """A request with that secret."""
        world, random = self.world, self.world.random
        verdict = self.gate.check(f"Bearer {secret}")
        checked = Checked(
            world.moment,
            self.name,
            self.clock(),
            world.now,
            secret,
            verdict.allowed,
            verdict.reason,
            self.offset_of(KEYS),
            self.offset_of(REVOCATIONS),
            self.fresh,
            None,
        )
        if verdict.allowed and not self.client.has_room():
            world.note(self.name, "full")
            return checked._replace(allowed=False, reason="full")
        units = {"requests": 1, "tokens": random.choice([0, 1, 7, 40, 100, 333])}
        late = random.random() < 0.1
        facts: dict[str, Any] = {
            "account": verdict.account,
            "key": verdict.key_id,
            "operation": "POST /v1/chat",
            "verdict": "allowed" if verdict.allowed else "refused",
            "reason": verdict.reason,
            "units": units if verdict.allowed else None,
            "billable": False if verdict.allowed and random.random() < 0.1 else None,
            "dimensions": self._dimensions(secret),
            "time": self.clock() - random.randrange(40 * 86_400) * SECOND if late else None,
        }
        try:
            event = self.record(facts)
        except SpoolFull:
            world.note(self.name, "spool full")
            return checked._replace(allowed=False)
        return checked._replace(event=event)

    def _dimensions(self, secret: str) -> dict[str, str]:
        """What else is known of a request; services are careless with secrets, and some write much."""
        random = self.world.random
        found = {"model": random.choice(["m1", "m2", "m3"])}
        if random.random() < 0.1:
            found["path"] = f"/v1/chat?key={secret}"
        if self.world.weights.small_spool:
            found["note"] = "n" * 1000
        return found

    def record(self, facts: dict[str, Any]) -> tuple[str, str]:
        """Records, and remembers that it did."""
        spool = self.running.spool
        before = spool.appended
        written: list[bytes] = []
        append = spool.append

        def seen(payload: bytes, durable: bool = False) -> None:
            append(payload, False)
            written.append(payload)

        spool.append = seen  # type: ignore[method-assign]
        try:
            id = self.client.record(**facts)
        finally:
            spool.append = append  # type: ignore[method-assign]
        assert spool.appended == before + 1
        raw = written[0][10 + int.from_bytes(written[0][8:10], "little") :]
        recorded = Recorded(self.name, raw)
        self.buffered.append(recorded)
        self.audience.recorded[self.name, id] = recorded
        self.audience.created.add(canonical(raw))
        if len(spool.segments) and sum(s.size_bytes for s in spool.segments) > spool.max_bytes:
            self.world.breaks("I11", self.name, "has a spool larger than allowed")
        self.world.note(self.name, "recorded", id)
        if self.world.random.randrange(100) < self.world.weights.sync_percent:
            self.sync()
        return self.name, id

    def sync(self) -> None:
        """What the syncing thread does every few milliseconds."""
        syncer = self.running.spool.syncer
        failures = syncer.failures
        syncer._sync()
        if syncer.failures == failures:
            for recorded in self.buffered:
                recorded.is_synced = True
        else:
            # Whoever waited for the disk was told; nobody will ask it again.
            self.left += self.buffered
        self.buffered.clear()
        self.world.note(self.name, "synced", syncer.failures)

    def ship(self) -> bool:
        """A round of the shipper; False when nothing was there."""
        shipper = self.running.shipper
        if self.world.now < self.busy_until:
            return True
        try:
            worked = shipper._round()
        except InterruptedRetryError:
            self.world.note(self.name, "tries again later", shipper.failures)
            return True
        except Exception as error:
            # Its thread would try again, but neither the log nor the disk can be the cause here.
            self.world.breaks("I10", f"{self.name} cannot ship: {error!r}")
            return False
        self.world.note(self.name, "shipped", shipper.shipped)
        return worked

    def kill(self) -> None:
        """The process is gone: descriptors and locks with it. A new one starts."""
        running = self.running
        running.spool.abandon()
        for orphan in running.shipper.orphans:
            orphan.leave()
        self.client._running = None
        # Nobody syncs what a dead process wrote, so that a power cut may still take it.
        self.left += self.buffered
        self.buffered = []
        self.follower.stop()
        self.wire.doom = None
        self.busy_until = 0
        self.world.figures["kills"] += 1
        self.world.note(self.name, "killed")

    def cut_power(self) -> None:
        """The machine is gone: of what was not synced, some is torn off, some is rubbish."""
        self.kill()
        random = self.world.random
        for path in sorted(self.spools.glob("*/*.segment")):
            size = path.stat().st_size
            safe = min(self.synced.get(str(path), 0), size)
            kept = random.randint(safe, size)
            content = bytearray(path.read_bytes()[:kept])
            if random.random() < 0.3:
                content += random.choice([bytes(size - kept), random.randbytes(size - kept)])
            if safe == 0 and random.random() < 0.3:
                path.unlink()
            else:
                path.write_bytes(content)
            self.synced[str(path)] = len(content)
        for path in sorted(self.spools.glob("*/acked")):
            content = bytearray(path.read_bytes())
            damaged = [content, content[:0], content[: random.randrange(len(content) + 1)]]
            path.write_bytes(random.choice([*damaged, bytearray(random.randbytes(len(content)))]))
        for recorded in self.left:
            recorded.may_be_lost = True
        self.left.clear()
        self.world.note(self.name, "lost power")

    def act(self) -> None:
        """Something that this process does; it may die in it."""
        try:
            self._act()
        except KilledError:
            self.kill()
            self.boot()

    def _act(self) -> None:
        random, audience = self.world.random, self.audience
        action = random.choices(["follow", "serve", "sync", "ship"], [4, 8, 2, 4])[0]
        if action == "follow":
            self.follow()
        elif action == "sync":
            self.sync()
        elif action == "ship":
            self.ship()
        elif audience.secrets:
            for _ in range(random.randint(1, 6)):
                checked = self.serve(random.choice(audience.secrets))
                audience.checks.append(checked)
                self.world.figures["checks"] += 1


class Audience:
    """What the world knows beside the log: secrets, verdicts, events that were recorded or made elsewhere."""

    def __init__(self, staleness: int) -> None:
        self.staleness = staleness
        self.secrets: list[str] = []
        self.key_of: dict[str, str] = {}
        self.checks: list[Checked] = []
        self.recorded: dict[tuple[str, str], Recorded] = {}
        self.created: set[str] = set()
        self.foreign: set[bytes] = set()


def canonical(raw: bytes) -> str:
    """An event's text in one spelling."""
    return json.dumps(json.loads(raw), sort_keys=True)

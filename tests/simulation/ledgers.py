"""The ledger's process: worker, deliveries and snapshots on files that are copied as they are when it dies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from doortab.analytics import notify, snapshot
from doortab.analytics.audit import Offsets, Totals, look
from doortab.analytics.deliveries import Deliveries
from doortab.analytics.notify import Outcome
from doortab.analytics.store import Store
from doortab.consumers.worker import Worker
from doortab.schemas.alerts import Alert
from doortab.schemas.errors import LogUnavailable, StoreDamaged
from doortab.schemas.tariff import Tariff
from doortab.schemas.topics import USAGE
from tests.simulation.world import SECOND, KilledError, Wire, World

STORE = "usage.duckdb"
DELIVERIES = "deliveries.sqlite3"
EACH = 8
"""The first commit of a process is looked at, and each of so many."""

USAGE_ROWS = "SELECT part, off, idx, source, id, account, billable FROM usage"
COVERED = (
    "SELECT part, max(next), min(first), sum(next - first), sum(duplicates) FROM commits WHERE part >= 0 GROUP BY part"
)
HELD = (
    "SELECT part, count(*) FROM "
    "(SELECT part FROM usage UNION ALL SELECT part FROM rejected WHERE topic = 'usage') GROUP BY part"
)
BEFORE_WRITING = ("decoded", "sifted", "folded")


@cache
def empty_store() -> bytes:
    """What a store is before anything is in it: made once, for making one takes longer than opening it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / STORE
        Store.open(path, threads=1).close()
        return path.read_bytes()


def open_store(path: Path, world: World, kind: type[Store] = Store) -> Store:
    """The store at that place, empty if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(empty_store())
    store = kind.open(path, threads=1, memory_limit="1GB", clock=world.clock)
    # What is closed here has been copied before, or is thrown away: nobody reads what a last checkpoint would write.
    store.cursor().execute("PRAGMA disable_checkpoint_on_shutdown")
    return store


class Receiver:
    """Somebody's endpoint, as bad as endpoints are. ``got`` counts what it has processed, by message id."""

    name = "webhook"

    def __init__(self, world: World) -> None:
        self.world = world
        self.mode = "good"
        self.hates = world.weights.hates
        self.got: dict[str, set[str]] = {}
        self.attempts: dict[str, int] = {}

    def send(self, alert: Alert, now: int) -> Outcome:
        """One attempt, as ``Webhook`` makes it: one id, an answer or none."""
        random = self.world.random
        message = notify.webhook_id(alert.id)
        self.attempts[alert.id] = self.attempts.get(alert.id, 0) + 1
        mode = "good" if self.mode == "flaky" and random.random() < 0.7 else self.mode
        if mode == "good" and self.hates:
            mode = ("fails", "drops", "good", "good")[crc32(alert.id.encode()) % 4]
        self.world.note("receiver", mode, message)
        if mode in ("good", "drops"):
            self.got.setdefault(alert.id, set()).add(message)
        if mode == "good":
            return notify.outcome_of(204, None)
        if mode == "gone":
            return notify.outcome_of(410, None)
        if mode == "busy":
            return notify.outcome_of(429, str(random.choice([1, 60, 7200])))
        return Outcome("retry", "no answer") if mode in ("drops", "hangs") else notify.outcome_of(500, None)


class LedgerProcess:
    """One process at a time; ``store_class`` is what a planted bug puts in the place of the store."""

    store_class: type[Store] = Store
    zombies = False
    """Planted: a turn that was given up goes on later."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wire = Wire(world, "ledger")
        self.receiver = Receiver(world)
        self.snapshots = world.root / "snapshots"
        self.incarnation = 0
        self.tariff: Tariff | None = None
        self.rows: dict[tuple[int, int, int], tuple[Any, ...]] = {}
        """Every row that was ever seen, by its place in the log."""
        self.clean_turns: list[tuple[int, dict[int, int]]] = []
        self.zombie: Iterator[str] | None = None
        self.known: Totals | None = None
        self.doom: tuple[str, str] | None = None
        """After which step of the worker it meets its end, and which."""
        self.directory = world.root / "ledger-0"
        self.boot()

    def boot(self) -> None:
        """Opens what the last process left; a store that cannot be opened is built anew from the log."""
        kind, path = type(self).store_class, self.directory / STORE
        try:
            self.store = open_store(path, self.world, kind)
        except StoreDamaged:
            self.world.note("ledger", "store damaged")
            self.known = None
            for left in self.directory.glob(f"{STORE}*"):
                left.unlink()
            self.store = open_store(path, self.world, kind)
        self.deliveries = Deliveries(self.directory / DELIVERIES, self.wire, [self.receiver])
        self.worker: Worker | None = None
        self.turning: Iterator[str] | None = None
        self.delivering: Iterator[str] | None = None
        self.publishing: Iterator[str] | None = None
        self.busy_until = 0
        self.positions: dict[int, int] = {}
        self._commits = 0
        self._steps = 0
        self._last = ""
        self._cursor = self.store.cursor()

    def act(self) -> None:
        """One step of one of its threads."""
        random = self.world.random
        snapshots = 8 if self.world.weights.snapshots else 0
        action = random.choices(["turn", "deliver", "publish", "audit"], [96, 16, snapshots, 1])[0]
        try:
            if action == "turn":
                self.turn()
            elif action == "deliver":
                self.deliver()
            elif action == "audit":
                self.audit()
            else:
                self.publish()
        except KilledError:
            self.crash()

    def turn(self) -> bool | None:
        """One step of the worker. True or False at the end of a turn: whether something came. None before."""
        if self.world.now < self.busy_until:
            return None
        try:
            self._wake_the_dead()
            if self.worker is None:
                self.worker = Worker(self.wire, self.store, max_records=self.world.weights.max_records)
            if self.turning is None:
                self.turning, self._steps = self.worker.turn(0.0), 0
            step = next(self.turning, None)
        except LogUnavailable:
            self._drop_worker()
            self.busy_until = self.world.now + SECOND
            self.world.note("ledger", "log away")
            return None
        if step is not None:
            self._steps += 1
            self._last = step
            self.world.note("ledger", step)
            if step == "committed":
                self._commits += 1
                if self._commits % EACH == 1:
                    self._check_positions()
                    self.check_rows()
            self._meet_doom(step)
            return None
        self.turning = None
        self.world.figures["turns"] += 1
        self.clean_turns.append((self.world.moment, dict(self.worker.positions)))
        return self._steps > 1

    def _meet_doom(self, step: str) -> None:
        """Dies after this step, or gives the turn up and begins anew from the last commit, if it is to."""
        if self.doom is None or self.doom[0] != step:
            return
        way, self.doom = self.doom[1], None
        self.world.note("ledger", way, step)
        self.crash() if way == "crash" else self._drop_worker()

    def _wake_the_dead(self) -> None:
        """Planted: an old turn goes on beside the new worker, once that has committed something."""
        if self.zombie is not None and self._last == "committed":
            zombie, self.zombie = self.zombie, None
            for _ in zombie:
                pass

    def _drop_worker(self) -> None:
        if self.zombies and self.turning is not None and self._last in BEFORE_WRITING:
            self.zombie = self.turning
        elif self.turning is not None:
            self.turning.close()  # type: ignore[attr-defined]
        self.turning = None
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def _check_positions(self) -> None:
        """I4: what a commit says it has read is in the store, without a gap, and never less than before."""
        world, held = self.world, dict(self.read(HELD))
        for part, end, first, covered, repeated in self.read(COVERED):
            if end < self.positions.get(part, 0):
                world.breaks("I4", f"partition {part} went back to {end}")
            if first != 0 or covered != end:
                world.breaks("I4", f"partition {part} is read to {end}, but {covered} records are")
            found, wanted = held.get(part, 0) + int(repeated), world.events[part][min(end, len(world.events[part]) - 1)]
            if found != wanted:
                world.breaks("I4", f"partition {part} is read to {end}: {found} of {wanted} events are in the store")
            self.positions[part] = end

    def check_rows(self) -> None:
        """In the place of I7: a row that was committed stays as it was."""
        for row in self.read(USAGE_ROWS):
            if self.rows.setdefault(row[:3], row) != row:
                self.world.breaks("I7", f"{self.rows[row[:3]]} became {row}")

    def audit(self) -> None:
        """I1, as the product itself sees it: nothing is unexplained, and nothing is told that is not so."""
        offsets = lambda: Offsets(self.wire.begin_offsets(USAGE), self.wire.end_offsets(USAGE))  # noqa: E731
        try:
            seen, self.known = look(self.read_all(), self.store.name, offsets, [], self.known, self.world.now)
        except LogUnavailable:
            return
        self.world.figures["audits"] += 1
        for finding in seen.findings:
            self.world.breaks("I1", f"the audit says: {finding.words}")

    def read(self, query: str) -> list[Any]:
        """Answers SQL, as of the last commit."""
        return self._cursor.execute(query).fetchall()

    def read_all(self) -> Callable[[str], list[Any]]:
        """A way to ask several things of one moment."""
        cursor = self.store.cursor()
        return lambda query: cursor.execute(query).fetchall()

    def deliver(self) -> bool:
        """One step of the deliveries; False at the end of a round."""
        try:
            if self.delivering is None:
                self.delivering = self.deliveries.step(self.world.now)
            step = next(self.delivering, None)
        except LogUnavailable:
            step = None
        if step is None:
            self.delivering = None
            return False
        self.world.note("deliveries", step)
        return True

    def publish(self) -> bool:
        """One step of a snapshot; False at the end of one."""
        if self.publishing is None:
            if self.tariff is None:
                return False
            cursor = self.store.cursor()
            read = lambda query: cursor.execute(query).fetchall()  # noqa: E731
            self.publishing = snapshot.publish(read, self.snapshots, self.tariff, self.world.now)
        step = next(self.publishing, None)
        if step is None:
            self.publishing = None
            return False
        self.world.note("snapshot", step)
        return True

    def crash(self, tear: bool = False) -> None:
        """The process is gone; its files are copied as they are, and the next one goes on with them.

        ``tear`` cuts the store's write-ahead log off somewhere: commits are lost, and read again from the log.
        """
        self.incarnation += 1
        following = self.world.root / f"ledger-{self.incarnation}"
        following.mkdir()
        for path in sorted(self.directory.iterdir()):
            if path.name.startswith((STORE, DELIVERIES)) and not path.name.endswith("-shm"):
                shutil.copyfile(path, following / path.name)
        wal = following / f"{STORE}.wal"
        if tear and wal.exists():
            with wal.open("r+b") as file:
                file.truncate(self.world.random.randrange(wal.stat().st_size + 1))
            self.known = None
        old = self.directory
        self.close()
        shutil.rmtree(old)
        self.directory = following
        self.zombie = self.doom = None
        self.wire.doom = None
        self.world.figures["kills"] += 1
        self.world.note("ledger", "crashed", tear)
        self.boot()

    def close(self) -> None:
        """Frees everything."""
        for running in (self.turning, self.delivering, self.publishing, self.zombie):
            if running is not None:
                running.close()  # type: ignore[attr-defined]
        self.turning = self.delivering = self.publishing = self.zombie = None
        if self.worker is not None:
            self.worker.close()
            self.worker = None
        self.deliveries.close()
        self.store.close()

    def checkpoint(self) -> None:
        """Lets the database write its own log into its file, as it does by itself when that has grown."""
        if self.turning is None and self.publishing is None:
            self.read("CHECKPOINT")
            self.world.note("ledger", "checkpoint")


def path_of(directory: Path) -> Path:
    """Where a store stands in a directory."""
    return directory / STORE

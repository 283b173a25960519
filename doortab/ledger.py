"""The ledger as a running thing: log, store and worker together, in a thread of its own or turned by hand.

Memory is rebuilt from the last commit after every error, so there is one way to start and no way to
go on with a state that nobody checked.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb

from doortab.analytics import durable, opening
from doortab.analytics.audit import Audit
from doortab.analytics.cells import Read
from doortab.analytics.store import Store
from doortab.analytics.trail import Trail
from doortab.catalogs import newest_catalog
from doortab.consumers.worker import Worker
from doortab.decoding import Adaptive
from doortab.log.open import open_log
from doortab.owning import Owner
from doortab.same_log import check_same_log
from doortab.schemas import topics
from doortab.schemas.errors import StoreDamaged, TryAgain, UsageError
from doortab.schemas.tariff import NO_TARIFF, Tariff
from doortab.settings import Settings
from doortab.timing import Timing

logger = logging.getLogger("doortab.ledger")

IDLE_SECONDS = 0.5
RETRY_SECONDS = 1.0
COMMITS_A_CHECKPOINT = 500
"""After a kill, DuckDB plays its write-ahead log again, small commits at little more than a thousand a second: so
many are a pause of half a second, where the 64 MB that a log may have can be thousands, and a pause of ten."""


class Ledger:
    """The owner of one store. ``start`` runs it in a thread; ``catch_up`` turns it until nothing is left."""

    def __init__(self, settings: Settings, *, store_path: Path | None = None, publishing: bool = True) -> None:
        """``store_path`` is another store than that of the settings, ``publishing`` whether what is decided
        is also said: a rebuild decides again what was said long ago."""
        self.settings = settings
        self._publishing = publishing
        path = store_path or settings.store_path
        # Only the store itself leaves a trail; one that is made beside it is nobody's yet.
        self._trail = Trail(settings.trail_path) if store_path is None else None
        with ExitStack() as opened:
            if store_path is None:
                opened.callback(Owner(path).free)
            self.store = self._open_store(path)
            opened.callback(lambda: self.store.close())
            self.log = open_log(settings.log_url)
            opened.callback(self.log.close)
            self.log.ensure_topics(topics.topics(settings.usage_partitions))
            self.store.compare_with_log(self.log.begin_offsets(topics.USAGE))
            if store_path is None:
                check_same_log(path.parent, self.log)
            self._opened = opened.pop_all()
        self._worker: Worker | None = None
        self._moved = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._errands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self.failure: StoreDamaged | UsageError | None = None
        self.trouble: TryAgain | None = None
        """Why the running ledger waits, while it does; None when it goes on."""
        self._tariff: tuple[int, Tariff] = (-1, NO_TARIFF)
        self.commits = Timing()
        """How long each commit took."""
        self._since_checkpoint = 0
        self.audited: Audit | None = None
        """What the last audit found; None where nobody has looked yet."""

    @property
    def positions(self) -> dict[int, int]:
        """By partition, the offset of the next record that is not in the store; empty before the first turn."""
        worker = self._worker
        return dict(worker.positions) if worker is not None else {}

    @property
    def epoch(self) -> int:
        """How often the store was taken over; 0 before the first turn."""
        worker = self._worker
        return worker.epoch if worker is not None else 0

    @property
    def events(self) -> int:
        """How many events the worker has taken since it started."""
        worker = self._worker
        return worker.totals["events"] if worker is not None else 0

    def _work(self) -> Worker:
        """The worker, made anew after an error. Only for the thread that turns it."""
        if self._worker is None:
            settings = self.settings
            self._worker = Worker(
                self.log,
                self.store,
                max_records=settings.batch_records,
                max_bytes=settings.batch_bytes,
                publishing=self._publishing,
                source=lambda positions: Adaptive(self.log, settings.log_url, positions),
            )
        return self._worker

    def turn(self, timeout_seconds: float = 0.0) -> bool:
        """One turn; False when nothing came. After an error the worker is dropped and the error goes on."""
        try:
            steps = self._timed(self._work().turn(timeout_seconds))
        except BaseException as error:
            self._drop_worker()
            if isinstance(error, duckdb.Error):
                raise durable.failure(self.store.path, error) from error
            raise
        with self._moved:
            self._moved.notify_all()
        return steps > 1

    def _timed(self, steps: Iterator[str]) -> int:
        """Does the steps; how many they were. What a commit takes is counted."""
        count, began = 0, 0.0
        for step in steps:
            count += 1
            if step == "began":
                began = time.monotonic()
            elif step == "committed":
                self.commits.add(time.monotonic() - began)
                self._since_checkpoint += 1
        if self._since_checkpoint >= COMMITS_A_CHECKPOINT:
            self.store.checkpoint()
            self._since_checkpoint = 0
        return count

    def catch_up(self, progress: Callable[[int], None] | None = None) -> None:
        """Turns until everything that the log holds now is in the store. ``progress`` gets the events so far.

        Raises:
            LogUnavailable, StoreDamaged: it could not.
        """
        target = self.log.end_offsets(topics.USAGE)
        while True:
            came = self.turn()
            if progress is not None:
                progress(self.events)
            if not came and self.reached(target):
                return

    def reached(self, target: Mapping[int, int]) -> bool:
        """Whether the records before these offsets are in the store."""
        positions = self.positions
        return all(positions.get(partition, 0) >= offset for partition, offset in target.items())

    def wait_for(self, target: Mapping[int, int], timeout_seconds: float) -> bool:
        """Waits until the running ledger has committed the records before these offsets."""
        deadline = time.monotonic() + timeout_seconds
        with self._moved:
            while not self.reached(target):
                left = deadline - time.monotonic()
                if left <= 0 or self.failure is not None:
                    return False
                self._moved.wait(min(left, IDLE_SECONDS))
        return True

    def lend(self, work: Callable[[], Any], timeout_seconds: float = 60.0) -> Any:
        """Closes the store between two turns, lets the work have its file, and opens what is there then.

        Raises:
            TryAgain: the ledger did not come to it in time.
        """
        done: Future[Any] = Future()
        if self._thread is None:
            self._lend(work, done)
        else:
            self._errands.put((work, done))
            if (worker := self._worker) is not None:
                worker.wake()
        try:
            return done.result(timeout_seconds)
        except TimeoutError:
            done.cancel()
            raise TryAgain(f"the ledger did not let go of its store within {timeout_seconds:g} s; try again") from None

    def _lend(self, work: Callable[[], Any], done: Future[Any]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        self._drop_worker()
        path = self.store.path
        self.store.close()
        outcome, failure = None, None
        try:
            outcome = work()
        except Exception as error:
            failure = error
        try:
            self.store = self._open_store(path)
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_exception(failure) if failure is not None else done.set_result(outcome)

    def _open_store(self, path: Path) -> Store:
        settings = self.settings
        return Store.open(path, threads=settings.threads, memory_limit=settings.memory_limit, trail=self._trail)

    def start(self) -> None:
        """Runs in a thread until ``stop``."""
        self._thread = threading.Thread(target=self._run, name="doortab-ledger", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ends after the turn at hand, and closes store and log."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.wake()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        self.close()

    def close(self) -> None:
        """Closes worker, log and store, and lets somebody else have it."""
        self._drop_worker()
        self._opened.close()

    def reader(self) -> Read:
        """A function that answers SQL, for one thread.

        Raises:
            StoreDamaged (when it is called): DuckDB cannot read what is there.
            TryAgain (when it is called, too): the store is closed for a moment, because another takes its place.
        """
        with self._while_open():
            cursor = self.store.cursor()

        def read(query: str) -> list[Any]:
            with self._while_open(), opening.in_words(self.store.path):
                return cursor.execute(query).fetchall()

        return read

    @contextmanager
    def _while_open(self) -> Iterator[None]:
        try:
            yield
        except duckdb.ConnectionException as error:
            raise TryAgain(f"{self.store.path} is closed, for another takes its place; try again") from error

    def tariff(self) -> Tariff:
        """The newest catalog, as prices: what reports are reckoned by."""
        end = self.log.end_offsets(topics.CATALOG)[0]
        if self._tariff[0] != end:
            found = newest_catalog(self.log)
            self._tariff = (end, Tariff(found) if found is not None else NO_TARIFF)
        return self._tariff[1]

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self.trouble is not None:
                    self._revive()
                while not self._errands.empty():
                    self._lend(*self._errands.get())
                self.turn(IDLE_SECONDS)
                self.trouble = None
            except TryAgain as error:
                if str(error) != str(self.trouble):
                    logger.warning("trying again every %g s: %s", RETRY_SECONDS, error)
                self.trouble = error
                self._stopping.wait(RETRY_SECONDS)
            except (StoreDamaged, UsageError) as error:
                logger.critical("%s", error)
                self.failure = error
                return
            except Exception:
                logger.exception("the worker failed and starts again from the last commit")
                self._stopping.wait(RETRY_SECONDS)

    def _revive(self) -> None:
        """After some failures of the disk, DuckDB is done with a file until it is opened again."""
        if not self.store.works():
            self.store.close()
            self.store = self._open_store(self.store.path)

    def _drop_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

"""A client with its spool and a ledger with its store, on one Kafka: what the tests hurt, and what must come out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.producers.client import Client
from doortab.questions import answer
from doortab.schemas import topics
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Log
from doortab.settings import load

PATIENCE_MS = 1000
"""A tenth of the usual: what the adapter takes ten seconds to doubt, it doubts after one."""
SETTLED_SECONDS = 90.0
ACCOUNTS = 7


def wait_for(condition: Callable[[], bool], seconds: float = SETTLED_SECONDS) -> None:
    """Waits until the condition holds; generous, because a machine may be busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


class House:
    """``record`` adds events, ``settle`` waits until all are billed, ``check`` that it is all and nothing twice."""

    def __init__(
        self, brokers: str, directory: Path, *, patience_ms: int = PATIENCE_MS, partitions: int = 4, more: str = ""
    ) -> None:
        """``more`` is what else stands in the file with the settings of Kafka's clients."""
        file = directory / "kafka.toml"
        file.write_text(f"request_timeout_ms = {patience_ms}\n{more}")
        self.prefix = f"house-{time.time_ns()}."
        flags: dict[str, Any] = {"data": str(directory / "data"), "log": f"kafka://{brokers}/{self.prefix}"}
        self.settings = load({**flags, "kafka_file": str(file), "usage_partitions": partitions}, {}).settings
        self.url = self.settings.log_url
        self.ledger = Ledger(self.settings)
        self.ledger.start()
        self.client = Client(lambda: open_log(self.url), directory / "spool", source="house")
        self.recorded = 0
        self._traffic: threading.Thread | None = None
        self._is_over = threading.Event()

    def record(self, count: int) -> None:
        """Records so many events, each with a quantity of its own."""
        for number in range(self.recorded, self.recorded + count):
            self.client.record(account=f"account-{number % ACCOUNTS}", units={"requests": 1, "numbers": number})
        self.recorded += count

    def begin_traffic(self) -> None:
        """Records all the time, until ``end_traffic``."""

        def go_on() -> None:
            while not self._is_over.wait(0.005):
                self.record(2)

        self._traffic = threading.Thread(target=go_on, name="traffic", daemon=True)
        self._traffic.start()

    def end_traffic(self) -> None:
        self._is_over.set()
        if self._traffic is not None:
            self._traffic.join()

    def delivered(self) -> bool:
        """Whether the log has acknowledged everything."""
        return self.client.spool_bytes == 0 and self.client.shipped == self.recorded

    def settle(self, seconds: float = SETTLED_SECONDS) -> None:
        """Waits until everything recorded is in the log, and everything in the log is in the store."""
        wait_for(self.delivered, seconds)
        self.settle_billed(seconds)

    def settle_billed(self, seconds: float = SETTLED_SECONDS) -> None:
        """Waits until everything in the log is in the store."""
        wait_for(self._billed, seconds)

    def _billed(self) -> bool:
        try:
            return self.ledger.reached(self.log.end_offsets(topics.USAGE))
        except LogUnavailable:
            return False

    @property
    def log(self) -> Log:
        return self.ledger.log

    def report(self) -> dict[str, Any]:
        return answer(self.ledger, "report", {"period": "2000..2099", "by": ["account"]})

    def check(self) -> dict[str, int]:
        """Every event is billed once: by count, by sum, and by the control equation. Returns its figures."""
        told = self.report()
        control = {name: int(value) for name, value in told["control"].items() if str(value).isdigit()}
        counted = sum(int(row["units"]["requests"]) for row in told["rows"])
        summed = sum(int(row["units"]["numbers"]) for row in told["rows"])
        assert counted == self.recorded
        assert summed == self.recorded * (self.recorded - 1) // 2
        assert control["billed"] == self.recorded
        assert control["unexplained"] == 0
        assert control["rejected"] == 0
        figures = {"events": self.recorded, "lost": self.recorded - counted, "doubled": max(0, counted - self.recorded)}
        return figures | {"repeated": control["duplicates"]}

    def close(self) -> None:
        self.end_traffic()
        self.client.close(2)
        self.ledger.stop(20)

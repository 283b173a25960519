"""Makes a client, forks, and records in every child: ours, or what one writes at first.

    python -m tests.crashes.prefork ours|naive DIR EVENTS

Each of four children records so many events, and is gone the moment it has: as ``os._exit`` and SIGKILL do it. Then
prints how many of them are billed, and how many twice.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Protocol

from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.producers.client import Client
from doortab.schemas import topics
from doortab.schemas.log import Entry
from tests.crashes import flowing

CHILDREN = 4


class Records(Protocol):
    """What an application calls."""

    def record(self, *, account: str, id: str) -> object: ...


class Naive:
    """A queue and a thread that empties it, both made at once."""

    def __init__(self, url: str) -> None:
        self._queue: queue.Queue[str] = queue.Queue()
        self._log = open_log(url)
        threading.Thread(target=self._run, daemon=True).start()

    def record(self, *, account: str, id: str) -> None:
        """Is there as soon as the thread comes to it."""
        self._queue.put(id)

    def _run(self) -> None:
        while True:
            name = self._queue.get()
            self._log.append(topics.USAGE, [Entry(0, None, flowing.event("forked", name, 0))])


def main(kind: str, directory: Path, events: int) -> None:
    """Records, and counts."""
    settings = flowing.settings_in(directory)
    log = open_log(settings.log_url)
    log.ensure_topics(topics.topics(settings.usage_partitions))
    log.close()
    spool = settings.data / "spool"
    ours = Client(lambda: open_log(settings.log_url), spool, source="forked")
    client: Records = ours if kind == "ours" else Naive(settings.log_url)
    client.record(account="parent", id="parent")
    children = []
    for child in range(CHILDREN):
        if (process := os.fork()) == 0:
            for number in range(events):
                client.record(account=f"a{child}", id=f"{child}-{number}")
            os._exit(0)
        children.append(process)
    assert [os.waitpid(process, 0)[1] for process in children] == [0] * CHILDREN
    if kind == "ours":
        assert ours.close(60)
        assert flowing.shipped(settings)
    ledger = Ledger(settings)
    ledger.catch_up()
    billed = Counter(name for (name,) in ledger.reader()("SELECT id FROM usage WHERE id <> 'parent'"))
    ledger.close()
    print(len(billed), sum(billed.values()) - len(billed))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

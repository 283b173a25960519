"""A log of each kind. Those in Kafka need a broker; their topics get a prefix of their own."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doortab.log.open import open_log
from doortab.schemas.log import Log, TopicPartition
from doortab.schemas.topics import Topic

PLAIN = Topic("plain", 2)
COMPACTED = Topic("compacted", 1, compacted=True)
SHORT = Topic("short", 1, retention_ms=60_000)
FIRST, SECOND = TopicPartition("plain", 0), TopicPartition("plain", 1)
# How long a record that is there may take to be read. Long, because the machine may be busy; nobody waits for it.
SOON_SECONDS = 30.0

_numbers = itertools.count()

# Imports kafka-python as the product does: on Python 3.11 it warns about itself, and here a warning is an error.
open_log("kafka://127.0.0.1:1").close()

KINDS = ["memory", "file", pytest.param("kafka", marks=pytest.mark.kafka)]


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty log is."""
    if request.param == "memory":
        return "memory:"
    if request.param == "file":
        return f"file:{tmp_path}"
    return f"kafka://{os.environ['DOORTAB_TEST_KAFKA']}/t{os.getpid()}-{time.time_ns()}-{next(_numbers)}."


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    """An empty log with three topics: two partitions, one that is compacted, one that forgets after a minute."""
    log = open_log(url)
    log.ensure_topics([PLAIN, COMPACTED, SHORT])
    yield log
    log.close()


@pytest.fixture
def file_log(tmp_path: Path) -> Iterator[Callable[[], Log]]:
    """Opens the same file log, as often as asked."""
    opened: list[Log] = []

    def open_again() -> Log:
        opened.append(open_log(f"file:{tmp_path}"))
        opened[-1].ensure_topics([PLAIN, COMPACTED, SHORT])
        return opened[-1]

    yield open_again
    for log in opened:
        log.close()

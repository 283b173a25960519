"""A topic may get more partitions while the worker runs."""

from __future__ import annotations

from pathlib import Path

from doortab.log.memory import MemoryLog
from doortab.schemas import topics
from doortab.schemas.log import Entry
from tests.analytics.installation import START, Installation, _encoder


def test_a_partition_that_is_added_while_the_worker_runs_is_read_and_billed(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    installation.add([installation.event(START)])
    installation.fold()

    assert isinstance(installation.log, MemoryLog)
    installation.log.grow(topics.USAGE, topics.USAGE_PARTITIONS + 2)
    event = _encoder.encode(installation.event(START, units={"requests": 7}))
    installation.log.append(topics.USAGE, [Entry(topics.USAGE_PARTITIONS + 1, None, event)])
    installation.fold()

    assert installation.report("account")["rows"][0]["units"]["requests"] == "8"
    assert installation.store.resume().positions[topics.USAGE_PARTITIONS + 1] == 1
    installation.close()

"""The peer's side: Quix Streams counts events and adds up units by API key, exactly once, until all are committed.

    .peers/quix/bin/python benchmarks/peers/counting.py BROKER TOPIC GROUP EVENTS DIRECTORY [--sink]

Runs in an environment of its own (Quix Streams is no dependency of ours) and imports nothing of doortab. Prints
one JSON object. The clock runs from the first event that is processed to the end of the last checkpoint. With
``--sink`` every event's row goes into a DuckDB file as well, a batch at each checkpoint, through Arrow.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from quixstreams import Application
from quixstreams.sinks.base import BatchingSink, SinkBatch

UNITS = ("requests", "input_tokens", "output_tokens")
ROW = "key VARCHAR, part INTEGER, off BIGINT, requests BIGINT, input_tokens BIGINT, output_tokens BIGINT"


class Timed(Application):
    """Notes when the last checkpoint was committed; closing the clients is not counted."""

    ended = 0.0

    def _run_dataframe(self, *words: Any, **more: Any) -> None:
        super()._run_dataframe(*words, **more)
        self.ended = time.perf_counter()


class Rows(BatchingSink):
    """Writes a checkpoint's rows in one insert."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.database = duckdb.connect(str(path))
        self.database.execute(f"CREATE TABLE rows ({ROW})")

    def write(self, batch: SinkBatch) -> None:
        items = list(batch)
        columns: dict[str, list[Any]] = {
            "key": [item.key for item in items],
            "part": [batch.partition] * len(items),
            "off": [item.offset for item in items],
        }
        columns |= {unit: [item.value[unit] for item in items] for unit in UNITS}
        table = pa.table(columns)
        self.database.register("incoming", table)
        self.database.execute("INSERT INTO rows BY NAME SELECT * FROM incoming")
        self.database.unregister("incoming")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("broker")
    parser.add_argument("topic")
    parser.add_argument("group")
    parser.add_argument("events", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sink", action="store_true")
    asked = parser.parse_args()
    app = Timed(
        broker_address=asked.broker,
        consumer_group=asked.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        state_dir=asked.directory / "state",
        loglevel="WARNING",
    )
    began = seen = 0.0
    totals: dict[str, list[int]] = {}

    def count(event: Any, key: Any, timestamp: int, headers: Any, state: Any) -> dict[str, int]:
        nonlocal began, seen
        if not seen:
            began = time.perf_counter()
        seen += 1
        units = event["data"]["units"]
        sums = state.get("sums") or [0, 0, 0, 0]
        sums = [sums[0] + 1, *(before + units[unit] for before, unit in zip(sums[1:], UNITS, strict=True))]
        state.set("sums", sums)
        totals[key] = sums
        if seen == asked.events:
            app.stop()
        return units  # type: ignore[no-any-return]

    topic = app.topic(asked.topic, key_deserializer="str", value_deserializer="json")
    frame = app.dataframe(topic).apply(count, stateful=True, metadata=True)
    sink = Rows(asked.directory / "rows.duckdb") if asked.sink else None
    if sink is not None:
        frame.sink(sink)
    app.run()
    whole = [sum(column) for column in zip(*totals.values(), strict=True)]
    found = {
        "seconds": app.ended - began,
        "events": whole[0],
        "keys": len(totals),
        "input_tokens": whole[2],
        "output_tokens": whole[3],
    }
    if sink is not None:
        found["rows"] = sink.database.execute("SELECT count(DISTINCT (part, off)) FROM rows").fetchall()[0][0]
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""How fast ``doortab ingest`` reads a file into the committed store.

    python -m benchmarks.ingest [--events 1000000]

The file is azconv (the load of ``benchmarks/README.md``) repeated to so many distinct events, one a line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from benchmarks import filling, load, measure
from doortab import settings
from doortab.applying import publish
from doortab.ledger import Ledger


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    file = load.DATA / f"events-{events}.ndjson"
    if not file.exists():
        load.DATA.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            stream.writelines(event.value + b"\n" for event in load.events(events))
    directory = filling.scratch("ingest")
    command = [sys.executable, "-m", "doortab", "--data", str(directory)]
    _apply(directory)
    spent = measure.run([*command, "ingest", str(file), "--json"])
    counts = json.loads(spent.output)
    shutil.rmtree(directory)
    assert counts["accepted"] == events, counts
    megabytes = file.stat().st_size / 1e6
    print(f"doortab ingest, {events:,} events ({megabytes:,.0f} MB) from a file to the committed store:")
    print(f"  {events / spent.seconds:,.0f} events/s   {spent.cpu_seconds / events * 1e6:.1f} µs of CPU an event")
    print(f"  {spent.seconds:.1f} s, the start of the command included   peak memory {spent.peak_mb:,.0f} MB")


def _apply(directory: Path) -> None:
    """Publishes the load's prices."""
    ledger = Ledger(settings.load({"data": str(directory)}, {}).settings)
    publish(ledger.log, load.priced())
    ledger.close()


if __name__ == "__main__":
    main()

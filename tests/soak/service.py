"""A service that records so many events a second until it is told to stop, and notes what it was promised.

python -m tests.soak.service --data DIR --name NAME --rate 500
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path

from doortab.log.open import open_log
from doortab.producers.client import Client
from doortab.settings import load

TICK_SECONDS = 0.02


def main() -> None:
    """Records; after each tick a line says how many events of this process were acknowledged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--rate", type=int, required=True)
    options = parser.parse_args()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    url = load({"data": str(options.data)}, {}).settings.log_url
    client = Client(lambda: open_log(url), options.data / "spool", source=options.name)
    client.start()
    told = os.open(options.data / f"{options.name}.{os.getpid()}.acked", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    began, number = time.monotonic(), 0
    while not stopping.wait(TICK_SECONDS):
        due = int((time.monotonic() - began) * options.rate)
        while number < due:
            client.record(
                id=f"{os.getpid()}-{number}",
                account=f"a{number % 50}",
                key=f"k{number % 200}",
                units={"tokens": number % 1000},
                dimensions={"model": f"m{number % 7}"},
            )
            number += 1
        # A kill may take the line, and then some more were acknowledged than are listed.
        os.write(told, b"%d\n" % number)
    assert client.close(10)


if __name__ == "__main__":
    main()

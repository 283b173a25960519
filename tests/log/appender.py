"""A process that appends numbered records to a log, and prints each number once the log has acknowledged it.

    python -m tests.log.appender URL WRITER COUNT BATCH

Values are ``WRITER:NUMBER:`` and padding; records go to the partitions of topic ``plain`` in turn.
"""

from __future__ import annotations

import sys

from doortab.log.open import open_log
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry

PADDING = b"x" * 2000


def main(url: str, writer: str, count: str, batch: str) -> None:
    log = open_log(url)
    size = int(batch)
    for first in range(0, int(count), size):
        numbers = range(first, first + size)
        entries = [
            Entry(number % 2, writer.encode(), b"%s:%d:%s" % (writer.encode(), number, PADDING)) for number in numbers
        ]
        while True:
            try:
                log.append("plain", entries)
                break
            except LogUnavailable as error:
                print(f"again: {error}", file=sys.stderr, flush=True)
        print(" ".join(map(str, numbers)), flush=True)
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

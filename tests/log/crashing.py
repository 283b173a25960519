"""A process that does everything a file log does to its disk, in few calls, so that it can be killed at each.

    python -m tests.log.crashing DIRECTORY

It creates the log, appends batches that check the write-ahead log in, and closes. It prints the numbers of each
batch once they are acknowledged; what the disk refuses it sends again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from doortab.log import file_database
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry, Log
from doortab.schemas.topics import Topic

BATCHES = 6
BATCH = 3
PADDING = bytes(20_000)
PLAIN = Topic("plain", 2)
COMPACTED = Topic("compacted", 1, compacted=True)


def batch(number: int) -> list[Entry]:
    """The entries of one batch."""
    numbers = range(number * BATCH, number * BATCH + BATCH)
    return [Entry(each % 2, b"key", b"%d:" % each + PADDING) for each in numbers]


def work(log: Log, number: int) -> None:
    """One step, repeated until the disk takes it; the topics are there before."""
    while True:
        try:
            log.ensure_topics([PLAIN, COMPACTED])
            log.append("compacted", [Entry(0, b"key", b"%d" % number)])
            log.append("plain", batch(number))
            return
        except LogUnavailable as error:
            print(error, file=sys.stderr, flush=True)


def main(directory: str) -> None:
    """Runs to the end, unless it is killed."""
    # Before anything else is imported: a write-ahead log of a few pages is checked in again and again.
    file_database.WAL_BYTES = 4 * file_database.PAGE_BYTES
    from doortab.log.file import FileLog

    def opened() -> Log:
        while True:
            try:
                return FileLog(Path(directory))
            except LogUnavailable as error:
                print(error, file=sys.stderr, flush=True)

    log = opened()
    for number in range(BATCHES):
        work(log, number)
        print(*range(number * BATCH, number * BATCH + BATCH), flush=True)
    log.close()


if __name__ == "__main__":
    main(sys.argv[1])

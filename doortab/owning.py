"""One owner a store: a lock beside the store's file, so that two ledgers never write one store.

DuckDB's own lock hangs on the file itself. It does not see a second ledger in the same process, and not one that
opens another file which was put in the first one's place. This lock hangs on a name; the kernel frees it however
the process dies, and a process that is stopped holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from doortab.analytics import durable
from doortab.schemas.errors import StoreBusy

STATES = {"T": ", which is stopped", "t": ", which is being traced", "D": ", which waits for a disk"}


class Owner:
    """Who has the store of a directory: this process, until ``free``."""

    def __init__(self, store: Path) -> None:
        """Takes the store.

        Raises:
            StoreBusy: somebody else has it.
            DiskFull, UsageError, StoreDamaged: the disk does not take the lock.
        """
        try:
            store.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(store.with_suffix(".owner"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise durable.failure(store, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            self.free()
            raise StoreBusy(_refusal(store, said)) from None
        with contextlib.suppress(OSError):  # a disk may be too full to say who it is
            os.pwrite(self._lock, f"{os.getpid():<20}\n".encode(), 0)

    def free(self) -> None:
        """Lets somebody else have it."""
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def owned(store: Path) -> Iterator[None]:
    """Has the store for as long as the block takes.

    Raises:
        StoreBusy: somebody else has it.
    """
    owner = Owner(store)
    try:
        yield
    finally:
        owner.free()


def _refusal(store: Path, process: str) -> str:
    if process == str(os.getpid()):
        return f"{store} is open in this process ({process}) already; one ledger at a time owns a store"
    state, way = "", f"kill {process}"
    with contextlib.suppress(OSError, IndexError):
        state = STATES.get(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0], "")
        way = f"kill -CONT {process}" if state == STATES["T"] else way
    return (
        f"{store} is owned by process {process or '(unknown)'}{state}; wait for it, let it go on or end it ({way}), "
        "or give this one a data directory of its own"
    )

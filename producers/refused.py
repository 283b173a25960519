"""What the log refuses: is it the event, or is it the log?

A log calls a record wrong also when it takes none at all, because its topic is missing or its limit is too low.
So an event is put aside, in a file, only when the log takes another one at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from doortab.producers import parcels
from doortab.producers.backlog import Backlog, Batch, Position
from doortab.schemas.errors import UsageError

UNDELIVERABLE_NAME = "undeliverable.ndjson"


class Refused:
    """Puts aside what the log will never take, and counts it: ``undeliverable``.

    ``append`` brings one parcel to the log, alone. ``witness`` is a parcel that the log has taken: it is sent again
    where the question is whether the log takes anything, which its id makes harmless.
    """

    def __init__(self, root: Path, append: Callable[[bytes], object]) -> None:
        self.undeliverable = 0
        self.witness: bytes | None = None
        self._path = root / UNDELIVERABLE_NAME
        self._append = append
        self._looked: tuple[Backlog, Position] | None = None

    def sort(self, backlog: Backlog, batch: Batch) -> int | None:
        """Sends each event of the batch alone, and puts aside what is refused. Returns how many the log has.

        None when it took nothing: the fault is in the log, and nothing is put aside.

        Raises:
            LogUnavailable: it did not answer; what it has of the batch may come again.
            OSError: nothing can be put aside now.
        """
        refused = [parcel for parcel in batch.payloads if not self._takes(parcel)]
        taken = len(batch.payloads) - len(refused)
        if not taken and not self._takes_another(backlog, batch.end):
            return None
        if refused:
            self._put_aside([parcels.event_in(parcel) for parcel in refused])
        return taken

    def _takes_another(self, backlog: Backlog, end: Position) -> bool:
        """Whether the log takes what it took before, or what comes after the batch: a slice of it each time."""
        if self.witness is not None and self._takes(self.witness):
            return True
        after = max(end, self._looked[1]) if self._looked is not None and self._looked[0] is backlog else end
        some = backlog.peek(after)
        self._looked = None if some is None else (backlog, some.end)
        return some is not None and any(self._takes(parcel) for parcel in some.payloads)

    def _takes(self, parcel: bytes) -> bool:
        try:
            self._append(parcel)
        except UsageError:
            return False
        self.witness = parcel
        return True

    def _put_aside(self, events: list[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        with open(descriptor, "wb") as file:
            file.write(b"".join(event + b"\n" for event in events))
            file.flush()
            os.fsync(descriptor)
        self.undeliverable += len(events)

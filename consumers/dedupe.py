"""Which events of a batch were seen before: exactly, over the whole history, whatever their ids look like.

Every stored event has a 64-bit digest of (source, id). The index holds all of them in memory, in a
few sorted runs that double in size, 8 bytes an event; each run knows which rows of the store it
covers. A digest that is in no run is new, for certain. One that is in a run names a small range of
rows, where the store is asked and (source, id) are compared as text: a collision of digests costs a
look, never an event.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from doortab.schemas.events import Event

Digests = npt.NDArray[np.uint64]

_hash = xxhash.xxh3_64_intdigest

GROWTH = 4
"""A run is merged with the one before it unless that is this many times larger."""


def digests_of(events: list[Event]) -> Digests:
    """The digest of each event's (source, id). Ids may hold any text; NUL keeps the two apart."""
    return np.array([_hash(f"{e.source}\0{e.id}".encode()) for e in events], dtype=np.uint64)


class Run(NamedTuple):
    """Sorted digests of the rows numbered from ``low`` until before ``high``."""

    digests: Digests
    low: int
    high: int


class Hit(NamedTuple):
    """Event ``number`` of the batch may stand among the rows from ``low`` until before ``high``."""

    number: int
    digest: int
    low: int
    high: int


class IdIndex:
    """The digests of every stored event."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def __len__(self) -> int:
        return sum(len(run.digests) for run in self._runs)

    def add(self, digests: Digests, low: int) -> None:
        """Takes in the digests of rows ``low`` and following, in row order."""
        if not len(digests):
            return
        run = Run(np.sort(digests), low, low + len(digests))
        while self._runs and len(self._runs[-1].digests) < GROWTH * len(run.digests):
            before = self._runs.pop()
            # A stable sort of two sorted halves is a merge.
            merged = np.sort(np.concatenate((before.digests, run.digests)), kind="stable")
            run = Run(merged, before.low, run.high)
        self._runs.append(run)

    def hits(self, digests: Digests) -> list[Hit]:
        """Which of the digests may be stored already, and among which rows."""
        order = np.argsort(digests)
        wanted = digests[order]
        found: list[Hit] = []
        for run in self._runs:
            places = np.searchsorted(run.digests, wanted)
            places[places == len(run.digests)] = 0
            for at in np.flatnonzero(run.digests[places] == wanted):
                found.append(Hit(int(order[at]), int(wanted[at]), run.low, run.high))
        return found


def repeated(digests: Digests) -> dict[int, int]:
    """Within the batch: by the number of a later event, that of the first one with the same digest."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    if len(first) == len(digests):
        return {}
    originals = first[inverse]
    return {int(i): int(originals[i]) for i in np.flatnonzero(originals != np.arange(len(digests)))}


Content = tuple[Any, ...]
"""An event without its name and time, comparable with another's."""

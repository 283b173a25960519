"""The control equation: log records = billed + duplicates + rejected + not billable.

The left side is what the commits say they read from the log; the right side is counted in the tables,
so that a row taken out or put in behind the ledger's back shows as ``unexplained``.
"""

from __future__ import annotations

from typing import NamedTuple

from doortab.analytics.cells import Read


class Control(NamedTuple):
    """Counts of usage events over the whole log."""

    records: int
    billed: int
    duplicates: int
    rejected: int
    not_billable: int

    @property
    def unexplained(self) -> int:
        """What the equation leaves over; anything but 0 is an alarm."""
        return self.records - self.billed - self.duplicates - self.rejected - self.not_billable

    def as_json(self) -> dict[str, str]:
        """All counts as text."""
        return {name: str(value) for name, value in self._asdict().items()} | {"unexplained": str(self.unexplained)}


def control(read: Read) -> Control:
    """The equation as it stands at the last commit."""
    records, duplicates = read("SELECT coalesce(sum(events), 0), coalesce(sum(duplicates), 0) FROM commits")[0]
    billed, not_billable = read("SELECT count(*) FILTER (billable), count(*) FILTER (NOT billable) FROM usage")[0]
    rejected = read("SELECT count(*) FROM rejected WHERE topic = 'usage'")[0][0]
    return Control(int(records), billed, int(duplicates), rejected, not_billable)

"""The control equation: events in the log = billed + duplicates + rejected + not billable.

The left side is what the commits say they read from the log; the right side is counted in the tables,
so that a row taken out or put in behind the ledger's back shows as ``unexplained``. It holds for each
partition, and what is left over in one is not made up for by another.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from doortab.analytics.cells import Read


class Control(NamedTuple):
    """Counts of usage events: of a partition, or of the whole log."""

    records: int
    billed: int
    duplicates: int
    rejected: int
    not_billable: int

    @property
    def unexplained(self) -> int:
        """What the equation leaves over; anything but 0 is an alarm."""
        return self.records - self.billed - self.duplicates - self.rejected - self.not_billable


class Whole(NamedTuple):
    """The equations of all partitions together. ``unexplained`` adds up what is over or missing in any of them."""

    sums: Control
    unexplained: int

    def as_json(self) -> dict[str, str]:
        """All counts as text."""
        counts = {name: str(value) for name, value in self.sums._asdict().items()}
        return counts | {"unexplained": str(self.unexplained)}


def controls(read: Read) -> dict[int, Control]:
    """The equation of each partition, as it stands at the last commit."""
    commits = _by_part(read, "sum(events)::BIGINT, sum(duplicates)::BIGINT", "commits", "part >= 0")
    stored = _by_part(read, "count(*) FILTER (billable), count(*) FILTER (NOT billable)", "usage", "true")
    rejected = _by_part(read, "count(*), 0", "rejected", "topic = 'usage'")
    nothing = (0, 0)
    found = {}
    for part in sorted({*commits, *stored, *rejected}):
        events, duplicates = commits.get(part, nothing)
        billed, not_billable = stored.get(part, nothing)
        found[part] = Control(events, billed, duplicates, rejected.get(part, nothing)[0], not_billable)
    return found


def control(read: Read) -> Whole:
    """The equation of the whole log."""
    parts = controls(read).values()
    sums = Control(*map(sum, zip(*parts, strict=True))) if parts else Control(0, 0, 0, 0, 0)
    return Whole(sums, sum(abs(one.unexplained) for one in parts))


def _by_part(read: Read, figures: str, table: str, where: str) -> dict[int, tuple[Any, ...]]:
    rows = read(f"SELECT coalesce(part, -1), {figures} FROM {table} WHERE {where} GROUP BY ALL")
    return {row[0]: tuple(row[1:]) for row in rows}

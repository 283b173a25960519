"""Groups of a batch: events that agree in all that a price or a cap depends on, and what they used together."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from doortab.consumers.columns import Columns, Texts, Whole
from doortab.schemas.meters import Path
from doortab.schemas.tariff import Line

Terms = list[tuple[str | None, int]]
"""Units, None standing for the events themselves, and what one of each adds."""


class Used(NamedTuple):
    """What the groups used of a unit: sums, least and most of one event, and whether some event used none."""

    sums: list[int] | None
    least: list[int]
    most: list[int]
    missing: list[bool]


class Groups:
    """Charged events by what they have in common. ``first`` are the numbers of the groups' first events."""

    def __init__(self, columns: Columns, charged: Whole, accounts: Texts, paths: tuple[Path, ...]) -> None:
        self.columns = columns
        self.accounts = accounts
        together = _together(columns, charged, accounts, paths)
        order = np.argsort(together, kind="stable")
        ordered = together[order]
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        self.members = charged[order]
        self.first: list[int] = self.members[self._starts].tolist()
        self.sizes = np.diff(np.append(self._starts, len(charged)))
        times = columns.times[self.members]
        self.earliest: list[int] = np.minimum.reduceat(times, self._starts).tolist()
        self.latest: list[int] = np.maximum.reduceat(times, self._starts).tolist()
        self.is_unusual: list[bool] = np.logical_or.reduceat(columns.has_more[self.members], self._starts).tolist()
        self._used: dict[str, Used | None] = {}

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def counts(self) -> list[int]:
        """How many events each group has."""
        return self.sizes.tolist()  # type: ignore[no-any-return]

    def sums(self, line: Line) -> bool:
        """Whether the columns say how much of the line's meter each group used."""
        if line.source is None:
            return True
        used = self.used(line.source.name) if line.source.root == "units" else None
        return line.source.root == "units" and (used is None or used.sums is not None)

    def sum_of(self, number: int, terms: Terms) -> int:
        """What the terms come to for the group."""
        total = 0
        for unit, worth in terms:
            if unit is None:
                total += self.counts[number] * worth
            elif (used := self.used(unit)) is not None and used.sums is not None:
                total += used.sums[number] * worth
        return total

    def running(self, number: int, terms: Terms) -> tuple[Whole, list[tuple[Whole, int]]]:
        """The group's events in the order of the log, and for each term its sums up to each of them."""
        start = int(self._starts[number])
        members = self.members[start : start + self.counts[number]]
        sums: list[tuple[Whole, int]] = []
        for unit, worth in terms:
            if unit is None:
                sums.append((np.arange(1, len(members) + 1), worth))
            elif (column := self.columns.units.get(unit)) is not None:
                values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)[members]
                sums.append((np.cumsum(values), worth))
        return members, sums

    def times_of(self, number: int) -> list[int]:
        """When the group's events happened."""
        start = int(self._starts[number])
        return self.columns.times[self.members[start : start + self.counts[number]]].tolist()  # type: ignore[no-any-return]

    def used(self, unit: str) -> Used | None:
        """What was used of the unit; None where no event of the batch has it."""
        if unit not in self._used:
            column = self.columns.units.get(unit)
            self._used[unit] = self._reckon(column) if column is not None else None
        return self._used[unit]

    def _reckon(self, column: Any) -> Used:
        missing = pc.is_null(column).to_numpy(zero_copy_only=False)[self.members]
        values: Whole = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)[self.members]
        most = np.maximum.reduceat(values, self._starts)
        # Sums of numbers below this stay below 2^63.
        sums = np.add.reduceat(values, self._starts).tolist() if int(most.max()) < 2**63 // len(values) else None
        least = np.minimum.reduceat(values, self._starts).tolist()
        return Used(sums, least, most.tolist(), np.logical_or.reduceat(missing, self._starts).tolist())

    def events_of(self, chosen: set[int]) -> list[int]:
        """The numbers of the events of the chosen groups, in the order of the log."""
        marks = np.zeros(len(self), np.bool_)
        marks[list(chosen)] = True
        return np.sort(self.members[np.repeat(marks, self.sizes)]).tolist()  # type: ignore[no-any-return]


def _together(columns: Columns, charged: Whole, accounts: Texts, paths: tuple[Path, ...]) -> Whole:
    """A number for each event: the same for those that agree in account, key, type and the text at the paths."""
    parts = [accounts, columns.texts("key"), columns.texts("type")]
    parts += [
        columns.texts(path.name)
        for path in paths
        if path.root == "field" and path.name in ("operation", "reason", "account")
    ]
    parts += [
        columns.texts(f"dimensions.{path.name}")
        for path in paths
        if path.root == "dimensions" and path.name in columns.dimensions
    ]
    together = np.zeros(len(charged), np.int64)
    size = 1
    for part in parts:
        width = len(part.names) + 1
        if size * width >= 2**62:
            together, size = np.unique(together, return_inverse=True)[1].astype(np.int64), len(charged)
        together = together * width + part.codes[charged] + 1
        size *= width
    return together

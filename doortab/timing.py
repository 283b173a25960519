"""How long something takes, counted in buckets, as Prometheus wants it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

COMMIT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Timing:
    """Durations in seconds. One thread adds; anybody may read."""

    def __init__(self, bounds: Sequence[float] = COMMIT_SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Counts one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """How many took at most so long, bound by bound.

        >>> timing = Timing([0.1, 1.0])
        >>> timing.add(0.1), timing.add(7.0)
        (None, None)
        >>> timing.buckets()
        [('0.1', 1.0), ('1.0', 1.0), ('+Inf', 2.0)]
        """
        found, so_far = [], 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], list(self._counts), strict=True):
            so_far += count
            found.append((bound, float(so_far)))
        return found

"""The time stamps that a log of ours gives its records."""

from __future__ import annotations

from collections.abc import Set


class Stamps:
    """Stamps in milliseconds that never step back, and of which records of two topics share none.

    So stamps say which came first: a catalog, say, or an event that somebody had read before it was there.
    Only what is written at once has one stamp. ``last_ms`` is the latest.
    """

    def __init__(self) -> None:
        self.last_ms = 0
        self._topics: Set[str] = frozenset()

    def next(self, topics: Set[str], now_ms: int) -> int:
        """The stamp of records of these topics that are written now, at once."""
        if now_ms <= self.last_ms:
            now_ms = self.last_ms + (len(topics | self._topics) > 1)
        self.last_ms, self._topics = now_ms, topics
        return now_ms

    def saw(self, topic: str, stamp_ms: int) -> None:
        """Somebody else has given a record of the topic this stamp."""
        if stamp_ms >= self.last_ms:
            others = self._topics if stamp_ms == self.last_ms else frozenset()
            self.last_ms, self._topics = stamp_ms, others | {topic}

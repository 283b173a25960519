"""What the ledger knows of catalog and keys while it reads usage, as of any moment of the log.

A usage record sees every catalog and key that the log had stamped before it, and none stamped later.
So what the ledger makes of it follows from the log alone, whenever it reads and however far the
topics are apart. For that the views must be read to their ends after each poll of usage.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import msgspec

from doortab.schemas import catalog as written
from doortab.schemas import keys, topics
from doortab.schemas.errors import CatalogError
from doortab.schemas.log import Log, Record, TopicPartition
from doortab.schemas.tariff import NO_TARIFF, Tariff
from doortab.schemas.wire import Rejected, Unreadable, reject

NO_CATALOG = -1
"""The offset that stands for no catalog at all."""


class Views:
    """Catalogs and keys by the time the log received them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._reader = log.reader({TopicPartition(topics.CATALOG, 0): 0, TopicPartition(topics.KEYS, 0): 0})
        self._positions = {topics.CATALOG: 0, topics.KEYS: 0}
        self._stamps: list[int] = []
        self._offsets: list[int] = []
        self._tariffs: dict[int, Tariff] = {NO_CATALOG: NO_TARIFF}
        self._owners: dict[str, tuple[int, str]] = {}
        self.lineages: dict[str, str] = {}
        """By key that took another's place, the lineage: the key that began it."""
        self.unreadable: list[Rejected] = []

    def catch_up(self) -> None:
        """Reads both topics to where they end now.

        Raises:
            LogUnavailable: the log could not be reached.
        """
        while True:
            behind = any(self._log.end_offsets(topic)[0] > position for topic, position in self._positions.items())
            if not behind:
                return
            for record in self._reader.poll(10_000, 16_000_000, 1.0):
                self._positions[record.topic] = record.offset + 1
                (self._take_catalog if record.topic == topics.CATALOG else self._take_key)(record)

    def _take_catalog(self, record: Record) -> None:
        try:
            tariff = Tariff(written.decode(record.value or b""))
        except (CatalogError, ValueError) as error:
            self._refuse(record, f"not a catalog: {error}")
            return
        self._tariffs[record.offset] = tariff
        self._stamps.append(record.timestamp_ms)
        self._offsets.append(record.offset)

    def _take_key(self, record: Record) -> None:
        try:
            state = keys.decode(record.value or b"")
        except (msgspec.DecodeError, ValueError) as error:
            self._refuse(record, f"not a key: {error}")
            return
        # A key belongs to one account for ever, so its first record is the one that counts.
        if isinstance(state, keys.Key):
            self._owners.setdefault(state.key_id, (record.timestamp_ms, state.account))
            if state.lineage != state.key_id:
                self.lineages.setdefault(state.key_id, state.lineage)

    def _refuse(self, record: Record, detail: str) -> None:
        self.unreadable.append(reject(record, 0, record.value or b"", Unreadable("invalid_state", detail)))

    def catalog_at(self, timestamp_ms: int) -> int:
        """The offset of the catalog in force for a record of that time, or ``NO_CATALOG``."""
        count = bisect_right(self._stamps, timestamp_ms)
        return self._offsets[count - 1] if count else NO_CATALOG

    @property
    def newest(self) -> int:
        """The offset of the newest catalog, or ``NO_CATALOG``."""
        return self._offsets[-1] if self._offsets else NO_CATALOG

    def versions(self, adopted: int, wanted: int) -> list[int]:
        """The offsets of the catalogs after ``adopted`` up to ``wanted``, in order."""
        return [offset for offset in self._offsets if adopted < offset <= wanted]

    def stamp_of(self, offset: int) -> int:
        """When the log received that catalog, in milliseconds."""
        return self._stamps[self._offsets.index(offset)] if offset != NO_CATALOG else 0

    def tariff(self, offset: int) -> Tariff:
        """The tariff of the catalog at that offset."""
        return self._tariffs[offset]

    def account_of_key(self, key: str, timestamp_ms: int) -> str | None:
        """Whose the key is, if it was issued by then."""
        since, account = self._owners.get(key, (None, None))
        return account if since is not None and since <= timestamp_ms else None

    @property
    def owners(self) -> Mapping[str, tuple[int, str]]:
        """Every key's first stamp and account."""
        return self._owners

    def close(self) -> None:
        """Frees the reader."""
        self._reader.close()

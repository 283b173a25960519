"""The catalog as it stands in the log."""

from __future__ import annotations

import logging

from doortab.schemas import catalog, topics
from doortab.schemas.errors import CatalogError
from doortab.schemas.log import Log, TopicPartition

logger = logging.getLogger("doortab.catalogs")


def newest_catalog(log: Log) -> catalog.Catalog | None:
    """The newest catalog in the log that can be read, or None.

    Raises:
        LogUnavailable: the log could not be reached.
    """
    begin, end = log.begin_offsets(topics.CATALOG)[0], log.end_offsets(topics.CATALOG)[0]
    reader = log.reader({TopicPartition(topics.CATALOG, 0): begin})
    newest, position = None, begin
    try:
        while position < end:
            for record in reader.poll(1000, 16_000_000, 1.0):
                position = record.offset + 1
                try:
                    newest = catalog.decode(record.value or b"")
                except CatalogError as error:
                    logger.warning("catalog record %s is passed over: %s", record.offset, error)
    finally:
        reader.close()
    return newest

"""The topics, and which partition a record belongs to."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

FOREVER_MS = -1
DAY_MS = 86_400_000


class Topic(NamedTuple):
    """A topic as it is created: ``retention_ms`` of -1 keeps records for ever."""

    name: str
    partitions: int
    compacted: bool = False
    retention_ms: int = FOREVER_MS


USAGE = "usage"
KEYS = "keys"
REVOCATIONS = "revocations"
LEASES = "leases"
GATES = "gates"
CATALOG = "catalog"
INVOICES = "invoices"
ALERTS = "alerts"
REJECTED = "rejected"

USAGE_PARTITIONS = 4


def topics(usage_partitions: int = USAGE_PARTITIONS) -> list[Topic]:
    """Every topic of an installation. Only ``usage`` is partitioned: by account, so that one writer owns its caps."""
    return [
        Topic(USAGE, usage_partitions),
        Topic(KEYS, 1),
        Topic(REVOCATIONS, 1, compacted=True),
        Topic(LEASES, 1, compacted=True),
        Topic(GATES, 1, compacted=True),
        Topic(CATALOG, 1),
        Topic(INVOICES, 1),
        Topic(ALERTS, 1),
        Topic(REJECTED, 1),
    ]


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2, unsigned: a Java producer that keys by account picks the same partition.

    Source: apache/kafka, clients, ``org.apache.kafka.common.utils.Utils.murmur2``.
    """
    length = len(data)
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with this key, as Kafka's default partitioner has it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions

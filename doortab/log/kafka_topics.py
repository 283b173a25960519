"""What a Kafka cluster says of our topics, and how we want them.

A topic that was deleted and made anew has the same name and another id: its offsets mean other records. So
the id is remembered, and neither case passes for the topic that we knew.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import InvalidTopicError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from doortab.log.kafka_producer import REQUEST_BYTES
from doortab.log.rules import COMPACTION_LAG_MS, MAX_RECORD_BYTES, PositionOutOfRange
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.topics import Topic

REPLICAS = 3
FRAME_BYTES = 200
"""More than Kafka adds to a record that travels alone: 61 bytes for the batch, some 25 at most for the record."""

WAY_OUT = "Restore it, or begin a new log: another prefix in the log's URL and another data directory"


class About(NamedTuple):
    """What the cluster says of a topic. ``asked_at`` is monotonic; minus infinity when the answer is in doubt."""

    partitions: int
    compacted: bool
    record_bytes: int
    asked_at: float
    topic_id: str | None = None


NOTHING = About(0, compacted=False, record_bytes=0, asked_at=-math.inf)


def read_about(admin: Any, name: str) -> About:
    """What the cluster says of the topic; ``NOTHING`` when it knows none of that name."""
    (answer,) = admin.describe_topics([name])
    error = for_code(answer["error_code"])
    if error in (UnknownTopicOrPartitionError, InvalidTopicError):
        return NOTHING
    if not answer["partitions"]:
        raise error(name)
    settings = _read_settings(admin, name)
    return About(
        partitions=len(answer["partitions"]),
        compacted="compact" in settings.get("cleanup.policy", ""),
        record_bytes=min(
            MAX_RECORD_BYTES, int(settings.get("max.message.bytes", MAX_RECORD_BYTES + FRAME_BYTES)) - FRAME_BYTES
        ),
        asked_at=time.monotonic(),
        topic_id=answer.get("topic_id"),
    )


def check_same(name: str, known: About, found: About) -> None:
    """Refuses to take nothing, or another topic, for the one that was known.

    Raises:
        LogUnavailable: the topic was there and is gone.
        PositionOutOfRange: another topic of the same name is in its place.
    """
    if known.partitions and not found.partitions:
        raise LogUnavailable(
            f"topic {name!r} was in this cluster and is gone: somebody deleted it, or hides it from us. "
            f"Nothing is made in its place while this process runs. {WAY_OUT}"
        )
    if known.topic_id and found.topic_id and known.topic_id != found.topic_id:
        raise PositionOutOfRange(
            f"topic {name!r} was deleted and made anew (it was {known.topic_id} and is {found.topic_id}): "
            f"its offsets mean other records now. {WAY_OUT}"
        )


def create(admin: Any, wanted: dict[str, Topic], wait_seconds: float) -> None:
    """Creates these topics, by their names in Kafka, and waits until they can be used."""
    brokers = admin.describe_cluster()["brokers"]
    replicas = min(REPLICAS, len(brokers))
    asked = {
        name: {
            "num_partitions": topic.partitions,
            "replication_factor": replicas,
            "configs": _topic_settings(topic, replicas),
        }
        for name, topic in wanted.items()
    }
    for answer in admin.create_topics(asked, raise_errors=False)["topics"]:
        error = for_code(answer["error_code"])
        if answer["error_code"] and error is not TopicAlreadyExistsError:  # another process was faster
            raise error(f"{answer['name']}: {answer['error_message']}")
    admin.wait_for_topics(list(wanted), timeout_ms=int(wait_seconds * 1000))


def _read_settings(admin: Any, name: str) -> dict[str, str]:
    """A topic's settings by name; empty where the cluster does not let us see them."""
    names = ("cleanup.policy", "max.message.bytes")
    resource = ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(names))
    answer = admin.describe_configs([resource], config_filter="all")
    settings = answer.get("topic", {}).get(name, {})
    return {key: about["value"] for key, about in settings.items() if key in names}


def _topic_settings(topic: Topic, replicas: int) -> dict[str, str]:
    settings = {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(REQUEST_BYTES),
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": "-1",
        "cleanup.policy": "compact" if topic.compacted else "delete",
        # With three replicas an acknowledgement stands for two of them; with one or two it cannot.
        "min.insync.replicas": str(max(1, replicas - 1)),
    }
    if topic.compacted:
        settings["min.compaction.lag.ms"] = str(COMPACTION_LAG_MS)
    return settings

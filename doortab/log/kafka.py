"""The log in Kafka, through kafka-python 3.0.

Clients are made when they are first needed, one set per process, and replaced when they fail; a broker that
is away shows as LogUnavailable and never as a hang. Records are raw bytes. Topics get their time stamps from
the broker, so that nobody's clock but the log's says when something arrived.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from kafka.protocol.consumer import OffsetSpec

from doortab.log.kafka_client import Clients, end, inherit
from doortab.log.kafka_consumer import KafkaReader
from doortab.log.kafka_producer import REQUEST_BYTES, KafkaAppender
from doortab.log.rules import COMPACTION_LAG_MS, MAX_RECORD_BYTES, check_entries, check_partition
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.log import Entry, TopicPartition
from doortab.schemas.topics import Topic

T = TypeVar("T")

QUESTION_SECONDS = 15.0
"""How long questions about topics and offsets are repeated before the log counts as unreachable."""
TOPIC_SECONDS = 60.0
"""How long an answer about a topic's partitions serves: a topic may grow, and does so rarely."""
PAUSE_SECONDS = 0.2
REPLICAS = 3
FRAME_BYTES = 200
"""More than Kafka adds to a record that travels alone: 61 bytes for the batch, some 25 at most for the record."""

# Questions are repeated, so that it is better to give one up early.
_ADMIN_SETTINGS = {"request_timeout_ms": 5000}


class _About(NamedTuple):
    """What the cluster says of a topic."""

    partitions: int
    compacted: bool
    record_bytes: int
    asked_at: float


_NOTHING = _About(0, compacted=False, record_bytes=0, asked_at=-math.inf)


class KafkaLog:
    """A log in a Kafka cluster. Threads may share it; after a fork each process makes clients of its own."""

    def __init__(self, brokers: list[str], prefix: str = "", more: Mapping[str, Any] | None = None) -> None:
        """Contacts nobody yet. ``prefix`` stands before every topic's name; ``more`` goes to all clients."""
        self._prefix = prefix
        self._clients = Clients(brokers, more or {})
        self._appender = KafkaAppender(self._clients)
        self._admin: Any = None
        self._topics: dict[str, _About] = {}
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @property
    def clients_replaced(self) -> int:
        """Producers and consumers thrown away because they failed or fell silent."""
        return self._clients.replaced

    @property
    def threads_leaked(self) -> int:
        """Threads of thrown-away producers that still run; a process that collects them should be restarted."""
        return self._appender.threads_leaked

    def ensure_topics(self, topics: Iterable[Topic]) -> None:
        """Creates the topics that are missing, replicated as far as there are brokers; existing ones stay as they are.

        Raises:
            LogUnavailable: the cluster could not be reached, or refuses.
        """
        missing = [topic for topic in topics if not self.partition_count(topic.name)]
        if missing:
            self._ask(lambda admin: self._create(admin, missing))

    def partition_count(self, topic: str) -> int:
        """How many partitions the topic has now (the answer may be a minute old); 0 when there is no such topic.

        Raises:
            LogUnavailable: the cluster could not be reached.
        """
        about = self._topics.get(topic, _NOTHING)
        if about.asked_at + TOPIC_SECONDS < time.monotonic():
            about = self._ask_about(topic, QUESTION_SECONDS)
        return about.partitions

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        """Appends all entries and returns their offsets, one each, once all replicas in sync have them.

        Raises:
            LogUnavailable: no acknowledgement in time; any part of the entries may be in the log.
            UsageError: no such topic or partition, or a record larger than the log takes.
        """
        deadline = time.monotonic() + timeout_seconds
        highest = max((entry.partition for entry in entries if entry.partition > 0), default=0)
        about = self._known(topic, highest, timeout_seconds)
        check_entries(topic, entries, about.partitions, about.compacted, about.record_bytes)
        self._check_open()
        if not entries:
            return []
        return self._appender.append(self._prefix + topic, entries, deadline - time.monotonic())

    def reader(self, positions: Mapping[TopicPartition, int]) -> KafkaReader:
        """A reader of just these partitions, from these offsets on (0 means the earliest kept).

        It contacts the cluster when it is first polled. Its owner closes it.
        """
        return KafkaReader(self._clients, self._prefix, self._bounds, positions)

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset of the earliest record still kept; nothing when there is no such topic.

        Raises:
            LogUnavailable: the cluster could not be reached.
        """
        return self._offsets(topic, OffsetSpec.EARLIEST)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset that the next record will get; nothing when there is no such topic.

        Raises:
            LogUnavailable: the cluster could not be reached.
        """
        return self._offsets(topic, OffsetSpec.LATEST)

    def close(self) -> None:
        """Frees what the log holds; never raises."""
        self._closed = True
        self._appender.close()
        self._drop(self._admin)

    def _bounds(
        self, places: Collection[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, tuple[int, int]]:
        for place in places:
            about = self._known(place.topic, place.partition, timeout_seconds)
            check_partition(place.topic, place.partition, about.partitions)
        begins = self._ask_offsets(places, OffsetSpec.EARLIEST, timeout_seconds)
        ends = self._ask_offsets(places, OffsetSpec.LATEST, timeout_seconds)
        return {place: (begins[place], ends[place]) for place in places}

    def _offsets(self, topic: str, which: OffsetSpec) -> dict[int, int]:
        places = [TopicPartition(topic, partition) for partition in range(self.partition_count(topic))]
        answers = self._ask_offsets(places, which, QUESTION_SECONDS) if places else {}
        return {place.partition: offset for place, offset in answers.items()}

    def _ask_offsets(
        self, places: Iterable[TopicPartition], which: OffsetSpec, timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        asked = {place: KafkaPartition(self._prefix + place.topic, place.partition) for place in places}
        specs = dict.fromkeys(asked.values(), which)
        answers = self._ask(lambda admin: admin.list_partition_offsets(specs), timeout_seconds)
        return {place: answers[kafka_place].offset for place, kafka_place in asked.items()}

    def _known(self, topic: str, partition: int, timeout_seconds: float) -> _About:
        """What was ever heard of the topic, if the partition is in it: that needs no broker."""
        about = self._topics.get(topic, _NOTHING)
        return about if partition < about.partitions else self._ask_about(topic, timeout_seconds)

    def _ask_about(self, topic: str, timeout_seconds: float) -> _About:
        name = self._prefix + topic
        (answer,) = self._ask(lambda admin: admin.describe_topics([name]), timeout_seconds)
        if not answer["partitions"]:
            return _NOTHING
        settings = self._ask(lambda admin: _read_settings(admin, name), timeout_seconds)
        about = _About(
            partitions=len(answer["partitions"]),
            compacted="compact" in settings.get("cleanup.policy", ""),
            record_bytes=min(
                MAX_RECORD_BYTES, int(settings.get("max.message.bytes", MAX_RECORD_BYTES + FRAME_BYTES)) - FRAME_BYTES
            ),
            asked_at=time.monotonic(),
        )
        self._topics[topic] = about
        return about

    def _create(self, admin: Any, topics: list[Topic]) -> None:
        brokers = admin.describe_cluster()["brokers"]
        replicas = min(REPLICAS, len(brokers))
        wanted = {
            self._prefix + topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": replicas,
                "configs": _topic_settings(topic, replicas),
            }
            for topic in topics
        }
        for answer in admin.create_topics(wanted, raise_errors=False)["topics"]:
            error = for_code(answer["error_code"])
            if answer["error_code"] and error is not TopicAlreadyExistsError:  # another process was faster
                raise error(f"{answer['name']}: {answer['error_message']}")
        admin.wait_for_topics(list(wanted), timeout_ms=int(QUESTION_SECONDS * 1000))

    def _ask(self, question: Callable[[Any], T], timeout_seconds: float = QUESTION_SECONDS) -> T:
        """Asks until there is an answer; a client that fails is replaced, since nobody knows what is wrong with it."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            admin = None
            try:
                admin = self._ready(deadline)
                return question(admin)
            except (KafkaError, LogUnavailable, RuntimeError) as error:  # RuntimeError: another thread dropped it
                self._drop(admin)
                if time.monotonic() >= deadline:
                    raise _unavailable(error) from error
            time.sleep(PAUSE_SECONDS)

    def _ready(self, deadline: float) -> Any:
        self._check_open()
        if self._pid != os.getpid():
            inherit(self._admin)
            self._admin = None
            self._begin()
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise LogUnavailable("no connection to Kafka within the time; another thread is still trying")
        try:
            if self._admin is None:
                left = deadline - time.monotonic()
                self._admin = self._clients.make(KafkaAdminClient, _ADMIN_SETTINGS, left)
            return self._admin
        finally:
            self._lock.release()

    def _drop(self, admin: Any) -> None:
        """Closes a client, unless another thread has done so, or it is the parent's."""
        if admin is None or self._admin is not admin or self._pid != os.getpid():
            return
        self._admin = None
        end(admin.close)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the log is closed")


def _read_settings(admin: Any, name: str) -> dict[str, str]:
    """A topic's settings by name; empty where the cluster does not let us see them."""
    names = ("cleanup.policy", "max.message.bytes")
    resource = ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(names))
    answer = admin.describe_configs([resource], config_filter="all")
    settings = answer.get("topic", {}).get(name, {})
    return {key: about["value"] for key, about in settings.items() if key in names}


def _unavailable(error: Exception) -> LogUnavailable:
    return error if isinstance(error, LogUnavailable) else LogUnavailable(f"Kafka does not answer: {error!r}")


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

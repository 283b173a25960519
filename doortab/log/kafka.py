"""The log in Kafka, through kafka-python 3.0.

Clients are made when they are first needed, one set per process, and replaced when they fail; a broker that
is away shows as LogUnavailable and never as a hang. Records are raw bytes. Topics get their time stamps from
the broker, so that nobody's clock but the log's says when something arrived.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from kafka.protocol.consumer import OffsetSpec

from doortab.log.kafka_client import Clients, end, inherit
from doortab.log.kafka_consumer import KafkaReader
from doortab.log.kafka_producer import REQUEST_BYTES, KafkaAppender
from doortab.log.rules import COMPACTION_LAG_MS, check_entries, check_partition
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

# Questions are repeated, so that it is better to give one up early.
_ADMIN_SETTINGS = {"request_timeout_ms": 5000}


class KafkaLog:
    """A log in a Kafka cluster. Threads may share it; after a fork each process makes clients of its own."""

    def __init__(self, brokers: list[str], prefix: str = "", more: Mapping[str, Any] | None = None) -> None:
        """Contacts nobody yet. ``prefix`` stands before every topic's name; ``more`` goes to all clients."""
        self._prefix = prefix
        self._clients = Clients(brokers, more or {})
        self._appender = KafkaAppender(self._clients)
        self._admin: Any = None
        self._partitions: dict[str, int] = {}
        self._asked_at: dict[str, float] = {}
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
        if self._asked_at.get(topic, -TOPIC_SECONDS) + TOPIC_SECONDS < time.monotonic():
            self._ask_partitions(topic, QUESTION_SECONDS)
        return self._partitions.get(topic, 0)

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float = 30.0) -> list[int]:
        """Appends all entries and returns their offsets, one each, once all replicas in sync have them.

        Raises:
            LogUnavailable: no acknowledgement in time; any part of the entries may be in the log.
            UsageError: no such topic or partition, or a record larger than the log takes.
        """
        deadline = time.monotonic() + timeout_seconds
        highest = max((entry.partition for entry in entries if entry.partition > 0), default=0)
        if self._partitions.get(topic, 0) <= highest:  # what is known is enough, and needs no broker
            self._ask_partitions(topic, timeout_seconds)
        # That compacted topics need keys is left to the broker, which knows whether the topic is compacted.
        check_entries(topic, entries, self._partitions.get(topic, 0), compacted=False)
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
            if self._partitions.get(place.topic, 0) <= place.partition:
                self._ask_partitions(place.topic, timeout_seconds)
            check_partition(place.topic, place.partition, self._partitions.get(place.topic, 0))
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

    def _ask_partitions(self, topic: str, timeout_seconds: float) -> None:
        name = self._prefix + topic
        (about,) = self._ask(lambda admin: admin.describe_topics([name]), timeout_seconds)
        self._partitions[topic] = len(about["partitions"])
        if self._partitions[topic]:
            self._asked_at[topic] = time.monotonic()

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

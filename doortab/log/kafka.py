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
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPartition
from kafka.errors import KafkaError
from kafka.protocol.consumer import OffsetSpec

from doortab.log.kafka_client import Clients, end, inherit
from doortab.log.kafka_consumer import KafkaReader
from doortab.log.kafka_producer import KafkaAppender
from doortab.log.kafka_topics import NOTHING, About, check_same, create, read_about
from doortab.log.rules import check_entries, check_partition
from doortab.schemas.errors import LogUnavailable, UsageError
from doortab.schemas.log import Entry, TopicPartition
from doortab.schemas.topics import Topic

T = TypeVar("T")

PAUSE_SECONDS = 0.2


class KafkaLog:
    """A log in a Kafka cluster. Threads may share it; after a fork each process makes clients of its own."""

    def __init__(self, brokers: list[str], prefix: str = "", more: Mapping[str, Any] | None = None) -> None:
        """Contacts nobody yet. ``prefix`` stands before every topic's name; ``more`` goes to all clients."""
        self._prefix = prefix
        self._clients = Clients(brokers, more or {})
        self._patience = self._clients.patience
        # Questions are repeated, so that it is better to give one up early.
        self._admin_settings = {"request_timeout_ms": int(self._patience.request_seconds * 500)}
        self._appender = KafkaAppender(self._clients)
        self._admin: Any = None
        self._topics: dict[str, About] = {}
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
            LogUnavailable: the cluster could not be reached, or refuses; or a topic was there and is gone.
        """
        missing = [topic for topic in topics if not self.partition_count(topic.name)]
        if missing:
            wanted = {self._prefix + topic.name: topic for topic in missing}
            self._ask(lambda admin: create(admin, wanted, self._patience.question_seconds))

    def partition_count(self, topic: str) -> int:
        """How many partitions the topic has now (the answer may be a minute old); 0 when there is no such topic.

        Raises:
            LogUnavailable: the cluster could not be reached, or the topic was there and is gone.
            PositionOutOfRange: the topic was deleted and made anew.
        """
        about = self._topics.get(topic, NOTHING)
        if about.asked_at + self._patience.topic_seconds < time.monotonic():
            about = self._ask_about(topic, self._patience.question_seconds)
        return about.partitions

    def identity(self, topic: str) -> str | None:
        """The id that the cluster gave the topic when it was made; None where it does not say (before Kafka 2.8).

        Raises:
            LogUnavailable: the cluster could not be reached.
        """
        return self._known(topic, 0, self._patience.question_seconds).topic_id

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
        try:
            return self._appender.append(self._prefix + topic, entries, deadline - time.monotonic())
        except LogUnavailable:
            self._doubt(topic)
            raise

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
        partitions = {topic: self._ask_about(topic, timeout_seconds).partitions for topic in _topics_of(places)}
        for place in places:
            check_partition(place.topic, place.partition, partitions[place.topic])
        begins = self._ask_offsets(places, OffsetSpec.EARLIEST, timeout_seconds)
        ends = self._ask_offsets(places, OffsetSpec.LATEST, timeout_seconds)
        return {place: (begins[place], ends[place]) for place in places}

    def _offsets(self, topic: str, which: OffsetSpec) -> dict[int, int]:
        places = [TopicPartition(topic, partition) for partition in range(self.partition_count(topic))]
        answers = self._ask_offsets(places, which, self._patience.question_seconds) if places else {}
        return {place.partition: offset for place, offset in answers.items()}

    def _ask_offsets(
        self, places: Collection[TopicPartition], which: OffsetSpec, timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        asked = {place: KafkaPartition(self._prefix + place.topic, place.partition) for place in places}
        specs = dict.fromkeys(asked.values(), which)
        try:
            answers = self._ask(lambda admin: admin.list_partition_offsets(specs), timeout_seconds)
        except LogUnavailable:
            for topic in _topics_of(places):
                self._doubt(topic)
            raise
        return {place: answers[kafka_place].offset for place, kafka_place in asked.items()}

    def _known(self, topic: str, partition: int, timeout_seconds: float) -> About:
        """What was heard of the topic, if the partition is in it: that needs no broker, unless there is doubt."""
        about = self._topics.get(topic, NOTHING)
        if partition < about.partitions and about.asked_at > -math.inf:
            return about
        return self._ask_about(topic, timeout_seconds)

    def _doubt(self, topic: str) -> None:
        """Something about the topic failed. Before it is used again the cluster is asked whether it is still there."""
        if topic in self._topics:
            self._topics[topic] = self._topics[topic]._replace(asked_at=-math.inf)

    def _ask_about(self, topic: str, timeout_seconds: float) -> About:
        found = self._ask(lambda admin: read_about(admin, self._prefix + topic), timeout_seconds)
        check_same(self._prefix + topic, self._topics.get(topic, NOTHING), found)
        if found.partitions:
            self._topics[topic] = found
        return found

    def _ask(self, question: Callable[[Any], T], timeout_seconds: float | None = None) -> T:
        """Asks until there is an answer; a client that fails is replaced, since nobody knows what is wrong with it."""
        left = self._patience.question_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + left
        told: Exception | None = None
        while True:
            admin = None
            try:
                admin = self._ready(deadline)
                return question(admin)
            except (KafkaError, LogUnavailable, RuntimeError) as error:  # RuntimeError: another thread dropped it
                self._drop(admin)
                # What a broker has said says more than that, with the last of the time, none was found.
                told = error if told is None or not isinstance(error, LogUnavailable) else told
                if time.monotonic() >= deadline:
                    raise _unavailable(told) from told
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
                self._admin = self._clients.make(KafkaAdminClient, self._admin_settings, left)
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


def _topics_of(places: Iterable[TopicPartition]) -> set[str]:
    return {place.topic for place in places}


def _unavailable(error: Exception) -> LogUnavailable:
    return error if isinstance(error, LogUnavailable) else LogUnavailable(f"Kafka does not answer: {error!r}")

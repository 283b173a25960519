"""Appends to Kafka through a producer that is thrown away at the first doubt.

Facts behind this (kafka-python 3.0.12, measured): after an outage the idempotent producer can hang for good
without an error; one failed batch can poison all later sends; it buffers without bound; it does not survive
a fork; ``flush`` says nothing about delivery. So: every future is waited for, what is on its way is bounded,
and after any failure, or 30 s without an acknowledgement, the producer is replaced. The caller sends again.

Two of the ways to hang were not to be had from Apache Kafka 4.3.0 itself. Out of order and unknown producer (K2): a
broker that is killed, or whose disk is put back by an earlier copy, so that it has forgotten its producers, takes what
they send and says neither. Put into its answers, each costs the batches that are on their way; then the producer takes
a new epoch, and goes on. A leader that is on no list of brokers (K3): with one of three brokers killed, the cluster
names another leader or none, but none that it does not list. Put into its answers, that stops the sender for good.
What we do is the same for all of them, so that nothing hangs on which it was.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer

from doortab.log.kafka_client import Clients, Window, end, inherit
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry

WINDOW_BYTES = 32 * 1024 * 1024
REQUEST_BYTES = 4 * 1024 * 1024
JOIN_SECONDS = 2.0

_PRODUCER_SETTINGS: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    # Expiry of a batch is what triggers the hang; our own deadline and replacement take its place.
    "delivery_timeout_ms": 10**12,
    "retries": math.inf,
    "max_in_flight_requests_per_connection": 5,
    # Measured with records of 80 kB, 64 per append: linger 5 and 256 kB 92 MB/s and 8 ms for one small record,
    # linger 0 and 1 MB 213 MB/s and 2 ms. An append hands over all it has at once; nothing else is to come.
    "linger_ms": 0,
    "batch_size": 1024 * 1024,
    "max_request_size": REQUEST_BYTES,
    "compression_type": None,
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
    "key_serializer": None,
    "value_serializer": None,
}


class _Generation:
    """One producer, and what it has on its way."""

    def __init__(self, producer: Any) -> None:
        self.producer = producer
        self.window = Window(WINDOW_BYTES)


class KafkaAppender:
    """What ``append`` means with Kafka. Threads may share it."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._stuck_seconds = clients.patience.stuck_seconds
        self._settings = _PRODUCER_SETTINGS | {"max_block_ms": int(clients.patience.request_seconds * 1000)}
        self._abandoned: list[threading.Thread] = []
        self._current: _Generation | None = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # around self._current, never held for long
        self._making = threading.Lock()  # held while a broker is looked for

    @property
    def threads_leaked(self) -> int:
        """Threads of thrown-away producers that still run; a process that collects them should be restarted."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        return len(self._abandoned)

    def append(self, topic: str, entries: Sequence[Entry], timeout_seconds: float) -> list[int]:
        """Sends all entries and waits until the log has every one of them; returns their offsets.

        Raises:
            LogUnavailable: not all were acknowledged in time. Any part of them may be in the log.
        """
        deadline = time.monotonic() + timeout_seconds
        generation = self._ready(deadline)
        try:
            futures = [self._send(generation, topic, entry, deadline) for entry in entries]
            return [_offset(future, min(deadline, sent_at + self._stuck_seconds)) for future, sent_at in futures]
        except Exception as error:
            # Whatever it is. It may not even be about our records: one thread's refused record fails everybody's.
            was_current = self._current is generation
            self._replace(generation)
            if isinstance(error, LogUnavailable):
                raise
            if not was_current:
                raise LogUnavailable("another thread got no answer from Kafka and replaced the connection") from error
            raise LogUnavailable(f"Kafka did not acknowledge the records for {topic!r}: {error!r}") from error
        except BaseException:  # interrupted: nobody will ever ask for the rest of the futures
            self._replace(generation)
            raise

    def _send(self, generation: _Generation, topic: str, entry: Entry, deadline: float) -> tuple[Any, float]:
        size = len(entry.key or b"") + len(entry.value or b"")
        if not generation.window.take(size, min(deadline, time.monotonic() + self._stuck_seconds)):
            raise LogUnavailable("Kafka does not take the records as fast as they come, or not at all")
        try:
            future = generation.producer.send(topic, entry.value, entry.key, partition=entry.partition)
        except BaseException:
            generation.window.give(size)
            raise
        future.add_both(lambda _: generation.window.give(size))
        return future, time.monotonic()

    def _ready(self, deadline: float) -> _Generation:
        """The producer of this process; made anew when there is none, or when it is the parent's."""
        if self._pid != os.getpid():
            inherit(self._current)
            self._current = None
            self._begin()
        if (current := self._current) is not None:
            return current
        if not self._making.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise LogUnavailable("no connection to Kafka within the time; another thread is still trying")
        try:
            if (current := self._current) is None:
                left = deadline - time.monotonic()
                current = self._current = _Generation(self._clients.make(KafkaProducer, self._settings, left))
            return current
        finally:
            self._making.release()

    def _replace(self, generation: _Generation) -> None:
        """Throws a producer away; of the threads that share it, the first one does."""
        with self._lock:
            if self._current is not generation:
                return
            self._current = None
            self._clients.replaced += 1
        self._bury(generation)

    def _bury(self, generation: _Generation) -> None:
        """Ends a producer without flushing it, so that it does not deliver much later what was sent again."""
        producer = generation.producer
        sender = producer._sender
        end(sender.force_close)
        sender.join(JOIN_SECONDS)
        if sender.is_alive():
            self._abandoned.append(sender)
        end(lambda: producer.close(timeout=0))
        producer._closed = True  # or its destructor would try once more, wait for a second, and print

    def close(self) -> None:
        """Frees the producer; never raises."""
        if self._pid != os.getpid():
            inherit(self._current)
        elif (generation := self._current) is not None:
            self._current = None
            self._bury(generation)


def _offset(future: Any, deadline: float) -> int:
    offset: int = future.get(timeout=max(0.0, deadline - time.monotonic())).offset
    if offset < 0:  # a retry whose first try had arrived, and the broker has forgotten where
        raise LogUnavailable("Kafka has the record but does not say at which offset")
    return offset

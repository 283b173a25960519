"""What all Kafka clients of ours share: settings, birth, death, and how much they may say.

A client of kafka-python is disposable here. Several faults leave one running and useless for good, so
whoever uses one replaces it at the first doubt; nothing of ours is ever kept only inside a client.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from kafka.errors import KafkaConfigurationError, KafkaError
from kafka.net.compat import KafkaNetClient

from doortab.log.kafka_inside import Reasons, prepare
from doortab.schemas.errors import LogUnavailable, UsageError

C = TypeVar("C")

REQUEST_SECONDS = 10.0
MIN_REQUEST_MS = 500

_LINES_PER_WINDOW = 5
_WINDOW_SECONDS = 30.0

_inherited: list[object] = []


class Patience(NamedTuple):
    """How long what may take before it is doubted. One time says it all: what a broker may take for a request."""

    request_seconds: float = REQUEST_SECONDS
    """A broker that does not answer one request for so long is treated as gone."""

    @property
    def stuck_seconds(self) -> float:
        """A record that is not acknowledged for so long condemns its producer."""
        return 3 * self.request_seconds

    @property
    def silence_seconds(self) -> float:
        """After so long without a record the end of the log is asked for."""
        return self.request_seconds

    @property
    def question_seconds(self) -> float:
        """How long questions about topics and offsets are repeated before the log counts as unreachable."""
        return 1.5 * self.request_seconds

    @property
    def topic_seconds(self) -> float:
        """How long an answer about a topic's partitions serves: a topic may grow, and does so rarely."""
        return 6 * self.request_seconds


class Clients:
    """Makes the clients of one log, all settings said aloud: defaults of kafka-python have changed before."""

    def __init__(self, brokers: list[str], more: Mapping[str, Any]) -> None:
        """``more`` is what an operator adds, such as ``security_protocol`` and ``sasl_plain_username``.

        ``request_timeout_ms`` among it sets the patience with everything.
        """
        self.patience = _patience(more)
        self.replaced = 0
        """Clients thrown away because they failed or fell silent."""
        self._brokers = ", ".join(brokers)
        self._settings: dict[str, Any] = {
            "bootstrap_servers": brokers,
            "client_id": "doortab",
            "request_timeout_ms": int(self.patience.request_seconds * 1000),
            "retry_backoff_ms": 100,
            "reconnect_backoff_ms": 100,
            "reconnect_backoff_max_ms": 1000,  # the default of 30 s is what a returned broker would wait for
            "connections_max_idle_ms": 9 * 60 * 1000,
            "metadata_max_age_ms": 60_000,
            "receive_message_max_bytes": 100_000_000,
            "security_protocol": "PLAINTEXT",
            **more,
        }

    def make(self, kind: Callable[..., C], settings: Mapping[str, Any], timeout_seconds: float) -> C:
        """A new client that has spoken with the cluster.

        A constructor of kafka-python that fails leaves a thread and sockets behind; they are closed here, so
        that an outage of hours does not end in thousands of them.

        Raises:
            LogUnavailable: no broker answered in time.
            UsageError: kafka-python does not know a setting.
        """
        quiet()
        prepare()
        born: list[Any] = []
        reasons = Reasons()

        def network(**configs: Any) -> Any:
            born.append(KafkaNetClient(**configs))
            reasons.listen(born[-1])
            return born[-1]

        wait_ms = max(1, int(min(timeout_seconds, self.patience.request_seconds) * 1000))
        try:
            made = kind(**{**self._settings, **settings}, bootstrap_timeout_ms=wait_ms, kafka_client=network)
        except (KafkaError, OSError, ValueError) as error:
            for client in born:
                end(client.close)
            if isinstance(error, (KafkaConfigurationError, ValueError)):
                raise UsageError(f"kafka-python refuses its settings: {error}") from error
            raise LogUnavailable(f"no Kafka broker answers at {self._brokers}: {reasons.best or error}") from error
        for client in born:
            reasons.leave(client)
        return made


def _patience(more: Mapping[str, Any]) -> Patience:
    request_ms = more.get("request_timeout_ms", int(REQUEST_SECONDS * 1000))
    if type(request_ms) is not int or request_ms < MIN_REQUEST_MS:
        raise UsageError(f"request_timeout_ms {request_ms!r}; it is a number of milliseconds, {MIN_REQUEST_MS} or more")
    return Patience(request_ms / 1000)


def end(close: Callable[[], object]) -> None:
    """Calls a closing function and puts up with whatever it raises: the object is given up either way."""
    try:
        close()
    except Exception as error:
        logging.getLogger(__name__).debug("closing a Kafka client: %r", error)


def inherit(client: object) -> None:
    """Keeps a parent's client for ever after a fork: even its destructor would meddle with the parent's sockets."""
    _inherited.append(client)


class Window:
    """How many bytes may be on their way; kafka-python itself buffers without bound."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._changed = threading.Condition()

    def take(self, size_bytes: int, deadline: float) -> bool:
        """Waits for room until ``deadline`` (monotonic); whatever its size, one record always fits alone."""
        with self._changed:
            fits = self._changed.wait_for(
                lambda: self._used_bytes == 0 or self._used_bytes + size_bytes <= self._limit_bytes,
                max(0.0, deadline - time.monotonic()),
            )
            self._used_bytes += size_bytes if fits else 0
            return fits

    def give(self, size_bytes: int) -> None:
        """They have arrived, or never will."""
        with self._changed:
            self._used_bytes -= size_bytes
            self._changed.notify_all()


class _Few(logging.Filter):
    """Lets a logger say some lines per window, and counts the rest: a broken client has written 50,000 a second."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = 0.0
        self._said = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created - self._begun > _WINDOW_SECONDS:
            if self._said > _LINES_PER_WINDOW:
                left_out = self._said - _LINES_PER_WINDOW
                record.msg = f"{record.getMessage()} ({left_out} lines of this logger were left out before)"
                record.args = ()
            self._begun, self._said = record.created, 0
        self._said += 1
        return self._said <= _LINES_PER_WINDOW


def quiet() -> None:
    """Limits what the loggers of kafka-python say; a level that the application has set is left alone."""
    root = logging.getLogger("kafka")
    if root.level == logging.NOTSET:
        root.setLevel(logging.WARNING)
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        ours = name == "kafka" or name.startswith("kafka.")
        if ours and isinstance(logger, logging.Logger) and not any(isinstance(f, _Few) for f in logger.filters):
            logger.addFilter(_Few())

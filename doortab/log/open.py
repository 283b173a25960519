"""Opens a log by its URL. Only what the URL asks for is imported."""

from __future__ import annotations

import time
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from doortab.schemas.errors import UsageError
from doortab.schemas.log import Log

KAFKA_FORM = "kafka://host:port[,host:port][/PREFIX][?settings=FILE]"
FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")
"""Settings of Kafka's clients that name files. A client would go on asking for one that is not there."""
FORMS = f"file:DIR, {KAFKA_FORM} or memory:"


def open_log(url: str, clock: Callable[[], float] = time.time, kafka: Mapping[str, Any] | None = None) -> Log:
    """The log at this URL.

    ``file:DIR`` is the embedded log of one machine, ``kafka://host:port[,host:port][/PREFIX]`` a Kafka
    cluster whose topics are called PREFIX + name, ``memory:`` a log that ends with this process.
    ``clock`` gives seconds since 1970, for logs that stamp records themselves (Kafka does it on the broker).
    ``kafka`` holds further settings for kafka-python's clients, such as ``security_protocol``; so does the
    TOML file of ``?settings=FILE``, which keeps passwords out of URLs.

    Raises:
        UsageError: no such form; or kafka-python is not installed; or a file is not for this version.
        LogUnavailable: the directory of a file log cannot be used. Kafka is not contacted before it is needed.
    """
    kind, colon, rest = url.partition(":")
    if colon and kind == "file":
        return _open_file(url, rest, clock)
    if colon and kind == "kafka":
        return _open_kafka(url, rest, kafka or {})
    if url == "memory:":
        from doortab.log.memory import MemoryLog

        return MemoryLog(clock)
    raise UsageError(f"{url!r} is not the URL of a log; write {FORMS}")


def _open_file(url: str, rest: str, clock: Callable[[], float]) -> Log:
    from doortab.log.file import FileLog

    directory = rest.removeprefix("//") if rest.startswith("///") else rest
    if not directory or directory.startswith("//"):
        raise UsageError(f"{url!r} names no directory of this machine; write file:DIR or file:///absolute/DIR")
    return FileLog(Path(directory), clock)


def _open_kafka(url: str, rest: str, more: Mapping[str, Any]) -> Log:
    where, mark, query = rest.removeprefix("//").partition("?")
    servers, _, prefix = where.partition("/")
    brokers = servers.split(",")
    if not rest.startswith("//") or not all(_is_address(broker) for broker in brokers):
        raise UsageError(f"{url!r} names no broker; write {KAFKA_FORM}")
    if mark:
        name, _, path = query.partition("=")
        if name != "settings" or not path:
            raise UsageError(f"{url!r} ends with {query!r}; write {KAFKA_FORM}")
        more = {**_settings_in(Path(path)), **more}
    try:
        with warnings.catch_warnings():  # kafka-python reads its protocol with a function that Python 3.11 deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            from doortab.log.kafka import KafkaLog
    except ImportError as error:
        raise UsageError(f"{url!r} needs kafka-python ({error}); pip install 'doortab[kafka]'") from error
    return KafkaLog(brokers, prefix, more)


def _settings_in(path: Path) -> dict[str, Any]:
    found = _read(path)
    for name in FILES:
        if name in found and not Path(found[name]).is_file():
            raise UsageError(f"{path} names {found[name]!r} as {name}, and there is no such file")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}, which should hold settings for Kafka's clients, cannot be read: {error}") from None


def _is_address(broker: str) -> bool:
    host, _, port = broker.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65_536

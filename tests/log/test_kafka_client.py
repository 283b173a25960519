"""Parts of the Kafka log that need no broker: the window and the quiet loggers."""

from __future__ import annotations

import logging
import socket
import threading
import time
from pathlib import Path

import pytest

from doortab.log.kafka_client import Window, _Few, quiet
from doortab.log.open import open_log
from doortab.schemas.errors import UsageError
from tests.log.conftest import SOON_SECONDS
from tools.kafka import Broker, Failed


def test_the_window_lets_in_what_fits_and_refuses_the_rest_after_the_deadline() -> None:
    window = Window(100)

    assert window.take(60, time.monotonic())
    assert window.take(40, time.monotonic())
    assert not window.take(1, time.monotonic() + 0.05)


def test_the_window_takes_a_record_of_any_size_alone() -> None:
    window = Window(100)

    assert window.take(5000, time.monotonic())
    assert not window.take(1, time.monotonic())
    window.give(5000)
    assert window.take(1, time.monotonic())


def test_what_leaves_the_window_lets_a_waiting_thread_in() -> None:
    window = Window(100)
    window.take(100, time.monotonic())
    giver = threading.Timer(0.1, window.give, args=(100,))
    giver.start()

    assert window.take(50, time.monotonic() + SOON_SECONDS)
    giver.join()


def test_a_client_that_goes_mad_fills_no_disk_with_its_log(caplog: pytest.LogCaptureFixture) -> None:
    """K3: 1.8 million lines in 36 seconds were seen."""
    quiet()
    quiet()
    logger = logging.getLogger("kafka.producer.sender")

    with caplog.at_level(logging.ERROR, "kafka"):
        for number in range(10_000):
            logger.error("Uncaught error in kafka producer I/O thread %d", number)

    assert 1 <= len([record for record in caplog.records if record.name == logger.name]) <= 10


def test_the_lines_that_were_left_out_are_counted() -> None:
    quiet()
    few = _Few()
    lines = [logging.LogRecord("kafka", logging.ERROR, "", 0, "line %d", (number,), None) for number in range(100)]
    for line in lines:
        line.created = 1_000.0
    lines[-1].created = 2_000.0

    said = [line.getMessage() for line in lines if few.filter(line)]

    assert said[0].startswith("line 0")
    assert said[-1].startswith("line 99 (")
    assert len(said) <= 6


def test_a_setting_that_the_client_does_not_know_is_refused_in_words() -> None:
    log = open_log("kafka://127.0.0.1:1", kafka={"sasl_plain_user": "misspelt"})

    with pytest.raises(UsageError, match="sasl_plain_user"):
        log.partition_count("plain")
    log.close()


def test_a_file_beside_the_url_holds_what_the_clients_are_given(tmp_path: Path) -> None:
    settings = tmp_path / "kafka.toml"
    settings.write_text('sasl_plain_user = "misspelt"\n')
    log = open_log(f"kafka://127.0.0.1:1/prefix.?settings={settings}")

    with pytest.raises(UsageError, match="sasl_plain_user"):
        log.partition_count("plain")
    log.close()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kafka\.toml, which should hold settings for Kafka's clients"):
        open_log(f"kafka://127.0.0.1:1?settings={tmp_path}/kafka.toml")


def test_a_certificate_that_is_not_there_is_named_before_anybody_is_asked(tmp_path: Path) -> None:
    (tmp_path / "kafka.toml").write_text('security_protocol = "SSL"\nssl_cafile = "/nowhere/ca.pem"\n')

    with pytest.raises(UsageError, match=r"'/nowhere/ca\.pem' as ssl_cafile, and there is no such file"):
        open_log(f"kafka://127.0.0.1:1?settings={tmp_path}/kafka.toml")


@pytest.mark.parametrize("query", ["", "settings", "settings=", "ssl=true"])
def test_nothing_else_may_stand_behind_the_question_mark(query: str) -> None:
    with pytest.raises(UsageError, match="settings=FILE"):
        open_log(f"kafka://127.0.0.1:1/prefix.?{query}")


@pytest.mark.parametrize("request_timeout_ms", [0, -1, 499, "1000", 1.5, True])
def test_a_patience_that_is_none_is_refused(request_timeout_ms: object) -> None:
    with pytest.raises(UsageError, match="request_timeout_ms"):
        open_log("kafka://127.0.0.1:1", kafka={"request_timeout_ms": request_timeout_ms})


@pytest.mark.parametrize("beside", [0, 1])
def test_a_broker_does_not_start_where_another_one_would_answer_for_it(beside: int, tmp_path: Path) -> None:
    """Else the tests of one checkout would use, and hurt, the broker of another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = Broker(tmp_path, port - beside)

        with pytest.raises(Failed, match=rf"another program listens at 127\.0\.0\.1:{port}"):
            broker.start()

    assert list(tmp_path.iterdir()) == []

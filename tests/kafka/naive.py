"""What one writes at first: kafka-python as its documentation shows it. Run as a program, so that it can be wedged.

    python -m tests.kafka.naive WHAT host:port TOPIC

It says what it does in lines of JSON, and goes on to its next step when it is told to by a line of input.
Only the times are shorter than the defaults, where the default is minutes.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TIMES = {"request_timeout_ms": 1000, "delivery_timeout_ms": 3000}
AFTERWARDS_SECONDS = 12.0
"""So long after the cause has ended a wedged client is waited for: four times its delivery time-out."""


class Naive:
    """The program in a process of its own."""

    def __init__(self, what: str, *words: str) -> None:
        command = [sys.executable, "-m", "tests.kafka.naive", what, *words]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def tell(self) -> None:
        """On to the next step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hear(self, seconds: float = 60.0) -> Any:
        """What it says next; None when it says nothing for so long, or has died."""
        try:
            return json.loads(self._lines.get(timeout=seconds))
        except Empty:
            return None

    def __enter__(self) -> Self:
        assert self.hear() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def hear() -> None:
    if not sys.stdin.readline():
        os._exit(0)


def error_of(future: Any) -> str:
    return type(future.exception).__name__ if future.exception is not None else ""


def tally(futures: list[Any]) -> dict[str, Any]:
    """How the records stand."""
    return {
        "sent": len(futures),
        "delivered": sum(future.succeeded() for future in futures),
        "failed": sum(future.failed() for future in futures),
        "pending": sum(not future.is_done for future in futures),
        "errors": sorted({error_of(future) for future in futures if future.failed()}),
    }


def send_all_the_time(address: str, topic: str) -> None:
    """Sends; is told when the outage is over; says how what was sent before and after it stands."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=[address], **TIMES)
    futures = [producer.send(topic, b"warm")]
    futures[0].get(timeout=30)
    say("ready")
    is_over = threading.Event()

    def listen() -> None:
        hear()
        is_over.set()

    threading.Thread(target=listen, daemon=True).start()
    while not is_over.wait(0.01):
        futures.append(producer.send(topic, b"during"))
    later = []
    deadline = time.monotonic() + AFTERWARDS_SECONDS
    while time.monotonic() < deadline:
        later.append(producer.send(topic, b"after"))
        time.sleep(0.5)
    say({"during": tally(futures), "after": tally(later[:-4])})


class Complaints(logging.Handler):
    """Counts what the client says in its log."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.words: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        if record.exc_info and record.exc_info[0]:
            self.words.add(record.exc_info[0].__name__)


def send_when_told(address: str, topic: str) -> None:
    """Sends one record for each line, and says what became of it. The same producer all along."""
    from kafka import KafkaProducer

    complaints = Complaints()
    logging.getLogger("kafka").addHandler(complaints)
    producer = KafkaProducer(bootstrap_servers=[address], max_block_ms=3000)
    producer.send(topic, b"warm").get(timeout=30)
    say("ready")
    while True:
        hear()
        before = complaints.count
        try:
            producer.send(topic, b"one").get(timeout=8)
            outcome = "delivered"
        except Exception as error:
            outcome = type(error).__name__
        say({"outcome": outcome, "lines": complaints.count - before, "raised": sorted(complaints.words)})


def send_without_end(address: str, topic: str) -> None:
    """Sends a hundred megabytes to a broker that does not answer, and says what was refused and what it holds."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=[address])
    producer.send(topic, b"warm").get(timeout=30)
    say("ready")
    hear()
    before, spent = resident_bytes(), time.process_time()
    for _ in range(100_000):
        producer.send(topic, os.urandom(1000))
    say({"grown": resident_bytes() - before, "cpu": time.process_time() - spent})
    spent = time.process_time()
    try:
        producer.close(timeout=1)
        closed = "closed"
    except Exception as error:
        closed = type(error).__name__
    say({"closed": closed, "runs": producer._sender.is_alive()})


def read_what_is_there(address: str, topic: str) -> None:
    """Reads with a deserializer, goes on after an error, and says what each poll brings."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        topic, bootstrap_servers=[address], auto_offset_reset="earliest", value_deserializer=json.loads
    )
    say("ready")
    while True:
        try:
            found = consumer.poll(timeout_ms=500)
            values = [record.value for records in found.values() for record in records]
            if values:
                say(values)
        except Exception as error:
            say(type(error).__name__)


def fork_and_send(address: str, topic: str) -> None:
    """Makes the producer before the fork, as a server does that loads the application first."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=[address], max_block_ms=3000)
    producer.send(topic, b"parent").get(timeout=30)
    say("ready")
    if os.fork() == 0:
        try:
            producer.send(topic, b"child").get(timeout=8)
            say("delivered")
        except Exception as error:
            say(type(error).__name__)
        os._exit(0)
    os.wait()


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


WHAT = {
    "send": send_all_the_time,
    "one": send_when_told,
    "flood": send_without_end,
    "read": read_what_is_there,
    "fork": fork_and_send,
}

if __name__ == "__main__":
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with whoever runs the test
    warnings.simplefilter("ignore")
    WHAT[sys.argv[1]](*sys.argv[2:])

"""What a gate costs a service: importing it, holding a million keys, checking one, recording what was used.

    python -m benchmarks.gate [--keys 1000000] [--checks 200000] [--records 50000]

Latencies are of single calls, in microseconds, with everything running that runs in a service: the
shipping and the syncing thread, Python's garbage collector. Figures only, no assertions about time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from benchmarks.measure import REPOSITORY, cpu_seconds, say, show
from doortab.asgi import Meter
from doortab.embed import Gate as EmbeddedGate
from doortab.log.memory import MemoryLog
from doortab.log.open import open_log
from doortab.producers import pepper
from doortab.producers.client import Client
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import Peppers, make
from doortab.schemas import keys
from doortab.schemas.keys import Key
from doortab.schemas.log import Log, Record
from doortab.schemas.topics import KEYS, topics

AT = "2026-11-23T08:00:00Z"
PEPPERS = Peppers("p", {"p": bytes(range(32))})
SAMPLE = 100_000
UNITS = {"requests": 1, "input_tokens": 1834, "output_tokens": 212}
DIMENSIONS = {"model": "gpt-4", "region": "eu"}
COLUMNS = ("µs per call", "p50", "p99", "p99.9", "largest")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--checks", type=int, default=200_000)
    parser.add_argument("--records", type=int, default=50_000)
    arguments = parser.parse_args()
    print(imports())
    say(f"making {arguments.keys:,} keys")
    keyring, secrets = fill(arguments.keys)
    rows = checks(Gate(keyring, PEPPERS), secrets, arguments.checks)
    del keyring
    gc.collect()
    say("recording")
    rows += recording(arguments.records)
    rows += metering(min(arguments.records, 20_000))
    print(show(COLUMNS, rows))


def imports(times: int = 15) -> str:
    """How long importing takes, by itself and together with what it needs, in milliseconds."""
    programs = ("import msgspec", "from doortab import Gate, Client")
    medians = []
    for program in programs:
        timed = f"import time; t = time.perf_counter(); {program}; print(time.perf_counter() - t)"
        command = [sys.executable, "-c", timed]
        taken = [float(subprocess.check_output(command, cwd=REPOSITORY)) * 1000 for _ in range(times)]
        medians.append(f"`{program}` {statistics.median(taken):.0f} ms (best {min(taken):.0f})")
    return " · ".join(medians)


def resident_mib() -> float:
    """The memory this process occupies now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def fill(count: int) -> tuple[Keyring, list[str]]:
    """A keyring with so many keys, as a follower would fill it, and some of their secrets."""
    chance = random.Random(1)
    keyring = Keyring()
    secrets: list[str] = []
    gc.collect()
    before, spent = resident_mib(), 0.0
    for number in range(count):
        secret = make("live", chance.randbytes).reveal()
        value = keys.encode(key_of(number, secret))
        if len(secrets) < SAMPLE:
            secrets.append(secret)
        started = time.process_time()
        keyring.apply(Record(KEYS, 0, number, 0, None, value))
        spent += time.process_time() - started
    gc.collect()
    held = resident_mib() - before - sum(map(sys.getsizeof, secrets)) / 2**20
    print(f"{count:,} keys: {held:.0f} MiB, {held * 2**20 / count:.0f} bytes each, read in {spent:.1f} s of CPU")
    return keyring, secrets


def key_of(number: int, secret: str) -> Key:
    """A key such as a desk issues; about ten of them share an account."""
    return Key(
        key_id=f"key_{number:016x}",
        account=f"acct_{number // 10:06d}",
        lineage=f"key_{number:016x}",
        owner=f"service-{number % 1000}",
        owner_kind="app",
        purpose="benchmark",
        environment="live",
        digest=PEPPERS.digest(secret).hex(),
        pepper_id="p",
        hint="dt_live_…",
        created_at=AT,
        changed_at=AT,
        changed_by="benchmark",
        scopes=("chat:write", "embed:read") if number % 3 else ("chat:write",),
        expires_at="2099-01-01T00:00:00Z" if number % 2 else None,
    )


def row(name: str, seconds: Sequence[float]) -> tuple[str, ...]:
    """A line of the table."""
    ordered = sorted(seconds)
    places = (0.5, 0.99, 0.999)
    picked = [ordered[min(len(ordered) - 1, int(len(ordered) * place))] for place in places] + [ordered[-1]]
    return (name, *(f"{value * 1e6:,.1f}" for value in picked))


def timed(call: Callable[[Any], object], arguments: Iterable[Any], pause_seconds: float = 0.0) -> list[float]:
    """How long each call takes."""
    clock, taken = time.perf_counter, []
    for argument in arguments:
        started = clock()
        call(argument)
        taken.append(clock() - started)
        if pause_seconds:
            time.sleep(pause_seconds)
    return taken


def checks(gate: Gate, secrets: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Checking keys of all kinds, drawn at random."""
    follower = Follower(gate.keyring, MemoryLog)
    follower.step(0)
    gate.view = follower
    chance = random.Random(2)
    good = [f"Bearer {chance.choice(secrets)}" for _ in range(count)]
    unknown = [f"Bearer {make('live', chance.randbytes).reveal()}" for _ in range(min(count, 20_000))]
    broken = [header[:-1] + ("a" if header[-1] != "a" else "b") for header in good[:20_000]]
    assert gate.check(good[0], scopes=("chat:write",)).allowed
    assert gate.check(unknown[0]).reason == "unknown_key"
    assert gate.check(broken[0]).reason == "malformed_key"
    return [
        row("Gate.check, allowed, one scope", timed(lambda header: gate.check(header, scopes=("chat:write",)), good)),
        row("Gate.check, unknown key", timed(gate.check, unknown)),
        row("Gate.check, wrong checksum", timed(gate.check, broken)),
    ]


def recording(count: int) -> list[tuple[str, ...]]:
    """Recording, with the log there and away."""
    directory = Path(tempfile.mkdtemp(prefix="doortab-gate-"))
    away = MemoryLog()
    away.unreachable = True
    cases: list[tuple[str, Callable[[], Log], int, float]] = [
        ("Client.record, 1,000 a second, file log", lambda: open_log(f"file:{directory / 'log'}"), count // 10, 0.001),
        ("Client.record, as fast as it goes, file log", lambda: open_log(f"file:{directory / 'log'}"), count, 0.0),
        ("Client.record, as fast as it goes, log away", lambda: away, count, 0.0),
    ]
    rows = []
    for number, (name, opener, times, pause_seconds) in enumerate(cases):
        client = Client(opener, directory / f"spool-{number}", source="gate/bench")
        client.record(account="warm")
        before = resident_mib()
        cpu = cpu_seconds()
        accounts = (f"acct_{n % 1000}" for n in range(times))
        taken = timed(partial(record, client), accounts, pause_seconds)
        cpu = cpu_seconds() - cpu
        rows.append(row(name, taken))
        say(f"{name}: {cpu / times * 1e6:.0f} µs of CPU with all threads, {resident_mib() - before:+.1f} MiB")
        client.close(0 if opener() is away else 30)
    shutil.rmtree(directory)
    return rows


def record(client: Client, account: str) -> None:
    """One event as a service records it."""
    client.record(account=account, key="key_7Qm2", operation="POST /v1/chat", units=UNITS, dimensions=DIMENSIONS)


def metering(count: int) -> list[tuple[str, ...]]:
    """An application that does nothing, with and without the middleware."""
    directory = Path(tempfile.mkdtemp(prefix="doortab-gate-"))
    log = MemoryLog()
    log.ensure_topics(topics())
    pepper.load_or_create(directory / "pepper")
    gate = EmbeddedGate.open(log=lambda: log, data=directory, source="gate/bench")
    secret = make("live").reveal()
    value = keys.encode(with_digest(key_of(0, secret), gate.peppers.digest(secret).hex()))
    gate.start()
    gate.keyring.apply(Record(KEYS, 0, 0, 0, None, value))
    header = f"Bearer {secret}".encode()
    rows = [
        row("ASGI application alone", asyncio.run(requests(application, header, count))),
        row("ASGI application with Meter", asyncio.run(requests(Meter(application, gate), header, count))),
    ]
    gate.close(0)
    shutil.rmtree(directory)
    return rows


def with_digest(key: Key, digest: str) -> Key:
    """The key under another pepper."""
    return structs.replace(key, digest=digest)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def requests(app: Any, header: bytes, count: int) -> list[float]:
    """How long each request takes."""

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: Any) -> None:
        pass

    taken = []
    for number in range(count):
        scope = {"type": "http", "method": "GET", "path": "/v1/chat", "query_string": b"", "state": {}}
        scope["headers"] = [(b"host", b"localhost"), (b"authorization", header), (b"accept", b"*/*")]
        started = time.perf_counter()
        await app(scope, receive, send)
        taken.append(time.perf_counter() - started)
        if number % 100 == 0:
            await asyncio.sleep(0)
    return taken


if __name__ == "__main__":
    main()

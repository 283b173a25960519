"""The trial ``flow``: everything that moves events, and the count of what came of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastapi.testclient  # noqa: F401
import uvicorn  # noqa: F401

from doortab.applying import publish
from doortab.auditing import Auditor
from doortab.embed import Gate
from doortab.gate_routes import ingest_token
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.packing import Packer
from doortab.producers.client import Client
from doortab.producers.desk import Desk
from doortab.producers.pepper import load_or_create
from doortab.questions import answer
from doortab.schemas import catalog, topics
from doortab.schemas.log import Log, TopicPartition
from doortab.settings import Settings, load
from doortab.wiring import run
from tests.crashes.trials import Trial, acknowledge, acknowledged, patient
from tests.crashes.workloads import drained

INGESTED = 120
POSTED = 20
PRICE = Decimal("0.003")
CATALOG = f"""
default_plan = "p"
[[meters]]
name = "requests"
event = "request.validated"
aggregation = "count"
[[plans]]
name = "p"
currency = "USD"
[[plans.charges]]
meter = "requests"
model = "per_unit"
unit = "{PRICE}"
[[caps]]
subject = "account:a1"
amount = "1.00"
period = "total"
hard = true
"""
Place = tuple[str, str]
"""Source and id."""


def settings_in(directory: Path) -> Settings:
    """Small commits, so that there are many moments to die at."""
    return load({"data": str(directory / "data"), "batch_records": 8, "port": 0}, {}).settings


def prepare(directory: Path) -> None:
    """Topics, prices, and a key for the service and the one who asks the gate."""
    settings = settings_in(directory)
    log = open_log(settings.log_url)
    log.ensure_topics(topics.topics(settings.usage_partitions))
    publish(log, catalog.parse(CATALOG))
    desk = Desk(log, load_or_create(settings.pepper_path), actor="trial")
    issued = desk.issue(account="asker", owner="asker", purpose="trial", environment="live", scopes=[])
    (directory / "secret").write_text(issued.secret.reveal())
    log.close()


def event(source: str, name: str, number: int) -> bytes:
    """One usage event."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": name,
            "source": source,
            "type": "request.validated",
            "time": f"2026-03-{1 + number % 28:02}T10:00:00Z",
            "data": {"account": f"a{number % 7}", "verdict": "allowed", "units": {"n": number}},
        }
    ).encode()


def follow(directory: Path) -> None:
    """The ledger, without its server."""
    ledger = Ledger(settings_in(directory))
    while True:
        ledger.turn(0.05)
        if not (directory / "turned.acked").exists():
            acknowledge(directory, "turned", "once")


def ingest(directory: Path) -> None:
    """Appends batches; what was not acknowledged when it died is sent again, and is in the log already or not."""
    log = open_log(settings_in(directory).log_url)
    packer = Packer(log)
    while True:
        first = len(acknowledged(directory, "ingest"))
        names = [f"i{number}" for number in range(first, first + INGESTED)]
        for number, name in enumerate(names, first):
            packer.add(event("ingest", name, number))
        packer.flush()
        acknowledge(directory, "ingest", *names)
        time.sleep(0.01)


def serve(directory: Path) -> None:
    """A service that embeds a gate, and records what a key uses."""
    settings = settings_in(directory)
    gate = Gate.open(settings.log_url, settings.data, source="service")
    secret = (directory / "secret").read_text()
    while True:
        for _ in range(20):
            verdict = gate.check(f"Bearer {secret}", operation="serve")
            assert verdict.allowed, verdict
            acknowledge(directory, "service", gate.record(verdict, operation="serve"))
        time.sleep(0.005)


def gate(directory: Path) -> None:
    """``doortab gate``."""
    run(settings_in(directory), ledger=False, gate=True, say=noting(directory))


def noting(directory: Path) -> Callable[[str], None]:
    """Notes in a file where it listens, from what it says."""

    def say(words: str) -> None:
        if "http://" in words:
            draft = directory / "address.new"
            draft.write_text(words.split("http://127.0.0.1:")[1].split(" ")[0])
            draft.replace(directory / "address")

    return say


def send(directory: Path) -> None:
    """Posts events to whatever gate is there until it has taken them, and asks it about a key."""
    bearer = f"Bearer {(directory / 'secret').read_text()}"
    number = len(acknowledged(directory, "posted"))
    asked = 0
    while True:
        names = [f"p{each}" for each in range(number, number + POSTED)]
        body = b"[" + b",".join(event("poster", name, each) for each, name in enumerate(names, number)) + b"]"
        while not (taken := post(directory, "/api/v1/events", None, body)):
            time.sleep(0.01)
        assert taken == 204, taken
        acknowledge(directory, "posted", *names)
        number += POSTED
        for _ in range(3):
            asked += 1
            body = json.dumps({"operation": f"ask {asked}"}).encode()
            if (taken := post(directory, "/v1/check", bearer, body)) == 200:
                acknowledge(directory, "asked", f"ask {asked}")
            # 503: a gate that has not read the keys yet.
            assert taken in (200, 503, 0), taken


def post(directory: Path, path: str, authorization: str | None, body: bytes) -> int:
    """The status of the answer; 0 where none came."""
    settings = settings_in(directory)
    try:
        token = authorization or f"Bearer {ingest_token(settings.data / 'ingest-token')}"
        port = int((directory / "address").read_text())
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as there:
            there.request("POST", path, body, {"Authorization": token, "Content-Type": "application/json"})
            return there.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0


# ------------------------------------------------------------------------------------------- afterwards


def check(directory: Path, kinds: tuple[str, ...] = ("ingest", "posted", "service", "asked")) -> dict[str, Any]:
    """Counts, partition by partition, what is in the log, with nothing of the ledger, and compares."""
    settings = settings_in(directory)
    wrong = [] if shipped(settings) else ["what lay in the spools was not shipped"]
    ledger = Ledger(settings)
    ledger.catch_up()
    read = ledger.reader()
    logged = logged_by_partition(ledger.log)
    first: dict[Place, int] = {}
    for part, places in logged.items():
        for place in places:
            first.setdefault(place, part)
    stored: Counter[tuple[str, str, int]] = Counter()
    for source, name, part in read("SELECT source, id, part FROM usage"):
        stored[source, name, part] += 1
    doubled = {place: count for place, count in Counter((s, i) for s, i, _ in stored.elements()).items() if count > 1}
    for part, places in logged.items():
        here = {(source, name) for source, name, where in stored if where == part}
        if here != set(places):
            wrong.append(f"partition {part}: {len(set(places) - here)} lost, {len(here - set(places))} from nowhere")
    control = answer(ledger, "status", {})["control"]
    if int(control["records"]) != sum(sum(places.values()) for places in logged.values()):
        wrong.append(f"the log holds {logged} events, and the store counts {control}")
    if control["unexplained"] != "0" or Auditor(ledger).look().findings:
        wrong.append(f"the audit: {Auditor(ledger).look().findings}, {control}")
    wrong += money(ledger, first)
    lost = missing(directory, first, read)
    ledger.close()
    counts = {kind: len(acknowledged(directory, kind)) for kind in kinds}
    if min(counts.values()) == 0:
        wrong.append(f"somebody was never acknowledged anything: {counts}")
    return {
        "acknowledged": sum(counts.values()),
        "repeated": sum(sum(places.values()) for places in logged.values()) - len(first),
        "lost": len(lost),
        "doubled": len(doubled),
        "wrong": wrong + [f"lost: {lost[:5]}"] * bool(lost) + [f"doubled: {list(doubled)[:5]}"] * bool(doubled),
    }


def shipped(settings: Settings) -> bool:
    """Ships what the dead left in their spools."""
    client = Client(lambda: open_log(settings.log_url), settings.data / "spool", source="last")
    client.start()
    is_empty = drained(client, settings.data / "spool", 120)
    return client.close(60) and is_empty


def logged_by_partition(log: Log) -> dict[int, Counter[Place]]:
    """How often each event stands in each partition of the log, read with nothing but json."""
    ends = log.end_offsets(topics.USAGE)
    reader = log.reader({TopicPartition(topics.USAGE, part): 0 for part in ends})
    found: dict[int, Counter[Place]] = {part: Counter() for part in ends}
    left = sum(ends.values())
    while left and (some := reader.poll(10_000, 1 << 26, 10.0)):
        left -= len(some)
        for record in some:
            held = json.loads(record.value or b"[]")
            found[record.partition].update(
                (each["source"], each["id"]) for each in (held if isinstance(held, list) else [held])
            )
    reader.close()
    assert left == 0, "the log did not give all that it has"
    return found


def missing(directory: Path, first: dict[Place, int], read: Any) -> list[str]:
    """What was acknowledged and is not there."""
    lost = [name for name in acknowledged(directory, "ingest") if ("ingest", name) not in first]
    lost += [name for name in acknowledged(directory, "posted") if ("poster", name) not in first]
    lost += [name for name in acknowledged(directory, "service") if ("service", name) not in first]
    asked = Counter(
        name for (name,) in read("SELECT operation FROM usage WHERE operation LIKE 'ask %' OR operation LIKE 'GET %'")
    )
    told = Counter(acknowledged(directory, "asked"))
    return lost + [name for name, count in told.items() if asked[name] < count]


def money(ledger: Ledger, first: dict[Place, int]) -> list[str]:
    """Whether the bill of each account is the number of its events, times the price."""
    wanted: Counter[str] = Counter()
    for source, name in first:
        wanted[f"a{int(name[1:]) % 7}" if source in ("ingest", "poster") else "asker"] += 1
    rows = answer(ledger, "report", {"period": "2000..2099", "by": ["account"]})["rows"]
    found = {row["account"]: (int(row["events"]), Decimal(row["amount"])) for row in rows}
    expected = {account: (count, count * PRICE) for account, count in wanted.items()}
    differ = sorted(account for account in {*found, *expected} if found.get(account) != expected.get(account))
    return [f"the bill of {name}: {found.get(name)}, and {expected.get(name)} was used" for name in differ]


TRIAL = Trial(
    prepare,
    {
        "ledger": (patient(follow), "turned.acked"),
        "ingest": (patient(ingest), "ingest.acked"),
        "service": (patient(serve), "service.acked"),
        "gate": (patient(gate), "address"),
        "sender": (send, ""),
    },
    check,
)

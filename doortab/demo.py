"""The show: a gate, a ledger, a cap that is reached, a key that leaks, and the bill. About a minute.

Everything is the real thing on the embedded log in a directory of its own; only the traffic is made up.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from doortab.analytics import alerts as rules
from doortab.analytics.alertbook import AlertBook
from doortab.analytics.deliveries import Deliveries
from doortab.analytics.episodes import SpikeSettings
from doortab.analytics.schedule import Job, Means, Schedule, look_for_spikes
from doortab.applying import publish
from doortab.cli_output import say
from doortab.demo_screen import Screen
from doortab.demo_traffic import Caller, Traffic
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.producers.client import Client
from doortab.producers.desk import Desk
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.pepper import load_or_create
from doortab.questions import answer
from doortab.reporting import write
from doortab.schemas import catalog, instants, revocations, topics
from doortab.schemas.alerts import Alert
from doortab.schemas.log import Log, TopicPartition
from doortab.settings import Settings, load

CATALOG = """
default_plan = "llm"

[[meters]]
name = "input_tokens"
event = "request.validated"
aggregation = "sum"
value = "units.input_tokens"
group_by = ["dimensions.model"]

[[meters]]
name = "output_tokens"
event = "request.validated"
aggregation = "sum"
value = "units.output_tokens"
group_by = ["dimensions.model"]

[[plans]]
name = "llm"
currency = "USD"
charges = [
  { meter = "input_tokens",  where = { "dimensions.model" = "small" }, model = "per_unit", unit = "0.0000005" },
  { meter = "output_tokens", where = { "dimensions.model" = "small" }, model = "per_unit", unit = "0.0000015" },
  { meter = "input_tokens",  where = { "dimensions.model" = "large" }, model = "per_unit", unit = "0.00001" },
  { meter = "output_tokens", where = { "dimensions.model" = "large" }, model = "per_unit", unit = "0.00003" },
]

[[caps]]
subject = "key:*"
amount = "25.00"
period = "month"
"""

APPLICATIONS = {
    "acme": ("chat-web", "chat-mobile", "nightly-batch"),
    "globex": ("support-bot", "search"),
    "initech": ("reports", "mail-triage"),
    "umbrella": ("lab",),
    "hooli": ("assistant", "crawler", "ads"),
}
CAPPED, LEAKED = "support-bot", "search"
CUT_AT = 0.75
"""At this part of the show whoever is on call revokes the leaked key."""

SPIKES = rules.Settings(
    spikes=SpikeSettings(
        bucket_seconds=3, look_back_buckets=60, warm_up_buckets=4, accept_after_buckets=60, settle_seconds=1,
        prior=60, cost_prior="1", cost_minimum="1000",
    )
)  # fmt: skip


def run(seconds: int, seed: int, directory: Path) -> None:
    """Shows it, prints the bill, and says what to try next."""
    settings = load({"data": str(directory)}, {}).settings
    with ExitStack() as parts:
        ledger = Ledger(settings)
        parts.callback(ledger.stop)
        callers = _issue_keys(settings, ledger.log)
        _publish_catalog(ledger.log, callers, seconds)
        ledger.start()
        parts.callback(_start_alerts(ledger, directory).stop)
        keyring = Keyring()
        follower = Follower(keyring, lambda: open_log(settings.log_url))
        follower.start()
        parts.callback(follower.stop)
        gate = Gate(keyring, load_or_create(settings.pepper_path), view=follower, environment="live")
        client = Client(lambda: open_log(settings.log_url), directory / "spool", source="gate/demo")
        parts.callback(lambda: client.close(2))
        follower.wait_until_ready(10)
        _play(settings, ledger, Players(gate, client, follower, callers), seconds, seed)
        client.close(10)
        ledger.wait_for(ledger.log.end_offsets(topics.USAGE), 10)
        _finish(ledger, directory)
        ledger.stop()


def _start_alerts(ledger: Ledger, directory: Path) -> Schedule:
    """Looks for spikes every second, as a ledger does every minute."""
    means = Means(
        reader=ledger.reader,
        tariff=ledger.tariff,
        log=ledger.log,
        clock=lambda: time.time_ns() // 1000,
        rules=SPIKES,
        deliveries=Deliveries(directory / "deliveries.sqlite3", ledger.log, []),
        snapshots=directory / "snapshots",
    )
    schedule = Schedule(means, [Job("spikes", 1, look_for_spikes)])
    schedule.start()
    return schedule


class Players:
    """Who takes part."""

    def __init__(self, gate: Gate, client: Client, follower: Follower, callers: list[Caller]) -> None:
        self.gate = gate
        self.client = client
        self.follower = follower
        self.callers = callers
        self.leaked = next(caller for caller in callers if caller.name == LEAKED)


def _issue_keys(settings: Settings, log: Log) -> list[Caller]:
    desk = Desk(log, load_or_create(settings.pepper_path), actor="demo")
    names = [(account, name) for account, names in APPLICATIONS.items() for name in names]
    callers = []
    for rank, (account, name) in enumerate(names, 1):
        issued = desk.issue(account=account, owner=name, purpose=name, scopes=["chat"])
        callers.append(Caller(name, account, issued.key.key_id, issued.secret.reveal(), 1 / rank))
    return callers


def _publish_catalog(log: Log, callers: list[Caller], seconds: int) -> None:
    capped = next(caller for caller in callers if caller.name == CAPPED)
    limit = f"{seconds / 40:.2f}"
    own = f'\n[[caps]]\nsubject = "key:{capped.key_id}"\namount = "{limit}"\nperiod = "month"\n'
    publish(log, catalog.parse(CATALOG + own))


def _play(settings: Settings, ledger: Ledger, players: Players, seconds: int, seed: int) -> None:
    traffic = Traffic(players.gate, players.client, players.callers, players.leaked, seconds, seed)
    desk = Desk(ledger.log, load_or_create(settings.pepper_path), actor="on-call")
    desk.refresh()
    watcher = Watcher(ledger, players)
    screen = Screen(players.callers, seconds, watcher, traffic)
    traffic.thread.start()
    begun = time.monotonic()
    cut = False
    with screen, ExitStack() as parts:
        parts.callback(traffic.stop)
        while traffic.thread.is_alive():
            over = time.monotonic() - begun
            if not cut and over >= seconds * CUT_AT:
                cut = True
                watcher.note(f"on call: doortab keys revoke {players.leaked.key_id}")
                watcher.expect(players.leaked.key_id)
                desk.revoke(players.leaked.key_id, note="leaked")
            watcher.look()
            screen.draw(over)
            time.sleep(0.25)
        watcher.look()
        screen.draw(seconds)


class Watcher:
    """What is seen from outside: spend against caps, alerts, and how long a revocation took to reach the gate."""

    def __init__(self, ledger: Ledger, players: Players) -> None:
        self._ledger = ledger
        self._players = players
        self._begun = time.time()
        self._asked: dict[str, float] = {}
        self._seen_revocations = 0
        self._book = AlertBook(ledger.log)
        self._names = {caller.key_id: caller.name for caller in players.callers}
        self._told: set[str] = set()
        self.caps: dict[str, tuple[str, str, int]] = {}
        self.notes: list[str] = []
        self.lag = 0
        self._lock = threading.Lock()

    def note(self, words: str) -> None:
        """Adds a line to what happened."""
        self.notes.append(f"{time.time() - self._begun:5.1f} s  {words}")

    def expect(self, key_id: str) -> None:
        """Somebody revokes the key now."""
        self._asked[key_id] = time.time()

    def look(self) -> None:
        """Looks around once."""
        for row in answer(self._ledger, "caps", {})["rows"]:
            key_id = row["subject"].removeprefix("key:")
            self.caps[key_id] = (row["used"], row["limit"], int(row["percent"]))
        ends = self._ledger.log.end_offsets(topics.USAGE)
        positions = self._ledger.positions
        self.lag = sum(end - positions.get(partition, 0) for partition, end in ends.items())
        self._tell_alerts()
        self._tell_revocations()

    def _tell_alerts(self) -> None:
        for _, alert in self._book.news():
            if alert.id not in self._told and (alert.kind != "threshold" or alert.facts.get("percent") == "80"):
                self._told.add(alert.id)
                self.note(f"{_mark(alert)} {self._named(alert.text.split(' Look: ')[0])}")

    def _tell_revocations(self) -> None:
        recent = list(self._players.follower.recent)
        for effective in recent[self._seen_revocations :]:
            key_id = effective.subject.removeprefix("key:")
            since = self._asked.get(key_id) or self._crossed_at(effective.id)
            took = f" {1000 * (effective.at / 1e6 - since):.0f} ms after {self._cause(key_id)}" if since else ""
            self.note(f"✋ gate refuses {self._names.get(key_id, key_id)}{took}")
        self._seen_revocations = len(recent)

    def _cause(self, key_id: str) -> str:
        return "the command" if key_id in self._asked else "the request that reached the cap"

    def _crossed_at(self, revocation_id: str) -> float | None:
        """When the request was made that brought the cap about, in seconds since 1970."""
        log, position = self._ledger.log, 0
        reader = log.reader({TopicPartition(topics.REVOCATIONS, 0): 0})
        try:
            while position < log.end_offsets(topics.REVOCATIONS)[0]:
                for record in reader.poll(1000, 8_000_000, 1.0):
                    position = record.offset + 1
                    found = revocations.decode(record.value or b"{}")
                    if found.id == revocation_id and "event_time" in found.evidence:
                        return instants.parse(found.evidence["event_time"]) / 1e6
        except msgspec.DecodeError:
            return None
        finally:
            reader.close()
        return None

    def _named(self, text: str) -> str:
        for key_id, name in self._names.items():
            text = text.replace(f"key:{key_id}", name).replace(key_id, name)
        return text


def _mark(alert: Alert) -> str:
    return {"info": "·", "warning": "▲", "critical": "‼"}[alert.severity]


def _finish(ledger: Ledger, directory: Path) -> None:
    say("\nThe bill of this month, by account and key:\n")
    told = answer(ledger, "report", {"by": ["account", "key"]})
    write(told, "table", None)
    log_says = ledger.log.end_offsets(topics.USAGE)
    say(f"\nThe log holds {sum(log_says.values()):,} records, and the store {_verdict(told['control'])}.")
    say("Try next:")
    command = f"{_command()} --data {directory}"
    for words in (
        f"{command} report --by day,dimensions.model",
        f"{command} caps",
        f"{command} alerts list",
        f"rm -r {directory}/store && {command} rebuild     # the log is the truth",
        f"{_command()} up     # your own, on http://127.0.0.1:8600",
    ):
        say(f"  {words}")


def _verdict(control: dict[str, str]) -> str:
    return "explains every one of them" if control["unexplained"] == "0" else "does NOT explain all of them"


def _command() -> str:
    """How this program was called, so that what is printed can be typed."""
    called = Path(sys.argv[0])
    if called.name != "doortab":
        return f"{sys.executable} -m doortab"
    try:
        return str(called.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return "doortab"

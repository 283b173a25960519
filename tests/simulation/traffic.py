"""Who else writes to the log: the desk, a catalog, and producers that are not ours."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from doortab.producers.desk import Desk
from doortab.schemas import catalog
from doortab.schemas.errors import DoortabError, LogUnavailable
from doortab.schemas.instants import text
from doortab.schemas.log import Entry
from doortab.schemas.tariff import Tariff
from doortab.schemas.topics import CATALOG, KEYS, USAGE, partition_of
from tests.naive import document
from tests.simulation.services import PEPPERS, Audience, canonical
from tests.simulation.world import SECOND, KilledError, Wire, World

COMMANDS = {"issue": 6, "rotate": 5, "revoke": 2, "close": 1, "open": 3, "refuse": 2, "restore": 3}
ACCOUNTS = ("acct_a", "acct_b", "acct_c")
UNITS = ("0.0000001", "0.01", "0.25", "0.333333333333", "1")


class Prices:
    """A catalog: as the oracle reads it (``plain``), and as an operator writes it."""

    def __init__(self, world: World) -> None:
        random = world.random
        self.written: dict[bytes | None, dict[str, Any]] = {}
        self.plain: dict[str, Any] = {
            "zone": random.choice(["UTC", "Asia/Kolkata", "America/Phoenix", "Europe/Berlin"]),
            "subjects": {"customer-1": "acct_a"},
            "charges": [],
            "caps": [],
        }
        self.reprice(world)
        for scope, period in (("key", random.choice(["hour", "day", "month"])), ("account", "day"), ("key", "total")):
            measure = random.choice(["amount", "requests", "tokens"])
            if random.random() < 0.7:
                limit = str(random.choice([1, 3, 10, 40])) if measure != "tokens" else "500"
                self.plain["caps"].append(
                    {
                        "id": f"{scope}:*/{measure}/{period}",
                        "scope": scope,
                        "measure": measure,
                        "period": period,
                        "limit": limit,
                        "thresholds": random.choice([[], [50], [33, 80]]),
                        "hard": random.random() < 0.8,
                    }
                )

    def reprice(self, world: World) -> None:
        """Other prices, on other meters."""
        random = world.random
        tiers = [
            {"up_to": "50", "unit": random.choice(UNITS), "flat": "0.5"},
            {"up_to": "400", "unit": random.choice(UNITS), "flat": "0"},
            {"unit": random.choice(UNITS), "flat": "1"},
        ]
        self.plain["charges"] = [
            {"meter": "requests", "unit": random.choice(UNITS)},
            {"meter": "tokens", "unit": random.choice(UNITS), "model": "m1"},
            {"meter": "tokens", "tiers": tiers} if random.random() < 0.5 else {"meter": "tokens", "unit": "0.000001"},
        ]

    def parsed(self) -> catalog.Catalog:
        """As the product has it."""
        charges: list[dict[str, Any]] = []
        for charge in self.plain["charges"]:
            written = {name: value for name, value in charge.items() if name != "model"}
            where = {"where": {"dimensions.model": charge["model"]}} if "model" in charge else {}
            charges.append({**written, **where, "model": "per_unit" if "unit" in charge else "graduated"})
        caps: list[dict[str, Any]] = []
        for cap in self.plain["caps"]:
            measure = {"amount": cap["limit"]}
            if cap["measure"] != "amount":
                measure = {"meter": cap["measure"], "quantity": cap["limit"]}
            subject = {"subject": f"{cap['scope']}:*"}
            caps.append(subject | measure | {name: cap[name] for name in ("period", "thresholds", "hard")})
        meters = [
            {"name": "requests", "event": "request.validated", "aggregation": "count"},
            {"name": "tokens", "event": "request.validated", "aggregation": "sum", "value": "units.tokens"},
        ]
        plan = {"name": "p", "currency": "USD", "timezone": self.plain["zone"], "charges": charges}
        accounts = [{"id": "acct_a", "subjects": ["customer-1"]}]
        whole = {"default_plan": "p", "meters": meters, "plans": [plan], "accounts": accounts, "caps": caps}
        return catalog.parse(document(whole))

    def publish(self, wire: Wire) -> Tariff:
        """Brings it into the log."""
        parsed = self.parsed()
        value = catalog.encode(parsed)
        self.written[value] = {**self.plain}
        wire.append(CATALOG, [Entry(0, b"catalog", value)])
        return Tariff(parsed)


class DeskProcess:
    """Issues, rotates and revokes keys, closes and opens accounts."""

    def __init__(self, world: World, audience: Audience) -> None:
        self.world = world
        self.audience = audience
        self.wire = Wire(world, "desk")
        self.boot()

    def boot(self) -> None:
        clock = lambda: self.world.now * 1000  # noqa: E731
        self.desk = Desk(self.wire, PEPPERS, actor="ada", clock=clock, random=self.world.random_bytes)

    def act(self) -> None:
        """One command, or what a fault leaves of it."""
        try:
            self._act()
        except KilledError:
            self.boot()
            self.world.note("desk", "killed")
        except DoortabError as error:
            self.world.note("desk", type(error).__name__)

    def _act(self) -> None:
        random, audience = self.world.random, self.audience
        known = list(audience.key_of.values())
        command = random.choices(list(COMMANDS), list(COMMANDS.values()))[0]
        until = random.choice([*[None] * 4, self.world.now + random.randint(1, 60) * self.world.weights.mean_step])
        if command == "issue" or not known:
            if len(known) < 9:
                account = random.choice(ACCOUNTS)
                self.keep(self.desk.issue(account=account, owner="o", purpose="p", expires_at=until))
        elif command in ("refuse", "restore"):
            subject = random.choice([f"key:{random.choice(known)}", f"account:{random.choice(ACCOUNTS)}"])
            if command == "refuse":
                self.desk.refuse(subject, cause="abuse", until=until)
            else:
                self.desk.restore(subject, cause="abuse")
        elif command == "rotate":
            overlap = random.choice([0, 60, 86_400])
            self.keep(self.desk.rotate(random.choice(known), overlap_seconds=overlap))
        elif command == "revoke":
            self.desk.revoke(random.choice(known))
        elif command == "close":
            self.desk.close_account(ACCOUNTS[2])
        else:
            self.desk.open_account(ACCOUNTS[2])
        self.world.note("desk", command)

    def keep(self, issued: Any) -> None:
        """Hands the secret over."""
        secret = issued.secret.reveal()
        self.audience.secrets.append(secret)
        self.audience.key_of[secret] = issued.key.key_id


PLANNED = "key_planned"
POISON = (
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"[1,2]",
    b'{"specversion":"1.0"}',
    b'{"specversion":"1.0","id":"","source":"s","type":"request.validated","data":{}}',
)


class Foreigner:
    """A producer that is not ours: sends things twice, late, early, without an account, and broken."""

    def __init__(self, world: World, audience: Audience) -> None:
        self.world = world
        self.audience = audience
        self.wire = Wire(world, "foreign")
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.count = 0

    def act(self) -> None:
        """Appends one record, perhaps again and again."""
        if self.world.random.random() < 0.1:
            with suppress(LogUnavailable):
                self.import_key()
        random, weights = self.world.random, self.world.weights
        account = random.choice(ACCOUNTS)
        events = [self._event(account) for _ in range(random.randint(1, 6))]
        same = [event for of, event in self.sent if of == account]
        texts = []
        for event in events:
            if same and random.randrange(100) < weights.duplicates:
                event = random.choice(same)
                # Where partitions were added, the two might stand in different ones, and either could be first.
                if random.random() < 0.2 and not weights.grows:
                    event = {**event, "data": {**event["data"], "units": {"tokens": random.randrange(1000)}}}
            else:
                self.sent.append((account, event))
            texts.append(json.dumps(event).encode())
            self.audience.created.add(canonical(texts[-1]))
            if random.randrange(100) < weights.poison:
                texts.append(self._broken())
        value = texts[0] if len(texts) == 1 and random.random() < 0.5 else b"[" + b",".join(texts) + b"]"
        if random.randrange(100) < weights.poison:
            value = random.choice([*POISON, value + b"]"])
        self.audience.foreign.add(value)
        partition = partition_of(account.encode(), self.world.log.partition_count(USAGE))
        for _ in range(random.choice([1, 1, 1, 2])):
            try:
                self.wire.append(USAGE, [Entry(partition, None, value)])
            except LogUnavailable:
                continue
            except KilledError:
                break
        self.world.note("foreign", len(texts))

    def _event(self, account: str) -> dict[str, Any]:
        random, now = self.world.random, self.world.now
        self.count += 1
        data: dict[str, Any] = {"units": {"tokens": random.choice([0, 3, 90, 2000])}}
        event: dict[str, Any] = {"specversion": "1.0", "id": f"f{self.count}", "source": "foreign"}
        event |= {"type": "request.validated", "data": data}
        if account == ACCOUNTS[1] and not self.world.weights.grows and random.random() < 0.3:
            data["key"] = PLANNED  # whose it is, the log may not know yet
        elif account != ACCOUNTS[0] or random.random() < 0.7 or not self._is_priced():
            data["account"] = account  # whose the subject is, only a catalog says
        else:
            event["subject"] = "customer-1"
        if random.random() < 0.5:
            data["dimensions"] = {"model": random.choice(["m1", "m2"])}
        if random.random() < 0.2:
            data |= random.choice([{"verdict": "refused"}, {"billable": False}])
        # Where partitions were added, two copies might arrive at different times, and either could be first.
        if random.random() < 0.6 or self.world.weights.grows:
            # Around the ends of days and months, where a zone's clock decides.
            shift = random.choice([1, 3600, 86_400, 30 * 86_400]) * random.randint(-2, 1)
            event["time"] = text(now + shift * SECOND)
        return event

    def _is_priced(self) -> bool:
        return any(record.topic == CATALOG for record in self.world.history)

    def import_key(self) -> None:
        """Another desk writes a key that was used before anybody had heard of it."""
        record = next((r for r in self.world.history if r.topic == KEYS and b'"key_id"' in (r.value or b"")), None)
        if record is not None:
            state = {**json.loads(record.value or b""), "key_id": PLANNED, "lineage": PLANNED, "account": ACCOUNTS[1]}
            state["digest"] = self.world.random_bytes(32).hex()
            self.world.log.append(KEYS, [Entry(0, PLANNED.encode(), json.dumps(state).encode())])

    def _broken(self) -> bytes:
        """An element of an array that is no event, though the array is JSON."""
        random = self.world.random
        event = self._event(ACCOUNTS[1])
        flaw: dict[str, Any] = random.choice(
            [{"time": "9999-01-01T00:00:00Z"}, {"time": "2027-01-01T00:00:00"}, {"id": ""}, {"data": 1}, {"units": -1}]
        )
        if "units" in flaw:
            event["data"]["units"] = {"tokens": -1}
        else:
            event |= flaw
        return json.dumps(event).encode()

"""By the clock: a thousand events a second, and no part of it is spared from being killed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import duckdb
import pytest

from doortab.applying import publish
from doortab.asking import Local, asked
from doortab.producers.client import Client
from doortab.schemas import catalog, topics
from doortab.settings import Settings, load
from tests.promises import note
from tests.soak.parts import Part, Sample, caught_up, ledger, service, slope_kb_a_minute

SECONDS = int(os.environ.get("DOORTAB_TEST_SOAK", "600"))
PERIOD_SECONDS = 10
"""Something is killed so often, in the first half; in the second, only what is not measured."""
WARM_UP_SECONDS = 90
RECOVERY_SECONDS = 10
SLOPE_KB_A_MINUTE = 1024
CATALOG = """
default_plan = "p"
[[meters]]
name = "tokens"
event = "request.validated"
aggregation = "sum"
value = "units.tokens"
[[plans]]
name = "p"
currency = "USD"
[[plans.charges]]
meter = "tokens"
model = "per_unit"
unit = "0.0001"
[[caps]]
subject = "account:*"
amount = "1000000"
period = "month"
"""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 300)]


class Soak:
    """The parts, what was killed when, and how long it took to recover."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.began = time.monotonic()
        self.parts = [ledger(settings.data), service(settings.data, "one"), service(settings.data, "two")]
        self.outages: list[tuple[int, int]] = []
        self.longest = 0.0

    def kill(self, part: Part) -> None:
        """Kills a part, starts it again, and waits until nothing lags."""
        from_micros = time.time_ns() // 1000
        part.kill()
        part.start()
        self.longest = max(self.longest, caught_up(self.settings, 60))
        # What was in the dead one's spool, and what its successor records first, is still on its way.
        self.outages.append((from_micros - 2_000_000, time.time_ns() // 1000 + 2_000_000))
        print(f"{time.monotonic() - self.began:5.0f} s: {part.name} killed, caught up in at most {self.longest:.1f} s")

    def run(self) -> None:
        """Until the time is over. The ledger and service two are left alone in the second half, and measured."""
        caught_up(self.settings, 60)
        self.outages.append((0, time.time_ns() // 1000))  # until all of them are there
        kills = 0
        while (now := time.monotonic() - self.began) < SECONDS:
            if now > (kills + 1) * PERIOD_SECONDS:
                spared = now > SECONDS / 2
                self.kill(self.parts[1] if spared else self.parts[kills % 3])
                kills += 1
            for part in self.parts:
                part.look(time.monotonic() - self.began)
            time.sleep(1)

    def steady(self, part: Part) -> list[Sample]:
        """The samples of the part's last life, after the warm-up."""
        warm = part.samples[0].seconds + WARM_UP_SECONDS
        return [sample for sample in part.samples if sample.seconds > warm]


def acked(data: Path) -> dict[tuple[str, str], int]:
    """How many events each process of a service was told are safe, by its source and number."""
    found = {}
    for path in data.glob("*.acked"):
        name, process, _ = path.name.split(".")
        whole = [line for line in path.read_bytes().split(b"\n") if line]
        found[name, process] = int(whole[-1]) if whole else 0
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "doortab.toml").write_text('memory_limit = "256MB"\n')
    settings = load({"data": str(tmp_path / "data")}, {}).settings
    local = Local(settings)
    publish(local.log, catalog.parse(CATALOG))
    local.close()
    return settings


def test_a_thousand_events_a_second_go_on_whatever_is_killed(settings: Settings) -> None:
    soak = Soak(settings)
    try:
        soak.run()
    finally:
        # The ledger last: nothing waits then.
        codes = {part.name: part.stop() for part in reversed(soak.parts)}

    assert set(codes.values()) == {0}
    settle(settings)
    figures = billed(settings)
    figures |= latency(settings, soak.outages)
    figures |= growth(soak)
    print(figures)
    note("R19", kills=len(soak.outages) - 1, **figures, catching_up_milliseconds=round(soak.longest * 1000))
    assert figures["lost"] == figures["doubled"] == figures["unexplained"] == 0
    assert figures["events"] > 0.9 * SECONDS * 2 * 500, "the machine was too slow for a thousand events a second"
    assert soak.longest <= RECOVERY_SECONDS
    assert figures["counted_after_milliseconds"] <= 1000


def settle(settings: Settings) -> None:
    """What lies in the spools of the dead goes into the log, and all of the log into the store."""
    local = Local(settings)
    last = Client(local.log, settings.data / "spool", source="last")
    last.start()
    deadline = time.monotonic() + 60
    while any((settings.data / "spool").glob("*/*.segment")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert last.close(10)
    local.settle(local.log.end_offsets(topics.USAGE))
    local.close()


def billed(settings: Settings) -> dict[str, int]:
    """Every event that was promised stands in the store, and stands there once."""
    with asked(settings) as found:
        audit, control = found.ask("audit"), found.ask("status")["control"]
    assert audit["findings"] == []
    with duckdb.connect(str(settings.store_path), read_only=True) as store:
        rows = store.execute(
            "SELECT source, split_part(id, '-', 1), count(*), count(DISTINCT id), "
            "list(DISTINCT split_part(id, '-', 2)::INTEGER) FROM usage GROUP BY ALL"
        ).fetchall()
    there = {(source, process): set(numbers) for source, process, _, _, numbers in rows}
    promised = acked(settings.data)
    return {
        "events": sum(row[2] for row in rows),
        "lost": sum(len(set(range(count)) - there.get(name, set())) for name, count in promised.items()),
        "doubled": sum(row[2] - row[3] for row in rows),
        "unexplained": int(control["unexplained"]) + audit["unexplained"],
    }


def latency(settings: Settings, outages: list[tuple[int, int]]) -> dict[str, int]:
    """From the moment an event happened to the commit that counted it, while nothing was being killed."""
    quiet = " AND ".join(["true", *(f"epoch_us(u.time) NOT BETWEEN {a} AND {b}" for a, b in outages)])
    with duckdb.connect(str(settings.store_path), read_only=True) as store:
        found = store.execute(
            "SELECT quantile_disc(epoch_ms(c.committed) - epoch_ms(u.time), 0.99), count(*) FROM usage u "
            f"ASOF JOIN commits c ON u.part = c.part AND u.off >= c.first WHERE {quiet}"
        ).fetchone()
    assert found is not None
    assert found[1] > 0
    return {"counted_after_milliseconds": int(found[0])}


def growth(soak: Soak) -> dict[str, int]:
    """Whether memory, threads and files stay as they are; where there was time enough to see it."""
    figures = {"growth_kb_a_minute": 0}
    for part in (soak.parts[0], soak.parts[2]):
        samples = soak.steady(part)
        if len(samples) < 60:
            print(f"{part.name}: {len(samples)} samples after the warm-up are too few to see it grow")
            return {}
        third = len(samples) // 3
        early, late = samples[:third], samples[-third:]
        slope = slope_kb_a_minute(samples)
        print(json.dumps({"part": part.name, "kb_a_minute": round(slope), "early": early[0], "late": late[-1]}))
        figures["growth_kb_a_minute"] = max(figures["growth_kb_a_minute"], round(slope))
        assert min(s.threads for s in late) == min(s.threads for s in early), part.name
        assert min(s.files for s in late) == min(s.files for s in early), part.name
        assert slope <= SLOPE_KB_A_MINUTE, f"{part.name} grows by {slope:.0f} kB a minute"
    return figures

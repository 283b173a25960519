"""The store is a pure function of the log: built anew in any way, its canonical exports are the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from doortab.applying import publish
from doortab.asking import Local
from doortab.ingest import ingest
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.packing import Packer
from doortab.rebuilding import export_to
from doortab.schemas import catalog, topics
from doortab.schemas.log import Entry, Log
from doortab.settings import Settings, load
from tests.traces import write_catalog, write_events

pytestmark = pytest.mark.promises("R2")

WAYS = [
    {"threads": 1, "batch_records": 1},
    {"threads": 2, "batch_records": 3},
    {"threads": 1, "batch_records": 1000},
    {"threads": 2, "batch_records": 1000, "batch_bytes": 50_000},
]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, str]]:
    """A store with a life behind it: catalogs that change, events out of order and twice, and rubbish."""
    directory = tmp_path_factory.mktemp("lived")
    settings = load({"data": str(directory / "data"), "batch_records": 5}, {}).settings
    parts = _cut(write_events("azconv", directory, dirty=True), 4)
    prices = write_catalog("azconv", directory).read_text()
    local = Local(settings)
    for number, lines in enumerate(parts):
        if number:
            cap = f'[[caps]]\nsubject = "account:acct-0{number}"\namount = "0.{number}"\nperiod = "total"\n'
            publish(local.log, catalog.parse(prices.replace('amount = "2.50"', f'amount = "{number}.25"') + cap))
        file = directory / f"{number}.ndjson"
        file.write_bytes(b"\n".join(lines))
        ingest(local, [str(file)], lambda *_: None)
        _spoil(local.log, number)
    local.settle(local.log.end_offsets(topics.USAGE))
    local.close()
    ledger = Ledger(settings)
    ledger.catch_up()
    exports = export_to(ledger, directory / "exports")
    ledger.close()
    return settings, exports


def _cut(file: Path, parts: int) -> list[list[bytes]]:
    lines = file.read_bytes().splitlines()[:3000]
    return [lines[i::parts] for i in range(parts)]


def _spoil(log: Log, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        log.append(topics.USAGE, [Entry(chance.randrange(4), None, chance.randbytes(50))])


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_exports_do_not_depend_on_batches_or_threads(
    lived: tuple[Settings, dict[str, str]], way: dict[str, int], tmp_path: Path
) -> None:
    settings, expected = lived
    other = settings.model_copy(update=way)

    ledger = Ledger(other, store_path=tmp_path / "other.duckdb", publishing=False)
    ledger.catch_up()
    exports = export_to(ledger, tmp_path / "exports")
    decided = ledger.store.decided()
    ledger.close()

    assert exports == expected
    assert any(decision.id.startswith("lift:") for decision in decided)
    assert any(decision.subject.startswith("account:") and decision.percent == 100 for decision in decided)


def test_a_packer_that_sends_everything_again_changes_nothing(
    lived: tuple[Settings, dict[str, str]], tmp_path: Path
) -> None:
    settings, _ = lived
    log = open_log(settings.log_url)
    before = sum(log.end_offsets(topics.USAGE).values())
    packer = Packer(log)
    packer.flush()
    packer.close()

    assert sum(log.end_offsets(topics.USAGE).values()) == before
    log.close()

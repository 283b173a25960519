"""A data directory with a life behind it, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest

from doortab.analytics.audit import Audit
from doortab.applying import publish
from doortab.asking import Local, asked
from doortab.auditing import Auditor
from doortab.ingest import ingest
from doortab.ledger import Ledger
from doortab.rebuilding import export_to
from doortab.schemas import catalog
from doortab.settings import Settings, load
from tests.fixtures.make import CATALOG, event


class Lived(NamedTuple):
    """A data directory, and what its store says: the SHA-256 of each canonical export."""

    settings: Settings
    exports: dict[str, str]


def settings_of(data: Path) -> Settings:
    return load({"data": str(data), "batch_records": 3, "port": 0}, {}).settings


def feed(settings: Settings, place: Path, numbers: range) -> None:
    """Ingests events, some twice, with rubbish between them."""
    lines = [event(number) for number in numbers]
    file = place / f"{numbers.start}.ndjson"
    file.write_bytes(b"\n".join([*lines[:50], b"rubbish", lines[0], *lines[50:], b'{"id": 1}']))
    with asked(settings) as ledger:
        ingest(ledger, [str(file)], lambda *_: None)


def exports_of(settings: Settings, place: Path) -> dict[str, str]:
    """What the store says after it has caught up."""
    ledger = Ledger(settings)
    try:
        ledger.catch_up()
        return export_to(ledger, place)
    finally:
        ledger.close()


@pytest.fixture(scope="session")
def _lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    place = tmp_path_factory.mktemp("lived")
    settings = settings_of(place / "data")
    local = Local(settings)
    publish(local.log, catalog.parse(CATALOG))
    local.close()
    for start in range(0, 300, 100):
        feed(settings, place, range(start, start + 100))
    return Lived(settings, exports_of(settings, place / "exports"))


@pytest.fixture
def lived(_lived: Lived, tmp_path: Path) -> Lived:
    """A copy of one's own."""
    shutil.copytree(_lived.settings.data, tmp_path / "data")
    return Lived(settings_of(tmp_path / "data"), _lived.exports)


@contextmanager
def tampering(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """The store, open behind the ledger's back."""
    connection = duckdb.connect(str(settings.store_path))
    try:
        yield connection
    finally:
        connection.close()


def audited(settings: Settings) -> Audit:
    """What an audit finds once the ledger has caught up."""
    ledger = Ledger(settings)
    try:
        ledger.catch_up()
        return Auditor(ledger).look()
    finally:
        ledger.close()

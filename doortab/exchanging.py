"""Exchanging the store's file for another one, in steps: killed after any of them, one whole store is there.

1. ``settled``: the old store's write-ahead log is in its file, where the old store can be read at all.
2. ``accepted``: the trail says that the new store is meant to be the next one.
3. ``kept``: the old file has a second name, with the time in it.
4. ``cleared``: no write-ahead log of the old one is left, which would be poison beside the new one.
5. ``exchanged``: the new file has the store's name. This is one rename; before it the old store is opened, after
   it the new one.
6. ``synced``: the disk knows all of it.

What is kept can be exchanged back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from doortab.analytics import durable, opening
from doortab.asking import running
from doortab.auditing import accept
from doortab.owning import owned
from doortab.schemas.errors import NotFound, StoreBusy, StoreDamaged
from doortab.settings import Settings

DRAFT = "rebuild.duckdb"


def exchange(settings: Settings, new: Path, words: str, meant: str | None = None) -> Iterator[str]:
    """Puts the new store, which is closed, in the place of the store. Yields a name after each step.

    ``meant`` is the name of the store that whoever asked had seen there: another rebuild may have begun since.

    Raises:
        StoreBusy: somebody has one of them open, or another one is there by now.
        StoreDamaged: the new one cannot be read.
    """
    live, now = settings.store_path, time.time_ns() // 1000
    name = name_of(new)
    if meant not in (None, name):
        raise StoreBusy(f"{new} is another store by now: another rebuild has begun; wait for it")
    if live.exists():
        _settle(live)
    yield "settled"
    accept(settings.trail_path, name, words, now)
    yield "accepted"
    kept = live.with_name(f"{live.stem}.{datetime.fromtimestamp(now / 1e6, UTC):%Y%m%dT%H%M%S.%f}{live.suffix}")
    if live.is_dir():
        live.rename(kept)  # whatever it is doing there
    elif live.exists():
        os.link(live, kept)
        if _wal(live).exists():
            os.link(_wal(live), _wal(kept))
    yield "kept"
    _wal(live).unlink(missing_ok=True)
    yield "cleared"
    new.replace(live)
    yield "exchanged"
    durable.sync(live)
    durable.sync(live.parent)
    yield "synced"


def kept_stores(settings: Settings) -> list[Path]:
    """The stores that were exchanged for others, oldest first."""
    live = settings.store_path
    return sorted(live.parent.glob(f"{live.stem}.[0-9]*{live.suffix}"))


def exchange_all(settings: Settings, new: Path, words: str, meant: str | None = None) -> dict[str, Any]:
    """All the steps; where the old store is kept."""
    before = set(kept_stores(settings))
    for _ in exchange(settings, new, words, meant):
        pass
    kept = [str(path) for path in kept_stores(settings) if path not in before]
    return {"kept": kept[0] if kept else None}


def roll_back(settings: Settings) -> dict[str, Any]:
    """Exchanges the store for the one that was there before.

    Raises:
        NotFound: none is kept.
        StoreDamaged: the last one that is kept cannot be read.
    """
    kept = kept_stores(settings)
    if not kept:
        raise NotFound(f"no older store is kept in {settings.store_path.parent}; there is nothing to go back to")
    try:
        told = exchange_all(settings, kept[-1], f"rolled back to {kept[-1].name}")
    except StoreDamaged as error:
        raise StoreDamaged(
            f"{error}; it was so when it was exchanged: delete it, and --rollback takes the one before"
        ) from error
    return told | {"store": str(kept[-1])}


def exchanged(settings: Settings, params: dict[str, Any]) -> dict[str, Any]:
    """Asks the running ledger to exchange its store, or does it where nobody runs one.

    Raises:
        StoreBusy: somebody has the store, and nobody answers for it.
    """
    ledger = running(settings)
    if ledger is not None:
        try:
            return ledger.ask("exchange", **params)
        finally:
            ledger.close()
    with owned(settings.store_path):
        if params.get("rollback"):
            return roll_back(settings)
        return exchange_all(settings, Path(params["new"]), params["words"], params.get("meant"))


def _settle(live: Path) -> None:
    """Brings the write-ahead log into the file. A store that cannot be read is kept as it is."""
    if not _wal(live).exists():
        return
    try:
        duckdb.connect(str(live)).close()
    except duckdb.Error as error:
        if opening.is_busy(error):
            raise StoreBusy(f"{live} is open in another process: {error}") from error


def name_of(store: Path) -> str:
    """The store's own name; afterwards all of it stands in its file."""
    try:
        with duckdb.connect(str(store)) as connection:
            name = opening.meta(connection).get("store", "")
            connection.execute("CHECKPOINT")
            return name
    except duckdb.Error as error:
        if opening.is_busy(error):
            raise StoreBusy(f"{store} is open in another process: {error}") from error
        raise StoreDamaged(f"{store} cannot be read: {error}") from error


def _wal(store: Path) -> Path:
    return Path(f"{store}.wal")

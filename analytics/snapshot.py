"""Snapshots: what finance reads while the ledger runs, as Parquet files that agree with each other.

A snapshot is a directory that never changes. ``current`` is a link to the newest one: whoever resolves
it once (``latest``) and reads from there has one moment of the store, whatever is published meanwhile.
It takes these steps, and killed after any of them the link leads to the old snapshot or to the new one,
both whole:

1. ``begun``: what an earlier attempt left is gone, and one read transaction is open.
2. ``usage``, ``counters``, ``decisions``, ``daily``: the files are written to a directory that is hidden.
3. ``as_of``: what they hold is told in ``as_of.json``.
4. ``synced``: files and directory are on the disk.
5. ``named``: the directory has its name.
6. ``current``: the link leads to it, on the disk too.
7. ``pruned``: of the older ones only the last are left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from doortab.analytics import decimals, durable
from doortab.analytics.cells import Columns, Heading, Read, literal
from doortab.analytics.control import control
from doortab.analytics.rating import Groups, rate
from doortab.analytics.reading import columns_of, one_moment
from doortab.analytics.stored import LATEST_COUNTERS
from doortab.analytics.tables import USAGE, quoted
from doortab.analytics.zones import local_bucket
from doortab.schemas import catalog, instants
from doortab.schemas.errors import UsageError
from doortab.schemas.tariff import Tariff

FORMAT = 1
"""Of the files. A reader that knows a lower number does not know these."""

CURRENT = "current"
AS_OF = "as_of.json"
KEEP = 3
DAY_MICROS = 86_400 * instants.SECOND

_HIDDEN = ".new"
_LEFT_OUT = {"seq", "digest", "more", "rest"}
_FIRST = ("time", "account", "key", "allowed", "reason", "billable", "operation")


def latest(directory: Path) -> Path | None:
    """The newest snapshot, or None before the first. Resolve it once, and read all files from there."""
    current = directory / CURRENT
    return current.resolve() if current.is_symlink() and current.exists() else None


def as_of(snapshot: Path) -> dict[str, Any]:
    """What a snapshot says about itself.

    Raises:
        UsageError: a newer doortab published it.
    """
    told = _told(snapshot)
    if told["format"] > FORMAT:
        raise UsageError(
            f"{snapshot / AS_OF} has format {told['format']}, and this doortab reads up to {FORMAT}; "
            "read it with a newer doortab, or let this one's ledger publish the next"
        )
    return told


def _told(snapshot: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((snapshot / AS_OF).read_text(encoding="utf-8"))
    return told


def publish(read: Read, directory: Path, tariff: Tariff, now: int, keep: int = KEEP) -> Iterator[str]:
    """Publishes the store as it is now, yielding a name after each step; ``unchanged`` where nothing new is in it.

    ``read`` is for this alone while it lasts. Amounts are by the tariff given.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(f"{_HIDDEN}*"):
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    with one_moment(read):
        told = _identity(read, tariff)
        newest = latest(directory)
        if newest is not None and told == {name: _told(newest).get(name) for name in told}:
            yield "unchanged"
            return
        name = f"{instants.moment(now):%Y%m%dT%H%M%S.%fZ}-{told['batch'] or 0:09}"
        draft = directory / f"{_HIDDEN}-{name}"
        draft.mkdir()
        yield "begun"
        columns = columns_of(read)
        for table, query in _queries(columns).items():
            read(f"COPY ({query}) TO {literal(str(draft / f'{table}.parquet'))} (FORMAT parquet, COMPRESSION zstd)")
            yield table
        pq.write_table(_daily(rate(read, columns, tariff, _DAILY)), draft / "daily.parquet", compression="zstd")
        yield "daily"
        told |= {"created": instants.text(now)} | _contents(read, draft)
    (draft / AS_OF).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    yield AS_OF.removesuffix(".json")
    yield from _put_in_place(draft, directory / name, keep)


def _put_in_place(draft: Path, named: Path, keep: int) -> Iterator[str]:
    directory = named.parent
    for path in sorted(draft.iterdir()):
        durable.sync(path)
    durable.sync(draft)
    yield "synced"
    if not named.exists():
        draft.rename(named)
    durable.sync(directory)
    yield "named"
    link = directory / f"{_HIDDEN}-{CURRENT}"
    link.symlink_to(named.name)
    link.replace(directory / CURRENT)
    durable.sync(directory)
    yield "current"
    whole = sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
    for old in whole[:-keep]:
        # It disappears at once, and then bit by bit where nobody looks.
        hidden = directory / f"{_HIDDEN}-{old.name}-old"
        if old != named:
            old.rename(hidden)
            shutil.rmtree(hidden)
    yield "pruned"


def _identity(read: Read, tariff: Tariff) -> dict[str, Any]:
    """What tells one content from another: the last commit, and the catalog that prices it."""
    batch, committed = read("SELECT max(batch), epoch_us(max(committed)) FROM commits")[0]
    return {
        "format": FORMAT,
        "batch": batch,
        "committed": instants.text(committed) if committed is not None else None,
        "catalog_sha256": hashlib.sha256(catalog.encode(tariff.catalog)).hexdigest(),
        "timezone": "UTC",
    }


def _queries(columns: Columns) -> dict[str, str]:
    """The SQL of each file that the database writes."""
    plain = [*_FIRST, *(name for name in USAGE if name not in {*_FIRST, *_LEFT_OUT})]
    special = [columns[place] for root in ("units", "dimensions") for place in sorted(columns) if place[0] == root]
    usage = ", ".join(quoted(name) for name in [*plain[: len(_FIRST)], *special, "more", "rest", *plain[len(_FIRST) :]])
    return {
        "usage": f"SELECT {usage} FROM usage ORDER BY part, off, idx",
        "counters": f"SELECT * EXCLUDE (batch) FROM ({LATEST_COUNTERS}) ORDER BY subject, measure, period, start",
        "decisions": "SELECT * EXCLUDE (batch) FROM decisions ORDER BY id, batch",
    }


_DAILY = [Heading("account", "account"), Heading("key", "key"), Heading("day", local_bucket("day", "UTC"))]


def _daily(groups: Groups) -> pa.Table:
    """Usage by account, key and day, in that order, as exact decimals."""
    placed = sorted(groups.items(), key=lambda item: [(value is not None, value) for value in item[0]])
    heads, figures = [place for place, _ in placed], [group for _, group in placed]
    units = sorted({unit for group in figures for unit in group.units})
    return pa.table(
        {
            "account": pa.array([head[0] for head in heads], pa.string()),
            "key": pa.array([head[1] for head in heads], pa.string()),
            "day": pa.array([head[2] // DAY_MICROS for head in heads], pa.int32()).cast(pa.date32()),
            "currency": pa.array([head[3] for head in heads], pa.string()),
            "events": pa.array([group.events for group in figures], pa.int64()),
            "allowed": pa.array([group.allowed for group in figures], pa.int64()),
            "refused": pa.array([group.events - group.allowed for group in figures], pa.int64()),
            "billable": pa.array([group.billable for group in figures], pa.int64()),
            **{f"units.{unit}": decimals.quantities([group.units.get(unit) for group in figures]) for unit in units},
            "amount": decimals.amounts([group.amount for group in figures]),
        }
    )


def _contents(read: Read, draft: Path) -> dict[str, Any]:
    """Where in the log the snapshot stands, the control equation, and the files with their sums."""
    positions = read("SELECT part, max(next) FROM commits WHERE part >= 0 GROUP BY part ORDER BY part")
    files = {
        path.name: {
            "rows": pq.read_metadata(path).num_rows,
            "bytes": path.stat().st_size,
            "sha256": durable.sha256(path),
        }
        for path in sorted(draft.glob("*.parquet"))
    }
    return {
        "positions": {str(part): offset for part, offset in positions},
        "control": control(read).as_json(),
        "files": files,
    }

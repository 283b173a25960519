"""Backups: the store as it was at one commit, with what is needed to go on from there.

A backup is a directory with ``ledger.duckdb``, ``catalog.json`` and ``backup.json``, which holds positions,
control equation and the SHA-256 of the others. It is written under another name and gets its own when it
is whole. The ledger goes on meanwhile: the copy is one read transaction.

Restoring checks all of it, and the store row by row, before it exchanges the store (``exchanging``). What
came after the backup is read again from the log, so the log must still hold it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from msgspec import Struct

from doortab.analytics import durable, seals
from doortab.analytics.cells import Read, literal
from doortab.analytics.control import control
from doortab.analytics.reading import columns_of, one_moment
from doortab.analytics.store import Store
from doortab.analytics.tables import quoted
from doortab.analytics.trail import last_commit
from doortab.catalogs import newest_catalog
from doortab.exchanging import exchanged
from doortab.ledger import Ledger
from doortab.log.open import open_log
from doortab.schemas import catalog, instants, topics
from doortab.schemas.errors import NotFound, RuleRefused, StoreDamaged, UsageError, of_system
from doortab.settings import Settings

FORMAT = 1
STORE, CATALOG, TOLD = "ledger.duckdb", "catalog.json", "backup.json"


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup says about itself. ``files`` holds the SHA-256 of each."""

    format: int
    created: str
    store: str
    batch: int
    positions: dict[int, int]
    control: dict[str, str]
    log: str
    files: dict[str, str]


def write_backup(ledger: Ledger, directory: Path, now: int) -> dict[str, Any]:
    """Writes a backup of the ledger's store, which goes on meanwhile.

    Raises:
        UsageError: something is there already.
        StoreDamaged: the copy does not say what the store says.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already; a backup wants a new directory")
    draft = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _copy(ledger.reader(), draft / STORE)
        found = newest_catalog(ledger.log)
        (draft / CATALOG).write_bytes(catalog.encode(found) if found is not None else b"")
        manifest = _manifest(draft, ledger.settings.log_url, now)
        (draft / TOLD).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        for path in (*draft.iterdir(), draft):
            durable.sync(path)
        draft.replace(directory)
        durable.sync(directory.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    size = sum(path.stat().st_size for path in directory.iterdir())
    told: dict[str, Any] = msgspec.to_builtins(manifest, str_keys=True)
    return told | {"directory": str(directory), "bytes": size}


def restore(settings: Settings, directory: Path, *, anyway: bool = False) -> dict[str, Any]:
    """Puts the backup in the place of the store, which is kept. ``anyway`` although the log has a gap after it.

    Raises:
        NotFound: there is no backup.
        StoreDamaged: it is not what was written, or a newer doortab wrote it.
        RuleRefused: the log does not hold what came after it, or ends before it.
    """
    manifest = read_manifest(directory)
    for name, digest in manifest.files.items():
        if not (directory / name).exists() or durable.sha256(directory / name) != digest:
            raise StoreDamaged(f"{directory / name} is not what was backed up; take another backup, or rebuild")
    waiting = _waiting(settings, manifest, directory, anyway=anyway)
    draft = settings.store_path.with_name("restore.duckdb")
    draft.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{draft}.wal").unlink(missing_ok=True)
    shutil.copyfile(directory / STORE, draft)
    _check(draft, manifest)
    durable.sync(draft)
    told = exchanged(settings, {"new": str(draft.resolve()), "words": f"restored from {directory.resolve()}"})
    return told | {"created": manifest.created, "batch": manifest.batch, "waiting": waiting}


def read_manifest(directory: Path) -> Manifest:
    """What the backup says about itself.

    Raises:
        NotFound: there is none.
        StoreDamaged: it cannot be read, or a newer doortab wrote it.
    """
    path = directory / TOLD
    try:
        held = path.read_bytes()
        newer = msgspec.json.decode(held, type=dict[str, Any]).get("format", 0)
        if isinstance(newer, int) and newer > FORMAT:
            words = f"{path} has format {newer}, and this doortab reads up to {FORMAT}; restore it with a newer doortab"
            raise StoreDamaged(words)
        return msgspec.json.decode(held, type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{directory} holds no backup: there is no {TOLD}") from None
    except OSError as error:
        raise of_system(error, "restore", "name a backup that can be read") from error
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"{path} cannot be read: {error}; take another backup, or doortab rebuild") from error


def _copy(read: Read, path: Path) -> None:
    """The whole store as of one moment, in a file of its own."""
    name = quoted(f"backup {path}")
    read(f"ATTACH {literal(str(path))} AS {name}")
    try:
        read(f"COPY FROM DATABASE {quoted(read('SELECT current_database()')[0][0])} TO {name}")
        read(f"CHECKPOINT {name}")
    finally:
        read(f"DETACH {name}")


def _manifest(draft: Path, log: str, now: int) -> Manifest:
    """Tells what the copy holds, after looking whether it holds what was written."""
    with duckdb.connect(str(draft / STORE), read_only=True) as connection:

        def read(query: str) -> list[Any]:
            return connection.execute(query).fetchall()

        name = dict(read("SELECT name, value FROM meta"))["store"]
        last = last_commit(read, name)
        _must_be_whole(read, draft / STORE)
        told = control(read).as_json()
    return Manifest(
        format=FORMAT,
        created=instants.text(now),
        store=name,
        batch=last.batch,
        positions=last.next,
        control=told,
        log=log,
        files={name: durable.sha256(draft / name) for name in (STORE, CATALOG)},
    )


def _check(draft: Path, manifest: Manifest) -> None:
    """Opens it, which brings an older format up, and looks at every row."""
    store = Store.open(draft)
    try:
        cursor = store.cursor()

        def read(query: str) -> list[Any]:
            return cursor.execute(query).fetchall()

        _must_be_whole(read, draft)
        if control(read).as_json() != manifest.control:
            raise StoreDamaged(f"the store of the backup says other totals than its {TOLD}; take another backup")
    finally:
        store.close()


def _must_be_whole(read: Read, path: Path) -> None:
    with one_moment(read):
        pieces = seals.altered(read, columns_of(read))
    if pieces:
        raise StoreDamaged(f"{path}: {len(pieces)} pieces of it are not as they were written; see doortab audit")


def _waiting(settings: Settings, manifest: Manifest, directory: Path, *, anyway: bool) -> int:
    """How many log records came after the backup.

    Raises:
        RuleRefused: the log does not hold them all.
    """
    log = open_log(settings.log_url)
    try:
        log.ensure_topics(topics.topics(settings.usage_partitions))
        begins, ends = log.begin_offsets(topics.USAGE), log.end_offsets(topics.USAGE)
    finally:
        log.close()
    positions: Mapping[int, int] = manifest.positions
    gone = {p: (positions.get(p, 0), begin) for p, begin in begins.items() if positions.get(p, 0) < begin}
    if gone and not anyway:
        shown = ", ".join(
            f"partition {p}: offsets {first} to {begin - 1}" for p, (first, begin) in sorted(gone.items())
        )
        raise RuleRefused(
            f"the log no longer holds what came after the backup {directory} ({shown}): its retention is too short. "
            "Restore a newer backup, or this one with --anyway, which loses those records"
        )
    ahead = {p: offset for p, offset in positions.items() if offset > ends.get(p, 0)}
    if ahead:
        raise RuleRefused(
            f"the backup {directory} has read further than {settings.log_url} reaches (partition: offset {ahead}): "
            "it is a backup of another log. Name that log with --log"
        )
    return sum(max(0, end - positions.get(p, 0)) for p, end in ends.items())

"""Opening the store's file: making an empty one, refusing what cannot be read, bringing older formats up.

``MIGRATIONS`` lists what leads from each format to the next. Each is one transaction together with the new
number: killed at any step, the file has the old format or the new one, whole.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from doortab.analytics import durable, seals, tables
from doortab.schemas.errors import StoreBusy, StoreDamaged

Connection = duckdb.DuckDBPyConnection

damaged = durable.failure
NO_STORE = "{} is not a doortab store; move it away and run 'doortab rebuild'"


def open_file(path: Path, settings: dict[str, str]) -> Connection:
    """The file as a database of the current format, made if there is none.

    Raises:
        StoreBusy: another process has it open.
        DiskFull: there is no room for it.
        UsageError: this process may not write there, or its memory_limit is too small.
        StoreDamaged: DuckDB cannot read it, or a newer doortab wrote it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
    except (duckdb.Error, OSError) as error:
        raise damaged(path, error) from error
    connection = _connect(path)
    try:
        for setting, value in settings.items():
            connection.execute(f"SET {setting} = '{value}'")
        for _ in bring_up(connection, path):
            pass
        if meta(connection).get("sealed_by") != duckdb.__version__:
            _seal_again(connection)
    except duckdb.Error as error:
        connection.close()
        raise damaged(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def bring_up(connection: Connection, path: Path) -> Generator[str, None, None]:
    """Migrates an older format up to the current one, yielding a name after each step.

    Raises:
        StoreDamaged: the format is newer, or there is none.
    """
    try:
        found = int(meta(connection)["format"])
    except (duckdb.CatalogException, KeyError, ValueError) as error:
        raise StoreDamaged(NO_STORE.format(path)) from error
    if found > tables.FORMAT:
        raise StoreDamaged(
            f"{path} has format {found}, and this doortab reads up to {tables.FORMAT}; install a newer doortab, "
            "or run 'doortab rebuild' to make a store of this one's format from the log"
        )
    for older in range(found, tables.FORMAT):
        yield from _step(connection, older)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file from another one that gets its name."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def meta(connection: Connection) -> dict[str, str]:
    """What the store says about itself."""
    return dict(connection.execute("SELECT name, value FROM meta").fetchall())


def options(threads: int, memory_limit: str) -> dict[str, str]:
    """How DuckDB is set: nothing comes over the network, times are in UTC."""
    return {
        "threads": str(threads),
        "memory_limit": memory_limit,
        "TimeZone": "UTC",
        "wal_autocheckpoint": "64MB",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }


def columns_of(connection: Connection) -> dict[tuple[str, str], str]:
    """The column of each unit and dimension."""
    rows = connection.execute("SELECT root, name, column_name FROM usage_columns").fetchall()
    return {(root, name): column for root, name, column in rows}


def _step(connection: Connection, older: int) -> Iterator[str]:
    connection.execute("BEGIN")
    try:
        yield f"{older}: began"
        for name in MIGRATIONS[older](connection):
            yield f"{older}: {name}"
        connection.execute(f"UPDATE meta SET value = '{older + 1}' WHERE name = 'format'")
        yield f"{older}: numbered"
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    yield f"{older}: committed"


def _seal(connection: Connection) -> Iterator[str]:
    """1 to 2: the store gets a name of its own, and what its tables hold is sealed."""
    connection.execute(tables.create_statement("seals"))
    connection.execute("INSERT INTO meta VALUES ('store', ?)", [secrets.token_hex(8)])
    connection.execute("INSERT INTO meta VALUES ('sealed_by', ?)", [duckdb.__version__])
    yield "seals made"
    for table in seals.SEALED:
        connection.execute(seals.sealing_anew(table, columns_of(connection)))
        yield f"{table} sealed"


MIGRATIONS: dict[int, Callable[[Connection], Iterator[str]]] = {1: _seal}
"""What leads from a format to the next one."""


def _seal_again(connection: Connection) -> None:
    """Another DuckDB sealed it, and may have hashed otherwise."""
    connection.execute("BEGIN")
    connection.execute("DELETE FROM seals")
    for table in seals.SEALED:
        connection.execute(seals.sealing_anew(table, columns_of(connection)))
    connection.execute("DELETE FROM meta WHERE name = 'sealed_by'")
    connection.execute("INSERT INTO meta VALUES ('sealed_by', ?)", [duckdb.__version__])
    connection.execute("COMMIT")


def _connect(path: Path) -> Connection:
    try:
        return duckdb.connect(str(path))
    except duckdb.Error as error:
        if is_busy(error):
            words = str(error).splitlines()[0].split(". See")[0]
            raise StoreBusy(f"{path} is open in another process: {words}; ask that one, or end it") from error
        if "not a valid DuckDB database file" in str(error):
            raise StoreDamaged(NO_STORE.format(path)) from error
        raise damaged(path, error) from error


def _create(path: Path) -> None:
    """Makes an empty store under another name first: one that is cut short in the making cannot be opened."""
    _sweep(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    connection = duckdb.connect(str(draft))
    for statement in tables.create_statements():
        connection.execute(statement)
    told = {"format": str(tables.FORMAT), "store": secrets.token_hex(8), "sealed_by": duckdb.__version__}
    for item in told.items():
        connection.execute("INSERT INTO meta VALUES (?, ?)", list(item))
    connection.execute("CHECKPOINT")
    connection.close()
    if not path.exists():
        # Of a file that is gone: DuckDB would play it into this one.
        Path(f"{path}.wal").unlink(missing_ok=True)
        os.link(draft, path)
    draft.unlink()
    descriptor = os.open(path.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _sweep(path: Path) -> None:
    """Removes what processes left behind that died while making a store."""
    for draft in path.parent.glob(f".{path.name}.*"):
        owner = draft.name.removeprefix(f".{path.name}.").split(".")[0]
        if not owner.isdigit() or int(owner) == os.getpid() or not _is_running(int(owner)):
            draft.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Whatever DuckDB cannot do with the file is said in our words; but not that it was closed meanwhile.

    Raises:
        DiskFull, UsageError, StoreDamaged: it cannot be read, or not written.
    """
    try:
        yield
    except duckdb.ConnectionException:
        raise
    except duckdb.Error as error:
        raise damaged(path, error) from error


def is_busy(error: duckdb.Error) -> bool:
    """Whether DuckDB could not open a file because another process has it open. (Damaged ones have *blocks*.)"""
    return "set lock on file" in str(error)

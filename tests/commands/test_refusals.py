"""What the system or a setting refuses: told as what it is, with the way out that fits, and never as damage."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doortab.analytics.deliveries import Deliveries
from doortab.ledger import Ledger
from doortab.log.memory import MemoryLog
from doortab.schemas.errors import DoortabError
from doortab.server import Server, announce, ledger_routes, make_app, withdraw
from doortab.settings import load
from tests.commands.conftest import Done, Doortab


def refused(done: Done, code: int, *words: str) -> None:
    """One line that says so."""
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n")) == (code, 1), said
    assert all(word in said for word in words), said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", [("report",), ("caps",), ("ingest", "-"), ("audit",), ("rebuild",)])
def test_a_data_directory_that_cannot_be_is_wrong_usage_and_nothing_to_rebuild(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    doortab = Doortab(Path("/proc/doortab"), log=f"file:{tmp_path / 'log'}")

    done = doortab.run(*command)

    refused(done, 2, str(doortab.data), "No such file or directory", "--data")
    assert b"run 'doortab rebuild'" not in done.stderr


@pytest.mark.parametrize("command", [("report",), ("rebuild",)])
def test_a_file_where_the_stores_directory_belongs_is_wrong_usage(doortab: Doortab, command: tuple[str, ...]) -> None:
    doortab.data.mkdir()
    (doortab.data / "store").write_text("")

    done = doortab.run(*command)

    refused(done, 2, str(doortab.data / "store"), "--data")
    assert b"rebuild'" not in done.stderr


def test_a_directory_that_may_not_be_written_is_said_with_rights_as_the_way_out(
    doortab: Doortab, monkeypatch: pytest.MonkeyPatch
) -> None:
    doortab.ok("report")
    real = os.open

    def without_right(path: Any, *rest: Any, **named: Any) -> int:
        if str(path).endswith(".owner"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *rest, **named)

    monkeypatch.setattr("os.open", without_right)
    done = doortab.run("report")
    findings = doortab.run("doctor", "--json").stdout.decode()

    refused(done, 2, "ledger.owner", "Permission denied", "let this user write there")
    assert "rebuild" not in done.stderr.decode() + findings


def test_too_little_memory_is_said_with_the_setting_and_not_as_another_file(
    doortab: Doortab, monkeypatch: pytest.MonkeyPatch
) -> None:
    doortab.ok("report")
    monkeypatch.setattr("doortab.analytics.opening.options", lambda *_: {"memory_limit": "1KB"})

    done = doortab.run("report")

    refused(done, 2, "ledger.duckdb", "memory", "DOORTAB_MEMORY_LIMIT")
    assert b"not a doortab store" not in done.stderr


@pytest.mark.parametrize("content", [b"not a database", b"x" * 20_000])
def test_only_another_file_is_called_no_store(doortab: Doortab, content: bytes) -> None:
    doortab.data.mkdir()
    (doortab.data / "store").mkdir()
    (doortab.data / "store" / "ledger.duckdb").write_bytes(content)

    refused(doortab.run("report"), 1, "is not a doortab store", "doortab rebuild")


@pytest.mark.parametrize("limit", ["-1", "0", "99999999999999999999"])
def test_a_limit_beyond_its_range_is_wrong_usage(doortab: Doortab, limit: str) -> None:
    done = doortab.run("rejected", "--limit", limit)

    assert done.returncode == 2
    assert b"--limit" in done.stderr
    assert b"than or equal to 1" in done.stderr


def test_a_directory_that_cannot_be_written_is_wrong_usage_whoever_answers(doortab: Doortab, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    cases = [("export", str(file)), ("export", "/proc/x"), ("backup", "/proc/x"), ("backup", str(file))]
    alone = [doortab.run(*words) for words in cases]
    with serving(doortab):
        asked = doortab.run("backup", "/proc/x")

    for words, done in zip(cases, alone, strict=True):
        refused(done, 2, Path(words[1]).name)
    refused(asked, 2, "/proc/.x.new: No such file or directory", "another directory")
    refused(doortab.run("restore", str(file)), 3, str(file))


@contextmanager
def serving(doortab: Doortab) -> Iterator[None]:
    """A ledger that answers, as ``doortab ledger`` runs it."""
    settings = load({"data": str(doortab.data)}, {}).settings
    ledger = Ledger(settings)
    app = make_app()
    server = Server(app, "127.0.0.1", 0)
    ledger_routes(app, ledger, announce(settings.address_path, server.url))
    ledger.start()
    server.start()
    try:
        yield
    finally:
        server.stop()
        ledger.stop()
        withdraw(settings.address_path)


@pytest.mark.parametrize("content", ["[]", '"x"', "{}", '{"url": 1, "token": 2}', "5"])
def test_an_address_that_is_none_is_nobodys(doortab: Doortab, content: str) -> None:
    doortab.data.mkdir()
    (doortab.data / "ledger.json").write_text(content)

    doortab.ok("caps")


def test_a_damaged_list_of_deliveries_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "deliveries.sqlite3"
    file.write_bytes(b"no database " * 1000)

    with pytest.raises(DoortabError, match=r"deliveries\.sqlite3 cannot be read: .*; move it away"):
        Deliveries(file, MemoryLog(lambda: 0.0), [])


def test_a_catalog_of_brackets_is_refused_in_words(doortab: Doortab) -> None:
    refused(doortab.run("apply", "-", given=b"a=" + b"[" * 5000), 2, "nested deeper than any catalog")


def test_a_port_that_is_taken_and_a_host_that_is_not_ours_are_said_with_the_options(doortab: Doortab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(doortab.run("gate", "--port", str(port)), 2, "host 127.0.0.1", f"port {port}", "Address already in use")
    refused(doortab.run("gate", "--host", "999.1.1.1"), 2, "host 999.1.1.1", "--host and --port")


def test_an_error_of_the_system_that_nobody_foresaw_is_one_line(
    doortab: Doortab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> Any:
        def load(*_: Any) -> Any:
            raise OSError(number, os.strerror(number), "/some/file")

        return load

    for number, code in ((errno.EIO, 1), (errno.EACCES, 1), (errno.ENOSPC, 75)):
        monkeypatch.setattr("doortab.settings.load", fails(number))
        refused(doortab.run("config"), code, "/some/file", os.strerror(number))


def test_a_kind_of_alert_that_there_is_not_is_refused_with_those_there_are(doortab: Doortab) -> None:
    refused(doortab.run("alerts", "list", "--kind", "foo"), 2, "'foo'", "threshold", "spike", "drift")

    doortab.ok("alerts", "list", "--kind", "drift")

"""What the system or a setting refuses: told as what it is, with the way out that fits, and never as damage."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

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

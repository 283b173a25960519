"""URLs of logs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from doortab.log.file import FileLog
from doortab.log.memory import MemoryLog
from doortab.log.open import open_log
from doortab.schemas.errors import UsageError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("form", ["file:{}", "file://{}"])
def test_a_file_url_names_a_directory_which_is_made(tmp_path: Path, form: str) -> None:
    log = open_log(form.format(tmp_path / "deep" / "log"))

    assert isinstance(log, FileLog)
    assert (tmp_path / "deep" / "log" / "log.sqlite3").exists()
    log.close()


def test_a_relative_file_url_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    open_log("file:./data/log").close()

    assert (tmp_path / "data" / "log" / "log.sqlite3").exists()


def test_memory_gives_a_new_log_each_time() -> None:
    first, second = open_log("memory:"), open_log("memory:")

    assert isinstance(first, MemoryLog)
    assert first is not second


def test_a_kafka_url_contacts_nobody_yet() -> None:
    log = open_log("kafka://nowhere.invalid:9092,also-nowhere.invalid:9093/prefix.")

    log.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file",
        "file:",
        "file://",
        "file://host/dir",
        "./data/log",
        "kafka:host:9092",
        "kafka://",
        "kafka://host",
        "kafka://:9092",
        "kafka://host:port",
        "kafka://host:0",
        "kafka://host:70000",
        "kafka://host:9092,",
        "memory",
        "memory:x",
        "redis://host:6379",
    ],
)
def test_anything_else_is_refused_with_the_forms_that_exist(url: str) -> None:
    with pytest.raises(UsageError, match=r"file:|kafka://"):
        open_log(url)


def test_a_file_log_does_not_load_the_kafka_client(tmp_path: Path) -> None:
    program = f"""
import sys
from doortab.log.open import open_log
open_log("file:{tmp_path}").close()
open_log("memory:").close()
sys.exit("kafka" in sys.modules)
"""

    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0

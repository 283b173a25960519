"""The store remembers which log it was filled from."""

from __future__ import annotations

from pathlib import Path

import pytest

from doortab.log.memory import MemoryLog
from doortab.same_log import NAME, check_same_log
from doortab.schemas.errors import UsageError
from doortab.settings import load


class Named(MemoryLog):
    """A log that gives its topics ids."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name

    def identity(self, topic: str) -> str | None:
        return self.name


def test_the_topic_that_a_store_was_filled_from_is_remembered_and_no_other_taken_for_it(tmp_path: Path) -> None:
    check_same_log(tmp_path, Named("one"))
    check_same_log(tmp_path, Named("one"))

    with pytest.raises(UsageError, match="filled from one, and in the cluster is two"):
        check_same_log(tmp_path, Named("two"))


def test_a_log_without_ids_is_not_asked_for_any(tmp_path: Path) -> None:
    check_same_log(tmp_path, MemoryLog())
    check_same_log(tmp_path, Named(None))

    assert not (tmp_path / NAME).exists()


def test_the_file_for_kafkas_clients_goes_with_the_url() -> None:
    def url(**flags: str) -> str:
        return load({"data": "d", **flags}, {}).settings.log_url

    assert url(log="kafka://host:1/p.", kafka_file="/k.toml") == "kafka://host:1/p.?settings=/k.toml"
    assert url(log="kafka://host:1?settings=/other", kafka_file="/k.toml") == "kafka://host:1?settings=/other"
    assert url(log="kafka://host:1") == "kafka://host:1"
    assert url(kafka_file="/k.toml") == "file:d/log"

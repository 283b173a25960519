"""Where a report is written to: whole or not at all, and what was there before stays until then."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Doortab

REPORT = ("report", "2026-11", "--output")


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("words", [("--format", "xml"), ("--json", "--format", "csv")])
def test_a_format_that_there_is_not_costs_no_file(doortab: Doortab, tmp_path: Path, words: tuple[str, ...]) -> None:
    kept = tmp_path / "keep.csv"
    kept.write_text("precious")

    done = doortab.run(*REPORT, str(kept), *words)

    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert kept.read_text() == "precious"


@pytest.mark.parametrize("form", ["table", "json", "csv", "parquet"])
def test_a_report_that_finds_no_room_leaves_the_one_before_and_nothing_beside_it(
    doortab: Doortab, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "reports"
    place.mkdir()
    kept = place / "november"
    kept.write_text("precious")
    monkeypatch.setattr("os.fsync", no_room)
    monkeypatch.setattr("doortab.cli.settings_of", lambda _: None)
    monkeypatch.setattr("doortab.asking.asked", Nobody)

    done = doortab.run(*REPORT, str(kept), "--format", form)

    assert done.returncode == 75, done.stderr
    assert str(kept).encode() in done.stderr
    assert kept.read_text() == "precious"
    assert list(place.iterdir()) == [kept]


class Nobody:
    """A ledger that has nothing to say."""

    def __init__(self, _: Any) -> None:
        pass

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, *_: Any, **__: Any) -> dict[str, Any]:
        names = ("records", "billed", "duplicates", "rejected", "not_billable", "unexplained")
        counts = dict.fromkeys(("events", "allowed", "refused", "billable"), "0")
        return {
            "period": {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "timezone": "UTC"},
            "rows": [],
            "total": {"currency": "EUR", **counts, "units": {}, "amount": "0"},
            "control": dict.fromkeys(names, "0"),
        }


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_a_link_stays_a_link_and_what_it_leads_to_is_the_report(doortab: Doortab, tmp_path: Path, form: str) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)

    doortab.ok(*REPORT, str(link), "--format", form)

    assert link.is_symlink()
    assert target.read_bytes() != b"old"
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_a_pipe_is_written_into_and_never_replaced(doortab: Doortab, tmp_path: Path, form: str) -> None:
    pipe, came = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: came.append(pipe.read_bytes()), daemon=True)
    reader.start()

    doortab.ok(*REPORT, str(pipe), "--format", form)
    reader.join(5)

    assert pipe.is_fifo()
    assert len(came) == 1
    assert came[0]


def test_a_place_where_no_file_can_be_is_wrong_usage_in_one_line(doortab: Doortab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path, tmp_path / "nosuch" / "x.csv", tmp_path / "file" / "x.csv"):
        for form in ("table", "json", "csv", "parquet"):
            done = doortab.run(*REPORT, str(wrong), "--format", form)

            assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
            assert str(wrong).encode() in done.stderr

"""Ctrl-C, as a terminal sends it: to every process of the command."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doortab.interrupting import told
from doortab.log.open import open_log
from doortab.schemas.errors import Stopped
from doortab.settings import load
from tests.commands.conftest import Doortab
from tests.commands.test_commands import event


def interrupted(started: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and words of a command after Ctrl-C."""
    os.killpg(started.pid, signal.SIGINT)
    _, words = started.communicate(timeout=30)
    return started.returncode, words.decode()


def started(*arguments: str, place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "doortab", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(place)},
    )


def test_an_ingest_that_is_stopped_says_what_the_log_has_and_is_run_again_without_billing_twice(
    doortab: Doortab, tmp_path: Path
) -> None:
    total, file = 60_000, tmp_path / "large.ndjson"
    file.write_bytes(b"\n".join(event(number) for number in range(total)))
    doortab.ok("caps")
    log = open_log(load({"data": str(doortab.data)}, {}).settings.log_url)
    running = started(*doortab.arguments("ingest", str(file)), place=tmp_path)
    while sum(log.end_offsets("usage").values()) == 0 and running.poll() is None:
        time.sleep(0.005)

    code, words = interrupted(running)
    log.close()
    counts = doortab.json("ingest", str(file))

    assert (code, words.count("\n")) == (130, 1), words
    (taken,) = re.findall(r"stopped; ([0-9,]+) events of it are in the log; run the same command again", words)
    assert counts["duplicates"] + counts["accepted"] == total
    assert 0 < int(taken.replace(",", "")) == counts["duplicates"] or counts["accepted"] == 0


def test_a_show_that_is_stopped_says_where_its_data_is(tmp_path: Path) -> None:
    running = started("demo", "--seconds", "30", place=tmp_path)
    while not list(tmp_path.glob("doortab-demo-*/store/ledger.duckdb")) and running.poll() is None:
        time.sleep(0.02)
    time.sleep(1.0)

    code, words = interrupted(running)

    (place,) = tmp_path.glob("doortab-demo-*")
    last = words.splitlines()[-1]
    assert (code, "Traceback" in words) == (130, False), words
    assert "the show was stopped" in last
    assert str(place) in last


def as_duckdb_says_it() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("Query interrupted") from None


def test_whatever_is_raised_after_ctrl_c_is_told_as_that() -> None:
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(Stopped, match="what stays"), told(lambda: "what stays"):
        as_duckdb_says_it()
    with pytest.raises(ValueError, match="its own"), told(lambda: "what stays"):
        raise ValueError("its own")

    assert signal.getsignal(signal.SIGINT) is before


def test_a_file_that_was_cut_short_says_how_many_events_were_taken(
    doortab: Doortab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doortab.packing.APPEND_BYTES", 100_000)
    whole, cut = tmp_path / "whole.gz", tmp_path / "cut.gz"
    whole.write_bytes(gzip.compress(b"\n".join(event(number) for number in range(3000))))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])

    done = doortab.run("ingest", str(cut))
    counts = doortab.json("ingest", str(whole))

    (taken,) = re.findall(r"; ([0-9,]+) events before that are in the log;", done.stderr.decode())
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"none is billed twice" in done.stderr
    assert 0 < int(taken.replace(",", "")) == counts["duplicates"]
    assert counts["duplicates"] + counts["accepted"] == 3000

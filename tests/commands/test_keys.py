"""The commands for keys: what they make, what they refuse, and what they leave behind when something fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from doortab.log.file import FileLog
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry
from tests.commands.conftest import Doortab

UNCAPPED = ("--account", "acme", "--uncapped", "--reason", "test")


def test_a_lost_pepper_is_asked_back_and_never_replaced_while_a_key_needs_it(doortab: Doortab) -> None:
    key = doortab.json("keys", "issue", *UNCAPPED)
    path, kept = doortab.data / "pepper", doortab.data / "pepper.kept"
    path.rename(kept)

    issued, rotated = doortab.run("keys", "issue", *UNCAPPED), doortab.run("keys", "rotate", key["key_id"])

    for done in (issued, rotated):
        assert done.returncode == 2
        assert f"restore pepper {key['pepper_id']} from your copy".encode() in done.stderr
    assert len(doortab.json("keys", "list")["rows"]) == 1
    assert not path.exists()
    shutil.copy(kept, path)
    doortab.ok("keys", "rotate", key["key_id"])


def test_keys_are_listed_shown_and_revoked_without_a_pepper_and_then_another_may_be_made(doortab: Doortab) -> None:
    key = doortab.json("keys", "issue", *UNCAPPED)
    (doortab.data / "pepper").unlink()

    doortab.ok("keys", "list")
    doortab.ok("keys", "show", key["key_id"])
    doortab.ok("keys", "revoke", key["key_id"])

    assert not (doortab.data / "pepper").exists()
    assert doortab.json("keys", "issue", *UNCAPPED)["pepper_id"] != key["pepper_id"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--cap", "0.0000000000001/month"), 2, "decimal"),
        (("--cap", ""), 2, "25.00USD/month"),
        (("--cap", "5JPY/month"), 2, "no plan"),
        (("--cap", "5.00/month", "--uncapped", "--reason", "why"), 2, "contradict"),
    ],
)
def test_a_cap_that_will_not_do_is_refused_before_anything_is_published(
    doortab: Doortab, words: tuple[str, ...], code: int, said: str
) -> None:
    done = doortab.run("keys", "issue", "--account", "acme", *words)

    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert doortab.json("keys", "list")["rows"] == []
    assert doortab.json("caps")["rows"] == []


def test_a_log_that_fails_between_cap_and_key_leaves_no_key_and_names_the_one_that_may_be_there(
    doortab: Doortab, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = FileLog.append

    def failing(log: FileLog, topic: str, entries: list[Entry]) -> object:
        if topic == "keys":
            raise LogUnavailable("the log did not acknowledge")
        return append(log, topic, entries)

    with monkeypatch.context() as patched:
        patched.setattr(FileLog, "append", failing)
        done = doortab.run("keys", "issue", "--account", "acme", "--cap", "5.00/month")

    assert done.returncode == 75
    assert b"doortab keys revoke key_" in done.stderr
    assert doortab.json("keys", "list")["rows"] == []


@pytest.mark.parametrize("command", ["issue", "rotate"])
@pytest.mark.parametrize("output", ["full", "closed pipe"])
def test_a_secret_that_cannot_be_written_names_the_key_to_revoke(doortab: Doortab, command: str, output: str) -> None:
    first = doortab.json("keys", "issue", *UNCAPPED)["key_id"]
    words = ("issue", *UNCAPPED) if command == "issue" else ("rotate", first)

    with nowhere(output) as out:
        process = [sys.executable, "-m", "doortab", *doortab.arguments("keys", *words)]
        done = subprocess.run(process, stdout=out, stderr=subprocess.PIPE, text=True)

    assert done.returncode == 1
    (new,) = (row["key_id"] for row in doortab.json("keys", "list")["rows"] if row["key_id"] != first)
    assert f"doortab keys revoke {new}" in done.stderr
    assert done.stderr.count("\n") == 1


def nowhere(kind: str) -> IO[bytes]:
    if kind == "full":
        return Path("/dev/full").open("wb", buffering=0)
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "wb", buffering=0)


def test_no_key_is_made_where_standard_output_is_closed(doortab: Doortab) -> None:
    words = [sys.executable, "-m", "doortab", *doortab.arguments("keys", "issue", *UNCAPPED)]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], stderr=subprocess.PIPE, text=True)

    assert done.returncode == 2
    assert "standard output is closed" in done.stderr
    assert doortab.json("keys", "list")["rows"] == []


@pytest.mark.parametrize("overlap", ["-1", "999999999999", "9" * 30])
def test_an_overlap_that_no_calendar_holds_is_refused_in_words(doortab: Doortab, overlap: str) -> None:
    key = doortab.json("keys", "issue", *UNCAPPED)["key_id"]

    done = doortab.run("keys", "rotate", key, "--overlap", overlap)

    assert done.returncode == 2
    assert b"seconds, from 0 to" in done.stderr
    assert [row["status"] for row in doortab.json("keys", "list")["rows"]] == ["active"]


def test_a_key_that_is_not_active_is_not_rotated_and_the_way_out_is_named(doortab: Doortab) -> None:
    old = doortab.json("keys", "issue", *UNCAPPED)["key_id"]
    new = doortab.json("keys", "rotate", old)["key_id"]
    doortab.ok("keys", "revoke", new)

    retiring, revoked = doortab.run("keys", "rotate", old), doortab.run("keys", "rotate", new)

    assert (retiring.returncode, revoked.returncode) == (4, 4)
    assert f"rotate {new}, which took over" in retiring.stderr.decode()
    assert "issue another" in revoked.stderr.decode()


def test_what_a_key_is_called_cannot_steer_the_terminal_nor_add_a_line(doortab: Doortab) -> None:
    purpose = "a\x1b[31mRED\nstatus       revoked"
    key = doortab.json("keys", "issue", *UNCAPPED, "--purpose", purpose)["key_id"]

    shown = doortab.ok("keys", "show", key)

    assert "\x1b" not in shown
    assert [line for line in shown.splitlines() if line.startswith("status")] == ["status       active"]
    assert json.loads(doortab.ok("keys", "show", key, "--json"))["purpose"] == purpose

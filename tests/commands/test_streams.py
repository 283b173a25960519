"""The streams a command is given: closed, full, or unable to spell what it has to say."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import Done, Doortab
from tests.commands.test_commands import CATALOG, event

Shell = Callable[..., Done]


@pytest.fixture
def shell(doortab: Doortab) -> Shell:
    """Runs the command in a process of its own, with redirections as a shell has them."""
    doortab.ok("apply", "-", given=CATALOG)
    doortab.ok("ingest", "-", given=event(1) + b"\n" + event(2, key=None))

    def run(words: str, **environment: str) -> Done:
        command = f"{shlex.quote(sys.executable)} -m doortab --data {shlex.quote(str(doortab.data))} {words}"
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, env=os.environ | environment, timeout=60, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.mark.parametrize("words", ["report 2026-03", "report --json", "report --format csv", "caps", "config", "-h"])
def test_whoever_has_seen_enough_may_close_the_pipe(shell: Shell, words: str) -> None:
    done = shell(f"{words} | true; exit ${{PIPESTATUS[0]}}")

    assert done.returncode == 0, done.stderr
    assert not done.stderr.replace(b"control:", b"").strip().startswith((b"Traceback", b"doortab:", b"Exception"))


@pytest.mark.parametrize("words", ["report", "report --format csv", "config", "caps --json"])
def test_an_output_that_is_full_is_said_in_one_line_with_75(shell: Shell, words: str) -> None:
    done = shell(f"{words} > /dev/full")

    last = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 75
    assert last.startswith("doortab: ")
    assert "standard output: No space left on device" in last
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_streams_that_are_closed_are_named_and_no_file_takes_their_place(shell: Shell) -> None:
    unread, given, unsaid = shell("report --json >&-"), shell("ingest - <&-"), shell("report --json 2>&-")

    assert (unread.returncode, given.returncode, unsaid.returncode) == (1, 2, 0)
    assert b"standard output: Bad file descriptor" in unread.stderr
    assert b"- cannot be read" in given.stderr
    assert b"Traceback" not in unread.stderr + given.stderr
    assert unsaid.stdout.startswith(b'{"period"')


def test_what_an_output_cannot_spell_is_escaped_and_in_data_never_guessed(shell: Shell, doortab: Doortab) -> None:
    doortab.ok("ingest", "-", given=event(3, account="café–1"))

    table, data, csv = (
        shell(f"report 2026-03 {words}", PYTHONIOENCODING="latin1") for words in ("", "--json", "--format csv")
    )

    assert table.returncode == data.returncode == 0, table.stderr + data.stderr
    assert b"caf\xe9\\u20131" in table.stdout
    assert b"caf\\u00e9\\u20131" in data.stdout
    assert csv.returncode == 2
    assert b"PYTHONIOENCODING=utf-8" in csv.stderr
    assert csv.stderr.count(b"\n") == 1


def test_a_table_that_nobody_looks_at_on_a_terminal_is_not_folded(
    shell: Shell, doortab: Doortab, tmp_path: Path
) -> None:
    long = "team-" * 30
    doortab.ok("ingest", "-", given=event(4, key=long))

    done = shell("caps", COLUMNS="40")

    assert any(line.startswith(f"key:{long} ") for line in done.stdout.decode().splitlines())

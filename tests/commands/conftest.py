"""Runs the command as a person would."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from doortab.__main__ import run


class Done(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Doortab:
    """The command on one data directory. ``run`` runs it in this process, ``start`` in one of its own."""

    def __init__(self, data: Path, log: str | None = None) -> None:
        self.data = data
        self.log = log

    def arguments(self, *arguments: str) -> list[str]:
        return ["--data", str(self.data), *(["--log", self.log] if self.log else []), *arguments]

    def run(self, *arguments: str, given: bytes = b"") -> Done:
        out, err, into = (io.TextIOWrapper(buffer, "utf-8") for buffer in (io.BytesIO(), io.BytesIO(), _given(given)))
        before = sys.stdin
        sys.stdin = into
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(self.arguments(*arguments))
        finally:
            sys.stdin = before
        return Done(code, *(_written(stream) for stream in (out, err)))

    def ok(self, *arguments: str, given: bytes = b"") -> str:
        done = self.run(*arguments, given=given)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def json(self, *arguments: str, given: bytes = b"") -> Any:
        return json.loads(self.ok(*arguments, "--json", given=given))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOORTAB_")}
        return subprocess.Popen(
            [sys.executable, "-m", "doortab", *self.arguments(*arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kept,
        )


def _given(text: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(text))


def _written(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    raw = stream.detach()
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("DOORTAB_") and not n.startswith("DOORTAB_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def doortab(tmp_path: Path) -> Doortab:
    return Doortab(tmp_path / "data")

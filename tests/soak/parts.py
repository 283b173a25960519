"""What the soak runs, kills and looks at: services, a ledger, and their figures as /proc has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from doortab.asking import running
from doortab.schemas import topics
from doortab.schemas.errors import TryAgain
from doortab.settings import Settings
from tests.conftest import REPOSITORY

RATE = 500
"""Events a second, of each of two services."""


class Sample(NamedTuple):
    """A process at a moment."""

    seconds: float
    rss_kb: int
    threads: int
    files: int


class Part:
    """A process that is started, killed and started again. ``samples`` are those of its present life."""

    def __init__(self, name: str, command: list[str], data: Path) -> None:
        self.name = name
        self._command = command
        self._errors = (data / f"{name}.log").open("ab")
        self.samples: list[Sample] = []
        self.start()

    def start(self) -> None:
        """Starts it anew."""
        self.samples = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOORTAB_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self._command], cwd=REPOSITORY, env=kept, stdout=self._errors, stderr=self._errors
        )

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; how it ended."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self._errors.close()

    def look(self, now: float) -> None:
        """Takes a sample."""
        assert self.process.poll() is None, f"{self.name} ended by itself with {self.process.returncode}"
        place = Path(f"/proc/{self.process.pid}")
        told = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        files = len(list((place / "fd").iterdir()))
        self.samples.append(Sample(now, int(told["VmRSS"].split()[0]), int(told["Threads"]), files))


def service(data: Path, name: str) -> Part:
    """One that records."""
    return Part(name, ["tests.soak.service", "--data", str(data), "--name", name, "--rate", str(RATE)], data)


def ledger(data: Path) -> Part:
    """The one that bills. What DuckDB may keep in memory is little, so that it is all there after the warm-up."""
    return Part("ledger", ["doortab", "--data", str(data), "ledger", "--port", "0"], data)


def caught_up(settings: Settings, seconds: float) -> float:
    """Waits until all that the log holds now is in the store; how long that took.

    Raises:
        TimeoutError: it took longer than that.
    """
    began, target = time.monotonic(), None
    while time.monotonic() - began < seconds:
        try:
            found = running(settings)
            if found is None:
                time.sleep(0.05)
                continue
            try:
                target = target or {str(p): offset for p, offset in found.log.end_offsets(topics.USAGE).items()}
                if found.ask("wait", positions=target, seconds=1)["reached"]:
                    return time.monotonic() - began
            finally:
                found.close()
        except TryAgain:
            time.sleep(0.05)
    raise TimeoutError(f"the ledger has not caught up within {seconds} s")


def slope_kb_a_minute(samples: list[Sample], of: Callable[[Sample], int] = lambda sample: sample.rss_kb) -> float:
    """The line through the samples, by least squares."""
    n = len(samples)
    middle, mean = sum(s.seconds for s in samples) / n, sum(map(of, samples)) / n
    spread = sum((s.seconds - middle) ** 2 for s in samples)
    return 60 * sum((s.seconds - middle) * (of(s) - mean) for s in samples) / spread

"""What the trials of ``everyone`` share: what they are made of, and how somebody notes what was acknowledged."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from doortab.schemas.errors import TryAgain
from tests.crashes.workloads import CLEAR


class Trial(NamedTuple):
    """``works`` are the processes by name, each with the file that shows that it has done something; those without
    are not killed. ``check`` says figures, and what is wrong."""

    prepare: Callable[[Path], None]
    works: dict[str, tuple[Callable[[Path], None], str]]
    check: Callable[[Path], dict[str, Any]]


def acknowledge(directory: Path, kind: str, *words: str) -> None:
    """Notes what somebody was told, a line a word, in one write that a kill cannot halve."""
    file = os.open(directory / f"{kind}.acked", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, "".join(f"{word}\n" for word in words).encode())
    os.close(file)


def acknowledged(directory: Path, kind: str) -> list[str]:
    """What was noted."""
    path = directory / f"{kind}.acked"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def patient(work: Callable[[Path], None]) -> Callable[[Path], None]:
    """The work; that it should be tried again is a good end, for it will be."""

    def done(directory: Path) -> None:
        try:
            work(directory)
        except TryAgain:
            sys.exit(CLEAR)

    return done

"""Ingest: files of events into the store, with exact counts of what became of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

from doortab.asking import Asked, Local, error_of
from doortab.interrupting import not_for_children
from doortab.packing import Cut, pack

LARGE_BYTES = 8_000_000
"""From this size on, files are read by a process of their own while this one fills the store: two cores, two jobs."""

ENDING_SECONDS = 5.0
"""So long it may take to end when it is told to."""


class Counts(NamedTuple):
    """What became of the events that were read."""

    read: int
    accepted: int
    duplicates: int
    rejected: int


def stopped(counts: Mapping[str, int]) -> str:
    """What is said when it is interrupted, after ``progress`` got these counts."""
    return str(Cut(counts.get("taken", counts.get("read", 0))))


def ingest(asked: Asked, files: Sequence[str], progress: Callable[[str, int], None]) -> Counts:
    """Appends the events of the files to the log, waits until they are in the store, and counts.

    ``progress`` gets what was counted and how many events so far: ``read``, ``stored`` or, when it is stopped,
    ``taken`` (into the log). ``-`` is standard input.

    Raises:
        UsageError: a file that cannot be read.
        LogUnavailable: the log did not acknowledge; what it has it keeps, and sending it all again is harmless.
    """
    if isinstance(asked, Local) and _are_large(files):
        read, ranges = _pack_beside(asked, files, progress)
    else:
        packer = pack(asked.log, files, lambda count: progress("read", count))
        read, ranges = packer.read, packer.ranges
    progress("read", read)
    ends: dict[int, int] = {}
    for partition, _, after in ranges:
        ends[partition] = max(after, ends.get(partition, 0))
    asked.settle(ends, lambda stored: progress("stored", stored))
    told = asked.ask("counts", ranges=ranges)
    return Counts(read, told["accepted"], read - told["accepted"] - told["rejected"], told["rejected"])


def _are_large(files: Sequence[str]) -> bool:
    sizes = [Path(name).stat().st_size for name in files if name != "-" and Path(name).is_file()]
    return sum(sizes) >= LARGE_BYTES


def _pack_beside(
    asked: Local, files: Sequence[str], progress: Callable[[str, int], None]
) -> tuple[int, list[list[int]]]:
    """Lets a child pack the files, and follows it."""
    command = [sys.executable, "-m", "doortab.packing", asked.log_url, *files]
    # A file takes any answer; a pipe that nobody empties would stop the child at its end.
    with ExitStack() as opened:
        answer = opened.enter_context(tempfile.TemporaryFile())
        with not_for_children():  # it ends with this one, which says what stays
            child = opened.enter_context(subprocess.Popen(command, stdout=answer))
        try:
            while child.poll() is None:
                asked.turn(0.1)
                progress("stored", asked.events)
        except BaseException:
            progress("taken", _taken(child, answer))
            raise
        answer.seek(0)
        told: dict[str, Any] = json.loads(answer.read() or b"{}")
    if "ranges" not in told:
        raise error_of(told.get("exit_code", 1))(told.get("error", "the process that read the files died; try again"))
    return told["read"], told["ranges"]


def _taken(child: subprocess.Popen[bytes], answer: IO[bytes]) -> int:
    """Ends the child, and lets it say how many events it has got into the log."""
    child.terminate()
    try:
        child.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    answer.seek(0)
    try:
        told: dict[str, int] = json.loads(answer.read())
    except ValueError:
        return 0  # it had not begun
    return told.get("taken", told.get("read", 0))

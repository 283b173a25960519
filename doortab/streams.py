"""The three streams that a process is given: closed ones, full ones, and those that cannot spell everything."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

IN, OUT, ERR = 0, 1, 2

were_closed: set[int] = set()
"""The streams that ``complete`` found closed."""


def complete() -> None:
    """Takes the place of each stream that was closed: otherwise the next file that is opened gets it.

    To read or write one fails as it would if it were closed; only words for nobody (standard error) go nowhere.
    """
    for number, flag in ((IN, os.O_WRONLY), (OUT, os.O_RDONLY), (ERR, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            were_closed.add(number)
            opened = os.open(os.devnull, flag)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(IN, closefd=False)  # noqa: SIM115
    sys.stdout = _named(sys.stdout or open(OUT, "w", closefd=False))  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(ERR, "w", closefd=False)  # noqa: SIM115


class _Out(io.FileIO):
    """Standard output that says who it is when it takes no more; the system's words name only files."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None


def _named(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    at_once = stream.line_buffering or stream.write_through
    out = io.BufferedWriter(_Out(OUT, "w", closefd=False))
    return io.TextIOWrapper(out, stream.encoding, stream.errors, line_buffering=at_once)


def spells_all(stream: object) -> bool:
    """Whether every character can be written to it."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def spell_out() -> None:
    """Lets what a stream cannot spell be written as an escape. Data looks for itself whether that will do."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not spells_all(stream):
            stream.reconfigure(errors="backslashreplace")


def let_go() -> None:
    """Drops what could not be written, which was told already: the interpreter would try once more, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, OUT)
        os.close(nowhere)

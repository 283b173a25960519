"""How commands speak: JSON and tables to standard output, words and progress to standard error."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from doortab.streams import spells_all

WIDEST = 100_000
"""Wider than any row, where nothing has to fit on a screen."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def as_text(value: Any) -> str:
    """JSON that standard output can spell."""
    return json.dumps(value, ensure_ascii=not spells_all(sys.stdout))


def emit(value: Any) -> None:
    """Prints JSON."""
    typer.echo(as_text(value))


def say(words: str) -> None:
    """Prints words for people, out of the way of data."""
    typer.echo(words, err=True)


def shown(value: Any) -> str:
    """A value as text in which nothing steers the terminal."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Prints rows as a table; as wide as it is where that is no terminal, so that ids can be found in it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(shown(row.get(column))) for column in columns))
    if sys.stdout.isatty():
        Console().print(drawn if rows else "nothing")
        return
    text = io.StringIO()
    Console(file=text, width=WIDEST).print(drawn if rows else "nothing")
    typer.echo("\n".join(line.rstrip() for line in text.getvalue().split("\n")), nl=False)


class Progress:
    """One line on the terminal that says how far it is; nothing where standard error is not a terminal."""

    EVERY_SECONDS = 0.1

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = 0.0
        self._begun = time.monotonic()
        self._counts: dict[str, int] = {}

    def __call__(self, what: str, count: int) -> None:
        self._counts[what] = count
        now = time.monotonic()
        if self._live and now - self._last >= self.EVERY_SECONDS:
            self._last = now
            rate = sum(self._counts.values()) / max(now - self._begun, 0.001) / len(self._counts)
            parts = " · ".join(f"{name} {number:,}" for name, number in self._counts.items())
            sys.stderr.write(f"\r\x1b[K{parts} · {rate:,.0f}/s")
            sys.stderr.flush()

    def done(self) -> dict[str, int]:
        """Ends the line; the last counts by their names."""
        if self._live and self._counts:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        return self._counts

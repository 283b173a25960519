"""A report's JSON as table, JSON, CSV or Parquet."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

from doortab.cli_output import as_text, say
from doortab.schemas.errors import UsageError, of_system
from doortab.streams import spells_all

FORMS = ("table", "json", "csv", "parquet")


def form_of(form: str | None, as_json: bool, output: str | None) -> str:
    """The format that a call asks for, before anything is opened.

    Raises:
        UsageError: an unknown format, two of them, or Parquet without a file.
    """
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other; leave one of them out")
    chosen = "json" if as_json else form or "table"
    if chosen not in FORMS:
        raise UsageError(f"--format {chosen!r} is not one of {', '.join(FORMS)}")
    if chosen == "parquet" and output is None:
        raise UsageError("parquet is not text; say where to: --output report.parquet")
    return chosen


def write(told: dict[str, Any], form: str, output: str | None) -> None:
    """Writes the report to the file, whole or not at all, or to standard output.

    Raises:
        UsageError: the file cannot be written, or the output does not take its characters.
        DiskFull: there is no room for it.
    """
    for finding in told.get("audit", []):
        say(f"AUDIT: {finding}; see: doortab doctor")
    if output is None:
        _print(told, form)
    else:
        from doortab.analytics import durable

        content = _content(told, form)
        try:
            durable.write(Path(output), content)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise of_system(error, f"--output {output}", "name a file that can be written") from error
    if form in ("csv", "parquet"):
        say_control(told)


def _content(told: dict[str, Any], form: str) -> bytes:
    if form == "parquet":
        from doortab.analytics.frames import parquet

        return parquet(told)
    text = io.StringIO(newline="")
    _write_text(told, form, text)
    return text.getvalue().encode()


def _print(told: dict[str, Any], form: str) -> None:
    if form == "table":
        _write_text(told, form, sys.stdout)  # it asks the terminal how wide it is
        return
    if form == "json":
        sys.stdout.write(as_text(told) + "\n")
        return
    text = io.StringIO(newline="")
    _write_text(told, form, text)
    if not spells_all(sys.stdout):
        try:
            text.getvalue().encode(sys.stdout.encoding)
        except UnicodeEncodeError as error:
            raise UsageError(
                f"standard output is {sys.stdout.encoding}, which has no {error.object[error.start]!a}; "
                "set PYTHONIOENCODING=utf-8, or write a file with --output"
            ) from error
    sys.stdout.write(text.getvalue())


def _write_text(told: dict[str, Any], form: str, stream: Any) -> None:
    if form == "json":
        stream.write(json.dumps(told, ensure_ascii=False) + "\n")
        return
    from doortab.analytics import frames

    frames.write_csv(told, stream) if form == "csv" else frames.write_table(told, stream)


def say_control(told: dict[str, Any]) -> None:
    """Says the control equation where the data has no place for it."""
    from doortab.analytics.frames import control_line

    say(control_line(told["control"]))

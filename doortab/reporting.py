"""A report's JSON as table, JSON, CSV or Parquet."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import Any

from doortab.cli_output import say
from doortab.schemas.errors import UsageError


def write(told: dict[str, Any], form: str, output: str | None) -> None:
    """Writes the report to the file, or to standard output.

    Raises:
        UsageError: an unknown format, or Parquet without a file.
    """
    for finding in told.get("audit", []):
        say(f"AUDIT: {finding}; see: doortab doctor")
    if form == "parquet":
        from doortab.analytics.frames import write_parquet

        if output is None:
            raise UsageError("parquet is not text; say where to: --output report.parquet")
        write_parquet(told, output)
        say_control(told)
        return
    context = open(output, "w", encoding="utf-8", newline="") if output else nullcontext(sys.stdout)  # noqa: SIM115
    with context as stream:
        if form == "json":
            stream.write(json.dumps(told, ensure_ascii=False) + "\n")
        elif form == "csv":
            from doortab.analytics.frames import write_csv

            write_csv(told, stream)
            say_control(told)
        elif form == "table":
            from doortab.analytics.frames import write_table

            write_table(told, stream)
        else:
            raise UsageError(f"--format {form!r} is not one of table, json, csv, parquet")


def say_control(told: dict[str, Any]) -> None:
    """Says the control equation where the data has no place for it."""
    from doortab.analytics.frames import control_line

    say(control_line(told["control"]))

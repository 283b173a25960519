"""A report in the hands of people."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.analytics import decimals, frames
from doortab.analytics.plaintext import FORMULA, cell, printable, text_of
from doortab.schemas import money
from tests.analytics.installation import CATALOG, HOUR, START, Installation

EVIL = '=HYPERLINK("http://evil.example","total")'


@pytest.fixture
def told(installation: Installation) -> dict[str, Any]:
    """Two keys, one of them named like a formula; whole and fractional units; one refusal."""
    installation.add(
        [
            installation.event(START, units={"requests": 1, "tokens": 1234}),
            installation.event(START + HOUR, units={"requests": 1, "gb": "0.125"}),
            installation.event(START + HOUR, verdict="refused", reason="cap"),
            installation.event(START, key=EVIL, units={"requests": 1, "tokens": 3}),
        ]
    )
    installation.fold()
    return installation.report("account", "key")


def lines_of(told: dict[str, Any]) -> list[list[str]]:
    stream = io.StringIO(newline="")
    frames.write_csv(told, stream)
    return list(csv.reader(io.StringIO(stream.getvalue())))


def test_the_csv_has_a_column_for_each_heading_and_unit_and_ends_with_the_total(told: dict[str, Any]) -> None:
    header, *rows, total = lines_of(told)

    assert header == [
        *("account", "key", "currency", "events", "allowed", "refused", "billable"),
        *("units.gb", "units.requests", "units.tokens", "amount"),
    ]
    assert rows[1] == ["acct_1", "key_1", "USD", "3", "2", "1", "2", "0.125", "3", "1234", "0.01234"]
    assert total == ["total", "", "USD", "4", "3", "1", "3", "0.125", "4", "1237", "0.01237"]


def test_a_spreadsheet_does_not_calculate_with_what_somebody_called_a_key(told: dict[str, Any]) -> None:
    _, first, *_ = lines_of(told)

    assert first[1] == "'" + EVIL
    assert text_of(first[1]) == EVIL


@given(st.text())
def test_every_text_survives_being_made_a_cell(text: str) -> None:
    assert text_of(cell(text)) == text
    assert not cell(text).lstrip(" ").startswith(FORMULA)


@given(st.text())
def test_what_is_shown_on_a_terminal_only_prints(text: str) -> None:
    assert printable(text).isprintable()


def test_the_data_frame_adds_up_exactly_what_the_report_says(told: dict[str, Any]) -> None:
    made = frames.frame(told)

    assert str(made["amount"].dtype) == "decimal128(38, 12)[pyarrow]"
    assert str(made["events"].dtype) == "int64[pyarrow]"
    assert made["amount"].sum() == Decimal(told["total"]["amount"])
    assert made["units.gb"].sum() == Decimal("0.125")


def test_the_parquet_file_holds_the_same_rows_as_the_data_frame(told: dict[str, Any], tmp_path: Path) -> None:
    frames.write_parquet(told, tmp_path / "report.parquet")

    found = pq.read_table(tmp_path / "report.parquet")

    assert found.replace_schema_metadata(None) == frames.table(told)
    assert found.schema.metadata[b"doortab.timezone"] == b"UTC"
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_report_by_meter_has_quantities_instead_of_counts(installation: Installation) -> None:
    installation.add([installation.event(START, units={"requests": 2, "tokens": 10})])
    installation.fold()

    header, *rows, total = lines_of(installation.report("account", "meter"))

    assert header == ["account", "meter", "currency", "quantity", "amount"]
    assert rows == [["acct_1", "requests", "USD", "2", "0"], ["acct_1", "tokens", "USD", "10", "0.0001"]]
    assert total == ["total", "", "USD", "", "0.0001"]


def test_a_report_of_nothing_is_a_header_and_a_total_of_nothing(installation: Installation) -> None:
    installation.fold()

    header, *rows = lines_of(installation.report("account"))

    assert header == ["currency", "events", "allowed", "refused", "billable", "amount"]
    assert rows == [["", "0", "0", "0", "0", "0"]]


TWO_CURRENCIES = (
    CATALOG
    + """
[[plans]]
name = "europe"
currency = "EUR"

[[plans.charges]]
meter = "tokens"
model = "per_unit"
unit = "0.00002"

[[accounts]]
id = "acct_eu"
plan = "europe"
"""
)


def test_amounts_of_several_currencies_are_totalled_one_by_one(tmp_path: Path) -> None:
    installation = Installation(tmp_path, TWO_CURRENCIES)
    tokens = {"requests": 1, "tokens": 100_000}
    installation.add([installation.event(START, units=tokens), installation.event(START, "k", "acct_eu", units=tokens)])
    installation.fold()

    lines = lines_of(installation.report("account"))
    installation.close()

    assert lines[-3:] == [
        ["total", "", "2", "2", "0", "2", "2", "200000", ""],
        ["total", "EUR", "", "", "", "", "", "", "2"],
        ["total", "USD", "", "", "", "", "", "", "1"],
    ]


def test_the_table_shows_the_total_and_the_control_equation(told: dict[str, Any]) -> None:
    stream = io.StringIO()

    frames.write_table(told, stream)

    shown = stream.getvalue()
    assert "total" in shown
    assert "0.01237" in shown
    assert EVIL in shown
    assert "control: 4 events = 3 billed + 1 not billable + 0 duplicates + 0 rejected + 0 unexplained" in shown


def test_nothing_in_a_table_moves_the_cursor_or_paints(installation: Installation) -> None:
    installation.add([installation.event(START, "\x1b[31mred\x1b[0m\r\n[bold]x[/bold]\u202e", "acct_1")])
    installation.fold()
    stream = io.StringIO()

    frames.write_table(installation.report("key"), stream)

    assert "\x1b" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert "\\x1b[31mred\\x1b[0m\\r\\n[bold]x[/bold]\\u202e" in stream.getvalue()


@given(st.lists(st.integers(min_value=-(10**60), max_value=10**60), max_size=5))
def test_a_column_of_amounts_never_loses_a_digit(numbers: list[int]) -> None:
    column = decimals.amounts(numbers)

    assert [money.amount(format(Decimal(value), "f")) for value in column.to_pylist()] == numbers
    assert pa.types.is_decimal(column.type) or pa.types.is_string(column.type)


def test_the_report_of_a_running_ledger_needs_nothing_but_its_json(told: dict[str, Any]) -> None:
    assert lines_of(json.loads(json.dumps(told))) == lines_of(told)

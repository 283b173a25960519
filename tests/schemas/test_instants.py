"""Instants are exact, from their text and to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import instants

instant = st.integers(instants.EARLIEST, instants.LATEST - 1)


@given(instant)
def test_an_instant_comes_back_from_its_text(value: int) -> None:
    assert instants.parse(instants.text(value)) == value
    assert instants.of(instants.moment(value)) == value


@pytest.mark.parametrize("year", [2000, 2038, 2069, 2099])
def test_every_microsecond_counts_late_in_the_century_too(year: int) -> None:
    start = instants.of(datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC))

    found = [instants.parse(f"{year}-12-31T23:59:59.{micro:06}Z") for micro in range(0, 1_000_000, 997)]

    assert found == [start + micro for micro in range(0, 1_000_000, 997)]


@given(instant, st.integers(-1439, 1439))
def test_an_offset_changes_the_text_and_not_the_instant(value: int, minutes: int) -> None:
    local = instants.moment(value).astimezone(timezone(timedelta(minutes=minutes)))

    assert instants.parse(local.isoformat()) == value


@given(instant, st.text("0123456789", max_size=12))
def test_what_is_finer_than_a_microsecond_is_cut_off(value: int, digits: str) -> None:
    text = instants.moment(value).strftime("%Y-%m-%dT%H:%M:%S.%f")

    assert instants.parse(f"{text}{digits}Z") == value


@given(st.text(max_size=40) | st.from_regex(r"\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d.*", fullmatch=True))
def test_any_other_text_is_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert instants.parse(text) < instants.of(datetime.max.replace(tzinfo=UTC)) + 86_400 * instants.SECOND


def answer(read: Callable[[], list[int]]) -> list[int] | None:
    """What was read, or None where it is refused."""
    try:
        return read()
    except ValueError:
        return None


@given(st.lists(st.one_of(st.text(max_size=30), st.datetimes(timezones=st.just(UTC)).map(lambda d: d.isoformat()))))
def test_many_texts_are_read_as_each_one_is(texts: list[str]) -> None:
    assert answer(lambda: instants.parse_all(texts)) == answer(lambda: [instants.parse(text) for text in texts])


USUAL = st.from_regex(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\.[0-9]{6}Z", fullmatch=True)


@given(st.lists(USUAL))
def test_the_usual_form_is_read_as_any_other_even_where_there_is_no_such_time(texts: list[str]) -> None:
    assert answer(lambda: instants.parse_all(texts)) == answer(lambda: [instants.parse(text) for text in texts])

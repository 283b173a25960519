"""Every kind of record that may come: what is read, and what is rejected, for which reason."""

from __future__ import annotations

import pytest

from doortab.schemas import instants, wire
from doortab.schemas.events import MAX_DEPTH, MAX_EVENT_BYTES
from tests.schemas.wires import STAMP_MS, Read, event, only, read, record, timed

GOOD = event(id="good"), event(id="better")


def nested(levels: int) -> bytes:
    """Data that stands so many levels deep, the event itself being the first."""
    return b'{"x":' + b"[" * (levels - 2) + b"]" * (levels - 2) + b"}"


UNREADABLE = {
    "nothing": (b"", "bad_json"),
    "blanks": (b" \n", "bad_json"),
    "text": (b"hello", "bad_json"),
    "half an event": (event()[:40], "bad_json"),
    "two events": (event() + event(), "bad_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + event(), "bad_json"),
    "NaN": (event(b'{"units":{"requests":NaN}}'), "bad_json"),
    "Infinity": (event(b'{"units":{"requests":-Infinity}}'), "bad_json"),
    "half a surrogate": (event(b'{"operation":"\\ud800"}'), "bad_json"),
    "single quotes": (b"{'specversion':'1.0'}", "bad_json"),
    "a number of 5000 digits": (event(b'{"units":{"requests":' + b"9" * 5000 + b"}}"), "bad_json"),
    "an exponent of 20 digits": (event(b'{"units":{"requests":1e99999999999999999999}}'), "bad_json"),
    "such an exponent elsewhere": (event(b'{"x":1e-99999999999999999999}', type="t"), "bad_json"),
    "bad UTF-8": (event(b'{"operation":"\xff"}'), "bad_utf8"),
    "bad UTF-8 in what nobody reads": (event(more=b',"extra":"\xc3\x28"'), "bad_utf8"),
    "a scalar": (b"5", "not_an_event"),
    "null": (b"null", "not_an_event"),
    "a string": (b'"event"', "not_an_event"),
    "an object": (b"{}", "unknown_version"),
    "version 0.3": (event().replace(b'"1.0"', b'"0.3"'), "unknown_version"),
    "a numeric version": (event().replace(b'"1.0"', b"1.0"), "unknown_version"),
    "binary data": (event(more=b',"data_base64":"AAAA"'), "not_json_data"),
    "XML": (event(more=b',"datacontenttype":"text/xml"'), "not_json_data"),
    "no id": (event().replace(b'"id":"e",', b""), "invalid_event"),
    "an empty id": (event(id=""), "invalid_event"),
    "a numeric id": (event().replace(b'"id":"e"', b'"id":7'), "invalid_event"),
    "an id of 257 characters": (event(id="x" * 257), "invalid_event"),
    "no source": (event().replace(b'"source":"s",', b""), "invalid_event"),
    "an empty subject": (event(more=b',"subject":""'), "invalid_event"),
    "no data": (b'{"specversion":"1.0","id":"e","source":"s","type":"request.validated"}', "invalid_event"),
    "data that is null": (event(b"null"), "invalid_event"),
    "data that is a list": (event(b"[]"), "invalid_event"),
    "data that is a list, of another type": (event(b"[1]", type="t"), "invalid_event"),
    "a numeric account": (event(b'{"account":7}'), "invalid_event"),
    "an unknown verdict": (event(b'{"verdict":"maybe"}'), "invalid_event"),
    "an unknown reason": (event(b'{"reason":"bored"}'), "invalid_event"),
    "billable as text": (event(b'{"billable":"yes"}'), "invalid_event"),
    "units as a list": (event(b'{"units":[1]}'), "invalid_event"),
    "units that are null": (event(b'{"units":null}'), "invalid_event"),
    "a unit without a name": (event(b'{"units":{"":1}}'), "invalid_event"),
    "a dimension that is an object": (event(b'{"dimensions":{"a":{}}}'), "invalid_event"),
    "a dimension of 1025 characters": (event(b'{"dimensions":{"a":"' + b"x" * 1025 + b'"}}'), "invalid_event"),
    "a negative quantity": (event(b'{"units":{"requests":-1}}'), "invalid_quantity"),
    "a boolean quantity": (event(b'{"units":{"requests":true}}'), "invalid_quantity"),
    "a null quantity": (event(b'{"units":{"requests":null}}'), "invalid_quantity"),
    "a fraction in binary": (event(b'{"units":{"requests":1.5}}'), "invalid_quantity"),
    "a whole fraction in binary": (event(b'{"units":{"requests":1.0}}'), "invalid_quantity"),
    "an exponent": (event(b'{"units":{"requests":1e3}}'), "invalid_quantity"),
    "a quantity of 61 digits": (event(b'{"units":{"requests":1' + b"0" * 60 + b"}}"), "invalid_quantity"),
    "text of 61 digits": (event(b'{"units":{"requests":"1' + b"0" * 60 + b'"}}'), "invalid_quantity"),
    "text of 25 decimals": (event(b'{"units":{"requests":"0.' + b"1" * 25 + b'"}}'), "invalid_quantity"),
    "negative text": (event(b'{"units":{"requests":"-1"}}'), "invalid_quantity"),
    "an exponent as text": (event(b'{"units":{"requests":"1e3"}}'), "invalid_quantity"),
    "NaN as text": (event(b'{"units":{"requests":"NaN"}}'), "invalid_quantity"),
    "digits of another script": (event('{"units":{"requests":"٣"}}'.encode()), "invalid_quantity"),
    "text with a line end": (event(b'{"units":{"requests":"1\\n"}}'), "invalid_quantity"),
    "no digits": (event(b'{"units":{"requests":""}}'), "invalid_quantity"),
    "a numeric time": (event(more=b',"time":1774000000'), "invalid_event"),
    "the 31st of February": (timed("2026-02-31T00:00:00Z"), "invalid_time"),
    "hour 24": (timed("2026-02-11T24:00:00Z"), "invalid_time"),
    "a leap second": (timed("2016-12-31T23:59:60Z"), "invalid_time"),
    "no zone": (timed("2026-02-11T00:00:00"), "invalid_time"),
    "no seconds": (timed("2026-02-11T00:00Z"), "invalid_time"),
    "a comma": (timed("2026-02-11T00:00:00,5Z"), "invalid_time"),
    "an offset of a day": (timed("2026-02-11T00:00:00+24:00"), "invalid_time"),
    "an offset with seconds": (timed("2026-02-11T00:00:00+01:00:30"), "invalid_time"),
    "a week date": (timed("2026-W07-3T00:00:00Z"), "invalid_time"),
    "a date": (timed("2026-02-11"), "invalid_time"),
    "no time at all": (timed(""), "invalid_time"),
    "digits that are not": (timed("2026-02-11T00:00:0٣Z"), "invalid_time"),
    "the year 9999": (timed("9999-12-31T23:59:59-23:59"), "time_out_of_range"),
    "the year 1": (timed("0001-01-01T00:00:00+23:59"), "time_out_of_range"),
    "the year 1999": (timed("1999-12-31T23:59:59.999999Z"), "time_out_of_range"),
    "the year 2100": (timed("2100-01-01T00:00:00Z"), "time_out_of_range"),
    "nesting": (event(nested(MAX_DEPTH + 1), type="t"), "too_deep"),
    "deep nesting": (event(nested(900), type="t"), "too_deep"),
    "bottomless nesting": (event(nested(100_000), type="t"), "too_deep"),
    "nesting in what nobody reads": (event(more=b',"extra":' + b"[" * 900 + b"]" * 900), "too_deep"),
    "NUL in a unit's name": (event(b'{"units":{"a\\u0000b":1}}'), "invalid_text"),
    "NUL in an id": (event(id="a\\u0000"), "invalid_text"),
    "NUL elsewhere": (event(b'{"x":["\\u0000"]}', type="t"), "invalid_text"),
    "a megabyte": (event(b'{"x":"' + b"y" * 1_000_000 + b'"}', type="t"), "too_large"),
}


@pytest.mark.parametrize(("value", "reason"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_bad_event_is_rejected_with_its_reason(value: bytes, reason: str) -> None:
    found = read(value)

    assert found == [reason]


# Half an event has no end, and so takes what follows it.
ALONE = {name: case for name, case in UNREADABLE.items() if name != "half an event"}


@pytest.mark.parametrize(("value", "reason"), ALONE.values(), ids=ALONE.keys())
def test_a_bad_event_among_good_ones_keeps_its_neighbours(value: bytes, reason: str) -> None:
    first, bad, last = read(b"[" + b" ,\n".join([GOOD[0], value, GOOD[1]]) + b"]")

    assert isinstance(first, Read)
    assert isinstance(last, Read)
    assert (first.event.id, bad, last.event.id) == ("good", reason, "better")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (b"[]", "empty_batch"),
        (b"[ ]", "empty_batch"),
        (b"[" + GOOD[0], "bad_json"),
        (b"[" + GOOD[0] + b"]]", "bad_json"),
        (b"[" + GOOD[0] + b',{"id":"x]', "bad_json"),
        (b"[" + GOOD[0] + b",{]", "bad_json"),
    ],
)
def test_a_record_in_which_nobody_can_tell_the_events_apart_is_rejected_whole(value: bytes | None, reason: str) -> None:
    assert read(value) == [reason]


def test_what_stands_between_two_commas_is_rejected_alone() -> None:
    first, nothing, last = read(b"[" + GOOD[0] + b",," + GOOD[1] + b"]")

    assert isinstance(first, Read)
    assert isinstance(last, Read)
    assert nothing == "bad_json"


def test_an_array_in_an_array_is_no_event() -> None:
    assert read(b"[[" + GOOD[0] + b"]]") == ["not_an_event"]


def test_a_line_that_only_looks_like_one_event_does_not_become_two_by_being_joined() -> None:
    line = GOOD[0] + b"," + GOOD[1]

    with pytest.raises(wire.Unreadable, match="bad_json"):
        wire.decode_event(line, 0)


def test_blanks_around_an_array_do_no_harm() -> None:
    found = read(b" \r\n[ " + b" , ".join(GOOD) + b" ]\t")

    assert [one.event.id for one in found if isinstance(one, Read)] == ["good", "better"]


def test_a_rejection_says_where_the_event_stood_and_keeps_what_stood_there() -> None:
    bad = event(b'{"units":{"requests":-5}}')

    (rejected,) = wire.decode([record(b"[" + GOOD[0] + b"," + bad + b"]", key=None)]).rejected

    assert (rejected.topic, rejected.partition, rejected.offset, rejected.index) == ("usage", 2, 17, 1)
    assert (rejected.raw, rejected.size) == (bad, len(bad))
    assert rejected.detail == ("data.units.requests is -5; a quantity is a whole number, not negative, or decimal text")


def test_of_a_huge_record_the_beginning_is_kept_and_its_size() -> None:
    (rejected,) = wire.decode([record(b"x" * 1_000_000)]).rejected

    assert (len(rejected.raw), rejected.size, rejected.reason) == (wire.KEPT_BYTES, 1_000_000, "too_large")


def test_many_small_events_may_make_a_large_record() -> None:
    count = 2 * MAX_EVENT_BYTES // len(event())

    found = read(b"[" + b",".join(event(id=str(i)) for i in range(count)) + b"]")

    assert [one.event.id for one in found if isinstance(one, Read)] == [str(i) for i in range(count)]


# ------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("written", "cut"),
    [
        ("2026-02-11T23:00:00Z", "2026-02-11T23:00:00Z"),
        ("2026-02-11t23:00:00z", "2026-02-11T23:00:00Z"),
        ("2026-02-11 23:00:00Z", "2026-02-11T23:00:00Z"),
        ("2026-02-11T23:00:00.5Z", "2026-02-11T23:00:00.500000Z"),
        ("2026-02-11T23:00:00.123456999Z", "2026-02-11T23:00:00.123456Z"),
        ("2026-02-11T23:59:59.999999999999Z", "2026-02-11T23:59:59.999999Z"),
        ("2026-02-11T23:00:00+05:30", "2026-02-11T17:30:00Z"),
        ("2026-02-11T23:00:00+0530", "2026-02-11T17:30:00Z"),
        ("2026-02-11T00:00:00-23:59", "2026-02-11T23:59:00Z"),
        ("2026-02-11T23:00:00-00:00", "2026-02-11T23:00:00Z"),
        ("2000-01-01T01:00:00+01:00", "2000-01-01T00:00:00Z"),
        ("2099-12-31T23:59:59.999999Z", "2099-12-31T23:59:59.999999Z"),
        ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
    ],
)
def test_a_time_may_have_any_offset_and_is_cut_to_microseconds(written: str, cut: str) -> None:
    assert instants.text(only(timed(written)).time) == cut


@pytest.mark.parametrize("type", ["request.validated", "t"])
def test_the_first_instant_of_2000_is_the_first_that_counts(type: str) -> None:
    first, before = (
        event(b'{"x":1}', type=type, more=f',"time":"{time}"'.encode())
        for time in ("2000-01-01T00:00:00Z", "1999-12-31T23:59:59.999999Z")
    )

    assert only(first).time == instants.EARLIEST
    assert read(before) == ["time_out_of_range"]


def test_an_event_without_a_time_happened_when_the_log_received_it() -> None:
    assert only(event()).time == STAMP_MS * 1000
    assert only(event(more=b',"time":null')).time == STAMP_MS * 1000


@pytest.mark.parametrize("stamp_ms", [-1, 0, 253_402_300_799_000])
def test_an_event_without_a_time_in_a_record_of_no_time_is_rejected(stamp_ms: int) -> None:
    assert read(event(), stamp_ms) == ["time_out_of_range"]
    assert read(b"[" + event() + b"]", stamp_ms) == ["time_out_of_range"]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"0", 0),
        (b"9223372036854775807", 2**63 - 1),
        (b"9223372036854775808", "9223372036854775808"),
        (b"18446744073709551616", "18446744073709551616"),
        (b"9" * 60, "9" * 60),
        (b'"0"', "0"),
        (b'"00012.500"', "00012.500"),
        (b'"0.' + b"1" * 24 + b'"', "0." + "1" * 24),
        (b'"' + b"9" * 60 + b"." + b"9" * 24 + b'"', "9" * 60 + "." + "9" * 24),
    ],
)
def test_a_quantity_is_a_whole_number_of_any_size_or_decimal_text(written: bytes, kept: int | str) -> None:
    one = only(event(b'{"units":{"requests":' + written + b"}}"))

    assert one.event.data.units == {"requests": kept}


def test_dimensions_are_text_even_if_they_are_written_otherwise() -> None:
    data = b'{"dimensions":{"n":1,"d":1.50,"t":true,"f":false,"s":"x","none":null,"big":' + b"9" * 30 + b"}}"

    assert only(event(data)).event.data.dimensions == {
        "n": "1",
        "d": "1.50",
        "t": "true",
        "f": "false",
        "s": "x",
        "big": "9" * 30,
    }


def test_of_two_fields_with_one_name_the_last_counts() -> None:
    assert only(event(b'{"units":{"requests":-1,"requests":2}}')).event.data.units == {"requests": 2}
    assert read(event(b'{"units":{"requests":2,"requests":-1}}')) == ["invalid_quantity"]
    assert only(event(b'{"units":{"a":1}},"data":{"units":{"a":7}}')).event.data.units == {"a": 7}
    assert only(event(more=b',"id":"second"')).event.id == "second"
    assert read(b"[" + event(more=b',"id":5') + b"]") == ["invalid_event"]


def test_any_type_may_bring_any_object_as_data() -> None:
    data = b'{"units":5,"key":"","reason":"bored","b":[1,{"c":null}],"a":1.50,"account":"acme","n":-1e400}'

    one = only(event(data, type="door.opened"))

    assert one.event.data.account == "acme"
    assert one.rest == '{"a":1.50,"b":[1,{"c":null}],"key":"","n":-1E+400,"reason":"bored","units":5}'
    assert wire.decode_rest(one.rest)["units"] == 5


def test_usage_may_bring_more_than_usage() -> None:
    one = only(event(b'{"units":{"requests":1},"trace":"abc","big":' + b"9" * 30 + b"}"))

    assert one.event.data.units == {"requests": 1}
    assert one.rest == '{"big":' + "9" * 30 + ',"trace":"abc"}'


@pytest.mark.parametrize("data", [b"null", b"{}"])
def test_another_type_needs_no_data(data: bytes) -> None:
    assert only(event(data, type="door.opened")).rest is None


@pytest.mark.parametrize(
    "more",
    [
        b',"datacontenttype":"application/json; charset=utf-8"',
        b',"datacontenttype":"application/vnd.acme+json"',
        b',"datacontenttype":null',
        b',"traceparent":"00-ab-cd-01","sequence":7',
        b',"dataschema":"https://example.com/usage.json"',
    ],
)
def test_other_attributes_do_no_harm(more: bytes) -> None:
    assert only(event(more=more)) == only(event())


def test_an_event_may_nest_as_deep_as_the_rule_says() -> None:
    assert only(event(nested(MAX_DEPTH), type="t")).rest is not None


def test_brackets_in_texts_are_no_nesting() -> None:
    assert only(event(b'{"operation":"' + b"[{" * 200 + b'"}')).event.data.operation == "[{" * 200


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert only(event(b'{"operation":"\\\\u0000"}')).event.data.operation == "\\u0000"

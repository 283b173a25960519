"""Laws of the wire, for any bytes at all."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from doortab.schemas import instants, wire
from doortab.schemas.events import Event, Usage
from doortab.schemas.money import QUANTITY_DECIMALS
from tests.schemas.wires import Read, event, plain, read, record

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
name = text.filter(bool)
quantity = st.integers(0, 2**63 - 1) | st.decimals(
    0, 10**30, allow_nan=False, allow_infinity=False, places=QUANTITY_DECIMALS
).map(lambda number: f"{number:f}")
moment = st.integers(instants.EARLIEST, instants.LATEST - 1)
usage = st.builds(
    Usage,
    account=st.none() | name,
    key=st.none() | name,
    verdict=st.sampled_from(["allowed", "refused"]),
    reason=st.none() | st.sampled_from(["rate", "cap", "revoked"]),
    billable=st.none() | st.booleans(),
    operation=st.none() | text,
    units=st.dictionaries(name, quantity, max_size=4),
    dimensions=st.dictionaries(name, text, max_size=4),
)
events = st.builds(
    Event,
    specversion=st.just("1.0"),
    id=name,
    source=name,
    type=st.just("request.validated") | name,
    data=usage,
    time=st.none() | moment.map(instants.text),
    subject=st.none() | name,
)

# JSON that is nearly an event: the right names with any values, so that every check is come upon.
scalar = st.none() | st.booleans() | st.integers(-(10**70), 10**70) | st.floats() | text
value = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
strange_data = st.dictionaries(
    st.sampled_from([*Usage.__struct_fields__, "x", "y"]),
    value | st.dictionaries(text, scalar, max_size=3) | st.sampled_from(["allowed", "refused", True]),
    max_size=5,
)
strange_times = moment.map(instants.text) | text | st.datetimes().map(lambda at: at.isoformat() + "Z")


def nearly(chosen: dict[str, Any]) -> bytes:
    """The chosen attributes over those of a good event, as JSON (and a little beyond it: NaN, Infinity)."""
    whole = {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data": {}} | chosen
    return json.dumps(whole, ensure_ascii=False).encode("utf-8", "surrogatepass")


strange = st.fixed_dictionaries(
    {},
    optional={
        "specversion": st.sampled_from(["1.0", "0.3", 1]),
        "id": name | value,
        "source": name | value,
        "type": st.sampled_from(["request.validated", "t", "", 5]),
        "data": strange_data | value,
        "time": strange_times,
        "subject": value,
        "datacontenttype": st.sampled_from(["application/json", "text/xml", 5, None]),
        "extra": value,
    },
).map(nearly)
anything = st.binary(max_size=200) | strange | events.map(wire.encode)


@given(anything)
def test_no_bytes_stop_the_wire(value: bytes) -> None:
    decoded = wire.decode([record(value)])

    assert len(decoded.events) + len(decoded.rejected) >= 1
    assert len(decoded.events) == len(decoded.times) == sum(len(span.indices) for span in decoded.spans)
    assert all(instants.EARLIEST <= time < instants.LATEST for time in decoded.times)


@given(st.lists(st.binary(max_size=8) | st.sampled_from([b'{"id":"', b'"}', b"[", b"]", b",", b"\\", event()])))
def test_no_heap_of_fragments_stops_the_wire(pieces: list[bytes]) -> None:
    assert read(b"".join(pieces))
    assert read(b"[" + b"".join(pieces) + b"]")


@given(events)
def test_what_is_encoded_is_read_again(one: Event) -> None:
    (again,) = read(wire.encode(one))

    assert isinstance(again, Read)
    assert plain(again.event) == one
    assert again.rest is None


@given(st.lists(events, min_size=1, max_size=5))
def test_what_is_joined_is_read_again(many: list[Event]) -> None:
    found = read(wire.join([wire.encode(one) for one in many]))

    assert [one.event for one in found if isinstance(one, Read)] == many


@given(strange | events.map(wire.encode))
def test_an_event_is_read_the_same_alone_and_in_an_array(value: bytes) -> None:
    assert read(b"[" + value + b"]") == read(value)


@given(strange)
def test_a_bad_event_never_takes_its_neighbours(value: bytes) -> None:
    first, middle, last = read(b"[" + b",".join([event(id="a"), value, event(id="b")]) + b"]")

    assert (first, last) == (*read(event(id="a")), *read(event(id="b")))
    assert [middle] == read(value)


@given(st.lists(strange | events.map(wire.encode), min_size=1, max_size=5))
def test_a_record_is_the_sum_of_its_events(values: list[bytes]) -> None:
    together = read(b"[" + b",".join(values) + b"]")

    assert together == [one for value in values for one in read(value)]


@given(events, st.integers(0, 400), st.integers(0, 255))
def test_one_wrong_byte_is_never_a_crash(one: Event, place: int, byte: int) -> None:
    value = bytearray(wire.encode(one))
    value[place % len(value)] = byte

    assert read(bytes(value))


@st.composite
def cut_up(draw: st.DrawFn) -> list[bytes]:
    """Records that were cut from a text of events anywhere, mostly so that the next one begins with a brace."""
    values = draw(st.lists(strange | events.map(wire.encode), min_size=1, max_size=6))
    between = draw(st.lists(st.sampled_from([b"", b",", b",\n", b"\n", b"],["]), min_size=6, max_size=6))
    text = b"".join(value + gap for value, gap in zip(values, between, strict=False))
    braces = [place for place, byte in enumerate(text) if byte == ord("{")]
    places = st.sampled_from(braces) | st.integers(0, len(text)) if braces else st.integers(0, len(text))
    cuts = sorted(draw(st.sets(places, max_size=8)) | {0, len(text)})
    return [text[first:last] for first, last in pairwise(cuts)]


def told(decoded: wire.Decoded) -> dict[tuple[int, int], Read | wire.Rejected]:
    """All that was made of records, by offset and index."""
    found: dict[tuple[int, int], Read | wire.Rejected] = {(one.offset, one.index): one for one in decoded.rejected}
    for number, one in enumerate(decoded.events):
        _, offset, index = decoded.place_of(number)
        assert (offset, index) not in found
        found[offset, index] = Read(plain(one), decoded.times[number], decoded.rest.get(number))
    return found


@settings(max_examples=300)
@given(st.lists(events.map(wire.encode), min_size=2, max_size=4) | cut_up())
def test_a_record_is_read_the_same_whatever_records_come_with_it(values: list[bytes]) -> None:
    records = [record(value)._replace(offset=offset) for offset, value in enumerate(values)]

    together = told(wire.decode(records))

    assert together == {place: one for alone in records for place, one in told(wire.decode([alone])).items()}


def test_records_that_are_no_events_alone_are_none_together() -> None:
    two = event(id="a") + b"," + event(id="b")
    conspiracies = [
        [event(data=b"")[:-1], b"{}}", two],
        [event()[:-1] + b',"subject":"', b'{"}', two],
        [event()[:-1] + b',"more":[1', b"{}]}", two],
        [event() + b",", b"{}"],
        [event() + b",\n" + event(id="a"), event(id="c")[:-1], b"{}}"],
    ]

    for values in conspiracies:
        decoded = wire.decode([record(value)._replace(offset=offset) for offset, value in enumerate(values)])

        assert [decoded.place_of(number)[1] for number in range(len(decoded.events))] == []

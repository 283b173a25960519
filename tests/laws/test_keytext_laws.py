from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doortab.producers.gate import Gate
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import ALPHABET, CHARACTERS, Peppers, environment_of, make

GATE = Gate(Keyring(), Peppers("p", {"p": b"p" * 32}))

seeds = st.binary(min_size=48, max_size=48)


def secret_from(seed: bytes, environment: str = "live") -> str:
    return make(environment, random=lambda n: (seed * 2)[:n]).reveal()  # type: ignore[arg-type]


@given(seeds, st.integers(0, CHARACTERS - 1), st.characters())
def test_the_checksum_catches_every_change_of_one_character(seed: bytes, place: int, character: str) -> None:
    text = secret_from(seed)

    changed = text[:place] + character + text[place + 1 :]

    assert (environment_of(changed) is None) == (changed != text)


@given(seeds)
def test_the_checksum_catches_a_test_key_made_live_and_the_reverse(seed: bytes) -> None:
    for environment, other in (("live", "test"), ("test", "live")):
        text = secret_from(seed, environment)

        assert environment_of(text) == environment
        assert environment_of(text.replace(f"dt_{environment}_", f"dt_{other}_")) is None


@given(seeds, st.integers(8, CHARACTERS - 2))
def test_the_checksum_catches_two_neighbours_that_changed_places(seed: bytes, place: int) -> None:
    text = secret_from(seed)

    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]

    assert (environment_of(swapped) is None) == (swapped != text)


@given(st.text(max_size=80) | st.text(ALPHABET, min_size=38, max_size=38).map("dt_live_".__add__))
def test_any_text_is_refused_without_an_exception(text: str) -> None:
    assert environment_of(text) is None


@given(st.text() | st.binary() | st.text().map("Bearer ".__add__) | st.binary().map(b"Bearer ".__add__))
def test_no_header_makes_the_gate_raise_or_let_somebody_in(header: str | bytes) -> None:
    assert not GATE.check(header).allowed

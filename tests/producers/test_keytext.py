from __future__ import annotations

import copy
import pickle
import re

import pytest

from doortab.producers.keytext import CHARACTERS, PATTERN, Peppers, Secret, environment_of, hint, make, redact

KNOWN = "dt_live_" + "0123456789ABCDEFGHIJKLMNOPQRSTUV" + "1nwezx"


def test_the_format_of_a_key_never_changes() -> None:
    # Keys in the hands of customers must be recognised by every later version.
    secret = make("live", random=lambda n: bytes(range(n)))

    assert secret.reveal() == KNOWN
    assert environment_of(KNOWN) == "live"


def test_a_new_key_is_46_characters_that_a_double_click_selects() -> None:
    for environment in ("live", "test"):
        text = make(environment).reveal()

        assert re.fullmatch(rf"dt_{environment}_[0-9A-Za-z]{{38}}", text)
        assert len(text) == CHARACTERS == 46
        assert environment_of(text) == environment


def test_every_character_of_the_alphabet_is_drawn_equally_often() -> None:
    drawn = "".join(make("live").reveal()[8:40] for _ in range(4000))

    counts = {character: drawn.count(character) for character in set(drawn)}

    assert len(counts) == 62
    expected = len(drawn) / 62
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 130, "61 degrees of freedom: above 130 once in 10^6 runs"


def test_ten_thousand_keys_are_all_different() -> None:
    assert len({make("live").reveal() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dt_live_",
        KNOWN[:-1],
        KNOWN + "x",
        KNOWN.lower(),
        KNOWN.replace("live", "prod"),
        "sk_live_" + KNOWN[8:],
        " " + KNOWN[1:],
        KNOWN[:20] + "é" + KNOWN[21:],
        KNOWN[:20] + "١" + KNOWN[21:],
        KNOWN[:20] + "_" + KNOWN[21:],
        KNOWN[:20] + "\x00" + KNOWN[21:],
        "dt_live_" + "0" * 38,
    ],
)
def test_what_is_not_a_key_is_refused_before_any_hashing(text: str) -> None:
    assert environment_of(text) is None


def test_a_secret_shows_itself_only_when_it_is_revealed() -> None:
    secret = make("live")
    text = secret.reveal()

    shown = f"{secret} {secret!r} {[secret]} {vars(Secret).keys()}"

    assert text not in shown
    assert shown.startswith(f"dt_live_…{text[-4:]}")
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="never pickled"):
        copy.copy(secret)
    with pytest.raises(TypeError, match="never compared"):
        _ = secret == text
    with pytest.raises(TypeError, match="unhashable"):
        hash(secret)


def test_a_hint_is_prefix_and_last_four_and_of_anything_else_nothing() -> None:
    assert hint(KNOWN) == "dt_live_…wezx"
    assert hint("hunter2") == "…"


def test_the_digest_depends_on_the_pepper_and_on_every_byte() -> None:
    peppers = Peppers("new", {"old": b"o" * 32, "new": b"n" * 32})

    current, former = peppers.digests(KNOWN)

    assert current == peppers.digest(KNOWN) == peppers.digest(KNOWN, "new")
    assert former == peppers.digest(KNOWN, "old")
    assert len({current, former, peppers.digest(KNOWN[:-1])}) == 3
    assert len(current) == 32


def test_the_digest_never_changes_between_versions() -> None:
    digest = Peppers("p", {"p": bytes(range(32))}).digest(KNOWN).hex()

    assert digest == "73a02f6fad307691e720f42fb5663b990861827251a8a12b3bdca408910412b0"


def test_peppers_do_not_show_their_values() -> None:
    assert repr(Peppers("p", {"p": b"hidden-hidden-hidden"})) == "Peppers(current_id='p', ids=['p'])"


@pytest.mark.parametrize("values", [{}, {"q": b"x" * 32}, {"p": b"short"}, {"p": b"x" * 65}])
def test_unusable_peppers_are_refused(values: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="pepper"):
        Peppers("p", values)


@pytest.mark.parametrize(
    "line",
    [
        'GET /x?api_key={key} HTTP/1.1" 200',
        '{{"authorization": "Bearer {key}"}}',
        "key={key};other=1",
        "{key}{key}",
        "two {key} of {key}.",
        "cut off: {cut}",
        "Traceback: ValueError: {key!r}",
    ],
)
def test_redaction_hides_every_key_in_a_line(line: str) -> None:
    secret = make("test").reveal()
    text = line.format(key=secret, cut=secret[:30])

    hidden = redact(text)

    assert secret not in hidden
    assert secret[8:30] not in hidden
    assert "dt_test_…" in hidden


def test_the_pattern_for_scanners_finds_keys_and_not_their_neighbours() -> None:
    text = f"a {KNOWN}, b_{KNOWN} {KNOWN}x '{KNOWN}'"

    assert re.findall(PATTERN, text) == [KNOWN, KNOWN]

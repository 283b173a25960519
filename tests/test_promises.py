"""The page of the promises says what was noted, and nothing that must be nothing gets by."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import promises
from tests.conftest import REPOSITORY
from tests.promises import ZERO, __main__, note, noted, session
from tests.promises.table import PROMISES


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "figures" / "reliability"
    monkeypatch.setenv(promises.VARIABLE, str(directory))
    session.write(directory, REPOSITORY, 0, {"passed": 7, "failed": 0, "skipped": 2})
    return directory.parent


def test_figures_are_added_and_of_those_with_a_unit_the_largest_counts(figures: Path) -> None:
    note("R1", kills=3, lost=0, recovery_milliseconds=40)
    note("R1", kills=4, lost=0, recovery_milliseconds=30)
    (figures / "soak").mkdir()
    (figures / "soak" / "1.jsonl").write_text(json.dumps({"promise": "R1", "figures": {"kills": 5}}) + "\n")

    assert noted(figures) == {"R1": {"kills": 12, "lost": 0, "recovery_milliseconds": 40}}


def test_the_page_has_every_promise_with_its_figures_and_what_is_not_covered(figures: Path) -> None:
    note("R1", kills=1234, lost=0)

    text = __main__.page(figures)

    assert [row.split(" | ")[0].strip("| ") for row in text.splitlines() if row.startswith("| R")] == [
        promise.id for promise in PROMISES
    ]
    assert "1,234 kills, **0 lost**" in text
    assert "| processes killed or stopped, and gone on | 1,234 |" in text
    assert "7 passed, 2 skipped" in text
    assert all(promise.uncovered in text for promise in PROMISES)
    assert __main__.broken(noted(figures)) == []


@pytest.mark.parametrize("name", ZERO)
def test_what_must_be_nothing_and_is_something_is_told(name: str, figures: Path) -> None:
    note("R22", **{name: 2})

    assert __main__.broken(noted(figures)) == [f"R22: 2 {name}"]


def test_a_promise_without_figures_says_so(figures: Path) -> None:
    text = __main__.page(figures)

    assert text.count(__main__.NOTHING) == sum(bool(promise.tests) for promise in PROMISES)


def test_every_promise_that_tests_name_is_one_and_the_tests_that_it_names_are_there() -> None:
    ids = {promise.id for promise in PROMISES}
    sources = {path: path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py")}
    named = {
        (path.name, name)
        for path, text in sources.items()
        if path != Path(__file__)
        for name in re.findall(r'(?:note|promises)\("(R\w+)"', text)
    }
    places = {place for promise in PROMISES for place in promise.tests.split()}

    assert {(where, name) for where, name in named if name not in ids} == set()
    assert {place for place in places if not (REPOSITORY / place).exists()} == set()


def test_the_page_that_is_there_was_written_by_a_run_and_knows_every_promise() -> None:
    text = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")

    assert text.startswith(__main__.HEAD)
    assert [f"| {promise.id} | {promise.words} |" for promise in PROMISES if f"| {promise.id} |" not in text] == []
    assert re.search(r"\| `make reliability` \| [0-9a-f]{10}\+? \| \d{4}-\d\d-\d\d \d\d:\d\d \|", text)

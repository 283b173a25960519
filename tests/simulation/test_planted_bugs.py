"""Each mistake that is planted is found, or the simulator could not be trusted with those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.promises import note
from tests.simulation import __main__ as command
from tests.simulation.planted import BUGS, Bug, first_seed

pytestmark = pytest.mark.promises("R23")

SEEDS = 200
INVARIANTS = {f"I{number}" for number in range(1, 14)}
WITHOUT_A_BUG_OF_ITS_OWN = {"I7"}
"""There are no invoices yet, so that nothing can change in a closed one."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "_"))
def test_a_planted_bug_is_found(bug: Bug) -> None:
    found = first_seed(bug, [bug.seed, *range(SEEDS)])

    assert found is not None, f"no seed below {SEEDS} finds that {bug.name}"
    note("R23", planted=1, found=1)


def test_a_seed_that_fails_says_how_it_is_repeated_and_is_run_first_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RECORDED", tmp_path / "seeds.txt")
    command.RECORDED.write_text("# seeds\n")
    bug = next(bug for bug in BUGS if bug.name == "each event is rounded")

    with bug.plant():
        assert command.simulate([bug.seed]) == 1

    said = capsys.readouterr().out
    assert f"seed {bug.seed}: BrokenPromiseError: I3: " in said
    assert f"make simulate SEEDS=1 FIRST={bug.seed}" in said
    assert command.recorded() == [bug.seed]


def test_there_are_enough_of_them_and_each_has_a_name() -> None:
    assert len(BUGS) >= 22
    assert len({bug.name for bug in BUGS}) == len(BUGS)


def test_every_invariant_finds_something_that_no_other_finds() -> None:
    assert {bug.only for bug in BUGS if bug.only is not None} == INVARIANTS - WITHOUT_A_BUG_OF_ITS_OWN

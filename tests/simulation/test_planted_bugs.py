"""Each mistake that is planted is found, or the simulator could not be trusted with those that are not."""

from __future__ import annotations

import pytest

from tests.promises import note
from tests.simulation.history import run
from tests.simulation.planted import BUGS, Bug
from tests.simulation.world import BrokenPromiseError

SEEDS = 200


def finds(bug: Bug, seed: int) -> bool:
    """Whether a history with the bug in it breaks a promise."""
    with bug.plant():
        try:
            run(seed)
        except BrokenPromiseError:
            return True
    return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "_"))
def test_a_planted_bug_is_found(bug: Bug) -> None:
    found = finds(bug, bug.seed) or any(finds(bug, seed) for seed in range(SEEDS))

    assert found, f"no seed below {SEEDS} finds that {bug.name}"
    note("R23", planted=1, found=1)


def test_there_are_enough_of_them_and_each_has_a_name() -> None:
    assert len(BUGS) >= 22
    assert len({bug.name for bug in BUGS}) == len(BUGS)

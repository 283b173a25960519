"""``python -m tests.simulation SEEDS [FIRST]``: lives through so many seeds, those that once failed first.

Without FIRST the seeds begin at a number that follows from the commit, so that each commit explores others.
A seed that fails prints itself and the command that repeats it, bit for bit, and is kept in ``tests/seeds.txt``.

``--trace SEED`` prints only the hash of all that happens in a seed. ``--planted [WORDS]`` looks for the first seed
that finds each planted bug (or those with the words in their names) and prints it with the invariants that break:
what stands in ``planted.BUGS`` is brought up to date with it, whenever the histories have changed.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.simulation.history import run
from tests.simulation.planted import BUGS, first_seed

RECORDED = Path(__file__).parents[1] / "seeds.txt"
PLANTED_SEEDS = 200


def recorded() -> list[int]:
    """The seeds that once found something."""
    lines = RECORDED.read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def record(seed: int, what: str) -> None:
    """Keeps a seed that found something."""
    if seed not in recorded():
        with RECORDED.open("a", encoding="utf-8") as file:
            file.write(f"{seed} {' '.join(what.split())[:100]}\n")


def base() -> int:
    """Where the seeds of this commit begin."""
    words = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    found = subprocess.run(words, capture_output=True, text=True, cwd=RECORDED.parent, check=False)
    return int(found.stdout[:7] or "0", 16) * 1000


def repeat(seed: int) -> str:
    """The command that repeats a seed."""
    return f"make simulate SEEDS=1 FIRST={seed}"


def planted(words: str) -> int:
    """Looks for the first seed that finds each planted bug; how many are not found."""
    missing = 0
    for bug in BUGS:
        if words not in bug.name:
            continue
        found = first_seed(bug, range(PLANTED_SEEDS))
        missing += found is None
        told = f"{found[0]:4} {'+'.join(sorted(found[1])):12}" if found else f"none below {PLANTED_SEEDS}"
        print(
            f"{told} {bug.name}{'' if found and found[0] == bug.seed else f' (planted.py says {bug.seed})'}", flush=True
        )
    return missing


def simulate(seeds: list[int]) -> int:
    """Lives through the seeds; how many failed."""
    figures, failed, began = Counter[str](), 0, time.monotonic()
    for seed in seeds:
        try:
            figures.update(run(seed).figures)
        except Exception as error:
            failed += 1
            what = f"{type(error).__name__}: {str(error)[:600]}"
            print(f"seed {seed}: {what}\n    {repeat(seed)}", flush=True)
            record(seed, what)
    told = ", ".join(f"{count:,} {name}" for name, count in figures.items())
    print(f"{len(seeds)} seeds in {time.monotonic() - began:.0f} s, {failed} failed; {told}")
    return failed


def main(words: list[str]) -> int:
    """Does what the words ask for; 1 when something failed."""
    logging.disable(logging.CRITICAL)
    if words[:1] == ["--trace"]:
        print(run(int(words[1])).trace)
        return 0
    if words[:1] == ["--planted"]:
        return min(planted(" ".join(words[1:])), 1)
    count = int(words[0]) if words else 100
    first = int(words[1]) if len(words) > 1 else base()
    print(f"{count} seeds from {first}", flush=True)
    return min(simulate([*([] if len(words) > 1 else recorded()), *range(first, first + count)]), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

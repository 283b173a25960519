"""``python -m tests.simulation SEEDS [FIRST]``: lives through so many seeds, those that once failed first.

Without FIRST the seeds begin at a number that follows from the commit, so that each commit explores others.
A seed that fails prints itself and the command that repeats it, bit for bit; ``--trace SEED`` prints only
the hash of all that happens in one.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.simulation.history import run

RECORDED = Path(__file__).parents[1] / "seeds.txt"


def recorded() -> list[int]:
    """The seeds that once found something."""
    lines = RECORDED.read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def base() -> int:
    """Where the seeds of this commit begin."""
    words = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    found = subprocess.run(words, capture_output=True, text=True, cwd=RECORDED.parent, check=False)
    return int(found.stdout[:7] or "0", 16) * 1000


def repeat(seed: int) -> str:
    """The command that repeats a seed."""
    return f"make simulate SEEDS=1 FIRST={seed}"


def main(words: list[str]) -> int:
    """Runs what the words ask for; how many seeds failed."""
    logging.disable(logging.CRITICAL)
    if words[:1] == ["--trace"]:
        print(run(int(words[1])).trace)
        return 0
    count = int(words[0]) if words else 100
    first = int(words[1]) if len(words) > 1 else base()
    seeds = [*([] if len(words) > 1 else recorded()), *range(first, first + count)]
    print(f"{count} seeds from {first}", flush=True)
    figures, failed, began = Counter[str](), 0, time.monotonic()
    for seed in seeds:
        try:
            figures.update(run(seed).figures)
        except Exception as error:
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:400]}\n    {repeat(seed)}", flush=True)
    told = ", ".join(f"{count:,} {name}" for name, count in figures.items())
    print(f"{len(seeds)} seeds in {time.monotonic() - began:.0f} s, {failed} failed; {told}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

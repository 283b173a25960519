"""Writes the page of the promises from what the tests have noted.

    python -m tests.promises build/figures                            # prints it
    python -m tests.promises build/figures docs/reliability.md        # writes it

Ends with 1 if a figure is something that must be nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.promises import UNITS, ZERO, Figures, noted, session
from tests.promises.table import PROMISES, Promise

HEAD = """\
# Reliability

What the promises come to, shown by the run itself: `make reliability` writes this page, nobody edits it. It takes in
what `make test-kafka` and `make soak` have shown before it. [guarantees.md](guarantees.md) says why each should hold;
`make simulate SEEDS=n` tries more histories, and a seed that fails prints the command that repeats it.
"""

NOTHING = "nothing in these runs"
TOTALS = (
    ("kills", "processes killed or stopped, and gone on"),
    ("points", "disk calls at which one was killed"),
    ("simulated_kills", "kills and power cuts in the simulator"),
    ("seeds", "histories simulated"),
    ("faults", "faults injected"),
    ("events", "events checked"),
    ("lost", "lost"),
    ("doubled", "doubled"),
)


def written(figures: Mapping[str, int]) -> str:
    """Figures for people: those that must be nothing come last, and in bold."""
    return ", ".join(_shown(name, figures[name]) for name in sorted(figures, key=lambda name: name in ZERO))


def _shown(name: str, value: int) -> str:
    for end, unit in UNITS.items():
        if name.endswith(end):
            return f"{name.removesuffix(end).replace('_', ' ')} at most {value:,} {unit}"
    text = f"{value:,} {(name.removesuffix('s') if value == 1 else name).replace('_', ' ')}"
    return f"**{text}**" if name in ZERO else text


def totals(found: Mapping[str, Figures]) -> Iterator[str]:
    """The sums over all promises, a row each."""
    for name, words in TOTALS:
        yield f"| {words} | {sum(figures.get(name, 0) for figures in found.values()):,} |"


def row(promise: Promise, found: Mapping[str, Figures]) -> str:
    """A promise as a row of the table."""
    if not promise.tests:
        return f"| {promise.id} | {promise.words} | | | {promise.uncovered} |"
    shown = written(found[promise.id]) if promise.id in found else NOTHING
    return f"| {promise.id} | {promise.words} | {shown} | {again(promise)} | {promise.uncovered} |"


def again(promise: Promise) -> str:
    """The command that shows a promise alone."""
    if promise.tests == "tests/soak":
        return "`make soak`"
    target = "test-kafka" if promise.tests.startswith("tests/kafka") else "reliability"
    return f"`make {target} ARGS='{promise.tests}'`"


def run_row(name: str, told: Mapping[str, Any]) -> str:
    """A run as a row of the table."""
    tests = ", ".join(f"{count:,} {what}" for what, count in told["tests"].items() if count)
    return f"| `make {name}` | {told['commit']} | {told['date']} | {told['minutes']} | {tests} |"


def page(directory: Path) -> str:
    """The whole page."""
    found, runs = noted(directory), session.read(directory)
    lines = [HEAD, "## The runs", "", "| command | commit | ended (UTC) | minutes | tests |", "| --- " * 5 + "|"]
    lines += [run_row(name, told) for name, told in runs.items()]
    lines += ["", *(f"Machine: {machine}." for machine in sorted({told["machine"] for told in runs.values()}))]
    if any(told["commit"].endswith("+") for told in runs.values()):
        lines += ["", "A plus behind a commit: something that is not committed was run."]
    lines += ["", "## In all", "", "| | |", "| --- | ---: |", *totals(found)]
    lines += ["", "## The promises", "", "| | promise | shown | again | not covered |", "| --- " * 5 + "|"]
    lines += [row(promise, found) for promise in PROMISES]
    return "\n".join(lines) + "\n"


def broken(found: Mapping[str, Figures]) -> list[str]:
    """What is something and must be nothing."""
    return [f"{id}: {n} {name}" for id, figures in found.items() for name, n in figures.items() if name in ZERO and n]


def main() -> None:
    """Prints or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("page", type=Path, nargs="?")
    options = parser.parse_args()
    if not session.read(options.figures):
        sys.exit(f"{options.figures} holds no run")
    text = page(options.figures)
    if options.page:
        options.page.write_text(text, encoding="utf-8")
    else:
        print(text)
    if wrong := broken(noted(options.figures)):
        sys.exit("must be nothing:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()

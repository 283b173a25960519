"""The vectors' lines, and what was made of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).parent

read: Counter[str] = Counter()
"""How many cases of each kind were read."""

checked: Counter[str] = Counter()
"""How many of them were checked to the end."""

later: Counter[tuple[str, str]] = Counter()
"""How many of them wait for what, by kind and reason."""

Case = dict[str, Any]


def cases(kind: str, variable: str) -> list[Any]:
    """Every case of the files that the variable names, or of our own, as parameters."""
    paths = [Path(name) for name in os.environ.get(variable, "").split(":") if name]
    found = [pytest.param(case, id=case["id"]) for path in paths or [HERE / f"{kind}.jsonl"] for case in _lines(path)]
    read[kind] = len(found)
    return found


def _lines(path: Path) -> Iterator[Case]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line, parse_float=Decimal)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from error


def wait(kind: str, reason: str) -> NoReturn:
    """Skips a case that needs what is not there yet."""
    later[kind, reason] += 1
    pytest.skip(reason)


def summary() -> Iterator[str]:
    """What was made of all cases, a line for each kind and each thing that is waited for."""
    for kind, count in sorted(read.items()):
        if checked[kind] or any(of == kind for of, _ in later):
            yield f"vectors: {kind}: {count} read, {checked[kind]} checked"
            for (of, reason), waiting in sorted(later.items()):
                if of == kind:
                    yield f"vectors: {kind}: {waiting} wait: {reason}"

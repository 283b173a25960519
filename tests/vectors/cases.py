"""The vectors' lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).parent

Case = dict[str, Any]


def cases(kind: str, variable: str) -> list[Any]:
    """Every case of the files that the variable names, or of our own, as parameters."""
    paths = [Path(name) for name in os.environ.get(variable, "").split(":") if name]
    return [pytest.param(case, id=case["id"]) for path in paths or [HERE / f"{kind}.jsonl"] for case in _lines(path)]


def _lines(path: Path) -> Iterator[Case]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line, parse_float=Decimal)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from error


def wait(reason: str) -> NoReturn:
    """Skips a case that needs what is not there yet. ``tests/conftest.py`` counts these at the end."""
    pytest.skip(f"waits for {reason}")

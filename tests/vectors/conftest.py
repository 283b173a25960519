"""Says at the end how many vectors were checked, so that none is dropped in silence."""

from __future__ import annotations

import pytest

from tests.vectors.cases import summary


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in summary():
        terminalreporter.write_line(line)

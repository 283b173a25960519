"""What a ledger does by the clock: looks for spikes, delivers alerts, publishes snapshots, trims counters."""

from __future__ import annotations

from typing import Any

from doortab.ledger import Ledger


def start_schedule(ledger: Ledger) -> Any:
    """Starts the jobs that the settings ask for."""
    raise NotImplementedError

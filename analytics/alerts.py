"""Alert rules over what the store holds: a list to read, and one function that asks them all.

Caps and thresholds are not here: the ledger decides them in the stream, event by event. These rules
look at the rows afterwards, on schedule. Every alert's id follows from its cause, so that finding it
again is the same alert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from doortab.analytics.cells import Read
from doortab.analytics.episodes import SpikeSettings
from doortab.analytics.spikes import Memory, find_spikes
from doortab.schemas.alerts import Alert
from doortab.schemas.tariff import Tariff


class Settings(Struct, frozen=True, kw_only=True):
    """How every rule looks."""

    spikes: SpikeSettings = SpikeSettings()


class Sight(NamedTuple):
    """What a rule may look at: the rows, the time, the alerts there are already, the prices.

    ``memory`` saves reading the same past again; an empty one gives the same alerts.
    """

    read: Read
    now: int
    settings: Settings
    known: Sequence[Alert]
    tariff: Tariff | None
    memory: Memory


class Rule(NamedTuple):
    """A rule by name: what it finds in what it sees."""

    name: str
    find: Callable[[Sight], list[Alert]]


def _spikes(sight: Sight) -> list[Alert]:
    return find_spikes(sight.read, sight.now, sight.settings.spikes, sight.known, sight.tariff, sight.memory)


RULES = (Rule("spike", _spikes),)


def find(
    read: Read,
    now: int,
    settings: Settings,
    known: Sequence[Alert],
    tariff: Tariff | None = None,
    memory: Memory | None = None,
) -> list[Alert]:
    """Every alert that is due now and not among the known ones: the same input gives the same alerts."""
    sight = Sight(read, now, settings, known, tariff, memory if memory is not None else Memory())
    there = {alert.id for alert in known}
    return [alert for rule in RULES for alert in rule.find(sight) if alert.id not in there]

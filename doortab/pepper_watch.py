"""The peppers of a gate: it makes none, and reads the file again when a key comes with one that it lacks.

So a gate may start before the first key is issued, and a pepper that was rotated, or copied to where it was
missing, needs no restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from doortab.producers import pepper
from doortab.producers.keyring import Keyring
from doortab.producers.keytext import Peppers
from doortab.schemas.errors import UsageError
from doortab.schemas.instants import Microseconds

LOOK_AGAIN_SECONDS = 1.0


class PepperWatch:
    """Compares the peppers that keys need with those in the file. Threads may share it."""

    def __init__(self, path: Path, keyring: Keyring, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._keyring = keyring
        self._clock = clock
        self._look_at = clock()
        self._told: set[str] = set()

    def read(self, held: Peppers) -> Peppers:
        """What the file holds if a key came with a pepper that is not among those held, else those.

        A file that has gone, or lost one of those held, takes nothing away from a gate at work.

        Raises:
            UsageError: others may read the file, or it is not a pepper file.
        """
        if not self._unknown(held):
            return held
        found = pepper.load_if_there(self.path)
        return found if set(held.ids) <= set(found.ids) else held

    def lacking(self, held: Peppers, now: Microseconds) -> set[str]:
        """The peppers that keys that still work were hashed with, and that are not held."""
        return self._keyring.peppers_in_use(now) - set(held.ids) if self._unknown(held) else set()

    def look_again(self, held: Peppers, now: Microseconds) -> Peppers:
        """The same as ``read`` for a gate at work: now and then, and what is wrong is logged, once."""
        unknown = self._unknown(held)
        if not unknown or self._clock() < self._look_at:
            return held
        self._look_at = self._clock() + LOOK_AGAIN_SECONDS
        try:
            held = self.read(held)
        except UsageError as error:
            _complain(str(error))
            return held
        # Every key is looked at for this: only when there is something new, or strangers could keep a gate busy.
        if self._unknown(held) - self._told:
            self._told |= self._unknown(held)
            lacking = self.lacking(held, now)
            if lacking:
                _complain(pepper.lack(self.path, lacking))
        return held

    def _unknown(self, held: Peppers) -> set[str]:
        return self._keyring.pepper_ids.keys() - held.ids


def _complain(words: str) -> None:
    import logging  # not for every service that embeds a gate

    logging.getLogger("doortab.gate").error("%s", words)

"""The traffic of the show: lifelike, and the same for the same seed.

Requests come at the pace of a day in a minute, from keys whose shares follow Zipf's law, with tokens
that are log-normal. One key has a cap that it reaches; another one leaks, and whoever found it uses it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from typing import NamedTuple

from doortab.producers.client import Client
from doortab.producers.gate import Gate
from doortab.schemas.errors import SpoolFull

NIGHT, NOON = 60.0, 240.0
"""Requests a second at the quietest and at the busiest time of the day."""

LEAK_AT, LEAK_FACTOR = 0.45, 1.2
"""From this part of the show on, the leaked key adds this share of all other traffic."""

MODELS = (("small", 0.72), ("large", 0.28))
OPERATIONS = ("POST /v1/chat", "POST /v1/embeddings", "POST /v1/summaries")


class Caller(NamedTuple):
    """Somebody who calls: an application with its key."""

    name: str
    account: str
    key_id: str
    secret: str
    weight: float


class Traffic:
    """Drives requests through a real gate. ``verdicts`` and ``refused_at`` say what came of them."""

    def __init__(
        self, gate: Gate, client: Client, callers: list[Caller], leaked: Caller, seconds: int, seed: int
    ) -> None:
        self._gate = gate
        self._client = client
        self._callers = callers
        self._leaked = leaked
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._weights = [caller.weight for caller in callers]
        self._stopping = threading.Event()
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.refused_at: dict[str, float] = {}
        self.unrecorded = 0
        self.sent = 0
        self.thread = threading.Thread(target=self._run, name="doortab-demo-traffic", daemon=True)

    def rate_at(self, share: float) -> float:
        """Requests a second when this share of the show is over: the curve of a day, from night to night."""
        return NIGHT + (NOON - NIGHT) * (1 - math.cos(2 * math.pi * share)) / 2

    def stop(self) -> None:
        """Ends after the request at hand."""
        self._stopping.set()
        self.thread.join(5)

    def _run(self) -> None:
        begun = time.monotonic()
        due, leak_due = begun, begun + self._seconds * LEAK_AT
        while not self._stopping.is_set():
            now = time.monotonic()
            share = (now - begun) / self._seconds
            if share >= 1:
                return
            rate = self.rate_at(share)
            while due <= now:
                due += self._chance.expovariate(rate)
                (caller,) = self._chance.choices(self._callers, self._weights)
                self._request(caller)
            while leak_due <= now:
                leak_due += self._chance.expovariate(rate * LEAK_FACTOR)
                self._request(self._leaked)
            time.sleep(0.002)

    def _request(self, caller: Caller) -> None:
        chance = self._chance
        operation = chance.choice(OPERATIONS)
        model = chance.choices([name for name, _ in MODELS], [weight for _, weight in MODELS])[0]
        units = {
            "requests": 1,
            "input_tokens": int(chance.lognormvariate(6.0, 0.9)) + 1,
            "output_tokens": int(chance.lognormvariate(4.6, 0.8)) + 1,
        }
        verdict = self._gate.check(f"Bearer {caller.secret}", operation=operation, scopes=("chat",))
        self.sent += 1
        self.verdicts[caller.key_id, verdict.reason or "allowed"] += 1
        if verdict.reason in ("cap", "revoked"):
            self.refused_at.setdefault(caller.key_id, time.time())
        try:
            self._client.record(
                account=verdict.account,
                key=verdict.key_id,
                operation=operation,
                verdict="allowed" if verdict.allowed else "refused",
                reason=verdict.reason,
                units=units if verdict.allowed else {},
                dimensions={"model": model},
            )
        except SpoolFull:
            self.unrecorded += 1

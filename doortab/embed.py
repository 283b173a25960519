"""A gate inside of a service: checks keys, records what they use, and needs nothing else.

>>> from doortab import Gate
>>> gate = Gate.open(data="./.doortab")  # doctest: +SKIP
>>> with gate.request(header, operation="POST /v1/chat") as request:  # doctest: +SKIP
...     request.usage.add(tokens=1834, model="m-large")

Opening starts no thread and waits for nobody: the first request does, or ``start``. A server may
therefore open it before it forks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakSet

from doortab.log.open import open_log
from doortab.pepper_watch import PepperWatch
from doortab.producers import gate as gates
from doortab.producers.client import MAX_SPOOL_BYTES, Client
from doortab.producers.eventtext import Quantity
from doortab.producers.follower import Follower
from doortab.producers.gate import Verdict
from doortab.producers.keyring import Holder, Keyring
from doortab.producers.keytext import Environment, Peppers
from doortab.producers.pepper import lack, load_if_there
from doortab.producers.problem import Answer, answer
from doortab.producers.usage import Usage
from doortab.schemas.errors import RuleRefused, SpoolFull, TryAgain, UsageError
from doortab.schemas.log import Log

READY_SECONDS = 10.0

_gates: WeakSet[Gate] = WeakSet()


class Refused(RuleRefused):
    """A request may not pass. ``verdict`` says why, ``answer`` what to send instead."""

    def __init__(self, verdict: Verdict, answer: Answer) -> None:
        super().__init__(f"refused: {verdict.reason}")
        self.verdict = verdict
        self.answer = answer


class Gate(gates.Gate):
    """``producers.gate.Gate`` with a log that it follows and a client that records. Threads may share it."""

    def __init__(self, follower: Follower, peppers: Peppers, client: Client, **options: Any) -> None:
        """``options`` are those of ``producers.gate.Gate``. Usually made by ``Gate.open``."""
        super().__init__(follower.keyring, peppers, view=follower, **options)
        self.client = client
        self.follower = follower
        self.realm = "doortab"
        self.ready_seconds = READY_SECONDS
        self._pepper_watch: PepperWatch | None = None
        self._started_in: int | None = None
        self._starting = threading.Lock()
        _gates.add(self)

    @classmethod
    def open(
        cls,
        log: str | Callable[[], Log] | None = None,
        data: str | Path = "./.doortab",
        *,
        source: str | None = None,
        environment: Environment | None = None,
        realm: str = "doortab",
        max_spool_bytes: int = MAX_SPOOL_BYTES,
        when_full: str = "refuse",
        max_staleness_seconds: float = 300.0,
        when_stale: str = "deny",
        ready_seconds: float = READY_SECONDS,
    ) -> Self:
        """A gate on a log. ``data`` holds the peppers and the spool; ``log`` is a URL, ``file:DATA/log`` if absent.

        The pepper file may come later, with the first key. A gate makes none: keys are issued elsewhere.
        ``source`` names this service in its events, ``gate/HOST`` if absent. The first request waits at
        most ``ready_seconds`` for keys and revocations to be read; later ones never wait.

        Raises:
            UsageError: the URL, a policy or the pepper file will not do.
        """
        if when_stale not in ("allow", "deny"):
            raise UsageError(f"when_stale {when_stale!r}; write 'allow' or 'deny'")
        directory = Path(data).absolute()  # a server may change its directory later
        opener = log if callable(log) else _opener(log or f"file:{directory / 'log'}")
        client = Client(
            opener,
            directory / "spool",
            source=source or f"gate/{os.uname().nodename}",
            max_spool_bytes=max_spool_bytes,
            when_full=when_full,  # type: ignore[arg-type]  # the client checks it
        )
        gate = cls(
            Follower(Keyring(), opener),
            load_if_there(directory / "pepper"),
            client,
            environment=environment,
            max_staleness_seconds=max_staleness_seconds,
            when_stale=when_stale,
        )
        gate._pepper_watch = PepperWatch(directory / "pepper", gate.keyring)
        gate.realm = realm
        gate.ready_seconds = ready_seconds
        return gate

    @property
    def ready(self) -> bool:
        """Whether keys and revocations have been read. Starts reading, if nobody did."""
        self._start()
        return self.follower.ready

    def start(self, timeout_seconds: float | None = None) -> bool:
        """Starts following and shipping, and waits until keys and revocations are read. Returns whether they are.

        Raises:
            UsageError: keys that still work were hashed with peppers that this gate does not have.
        """
        self._start()
        is_ready = self.follower.wait_until_ready(self.ready_seconds if timeout_seconds is None else timeout_seconds)
        # Before it is ready, a key may look as if it worked whose end is not read yet.
        if is_ready and self._pepper_watch is not None:
            self.peppers = self._pepper_watch.read(self.peppers)
            lacking = self._pepper_watch.lacking(self.peppers, self._clock())
            if lacking:
                raise UsageError(lack(self._pepper_watch.path, lacking))
        return is_ready

    def close(self, timeout_seconds: float = 10.0) -> bool:
        """Ships what waits, for so long at most, and stops. Returns whether the log has it all; the rest is kept."""
        self.follower.stop()
        return self.client.close(timeout_seconds)

    def holder_of(self, secret: str) -> Holder | None:
        """The key whose secret this is; see ``producers.gate``. The first call of a process starts the gate."""
        if self._started_in != os.getpid():
            self.start()
        found = super().holder_of(secret)
        if found is None and self._pepper_watch is not None:
            held, self.peppers = self.peppers, self._pepper_watch.look_again(self.peppers, self._clock())
            if held is not self.peppers:
                found = super().holder_of(secret)
        return found

    def record(
        self,
        verdict: Verdict,
        *,
        operation: str | None = None,
        units: Mapping[str, Quantity] | None = None,
        dimensions: Mapping[str, str] | None = None,
        billable: bool | None = None,
    ) -> str:
        """Records what a request used, and returns the event's id. A refused request has used nothing.

        Raises:
            UsageError: a value breaks a rule.
            SpoolFull: there is no room, and the policy is to refuse.
        """
        return self.client.record(
            account=verdict.account,
            key=verdict.key_id,
            operation=operation,
            verdict="allowed" if verdict.allowed else "refused",
            reason=verdict.reason,
            billable=billable if verdict.allowed else None,
            units=units if verdict.allowed else None,
            dimensions=dimensions,
        )

    def request(
        self,
        authorization: str | bytes | None,
        *,
        operation: str | None = None,
        scopes: Iterable[str] = (),
        environment: str | None = None,
        units: Mapping[str, Quantity] | None = None,
        address: str | None = None,
    ) -> Request:
        """A request to be served in a ``with`` block: it is checked on entry, and recorded once on leaving.

        ``units`` is what it uses at least, one request if absent.

        Raises (on entry):
            Refused: it may not pass; that is recorded.
            SpoolFull: it may pass, but what it uses could not be recorded, and the policy is to refuse.
        """
        verdict = self.check(
            authorization, operation=operation, scopes=scopes, environment=environment, units=units, address=address
        )
        return Request(self, verdict, operation, Usage({"requests": 1} if units is None else units))

    def answer_to(self, verdict: Verdict, **options: Any) -> Answer:
        """What to send to a refused request; ``options`` are those of ``producers.problem.answer``."""
        return answer(verdict, now=time.time_ns() // 1000, realm=self.realm, **options)

    def must_refuse(self) -> bool:
        """Whether a request must not be served because its use could not be recorded."""
        return self.client.when_full == "refuse" and not self.client.has_room()

    def _start(self) -> None:
        if self._started_in == os.getpid():
            return
        with self._starting:
            if self._started_in != os.getpid():
                self.follower.start()
                with contextlib.suppress(SpoolFull):  # whoever records will be told, if it is so then
                    self.client.start()
                self._started_in = os.getpid()

    def _after_fork_in_child(self) -> None:
        self._starting = threading.Lock()
        self._started_in = None
        self.follower.after_fork_in_child()


class Request:
    """One request that was let in. ``usage`` takes what it uses, ``verdict`` says who asks."""

    def __init__(self, gate: Gate, verdict: Verdict, operation: str | None, usage: Usage) -> None:
        self.verdict = verdict
        self.usage = usage
        self.operation = operation
        self._gate = gate

    def __enter__(self) -> Self:
        if not self.verdict.allowed:
            with contextlib.suppress(SpoolFull):  # counted; the answer is the same
                self._gate.record(self.verdict, operation=self.operation)
            raise Refused(self.verdict, self._gate.answer_to(self.verdict))
        if self._gate.must_refuse():
            raise SpoolFull("what this request uses could not be recorded: see the client's error; try again later")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Records; what was served is never taken back, so that a spool that filled up meanwhile only counts.

        Nobody is charged for a request that failed, unless the service said so.
        """
        usage = self.usage
        billable = False if usage.billable is None and isinstance(error, Exception) else usage.billable
        with contextlib.suppress(SpoolFull):
            self._gate.record(
                self.verdict,
                operation=self.operation,
                units=usage.units,
                dimensions=usage.dimensions,
                billable=billable,
            )
        return False


def _opener(url: str) -> Callable[[], Log]:
    with contextlib.suppress(TryAgain):  # the threads try again
        open_log(url).close()  # a URL that will not do is said here, and not in a thread
    return lambda: open_log(url)


def _all_after_fork_in_child() -> None:
    for gate in list(_gates):
        gate._after_fork_in_child()


os.register_at_fork(after_in_child=_all_after_fork_in_child)

"""Asking the ledger: the running one over HTTP, or else one opened in this process for as long as it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from doortab.schemas.errors import DoortabError, NotFound, RuleRefused, StoreBusy, TryAgain, UsageError
from doortab.schemas.log import Log
from doortab.settings import Settings

OPEN_SECONDS = 10.0
_ERRORS: dict[int, type[DoortabError]] = {2: UsageError, 3: NotFound, 4: RuleRefused, 75: TryAgain}


def error_of(exit_code: int) -> type[DoortabError]:
    """The error that a command in another process ended with, by its exit code."""
    return _ERRORS.get(exit_code, DoortabError)


def _problem(body: bytes) -> dict[str, Any]:
    """What a refusal says; nothing where it is not one of ours."""
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


class Asked(Protocol):
    """A ledger that answers. ``log`` is one to write to."""

    log: Log

    def ask(self, question: str, **params: Any) -> dict[str, Any]:
        """The answer to a question of ``doortab.questions``."""
        ...

    def settle(self, ends: dict[int, int], progress: Callable[[int], None] | None = None) -> None:
        """Returns once the records of ``usage`` before these offsets are in the store."""
        ...


class Local:
    """A ledger in this process, which nobody else runs."""

    def __init__(self, settings: Settings) -> None:
        from doortab.ledger import Ledger

        self._ledger = Ledger(settings)
        self.log = self._ledger.log
        self.log_url = settings.log_url

    def turn(self, timeout_seconds: float) -> None:
        """Takes what the log has, waiting at most so long for it."""
        self._ledger.turn(timeout_seconds)

    @property
    def events(self) -> int:
        """How many events were taken since the start."""
        return self._ledger.events

    def ask(self, question: str, **params: Any) -> dict[str, Any]:
        """Answers from the store, after bringing it up to date."""
        from doortab.questions import answer

        self._ledger.catch_up()
        return answer(self._ledger, question, params)

    def settle(self, ends: dict[int, int], progress: Callable[[int], None] | None = None) -> None:
        """Brings the store up to date."""
        while not self._ledger.reached(ends):
            self._ledger.catch_up(progress)

    def close(self) -> None:
        """Closes store and log."""
        self._ledger.close()


class Remote:
    """The running ledger, over HTTP."""

    def __init__(self, settings: Settings, address: dict[str, Any]) -> None:
        import urllib3

        from doortab.log.open import open_log

        self._url = str(address["url"])
        if not self._url.startswith("http://"):
            raise ValueError(f"{self._url} is no address of a ledger")
        self._headers = {"Authorization": f"Bearer {address['token']}", "Content-Type": "application/json"}
        self.log = open_log(settings.log_url)
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=600), retries=False)

    def alive(self) -> bool:
        """Whether it answers."""
        import urllib3

        try:
            return self._http.request("GET", f"{self._url}/livez", timeout=2.0).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def ask(self, question: str, **params: Any) -> dict[str, Any]:
        """The running ledger's answer.

        Raises:
            DoortabError: whatever it raised there.
        """
        import urllib3

        try:
            body = json.dumps(params).encode()
            answer = self._http.request("POST", f"{self._url}/v1/ask/{question}", headers=self._headers, body=body)
        except urllib3.exceptions.HTTPError as error:
            raise TryAgain(f"the running ledger at {self._url} stopped answering: {error}") from error
        told: dict[str, Any] = _problem(answer.data) if answer.status != 200 else json.loads(answer.data)
        if answer.status != 200:
            raise error_of(told.get("exit_code", 1))(told.get("detail", f"status {answer.status}"))
        return told

    def settle(self, ends: dict[int, int], progress: Callable[[int], None] | None = None) -> None:
        """Waits for the running ledger."""
        positions = {str(partition): offset for partition, offset in ends.items()}
        while not self.ask("wait", positions=positions)["reached"]:
            if progress is not None:
                progress(0)

    def close(self) -> None:
        """Closes what was opened here."""
        self._http.clear()
        self.log.close()


@contextmanager
def asked(settings: Settings) -> Iterator[Asked]:
    """Whoever answers for this data directory.

    Raises:
        StoreBusy: the store is open elsewhere, and nobody answers for it.
    """
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        found: Remote | Local | None = running(settings)
        if found is None:
            try:
                found = Local(settings)
            except StoreBusy:
                # Somebody is just starting, or just stopping.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
        try:
            yield found
        finally:
            found.close()
        return


def running(settings: Settings) -> Remote | None:
    """The running ledger of this data directory, or None where nobody runs one."""
    try:
        address = json.loads(settings.address_path.read_text())
        remote = Remote(settings, address)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if remote.alive():
        return remote
    remote.close()
    return None

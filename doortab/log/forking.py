"""Keeps what must not cross a ``fork`` from crossing it.

An SQLite connection that is open while the process forks is poison for the child: the library's
copied memory says that file locks are held, the kernel says that they are not, and sooner or later
somebody deletes a write-ahead log that is still in use. So all connections are closed before the
fork and opened again when they are next needed, in the parent and in the child.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

from doortab.schemas.errors import UsageError

# A fork that somebody's piece of work outlasts goes ahead without it, and the child must not use the log.
PATIENCE_SECONDS = 10.0

_gates: WeakSet[ForkGate] = WeakSet()


class ForkGate:
    """Lets threads use connections, and holds them back while this process forks."""

    def __init__(self, close_all: Callable[[], None], renew: Callable[[], None]) -> None:
        """``close_all`` runs before a fork, when nobody uses anything; ``renew`` makes fresh locks in the child."""
        self._close_all = close_all
        self._renew = renew
        self._begin()
        _gates.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._users = 0
        self._forking = False
        self._is_safe = False
        self._changed = threading.Condition()

    def is_ours(self) -> bool:
        """Whether this process may touch what was opened through this gate."""
        return os.getpid() == self._pid

    @contextmanager
    def using(self) -> Iterator[None]:
        """Around every use of a connection. Must be short: a fork waits for it.

        Raises:
            UsageError: the process was forked in a way that Python did not see, or in the middle of a use.
        """
        if not self.is_ours():
            raise UsageError("this process was forked while the log was in use; open the log after the fork")
        with self._changed:
            while self._forking:
                self._changed.wait()
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Waits until nobody uses a connection, and closes all of them."""
        with self._changed:
            self._forking = True
            # Not for ever: a signal handler may fork in the very thread whose work we would wait for.
            self._is_safe = self._changed.wait_for(lambda: not self._users, PATIENCE_SECONDS)
        if self._is_safe:
            self._close_all()

    def after_in_parent(self) -> None:
        """Goes on where it was."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def after_in_child(self) -> None:
        """Starts afresh: whoever held a lock in the parent does not exist here."""
        if self._is_safe:
            self._begin()
            self._renew()


def _all_before() -> None:
    for gate in list(_gates):
        gate.before_fork()


def _all_in_parent() -> None:
    for gate in list(_gates):
        gate.after_in_parent()


def _all_in_child() -> None:
    for gate in list(_gates):
        gate.after_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_all_before, after_in_parent=_all_in_parent, after_in_child=_all_in_child)

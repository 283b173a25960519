"""Ctrl-C: what is under way ends in order, and one line says what stays."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from doortab.schemas.errors import Stopped


@contextmanager
def told(words: Callable[[], str]) -> Iterator[None]:
    """Turns Ctrl-C within the block into an error with these words. The main thread's alone.

    Whatever else is raised after it is of no interest: DuckDB has words of its own for it. A second one is felt as
    well: a library may have swallowed the first.

    Raises:
        Stopped: somebody pressed it.
    """
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except Stopped:
        raise
    except BaseException as error:
        if asked:
            raise Stopped(words()) from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def not_for_children() -> Iterator[None]:
    """Processes that are started in the block do not feel Ctrl-C, from their first moment: it is their parent's."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

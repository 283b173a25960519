"""How a writer wakes the readers of other processes at once, at no cost while nothing happens.

The writer opens and closes an empty file, and the kernel tells everybody who watches it (inotify). Nothing
is written, so a full disk does not matter. Where there is no inotify, or no more of it, readers look every
8 ms instead. A bell that was not rung (its ringer was killed between commit and bell) is made up for soon.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
from contextlib import suppress
from pathlib import Path

LOOK_WITH_BELL_SECONDS = 0.1
LOOK_WITHOUT_BELL_SECONDS = 0.008

_IN_CLOSE = 0x18  # IN_CLOSE_WRITE | IN_CLOSE_NOWRITE
_DRAIN_BYTES = 65_536


class Bell:
    """Rung after each commit."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log.bell"

    def ring(self) -> None:
        """Wakes every listening reader of this machine. Never raises: the commit has happened already."""
        with suppress(OSError):
            os.close(os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))


class Ear:
    """What one reader listens with. One thread listens; any may poke. Not to be shared across a fork."""

    def __init__(self, bell: Bell) -> None:
        bell.ring()  # so that there is a file to watch
        self._poll = select.poll()
        self._inner, self._outer = socket.socketpair()
        self._inner.setblocking(False)
        self._outer.setblocking(False)
        self._poll.register(self._inner.fileno(), select.POLLIN)
        self._watch = _watch(bell.path)
        if self._watch is not None:
            self._poll.register(self._watch, select.POLLIN)
        self.look_seconds = LOOK_WITHOUT_BELL_SECONDS if self._watch is None else LOOK_WITH_BELL_SECONDS

    def listen(self, timeout_seconds: float) -> bool:
        """Whether the bell rang or somebody poked, waiting for it at most so long."""
        heard = self._poll.poll(max(timeout_seconds, 0.0) * 1000)
        for descriptor, _ in heard:
            with suppress(OSError):  # nothing left in it
                os.read(descriptor, _DRAIN_BYTES)
        return bool(heard)

    def poke(self) -> None:
        """Ends a ``listen``, now or the next one. Callable from any thread and from signal handlers."""
        with suppress(OSError):  # full: then it will be heard anyway; closed: then nobody listens
            self._outer.send(b"!")

    def close(self) -> None:
        """Frees the descriptors; may be repeated."""
        self._inner.close()
        self._outer.close()
        watch, self._watch = self._watch, None
        if watch is not None:
            os.close(watch)

    def __del__(self) -> None:
        self.close()  # a reader that was forgotten instead of closed must not keep one of the few inotify instances


def _watch(path: Path) -> int | None:
    """A descriptor that becomes readable whenever the file is closed; None when the system has none to give."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_CLOSE) < 0:
        os.close(descriptor)
        return None
    return descriptor

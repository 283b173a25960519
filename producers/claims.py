"""Who owns a spool directory: the process that holds its lock. The kernel frees it however the process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_NAME = "lock"
_NEW = ".new-"
UNBORN_SECONDS = 3600


class Held:
    """A directory that this process holds the lock of."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        self.descriptor = descriptor

    def free(self) -> None:
        """Lets go of it. After a fork, the copy of the descriptor in the other process keeps the lock."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def remove(self) -> None:
        """Deletes it, if nothing but the lock is left in it."""
        with contextlib.suppress(OSError):
            # Without its lock nobody could claim what is left, if the disk would not delete it.
            if os.listdir(self.directory) == [LOCK_NAME]:
                (self.directory / LOCK_NAME).unlink()
                self.directory.rmdir()
        self.free()


def claim_new(root: Path, name: str) -> Held:
    """A new directory, which nobody can take for an orphan: it gets its name when it is locked.

    Raises:
        OSError: it cannot be made.
    """
    hidden = root / (_NEW + name)
    hidden.mkdir(mode=0o700, parents=True)
    descriptor = os.open(hidden / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(root / name)
    except OSError:
        os.close(descriptor)
        raise
    return Held(root / name, descriptor)


def claim_orphans(root: Path) -> Iterator[Held]:
    """The directories of dead processes, each locked by us from now on.

    Raises:
        OSError: the root cannot be read.
    """
    for name in sorted(os.listdir(root)):
        if name.startswith(_NEW):
            _clear_unborn(root / name)
        elif held := _claim(root / name / LOCK_NAME):
            yield held


def _clear_unborn(directory: Path) -> None:
    """Removes what a process left that died before its directory had a name. A younger one may be alive."""
    with contextlib.suppress(OSError):
        if time.time() - directory.stat().st_mtime > UNBORN_SECONDS:
            (directory / LOCK_NAME).unlink(missing_ok=True)
            directory.rmdir()


def _claim(lock: Path) -> Held | None:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            lock.parent.rmdir()  # its process died between deleting the lock and this
        return None
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have finished and deleted it between our open and our lock.
        if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            return Held(lock.parent, descriptor)
    except OSError:
        pass
    os.close(descriptor)
    return None

"""What can go wrong, one class per thing a caller can do differently.

DoortabError
├── UsageError          the call itself is wrong: correct it                (exit 2)
│   └── CatalogError    a catalog breaks a rule: correct the file          (exit 2)
├── NotFound            nothing has that name                              (exit 3)
├── RuleRefused         a rule forbids it, and would forbid it again       (exit 4)
│   └── SpoolFull       the client's spool holds all it may                (exit 4)
├── TryAgain            it may work later, unchanged                       (exit 75)
│   ├── LogUnavailable  the log did not acknowledge in time
│   ├── StoreBusy       another process owns the store
│   └── DiskFull        a disk has no room
├── Stopped             somebody pressed Ctrl-C                            (exit 130)
└── StoreDamaged        the store must be reopened or rebuilt              (exit 1)

A message names the rule that was broken, the value that broke it and the way out.
Bad data in bulk is not an error but a value: see ``schemas.wire.Rejected``.
"""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
WRONG_PATH = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL,
)  # fmt: skip
"""What the system says where another path, or other rights on it, would do."""


class DoortabError(Exception):
    """Base of everything doortab raises on purpose."""

    exit_code = 1


class UsageError(DoortabError):
    """The call is wrong; the same call will fail again."""

    exit_code = 2


class CatalogError(UsageError):
    """A catalog breaks a rule."""


class NotFound(DoortabError):
    """Nothing has that name."""

    exit_code = 3


class RuleRefused(DoortabError):
    """A rule forbids it."""

    exit_code = 4


class SpoolFull(RuleRefused):
    """The client's spool holds all that the operator allows."""


class TryAgain(DoortabError):
    """It may work later, unchanged."""

    exit_code = 75


class LogUnavailable(TryAgain):
    """The log did not acknowledge in time; what was sent may or may not be in it."""


class StoreBusy(TryAgain):
    """Another process owns the store."""


class DiskFull(TryAgain):
    """A disk has no room: nothing acknowledged is lost, and it goes on once there is some."""


class Stopped(DoortabError):
    """Somebody stopped it before its end; what it has done stays done."""

    exit_code = 130


class StoreDamaged(DoortabError):
    """The store must be reopened or rebuilt; nothing more can be written to it."""


def of_system(error: OSError, what: str, way: str = "") -> DoortabError:
    """What is said when the system refuses: what was at hand, which file, its own words, and the way out.

    A path that cannot be is wrong usage where a ``way`` out of it is known; without one it has just failed.
    """
    said = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None and str(name) not in what]
    words = f"{': '.join([what, ' -> '.join(names)] if names else [what])}: {said}"
    if error.errno in FULL:
        return DiskFull(f"{words}; free some of the disk, and try again")
    if way and error.errno in WRONG_PATH:
        return UsageError(f"{words}; {way}")
    return DoortabError(words)

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
│   └── DiskFull        the store's disk has no room
└── StoreDamaged        the store must be reopened or rebuilt              (exit 1)

A message names the rule that was broken, the value that broke it and the way out.
Bad data in bulk is not an error but a value: see ``schemas.wire.Rejected``.
"""

from __future__ import annotations


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
    """The disk under the store has no room: nothing acknowledged is lost, and it goes on once there is some."""


class StoreDamaged(DoortabError):
    """The store must be reopened or rebuilt; nothing more can be written to it."""

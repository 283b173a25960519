"""One transaction around many reads, so that what they say belongs together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from doortab.analytics.cells import Read


@contextmanager
def one_moment(read: Read) -> Iterator[None]:
    """All that is read inside is of the same commit, whatever is written meanwhile."""
    read("BEGIN TRANSACTION READ ONLY")
    try:
        yield
    finally:
        read("ROLLBACK")

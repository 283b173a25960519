"""One transaction around many reads, so that what they say belongs together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from doortab.analytics.cells import Columns, Read


@contextmanager
def one_moment(read: Read) -> Iterator[None]:
    """All that is read inside is of the same commit, whatever is written meanwhile."""
    read("BEGIN TRANSACTION READ ONLY")
    try:
        yield
    finally:
        read("ROLLBACK")


def columns_of(read: Read) -> Columns:
    """The column of each unit and dimension, as of the moment that is read.

    A store that is being written to knows of columns that are not committed yet, and nobody else sees.
    """
    return {(root, name): column for root, name, column in read("SELECT root, name, column_name FROM usage_columns")}

"""Files that are on the disk when we say so: DuckDB and pyarrow leave that to whoever needs it."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from doortab.schemas.errors import DiskFull, StoreDamaged

CHUNK = 1 << 20


def sync(path: Path) -> None:
    """Waits until the file, or the names in the directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def failure(path: Path, error: Exception) -> DiskFull | StoreDamaged:
    """What is said when the disk, or DuckDB on it, gives up."""
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    if any(os.strerror(number) in words for number in (errno.ENOSPC, errno.EDQUOT)):
        return DiskFull(f"{path}: {words}; nothing acknowledged is lost: free some of the disk, and it goes on")
    way = "nothing acknowledged is lost: restart; if that does not help, run 'doortab rebuild'"
    return StoreDamaged(f"{path}: {words}; {way}")

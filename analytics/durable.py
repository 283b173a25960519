"""Files that are on the disk when we say so: DuckDB and pyarrow leave that to whoever needs it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import duckdb

from doortab.schemas.errors import WRONG_PATH, DiskFull, DoortabError, StoreDamaged, UsageError, of_system

CHUNK = 1 << 20
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
RIGHTS = "let this user write there, or name another directory with --data"
OPEN_ALREADY = ("/dev/std", "/dev/fd/", "/proc/")
"""Names of files that a process has open: another file in such a place would not be the one that is meant."""


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


def write(path: Path, content: bytes) -> None:
    """Puts the content there whole: a file that was there stays as it is until then. A link stays a link.

    What is no regular file, such as a pipe or a device, is written into: nothing can take its place.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    if found is not None and (not stat.S_ISREG(found.st_mode) or str(path).startswith(OPEN_ALREADY)):
        with path.open("wb") as file:
            file.write(content)
        return
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".doortab-{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if found is not None:
            draft.chmod(stat.S_IMODE(found.st_mode))
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(target.parent)


def failure(path: Path, error: Exception) -> DoortabError:
    """What is said when the disk, or DuckDB on it, gives up: a DiskFull, UsageError or StoreDamaged.

    Only what may be damage is told with the way out of it: of a right, a path or a setting no rebuild gets anybody out.
    """
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    if any(os.strerror(number) in words for number in (errno.ENOSPC, errno.EDQUOT)):
        return DiskFull(f"{path}: {words}; nothing acknowledged is lost: free some of the disk, and it goes on")
    if isinstance(error, OSError) and error.errno in WRONG_PATH:
        return of_system(error, str(path), RIGHTS)
    if isinstance(error, duckdb.IOException) and any(os.strerror(number) in words for number in NO_RIGHT):
        return UsageError(f"{path}: {words}; {RIGHTS}")
    if isinstance(error, duckdb.OutOfMemoryException):
        return UsageError(f"{path}: {words}; raise memory_limit (DOORTAB_MEMORY_LIMIT), then the same works")
    way = "nothing acknowledged is lost: restart; if that does not help, run 'doortab rebuild'"
    return StoreDamaged(f"{path}: {words}; {way}")

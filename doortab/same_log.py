"""Whether the log is still the one that the store was filled from.

A topic that was deleted and made anew begins again at 0, and once it has grown past the store's positions they
look right and mean other records. So the topic's id is kept beside the store, where the log has such ids.
"""

from __future__ import annotations

from pathlib import Path

from doortab.schemas import topics
from doortab.schemas.errors import UsageError
from doortab.schemas.log import Identified, Log

NAME = "usage.topic"


def check_same_log(directory: Path, log: Log) -> None:
    """Notes the id of topic ``usage`` in the directory of the store; afterwards it must be the same.

    Raises:
        UsageError: it is another topic of the same name.
        LogUnavailable: the log could not be reached.
    """
    found = log.identity(topics.USAGE) if isinstance(log, Identified) else None
    if found is None:
        return
    path = directory / NAME
    try:
        known = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        draft = path.with_suffix(".new")
        draft.write_text(f"{found}\n", encoding="ascii")
        draft.replace(path)
        return
    if known != found:
        raise UsageError(
            f"topic {topics.USAGE!r} was deleted and made anew: the store was filled from {known}, and in the cluster "
            f"is {found}, whose offsets mean other records. Begin with another data directory and keep this one "
            f"for its bills; or, if nothing in it is to be kept, delete {path} and run doortab rebuild"
        )

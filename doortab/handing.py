"""Handing a secret over: it is shown once, so that whatever fails on the way must name the key to revoke."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from doortab import streams
from doortab.cli_output import say
from doortab.schemas.errors import DoortabError, UsageError


@contextmanager
def handing_over() -> Iterator[Callable[[str], None]]:
    """Around making a key and showing its secret. Takes the key's id, just before the key is written.

    Raises:
        UsageError: there is no standard output.
        DoortabError: the secret could not be written.
    """
    if streams.OUT in streams.were_closed or getattr(sys.stdout, "closed", True):
        raise UsageError("standard output is closed, and the secret would go there; no key was made")
    made: list[str] = []
    try:
        yield made.append
    except (OSError, ValueError) as error:
        if not made:
            raise
        _give_up_output()
        raise DoortabError(f"the secret was not written ({error}): {_way_out(made[0])}") from None
    except BaseException:
        if made:
            say(_way_out(made[0]))
        raise


def _way_out(key_id: str) -> str:
    return f"key {key_id} may be active, and nobody has its secret; end it with `doortab keys revoke {key_id}`"


def _give_up_output() -> None:
    """What is still to be written goes nowhere: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())

"""The command ``doortab``: runs it, and turns errors into one clear line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from doortab import streams

if TYPE_CHECKING:
    from typer import Typer

    from doortab.schemas.errors import DoortabError


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line (default: that of this process) and returns the exit code."""
    try:
        from doortab.cli import app
    except ImportError as error:
        print(f"doortab: {error}; the command needs: pip install 'doortab[all]'", file=sys.stderr)
        return 1
    from doortab.schemas.errors import DoortabError, of_system

    streams.spell_out()
    try:
        code = _ended(app, arguments)
        if code == 0:
            sys.stdout.flush()
    except DoortabError as error:
        return _refused(error)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as head does.
        return 0
    except OSError as error:
        return _refused(of_system(error, "failed"))
    except UnicodeEncodeError as error:
        taken = f"{error.object[error.start : error.end]!a} cannot be written as {error.encoding}"
        return _refused(DoortabError(f"standard output: {taken}; set PYTHONIOENCODING=utf-8"))
    return code


def _ended(app: Typer, arguments: Sequence[str] | None) -> int:
    """The exit code that the command chose.

    Raises:
        BrokenPipeError: nobody takes its output any more.
        Stopped: somebody pressed Ctrl-C.
    """
    from doortab.schemas.errors import Stopped

    try:
        app(arguments)
    except SystemExit as left:
        # Typer and rich turn a closed pipe into this before anybody else sees it.
        if left.code == 1 and isinstance(left.__context__, BrokenPipeError):
            raise left.__context__ from None
        if left.code == Stopped.exit_code:
            raise Stopped("stopped") from None
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    return 0


def _refused(error: DoortabError) -> int:
    with suppress(OSError):  # then there is nobody to tell
        print(f"doortab: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def main() -> None:
    """Runs the command line and ends the process."""
    streams.complete()
    try:
        code = run()
    except KeyboardInterrupt:  # so early that nothing has begun
        code = 130
    streams.let_go()
    sys.exit(code)


if __name__ == "__main__":
    main()

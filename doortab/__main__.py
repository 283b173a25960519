"""The command ``doortab``: runs it, and turns errors into one clear line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line (default: that of this process) and returns the exit code."""
    try:
        from doortab.cli import app
    except ImportError as error:
        print(f"doortab: {error}; the command needs: pip install 'doortab[all]'", file=sys.stderr)
        return 1
    from doortab.schemas.errors import DoortabError

    try:
        app(arguments)
    except DoortabError as error:
        print(f"doortab: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BrokenPipeError:
        # Whoever read our output has seen enough, as head does.
        sys.stderr.close()
        return 0
    return 0


def main() -> None:
    """Runs the command line and ends the process."""
    sys.exit(run())


if __name__ == "__main__":
    main()

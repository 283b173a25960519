"""The command ``doortab``: runs it, and turns errors into one clear line and an exit code."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from doortab.cli import app
    except ImportError as error:
        sys.exit(f"doortab: {error}; the command needs: pip install 'doortab[all]'")
    from doortab.schemas.errors import DoortabError

    try:
        app()
    except DoortabError as error:
        print(f"doortab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as head does.
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()

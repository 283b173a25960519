"""The walks run commands as the commands' tests do."""

from tests.commands.conftest import _plain_environment

__all__ = ["_plain_environment"]

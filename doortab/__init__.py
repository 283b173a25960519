"""doortab: meters, caps and bills the use of API keys. A doorman checks the card and keeps the tab.

A service embeds ``Gate``, which checks keys and records what they use; whoever only records takes a
``Client``. Nothing is loaded before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doortab.asgi import Meter
    from doortab.embed import Gate, Refused
    from doortab.producers.client import Client

__all__ = ["Client", "Gate", "Meter", "Refused"]

_PLACES = {
    "Client": "doortab.producers.client",
    "Gate": "doortab.embed",
    "Meter": "doortab.asgi",
    "Refused": "doortab.embed",
}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'doortab' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    found: object = getattr(import_module(place), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""An application as servers load it: the client and the gate are made when it is imported, and used in whatever
process serves. ``wsgi`` records with a client, ``asgi`` is metered by the middleware.

    DOORTAB_TEST_PLACE=DIR gunicorn --preload --workers 4 tests.crashes.preloaded:wsgi
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from doortab.asgi import Meter
from doortab.embed import Gate
from doortab.log.open import open_log
from doortab.producers.client import Client
from tests.crashes.flowing import settings_in

SETTINGS = settings_in(Path(os.environ["DOORTAB_TEST_PLACE"]))

client = Client(lambda: open_log(SETTINGS.log_url), SETTINGS.data / "spool", source="client")
# It runs before the fork already: its thread, its files and its lock are the parent's.
client.record(account="parent", id="parent")


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Records one event, and says in which process."""
    client.record(account="wsgi", operation=f"GET {environ['PATH_INFO']}", units={"requests": 1})
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An application that says in which process it runs."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


asgi = Meter(hello, gate=Gate.open(SETTINGS.log_url, SETTINGS.data, source="asgi"))
asgi.gate.start()  # before the fork, as well

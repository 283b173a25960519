"""Channels: how an alert reaches people. A line on a terminal, or a webhook.

A channel tries once and says what became of it; ``deliveries`` decides when to try again. Webhooks
follow the Standard Webhooks specification, so that receivers in any language can check who sent it: an
id that is the same at every attempt, a time, a signature. ``slack`` sends the ``{"text": …}`` that
Slack, Mattermost and others take.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol, TextIO

import msgspec
import urllib3
from standardwebhooks import Webhook as Signer
from urllib3.connection import HTTPConnection, HTTPSConnection

from doortab.analytics import addresses
from doortab.analytics.plaintext import printable
from doortab.analytics.signing import secret_of
from doortab.schemas import instants
from doortab.schemas.alerts import Alert
from doortab.schemas.errors import RuleRefused, UsageError

MAX_TEXT = 4000
"""So many characters of a sentence are sent: a webhook's body stays below 20 kB."""

AGENT = "doortab"


class Outcome(NamedTuple):
    """What became of one attempt.

    ``delivered``; ``retry``: it may work later, unchanged, not before ``after_seconds``; ``gone``: the
    receiver wants nothing more, ever.
    """

    kind: Literal["delivered", "retry", "gone"]
    detail: str
    after_seconds: int = 0


class Channel(Protocol):
    """A way to people. ``name`` is unique and stays, for what was delivered is remembered by it."""

    @property
    def name(self) -> str: ...

    def send(self, alert: Alert, now: int) -> Outcome:
        """Tries once. Never raises for what a receiver or a network may do."""
        ...


class Terminal:
    """Writes a line: time, severity, text. What others called their keys cannot move the cursor."""

    def __init__(self, stream: TextIO, name: str = "terminal") -> None:
        self.name = name
        self._stream = stream

    def send(self, alert: Alert, now: int) -> Outcome:
        try:
            self._stream.write(f"{printable(alert.at)} {alert.severity} {printable(alert.text)}\n")
            self._stream.flush()
        except (OSError, ValueError) as error:
            return Outcome("retry", f"cannot write: {error}")
        return Outcome("delivered", "")


class Webhook:
    """Posts to a URL, signed with every secret: two while one takes the other's place.

    ``allow_private`` lets it reach addresses of the own network, and unencrypted. ``seconds`` bounds the
    whole attempt, whatever the receiver does.
    """

    def __init__(
        self,
        name: str,
        url: str,
        secrets: Sequence[str] = (),
        *,
        style: Literal["standard", "slack"] = "standard",
        allow_private: bool = False,
        seconds: int = 15,
        resolve: addresses.Resolve = addresses.resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``secrets`` are ``whsec_`` and base64 of 24 to 64 bytes.

        Raises:
            UsageError: the URL or a secret is none.
        """
        addresses.split(url, allow_private)
        if style == "standard" and not secrets:
            raise UsageError(f"webhook {name!r} has no secret; without one nobody can tell who sent an alert")
        self.name = name
        self._url = url
        self._signers = [Signer(secret_of(name, text)) for text in secrets]
        self._style = style
        self._allow_private = allow_private
        self.seconds = seconds
        self._resolve = resolve
        self._tls = tls

    def __repr__(self) -> str:
        # The URL of a Slack hook is itself a secret, and so are the signers.
        return f"Webhook({self.name!r})"

    def send(self, alert: Alert, now: int) -> Outcome:
        body = slack_body(alert) if self._style == "slack" else standard_body(alert)
        attempt = _Attempt(self, body, self._headers(alert, body, now))
        # In a thread of its own: neither a resolver nor a receiver that answers byte by byte holds up the others.
        attempt.start()
        attempt.join(self.seconds)
        if attempt.is_alive():
            attempt.cut()
            return attempt.late
        return attempt.outcome

    def _headers(self, alert: Alert, body: bytes, now: int) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": AGENT}
        if not self._signers:
            return headers
        name, moment = webhook_id(alert.id), instants.moment(now)
        signatures = [signer.sign(name, moment, body.decode()) for signer in self._signers]
        seconds = str(now // instants.SECOND)
        return headers | {
            "webhook-id": name,
            "webhook-timestamp": seconds,
            "webhook-signature": " ".join(signatures),
        }

    def connect(self, target: addresses.Target) -> HTTPConnection:
        """A connection to the address that was checked; a certificate must be the host's."""
        if target.scheme == "http":
            return HTTPConnection(target.address, target.port, timeout=self.seconds)
        return HTTPSConnection(
            target.address,
            target.port,
            timeout=self.seconds,
            ssl_context=self._tls or ssl.create_default_context(),
            server_hostname=target.host,
            assert_hostname=target.host,
        )

    def target(self) -> addresses.Target:
        """Where to connect, looked up anew for every attempt."""
        return addresses.target(self._url, self._allow_private, self._resolve)


class _Attempt(threading.Thread):
    """One request, from the look-up of the name to the first line of the answer."""

    def __init__(self, webhook: Webhook, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(name=f"doortab-webhook-{webhook.name}", daemon=True)
        self._webhook = webhook
        self._body = body
        self._headers = headers
        self._connection: HTTPConnection | None = None
        # The socket's own time-out and the bound on the whole attempt are the same to the operator.
        self.late = Outcome("retry", f"no answer within {webhook.seconds} s")
        self.outcome = Outcome("retry", "no answer")

    def run(self) -> None:
        try:
            target = self._webhook.target()
            self._connection = self._webhook.connect(target)
            self.outcome = self._request(self._connection, target)
        except RuleRefused as error:
            self.outcome = Outcome("retry", str(error))
        except (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            # The words of the error may hold the URL, and that may hold a secret.
            self.outcome = self.late if _late(error) else Outcome("retry", f"no answer: {type(error).__name__}")
        finally:
            if self._connection is not None:
                self._connection.close()

    def _request(self, connection: HTTPConnection, target: addresses.Target) -> Outcome:
        host = f"[{target.host}]" if ":" in target.host else target.host
        named = host if target.port == addresses.PORTS[target.scheme] else f"{host}:{target.port}"
        headers = {**self._headers, "host": named}
        connection.request("POST", target.path, body=self._body, headers=headers, preload_content=False)
        response = connection.getresponse()
        return outcome_of(response.status, response.headers.get("retry-after"))

    def cut(self) -> None:
        """Ends it from outside."""
        with suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


def _late(error: Exception) -> bool:
    """Whether time ran out. urllib3 derives a refused connection from a late one; that is told apart."""
    late = (TimeoutError, urllib3.exceptions.TimeoutError)
    return isinstance(error, late) and not isinstance(error, urllib3.exceptions.NewConnectionError)


def outcome_of(status: int, retry_after: str | None) -> Outcome:
    """What a receiver's answer means."""
    if 200 <= status < 300:
        return Outcome("delivered", f"status {status}")
    if status == 410:
        return Outcome("gone", "status 410: the receiver wants nothing more")
    text = (retry_after or "").strip()
    after = min(int(text), 86_400) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    moved = "; redirects are not followed" if 300 <= status < 400 else ""
    return Outcome("retry", f"status {status}{moved}", after)


def webhook_id(alert_id: str) -> str:
    """The id of an alert's messages: the same at every attempt, and nothing that a header could not hold."""
    return f"msg_{hashlib.sha256(alert_id.encode()).hexdigest()[:32]}"


def standard_body(alert: Alert) -> bytes:
    """The body that Standard Webhooks recommend: type, timestamp, data."""
    short = msgspec.structs.replace(alert, text=_short(alert.text))
    over = alert.facts.get("state") in ("over", "accepted")
    return msgspec.json.encode(
        {"type": "alert.resolved" if over else "alert.raised", "timestamp": alert.at, "data": short}
    )


def slack_body(alert: Alert) -> bytes:
    """The body that chats take. A name in the text calls nobody and links nowhere."""
    text = _short(alert.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return msgspec.json.encode({"text": f"{alert.severity}: {text}"})


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"

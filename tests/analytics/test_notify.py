"""Channels: an alert on its way to people."""

from __future__ import annotations

import io
import json
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook as Verifier

from doortab.analytics import addresses
from doortab.analytics.notify import Outcome, Terminal, Webhook
from doortab.schemas import instants
from doortab.schemas.alerts import Alert
from doortab.schemas.errors import UsageError
from tests.analytics.receiver import Answer, drip, hang, receiving, status

pytestmark = pytest.mark.promises("R11")

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G"
OTHER = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQI"
NOW = time.time_ns() // 1000
ALERT = Alert(
    id="spike/key_1/2026-11-02T06:00:00Z",
    kind="spike",
    severity="critical",
    subject="key:key_1",
    key="key_1",
    at="2026-11-02T06:05:00Z",
    text="key key_1: 620 requests",
    facts={"state": "spiking"},
)


def webhook(url: str, *secrets: str, **how: Any) -> Webhook:
    return Webhook("on-call", url, secrets or [SECRET], **({"allow_private": True, "seconds": 1} | how))


def test_a_receiver_can_check_who_sent_an_alert() -> None:
    with receiving(status(204)) as receiver:
        outcome = webhook(receiver.url("/hook?x=1"), SECRET, OTHER).send(ALERT, NOW)

        (got,) = receiver.got
        assert outcome.kind == "delivered"
        assert got.path == "/hook?x=1"
        for secret in (SECRET, OTHER):
            body = Verifier(secret).verify(got.body, got.headers)
            assert (body["type"], body["data"]["id"]) == ("alert.raised", ALERT.id)
        with pytest.raises(Exception, match="No matching signature"):
            Verifier(SECRET).verify(got.body.replace(b"620", b"621"), got.headers)


def test_the_id_is_the_same_at_every_attempt_and_the_time_is_not() -> None:
    with receiving(status(500), status(200)) as receiver:
        hook = webhook(receiver.url())
        hook.send(ALERT, NOW)
        hook.send(ALERT, NOW + 5 * instants.SECOND)

        first, second = (got.headers for got in receiver.got)
        assert first["webhook-id"] == second["webhook-id"]
        assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 5


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (status(200), Outcome("delivered", "status 200")),
        (status(410), Outcome("gone", "status 410: the receiver wants nothing more")),
        (status(429, retry_after="120"), Outcome("retry", "status 429", 120)),
        (status(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), Outcome("retry", "status 429", 0)),
        (status(503), Outcome("retry", "status 503")),
        (status(404), Outcome("retry", "status 404")),
        (hang, Outcome("retry", "no answer within 1 s")),
        (drip, Outcome("retry", "no answer within 1 s")),
    ],
)
def test_what_the_receiver_does_decides_what_comes_next(answer: Answer, outcome: Outcome) -> None:
    with receiving(answer) as receiver:
        begun = time.monotonic()

        assert webhook(receiver.url()).send(ALERT, NOW) == outcome
        assert time.monotonic() - begun < 3


def test_a_redirect_is_not_followed() -> None:
    with receiving(status(200)) as inside, receiving(status(302, location=inside.url())) as receiver:
        outcome = webhook(receiver.url()).send(ALERT, NOW)

        assert outcome == Outcome("retry", "status 302; redirects are not followed")
        assert inside.got == []


def test_a_receiver_that_is_not_there_is_tried_again() -> None:
    with receiving(status(200)) as receiver:
        url = receiver.url()

    assert webhook(url).send(ALERT, NOW) == Outcome("retry", "no answer: NewConnectionError")


def test_a_name_that_nobody_knows_is_tried_again() -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    assert webhook("https://nobody.example/", resolve=nobody).send(ALERT, NOW).kind == "retry"


INSIDE = [
    *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
    *("198.18.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254"),
    *("100.100.100.200", "2001:0:4136:e378:8000:63bf:80ff:fffe", "not an address"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_nothing_goes_inside_unless_the_operator_says_so(address: str) -> None:
    assert addresses.refusal(address, allow_private=False) is not None


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0"]
)
def test_a_clouds_metadata_is_out_of_reach_whatever_the_operator_says(address: str) -> None:
    assert addresses.refusal(address, allow_private=True) is not None


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_fine(address: str) -> None:
    assert addresses.refusal(address, allow_private=False) is None


def test_an_operator_may_allow_the_own_network() -> None:
    assert [a for a in ("127.0.0.1", "::1", "10.1.1.1", "fd00::1") if addresses.refusal(a, allow_private=True)] == []


def test_one_address_inside_is_enough_to_refuse_a_name() -> None:
    with receiving(status(200)) as receiver:
        both = webhook("https://two.example/", resolve=lambda *_: ["8.8.8.8", "127.0.0.1"], allow_private=False)

        outcome = both.send(ALERT, NOW)

        assert outcome.kind == "retry"
        assert "'two.example' has the address 127.0.0.1, which is not public" in outcome.detail
        assert receiver.got == []


def test_a_name_is_looked_up_once_and_the_connection_goes_where_it_pointed_then() -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    with receiving(status(200)) as receiver:
        url = f"http://moving.example:{receiver.server_port}/"

        outcome = webhook(url, resolve=lambda *_: next(answers)).send(ALERT, NOW)

        assert outcome.kind == "delivered"
        assert receiver.got[0].headers["host"] == f"moving.example:{receiver.server_port}"
        assert next(answers) == ["127.0.0.2"], "nobody asked a second time"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for receiver.example, and its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with openssl, which is not here")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=receiver.example"
    words += f" -addext subjectAltName=DNS:receiver.example -keyout {path}.key -out {path}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.key").read_text())
    return path


@pytest.mark.parametrize(("host", "kind"), [("receiver.example", "delivered"), ("other.example", "retry")])
def test_the_certificate_must_be_that_of_the_name_not_of_the_address(certificate: Path, host: str, kind: str) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    with receiving(status(200), tls=server) as receiver:
        hook = webhook(
            f"https://{host}:{receiver.server_port}/",
            resolve=lambda *_: ["127.0.0.1"],
            tls=ssl.create_default_context(cafile=str(certificate)),
            seconds=5,
        )

        assert hook.send(ALERT, NOW).kind == kind
        assert len(receiver.got) == (kind == "delivered")


@pytest.mark.parametrize(
    "url",
    [
        *("", "https://", "ftp://x.example/", "file:///etc/passwd", "http://x.example/", "https://me:pw@x.example/"),
        *("https://x.example:99999/", "https://x.example/a b", "https://x.example/\r\nevil: 1", "https://ü.example/"),
    ],
)
def test_a_url_that_is_none_is_refused_when_it_is_set_up(url: str) -> None:
    with pytest.raises(UsageError):
        webhook(url, allow_private=False)


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", SECRET[6:]])
def test_a_secret_that_protects_nothing_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(UsageError) as refused:
        Webhook("on-call", "https://x.example/", [secret])

    assert str(refused.value) == "a secret of webhook 'on-call' is not whsec_ and base64 of 24 to 64 bytes"


def test_a_webhook_without_a_secret_is_refused() -> None:
    with pytest.raises(UsageError, match="has no secret"):
        Webhook("on-call", "https://x.example/")


def test_neither_the_url_nor_a_secret_shows_in_what_is_printed() -> None:
    shown = repr(webhook("https://hooks.example/T0/B0/verysecret"))

    assert shown == "Webhook('on-call')"
    with pytest.raises(UsageError) as refused:
        webhook("http://hooks.example/T0/B0/verysecret", allow_private=False)
    assert "verysecret" not in str(refused.value)


def test_a_chat_gets_a_text_that_calls_nobody() -> None:
    evil = msgspec.structs.replace(ALERT, text="key <!channel> & <https://evil.example|click>\x1b[2J")
    with receiving(status(200)) as receiver:
        Webhook("chat", receiver.url(), style="slack", allow_private=True).send(evil, NOW)

        assert json.loads(receiver.got[0].body) == {
            "text": "critical: key &lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;\\x1b[2J"
        }


def test_an_alert_of_any_name_makes_a_message_that_can_be_sent() -> None:
    evil = msgspec.structs.replace(ALERT, id="spike/a\r\nx: y\u2028ü/" + "k" * 300, text="x" * 100_000)
    with receiving(status(200)) as receiver:
        assert webhook(receiver.url()).send(evil, NOW).kind == "delivered"

        (got,) = receiver.got
        assert "x" not in got.headers
        assert len(got.body) < 20_000
        Verifier(SECRET).verify(got.body, got.headers)


def test_the_end_of_a_spike_is_another_type_of_message() -> None:
    over = msgspec.structs.replace(ALERT, facts={"state": "over"})
    with receiving(status(200)) as receiver:
        webhook(receiver.url()).send(over, NOW)

        assert json.loads(receiver.got[0].body)["type"] == "alert.resolved"


def test_a_line_on_the_terminal_is_one_line_that_only_prints() -> None:
    stream = io.StringIO()
    evil = msgspec.structs.replace(ALERT, text="key \x1b]0;owned\x07\r\n2026-11-02 all is well\u202e")

    assert Terminal(stream).send(evil, NOW).kind == "delivered"
    assert stream.getvalue() == (
        "2026-11-02T06:05:00Z critical key \\x1b]0;owned\\x07\\r\\n2026-11-02 all is well\\u202e\n"
    )


def test_a_terminal_that_is_gone_is_tried_again() -> None:
    stream = io.StringIO()
    stream.close()

    assert Terminal(stream).send(ALERT, NOW).kind == "retry"

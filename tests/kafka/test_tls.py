"""A cluster that speaks TLS and asks for a password, reached by the setting that names a file."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import UserScramCredentialUpsertion

from doortab.log.open import open_log
from doortab.schemas.errors import LogUnavailable
from doortab.schemas.log import Entry, Log, TopicPartition
from doortab.schemas.topics import Topic
from tests.kafka.conftest import free_ports
from tests.kafka.house import House
from tools.kafka import Broker, Door

pytestmark = pytest.mark.timeout(300)

HOUSE = Callable[..., House]
PASSWORD = "only-for-this-test"
JAAS = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
MECHANISMS = ("PLAIN", "SCRAM-SHA-512")


def openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True, timeout=60)


def authority(directory: Path, name: str) -> Path:
    """A certificate authority of our own; its certificate."""
    openssl(
        directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip
    return directory / f"{name}.pem"


def keystore(directory: Path) -> Path:
    """What the broker shows: a certificate for 127.0.0.1, signed by the authority ``ca``."""
    openssl(
        directory, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=broker",
        "-keyout", "broker.key", "-out", "broker.csr",
    )  # fmt: skip
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        directory, "x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "san", "-out", "broker.pem",
    )  # fmt: skip
    openssl(
        directory, "pkcs12", "-export", "-in", "broker.pem", "-inkey", "broker.key", "-certfile", "ca.pem",
        "-passout", f"pass:{PASSWORD}", "-out", "broker.p12",
    )  # fmt: skip
    return directory / "broker.p12"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a broker's guarded door, and the directory with the authority's certificate."""
    directory = tmp_path_factory.mktemp("tls")
    authority(directory, "ca")
    authority(directory, "stranger")
    ports = free_ports(3)
    more = {
        "listener.name.guarded.ssl.keystore.type": "PKCS12",
        "listener.name.guarded.ssl.keystore.location": str(keystore(directory)),
        "listener.name.guarded.ssl.keystore.password": PASSWORD,
        "listener.name.guarded.ssl.key.password": PASSWORD,
        "listener.name.guarded.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.guarded.plain.sasl.jaas.config": f'{JAAS} user_doortab="{PASSWORD}";',
        "listener.name.guarded.scram-sha-512.sasl.jaas.config": f"{SCRAM};",
    }
    door = Door("GUARDED", ports + 2, ports + 2, "SASL_SSL")
    broker = Broker(directory / "broker", ports, doors=[door], more=more)
    try:
        broker.start()
        admin = KafkaAdminClient(bootstrap_servers=[broker.address])
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion("doortab", "SCRAM-SHA-512", PASSWORD)])
        admin.close()
        yield f"127.0.0.1:{door.port}", directory
    finally:
        broker.kill()


def words(authority: Path, password: str = PASSWORD, mechanism: str = "PLAIN") -> str:
    return "\n".join(
        [
            'security_protocol = "SASL_SSL"',
            f'ssl_cafile = "{authority}"',
            f'sasl_mechanism = "{mechanism}"',
            'sasl_plain_username = "doortab"',
            f'sasl_plain_password = "{password}"',
            "",
        ]
    )


def opened(address: str, directory: Path, told: str) -> Log:
    """A log whose clients read these words in a file."""
    file = directory / "kafka.toml"
    file.write_text("request_timeout_ms = 1000\n" + told)
    return open_log(f"kafka://{address}/t{time.time_ns()}.?settings={file}")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_cluster_with_tls_and_a_password_is_used_like_any_other(
    mechanism: str, guarded: tuple[str, Path], house: HOUSE
) -> None:
    address, directory = guarded
    home = house(address, more=words(directory / "ca.pem", mechanism=mechanism))
    home.record(1000)

    home.settle()
    home.check()
    assert PASSWORD not in home.url


def test_large_records_come_through_tls_as_they_were_sent(guarded: tuple[str, Path], tmp_path: Path) -> None:
    """TLS hands over 16 kB at a time, and holds back what nobody asks for."""
    address, directory = guarded
    log = opened(address, tmp_path, words(directory / "ca.pem"))
    log.ensure_topics([Topic("usage", 1)])
    values = [os.urandom(size) for size in (1, 16_384, 16_385, 300_000, 3_900_000, 40_000, 2_500_000) * 3]

    log.append("usage", [Entry(0, None, value) for value in values])
    reader = log.reader({TopicPartition("usage", 0): 0})
    found: list[bytes | None] = []
    deadline = time.monotonic() + 60
    while len(found) < len(values) and time.monotonic() < deadline:
        found += [record.value for record in reader.poll(100, 8_000_000, 1.0)]
    reader.close()
    log.close()

    assert found == values


@pytest.mark.parametrize(
    ("authority", "password", "mechanism", "reason"),
    [
        ("ca", "a-wrong-password", "PLAIN", "Invalid username or password"),
        ("ca", "a-wrong-password", "SCRAM-SHA-512", "Authentication failed"),
        ("ca", PASSWORD, "SCRAM-SHA-256", r"does not support SCRAM-SHA-256|UnsupportedSaslMechanism"),
        ("stranger", PASSWORD, "PLAIN", "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_who_may_not_in_is_told_why(
    authority: str, password: str, mechanism: str, reason: str, guarded: tuple[str, Path], tmp_path: Path
) -> None:
    address, directory = guarded
    log = opened(address, tmp_path, words(directory / f"{authority}.pem", password, mechanism))

    with pytest.raises(LogUnavailable, match=reason) as told:
        log.partition_count("usage")

    assert password not in str(told.value)
    log.close()

"""Settings: one TOML file, the environment over it, flags over both. The only reader of the environment.

``doortab config --origin`` says where each value came from.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from doortab.analytics import addresses
from doortab.analytics.signing import secret_of
from doortab.schemas.errors import UsageError

PREFIX = "DOORTAB_"
CONFIG_NAME = "doortab.toml"


MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT])(i?)B\Z")
LEAST_MEMORY = 100_000_000
"""A commit of the usual size ran out of 16 MB, and did with 32; more threads take more."""

HIDDEN = ("webhook_secret", "webhook_url")
"""What is or may hold a secret: it is not shown, even when it is wrong."""


def _memory(text: str) -> str:
    match = MEMORY.match(text)
    if match is None:
        raise ValueError("write a number and a unit, such as 4GB or 512MiB")
    power = "KMGT".index(match[2]) + 1
    if Decimal(match[1]) * (1024 if match[3] else 1000) ** power < LEAST_MEMORY:
        raise ValueError("the store needs 100MB at least")
    return text


MemorySize = Annotated[str, AfterValidator(_memory)]


class Settings(BaseModel):
    """Every setting. The name in the environment is the name in capitals after ``DOORTAB_``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(Path(".doortab"), description="directory where everything of one machine lives")
    log: str = Field("", description="file:DIR or kafka://host:port[,host:port][/PREFIX]; empty: file:DATA/log")
    kafka_file: str = Field("", description="TOML file with more settings for Kafka's clients (TLS, SASL); empty: none")
    host: str = Field("127.0.0.1", description="address that the HTTP server listens on")
    port: int = Field(8600, ge=0, le=65535, description="port that the HTTP server listens on; 0 takes a free one")
    usage_partitions: int = Field(4, ge=1, le=1024, description="partitions of topic usage, when it is created")
    threads: int = Field(1, ge=1, le=256, description="threads that DuckDB may use")
    memory_limit: MemorySize = Field("4GB", description="memory DuckDB may use; 100MB at least")
    batch_bytes: int = Field(24_000_000, ge=1, description="bytes of log that one commit of the ledger takes at most")
    batch_records: int = Field(60_000, ge=1, description="records of log that one commit of the ledger takes at most")
    spool_bytes: int = Field(256_000_000, ge=65_536, description="bytes of events that wait for the log at most")
    when_full: str = Field("refuse", pattern="^(refuse|allow)$", description="what a full spool does to a request")
    max_staleness: float = Field(300, gt=0, description="seconds after which a gate calls its view stale")
    snapshot_seconds: int = Field(300, ge=0, description="seconds between two snapshots; 0: none")
    audit_seconds: int = Field(60, ge=0, description="seconds between two audits of the store; 0: none")
    alert_seconds: int = Field(60, ge=0, description="seconds between two looks for spikes; 0: none")
    alert_bucket: int = Field(3600, ge=1, le=86_400, description="seconds of use that are compared with each other")
    webhook_url: str = Field("", description="where alerts are posted; empty: nowhere")
    webhook_secret: str = Field("", description="secret that signs them (whsec_…)")
    webhook_private: bool = Field(False, description="whether the webhook may be a private address")

    @property
    def log_url(self) -> str:
        """The URL of the log."""
        if self.kafka_file and self.log.startswith("kafka:") and "?" not in self.log:
            return f"{self.log}?settings={self.kafka_file}"
        return self.log or f"file:{self.data / 'log'}"

    @property
    def webhook_secrets(self) -> list[str]:
        """The secrets that alerts are signed with, one or two."""
        return [secret for secret in self.webhook_secret.split(",") if secret]

    @property
    def store_path(self) -> Path:
        """The ledger's DuckDB file."""
        return self.data / "store" / "ledger.duckdb"

    @property
    def trail_path(self) -> Path:
        """The directory where the store's last commit is noted, outside of the store."""
        return self.data / "audit"

    @property
    def pepper_path(self) -> Path:
        """The file that holds the secret with which keys are hashed."""
        return self.data / "pepper"

    @property
    def address_path(self) -> Path:
        """Where a running ledger says how to reach it."""
        return self.data / "ledger.json"


class Loaded(NamedTuple):
    """The settings, and for each the place it came from."""

    settings: Settings
    origins: dict[str, str]


def load(flags: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Loaded:
    """The settings in force. ``flags`` that are None were not given.

    Raises:
        UsageError: an unknown name, or a value that breaks its rule.
    """
    environment = os.environ if environment is None else environment
    named = {
        name: environment[PREFIX + name.upper()]
        for name in Settings.model_fields
        if environment.get(PREFIX + name.upper())
    }
    given = {name: value for name, value in flags.items() if value is not None}
    data = Path(str(given.get("data") or named.get("data") or Settings.model_fields["data"].default))
    chosen = environment.get(PREFIX + "CONFIG")
    path = Path(chosen or data / CONFIG_NAME)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, layer in ((str(path), _file(path, is_named=bool(chosen))), ("environment", named), ("flag", given)):
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error, origins)) from None
    _check_webhook(settings, origins)
    return Loaded(settings, origins)


def _file(path: Path, *, is_named: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if is_named:
            raise UsageError(f"{PREFIX}CONFIG names {path}, which is not there; correct it, or unset it") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for entry in error.errors(include_url=False):
        name = str(entry["loc"][0])
        # A name that is none may be a secret's, misspelt.
        is_hidden = name in HIDDEN or entry["type"] == "extra_forbidden"
        value = "…" if is_hidden else repr(entry["input"])
        words = entry["msg"].removeprefix("Value error, ")
        lines.append(f"{name} = {value} (from {origins.get(name, 'nowhere')}): {words}")
    return "\n".join(lines)


def _check_webhook(settings: Settings, origins: Mapping[str, str]) -> None:
    """The URL and the secrets by the rules of the webhook; whether it has a secret at all is asked when it is used."""
    name = "webhook_url"
    try:
        if settings.webhook_url:
            addresses.split(settings.webhook_url, settings.webhook_private)
        name = "webhook_secret"
        for secret in settings.webhook_secrets:
            secret_of("webhook", secret)
    except UsageError as error:
        raise UsageError(f"{name} = … (from {origins[name]}): {error}") from None

"""Settings: one TOML file, the environment over it, flags over both. The only reader of the environment.

``doortab config --origin`` says where each value came from.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from doortab.schemas.errors import UsageError

PREFIX = "DOORTAB_"
CONFIG_NAME = "doortab.toml"


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
    memory_limit: str = Field("4GB", pattern=r"^[0-9]+(\.[0-9]+)?[KMGT]i?B$", description="memory DuckDB may use")
    batch_bytes: int = Field(24_000_000, ge=1, description="bytes of log that one commit of the ledger takes at most")
    batch_records: int = Field(60_000, ge=1, description="records of log that one commit of the ledger takes at most")
    spool_bytes: int = Field(256_000_000, ge=65_536, description="bytes of events that wait for the log at most")
    when_full: str = Field("refuse", pattern="^(refuse|allow)$", description="what a full spool does to a request")
    max_staleness: float = Field(300, gt=0, description="seconds after which a gate calls its view stale")
    snapshot_seconds: int = Field(300, ge=0, description="seconds between two snapshots; 0: none")
    audit_seconds: int = Field(60, ge=0, description="seconds between two audits of the store; 0: none")
    alert_seconds: int = Field(60, ge=0, description="seconds between two looks for spikes; 0: none")
    alert_bucket: int = Field(3600, ge=1, description="seconds of use that are compared with each other")
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
    path = Path(environment.get(PREFIX + "CONFIG") or data / CONFIG_NAME)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, layer in ((str(path), _file(path)), ("environment", named), ("flag", given)):
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    try:
        return Loaded(Settings.model_validate(values), origins)
    except ValidationError as error:
        raise UsageError(_explain(error, origins)) from None


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for entry in error.errors(include_url=False):
        name = str(entry["loc"][0])
        lines.append(f"{name} = {entry['input']!r} (from {origins.get(name, 'nowhere')}): {entry['msg']}")
    return "\n".join(lines)

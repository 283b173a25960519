"""Settings: where they come from, and what is refused however it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from doortab.schemas.errors import UsageError
from doortab.settings import load
from tests.commands.conftest import Doortab

SECRET = "whsec_" + "QUJD" * 8


def test_a_file_that_is_named_must_be_there_and_that_of_the_data_directory_need_not(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")

    with pytest.raises(UsageError, match=r"DOORTAB_CONFIG names .*missing\.toml, which is not there"):
        load({"data": str(tmp_path)}, {"DOORTAB_CONFIG": missing})

    assert load({"data": str(tmp_path)}, {}).settings.port == 8600


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("webhook_url", "foo", "https://host/path"),
        ("webhook_url", "http://example.org/x", "not encrypted"),
        ("webhook_secret", "verysecret", "whsec_ and base64"),
        ("webhook_secret", SECRET + ",verysecret", "whsec_ and base64"),
        ("memory_limit", "1KB", "100MB at least"),
        ("memory_limit", "95MiB", "100MB at least"),
        ("memory_limit", "much", "such as 4GB"),
        ("alert_bucket", "86401", "86400"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_by_every_command(
    doortab: Doortab, monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(f"DOORTAB_{name.upper()}", value)

    done = doortab.run("config")

    assert done.returncode == 2
    assert rule in done.stderr.decode()
    assert name in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "line", ['webhook_secret = ["hunter2"]', 'webhook_secert = "hunter2"', 'webhook_secret = "hunter2"']
)
def test_a_secret_that_breaks_a_rule_is_not_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "doortab.toml").write_text(line)

    with pytest.raises(UsageError, match="webhook_sec") as raised:
        load({"data": str(tmp_path)}, {})

    assert "hunter2" not in str(raised.value)


def test_values_that_keep_their_rules_are_taken(tmp_path: Path) -> None:
    (tmp_path / "doortab.toml").write_text(f'memory_limit = "96MiB"\nwebhook_secret = "{SECRET},{SECRET}"')

    settings = load({"data": str(tmp_path)}, {"DOORTAB_WEBHOOK_URL": "https://example.org/x"}).settings

    assert (settings.memory_limit, settings.webhook_secrets) == ("96MiB", [SECRET, SECRET])

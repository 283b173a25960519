"""The containers: pinned, without root, without a way to write or to gain rights, and watched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")

PINNED = re.compile(r"^[a-z][a-z0-9/._-]*:\d+\.\d+\.\d+[a-z0-9.-]*$")

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
each_of_ours = pytest.mark.parametrize("name", ["ledger", "gate"])


def test_log_ledger_and_gate_run_apart() -> None:
    assert set(SERVICES) == {"kafka", "ledger", "gate"}


@each_service
def test_no_service_runs_as_root(service: dict[str, Any]) -> None:
    user, group = service["user"].split(":")

    assert int(user) > 0
    assert int(group) > 0


@each_service
def test_no_service_writes_outside_its_volumes_or_gains_rights(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.keys() & {"privileged", "cap_add", "pid", "network_mode", "devices"}


@each_service
def test_every_image_is_pinned_to_a_full_version(service: dict[str, Any]) -> None:
    assert PINNED.match(service["image"]), service["image"]


@each_service
def test_every_service_has_a_health_check(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"][0] == "CMD"


@each_service
def test_what_is_kept_stands_in_a_named_volume(service: dict[str, Any]) -> None:
    names = [volume.split(":")[0] for volume in service["volumes"]]

    assert names
    assert set(names) <= set(COMPOSE["volumes"])


@each_service
def test_ports_open_on_this_machine_only(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@each_of_ours
def test_a_part_runs_its_command_against_the_broker_and_waits_for_it(name: str) -> None:
    service = SERVICES[name]

    assert service["command"] == [name]
    assert service["environment"]["DOORTAB_LOG"] == "kafka://kafka:9092"
    assert service["environment"]["DOORTAB_DATA"] == "/data"
    assert f"{name}:/data" in service["volumes"]
    assert service["depends_on"]["kafka"]["condition"] == "service_healthy"


@each_of_ours
def test_a_part_is_healthy_when_it_says_that_it_is_ready(name: str) -> None:
    assert "http://127.0.0.1:8600/readyz" in SERVICES[name]["healthcheck"]["test"][-1]


def test_gate_and_ledger_share_no_volume() -> None:
    volumes = [volume for service in SERVICES.values() for volume in service["volumes"]]

    assert len(volumes) == len(set(volumes))


def test_the_image_is_built_in_stages_from_the_lock_and_leaves_root() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]

    assert len(stages) >= 2
    assert all(PINNED.match(image) for image in stages), stages
    assert "--require-hashes" in DOCKERFILE
    assert re.search(r"^USER 10001:10001$", final, flags=re.MULTILINE)
    assert 'ENTRYPOINT ["doortab"]' in final


def test_the_containers_run_as_the_user_that_owns_the_data_in_the_image() -> None:
    assert {SERVICES[name]["user"] for name in ("ledger", "gate")} == {"10001:10001"}

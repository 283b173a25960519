from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doortab import Gate, Refused
from doortab.log.open import open_log
from doortab.producers import pepper
from doortab.producers.desk import Desk, Issued
from doortab.schemas.errors import SpoolFull, UsageError
from tests.producers.test_client import events, exit_code, in_child, wait_for

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    log = open_log(f"file:{tmp_path}/log")
    yield Desk(log, pepper.load_or_create(tmp_path / "pepper"), actor="ada")
    log.close()


@pytest.fixture
def issued(desk: Desk) -> Issued:
    return desk.issue(account="acct_acme", owner="o", purpose="p", scopes=("chat:write",))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate.open(data=tmp_path, source="gate/test")
    yield gate
    gate.close(5)


def bearer(issued: Issued) -> str:
    return f"Bearer {issued.secret.reveal()}"


def logged(tmp_path: Path) -> list[dict[str, Any]]:
    log = open_log(f"file:{tmp_path}/log")
    found = events(log)
    log.close()
    return found


def test_a_request_is_checked_served_and_recorded_once(tmp_path: Path, gate: Gate, issued: Issued) -> None:
    with gate.request(bearer(issued), operation="POST /chat", scopes=("chat:write",)) as request:
        assert request.verdict.account == "acct_acme"
        request.usage.add(tokens=1834, model="m-large")
    assert gate.close()

    (event,) = logged(tmp_path)
    assert event["data"] == {
        "account": "acct_acme",
        "key": issued.key.key_id,
        "verdict": "allowed",
        "operation": "POST /chat",
        "units": {"requests": 1, "tokens": 1834},
        "dimensions": {"model": "m-large"},
    }


def test_a_refused_request_never_runs_and_is_recorded_with_empty_units(
    tmp_path: Path, gate: Gate, issued: Issued
) -> None:
    with pytest.raises(Refused) as raised, gate.request(bearer(issued), operation="x", scopes=("admin",)):
        raise AssertionError("served")

    assert (raised.value.verdict.reason, raised.value.answer.status) == ("scope", 403)
    assert gate.close()
    (event,) = logged(tmp_path)
    assert (event["data"]["verdict"], event["data"]["reason"], event["data"]["units"]) == ("refused", "scope", {})


@pytest.mark.parametrize(("billable", "expected"), [(None, False), (True, True)])
def test_a_service_that_fails_is_recorded_and_not_charged_unless_it_says_so(
    tmp_path: Path, gate: Gate, issued: Issued, billable: bool | None, expected: bool
) -> None:
    def serve() -> None:
        with gate.request(bearer(issued)) as request:
            request.usage.add(tokens=5)
            request.usage.billable = billable
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve()

    assert gate.close()
    (event,) = logged(tmp_path)
    assert (event["data"]["units"]["tokens"], event["data"]["billable"]) == (5, expected)


def test_what_cannot_be_recorded_is_not_served(gate: Gate, issued: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.start()
    monkeypatch.setattr(gate.client, "has_room", lambda: False)

    with pytest.raises(SpoolFull), gate.request(bearer(issued)):
        raise AssertionError("served")
    gate.client.when_full = "allow"
    with gate.request(bearer(issued)):
        pass


def test_opening_starts_nothing_and_the_first_request_waits_for_the_keys(
    tmp_path: Path, gate: Gate, issued: Issued
) -> None:
    before = threading.active_count()
    unused = Gate.open(data=tmp_path)
    assert threading.active_count() == before
    unused.close()

    assert gate.check(bearer(issued)).allowed
    assert gate.ready


def test_a_revocation_reaches_the_gate(gate: Gate, desk: Desk, issued: Issued) -> None:
    assert gate.check(bearer(issued)).allowed

    desk.revoke(issued.key.key_id)

    wait_for(lambda: gate.check(bearer(issued)).reason == "revoked", 2)


def test_a_gate_opened_before_the_fork_works_in_every_child(tmp_path: Path, gate: Gate, desk: Desk) -> None:
    issued = [desk.issue(account=f"a{number}", owner="o", purpose="p") for number in range(4)]
    assert gate.check(bearer(issued[0])).allowed

    def work(number: int) -> None:
        for _ in range(250):
            with gate.request(bearer(issued[number])) as request:
                request.usage.add(n=1)
        assert gate.close(20)

    children = [in_child(lambda number=number: work(number)) for number in range(4)]  # type: ignore[misc]

    assert [exit_code(child) for child in children] == [0, 0, 0, 0]
    found = logged(tmp_path)
    assert len({event["id"] for event in found}) == len(found) == 1000


def test_a_gate_with_another_pepper_says_so_instead_of_calling_every_key_unknown(
    tmp_path: Path, issued: Issued
) -> None:
    gate = Gate.open(log=f"file:{tmp_path}/log", data=tmp_path / "elsewhere")

    with pytest.raises(UsageError, match="copy the pepper file"):
        gate.check(bearer(issued))

    assert not (tmp_path / "elsewhere" / "pepper").exists()
    gate.close()


def test_a_gate_that_lacks_one_of_two_peppers_says_which_unless_no_key_needs_it(
    tmp_path: Path, desk: Desk, issued: Issued
) -> None:
    old = issued.key.pepper_id
    (tmp_path / "pepper").unlink()
    Desk(open_log(f"file:{tmp_path}/log"), pepper.load_or_create(tmp_path / "pepper"), actor="bob").issue(
        account="acct_acme", owner="o", purpose="p"
    )
    gate = Gate.open(data=tmp_path)

    with pytest.raises(UsageError, match=f"need pepper {old}, which"):
        gate.start()

    gate.close()
    desk.revoke(issued.key.key_id)
    content = Gate.open(data=tmp_path)
    assert content.start()
    content.close()


def test_a_gate_may_start_before_the_first_key_and_takes_up_its_pepper(tmp_path: Path) -> None:
    gate = Gate.open(data=tmp_path)
    assert gate.start()
    log = open_log(f"file:{tmp_path}/log")

    issued = Desk(log, pepper.load_or_create(tmp_path / "pepper"), actor="ada").issue(
        account="acct_acme", owner="o", purpose="p"
    )

    wait_for(lambda: gate.check(bearer(issued)).allowed)
    gate.close()
    log.close()


def test_a_key_of_a_pepper_that_a_running_gate_lacks_is_logged_once_and_works_once_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, issued: Issued
) -> None:
    monkeypatch.setattr("doortab.pepper_watch.LOOK_AGAIN_SECONDS", 0.0)
    gate = Gate.open(log=f"file:{tmp_path}/log", data=tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        gate.start()

    assert [gate.check(bearer(issued)).reason for _ in range(3)] == ["unknown_key"] * 3
    shutil.copy(tmp_path / "pepper", tmp_path / "elsewhere" / "pepper")

    assert gate.check(bearer(issued)).allowed
    assert [issued.key.pepper_id in record.getMessage() for record in caplog.records] == [True]
    gate.close()


@pytest.mark.parametrize(
    "wrong",
    [{"log": "ftp://x"}, {"when_full": "maybe"}, {"when_stale": "maybe"}, {"source": "x" * 300}],
)
def test_what_will_not_do_is_said_when_opening(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Gate.open(data=tmp_path, **wrong)


def test_a_file_log_whose_directory_cannot_be_used_yet_does_not_keep_a_gate_from_opening(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    gate = Gate.open(data=tmp_path, ready_seconds=0.1)

    assert not gate.start()
    assert gate.check("Bearer x").reason == "malformed_key"

    (tmp_path / "log").unlink()
    assert gate.start(10)
    gate.close()


def run_python(program: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_public_names_load_nothing_heavy() -> None:
    heavy = {
        "apscheduler",
        "asyncio",
        "duckdb",
        "fastapi",
        "kafka",
        "logging",
        "numpy",
        "pandas",
        "pyarrow",
        "pydantic",
        "sqlite3",
        "ssl",
        "starlette",
        "structlog",
        "typer",
        "zoneinfo",
    }
    program = "import sys, doortab; from doortab import Client, Gate, Refused; print(*sys.modules)"

    assert heavy & {name.split(".")[0] for name in run_python(program).split()} == set()


def test_doortab_itself_loads_nothing_before_a_name_is_used() -> None:
    program = "import doortab, sys; print(*(name for name in sys.modules if name.startswith('doortab')), *dir(doortab))"

    printed = run_python(program).split()

    assert "doortab.embed" not in printed
    assert {"Client", "Gate", "Meter", "Refused"} <= set(printed)

"""The commands from a person's side: what they print, what they refuse, and with which words."""

from __future__ import annotations

import gzip
import json
import signal
import time
from pathlib import Path

import pytest

from doortab.log.open import open_log
from doortab.schemas.log import Entry
from tests.commands.conftest import Doortab

CATALOG = b"""
default_plan = "plan"
[[meters]]
name = "tokens"
event = "request.validated"
aggregation = "sum"
value = "units.tokens"
[[plans]]
name = "plan"
currency = "EUR"
[[plans.charges]]
meter = "tokens"
model = "per_unit"
unit = "0.001"
[[caps]]
subject = "key:*"
amount = "1.00"
period = "total"
"""


def event(number: int, **data: object) -> bytes:
    body = {"account": "acme", "key": "key_a", "units": {"tokens": 100}} | data
    return json.dumps(
        {
            "specversion": "1.0",
            "id": f"e{number}",
            "source": "test",
            "type": "request.validated",
            "time": "2026-03-10T08:00:00Z",
            "data": body,
        }
    ).encode()


def test_what_is_ingested_is_in_the_report_when_the_command_returns(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)

    counts = doortab.json("ingest", "-", given=b"\n".join(event(n) for n in (1, 2, 2, 3)))
    report = doortab.json("report", "2026-03")

    assert counts == {"read": 4, "accepted": 3, "duplicates": 1, "rejected": 0}
    assert report["rows"] == [
        {
            "account": "acme",
            "key": "key_a",
            "currency": "EUR",
            "events": "3",
            "allowed": "3",
            "refused": "0",
            "billable": "3",
            "units": {"tokens": "300"},
            "amount": "0.3",
        }
    ]
    assert report["period"] == {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z", "timezone": "UTC"}
    assert report["control"]["unexplained"] == "0"


def test_arrays_gzip_and_pretty_printed_files_are_read(doortab: Doortab, tmp_path: Path) -> None:
    whole = tmp_path / "events.json.gz"
    whole.write_bytes(gzip.compress(json.dumps([json.loads(event(n)) for n in range(5)], indent=2).encode()))
    single = tmp_path / "one.json"
    single.write_text(json.dumps(json.loads(event(9)), indent=2))

    counts = doortab.json("ingest", str(whole), str(single))

    assert counts == {"read": 6, "accepted": 6, "duplicates": 0, "rejected": 0}


def test_every_unreadable_line_is_counted_and_kept_with_its_reason_and_place(doortab: Doortab) -> None:
    lines = [event(1), b"not json", b"[]", b"[1, 2]", b"[[1]]", b"\xff\xfe", event(2, units={"tokens": -1}), event(3)]

    counts = doortab.json("ingest", "-", given=b"\n".join(lines))
    told = doortab.json("rejected")

    assert counts == {"read": 9, "accepted": 2, "duplicates": 0, "rejected": 7}
    assert told["reasons"] == {"bad_json": 2, "empty_batch": 1, "invalid_quantity": 1, "not_an_event": 3}
    assert all(row["topic"] == "usage" and row["offset"] >= 0 and row["detail"] for row in told["rows"])


def test_the_same_id_with_other_content_is_rejected_and_the_first_stands(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)
    doortab.ok("ingest", "-", given=event(1))

    counts = doortab.json("ingest", "-", given=event(1, units={"tokens": 999}))

    assert counts == {"read": 1, "accepted": 0, "duplicates": 0, "rejected": 1}
    assert doortab.json("rejected")["reasons"] == {"id_conflict": 1}
    assert doortab.json("report", "2026-03")["total"]["units"] == {"tokens": "100"}


def test_a_cap_that_is_reached_shows_and_alerts(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)

    doortab.ok("ingest", "-", given=b"\n".join(event(n) for n in range(12)))

    (cap,) = doortab.json("caps", "--reached")["rows"]
    assert (cap["subject"], cap["used"], cap["limit"], cap["reached"]) == ("key:key_a", "1.2", "1", True)
    kinds = [(row["kind"], row["facts"]["percent"]) for row in doortab.json("alerts", "list")["rows"]]
    assert kinds == [("threshold", "50"), ("threshold", "80"), ("threshold", "95"), ("cap", "100")]


def test_a_cap_that_comes_later_counts_what_was_spent_before(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG.split(b"[[caps]]")[0])
    doortab.ok("ingest", "-", given=b"\n".join(event(n) for n in range(12)))

    doortab.ok("apply", "-", given=CATALOG)

    (cap,) = doortab.json("caps", "--reached")["rows"]
    assert cap["used"] == "1.2"


def test_a_catalog_that_breaks_a_rule_is_refused_whole_with_place_value_and_way_out(doortab: Doortab) -> None:
    done = doortab.run("apply", "-", given=CATALOG.replace(b'unit = "0.001"', b"unit = 0.001"))

    assert done.returncode == 2
    assert b"plans.1.charges.1" in done.stderr
    assert b'"0.001"' in done.stderr
    assert doortab.json("apply", "-", given=CATALOG)["published"] is True


@pytest.mark.parametrize("nothing", [b"", b"\n# nothing\n"])
def test_a_catalog_that_says_nothing_is_refused_unless_it_says_so(doortab: Doortab, nothing: bytes) -> None:
    doortab.ok("apply", "-", given=CATALOG)

    done = doortab.run("apply", "-", given=nothing)

    assert done.returncode == 2
    assert b"caps = []" in done.stderr
    assert doortab.json("apply", "-", "--dry-run", given=CATALOG)["changes"] == []
    assert doortab.json("apply", "-", given=b"caps = []")["published"] is True


def test_a_key_without_a_cap_is_not_issued_unless_somebody_says_why(doortab: Doortab) -> None:
    refused = doortab.run("keys", "issue", "--account", "acme")
    excused = doortab.run("keys", "issue", "--account", "acme", "--uncapped", "--reason", "load test")

    assert refused.returncode == 4
    assert b"--cap" in refused.stderr
    assert excused.returncode == 0


def test_a_secret_is_shown_once_and_stands_nowhere_on_disk(doortab: Doortab) -> None:
    issued = doortab.json("keys", "issue", "--account", "acme", "--cap", "25.00/month")

    secret = issued["secret"].encode()
    assert len(secret) == 46
    assert secret not in doortab.ok("keys", "list", "--json").encode()
    assert not [path for path in doortab.data.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_store_that_was_deleted_comes_back_from_the_log_with_the_same_exports(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)
    doortab.ok("ingest", "-", given=b"\n".join([*(event(n) for n in range(20)), b"broken"]))
    before = doortab.json("export", str(doortab.data / "before"))["exports"]
    for path in (doortab.data / "store").iterdir():
        path.unlink()

    told = doortab.json("rebuild")

    assert told["exports"] == before
    assert told["events"] == 21
    assert doortab.json("doctor")["findings"]


def test_commands_talk_to_the_running_ledger(doortab: Doortab) -> None:
    running = doortab.start("ledger", "--port", "0")
    try:
        deadline = time.monotonic() + 20
        while not (doortab.data / "ledger.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        doortab.ok("apply", "-", given=CATALOG)
        counts = doortab.json("ingest", "-", given=b"\n".join(event(n) for n in range(3)))
        report = doortab.json("report", "2026-03", "--by", "account")
    finally:
        running.send_signal(signal.SIGTERM)
        _, words = running.communicate(timeout=20)

    assert counts["accepted"] == 3
    assert report["rows"][0]["amount"] == "0.3"
    assert running.returncode == 0, words.decode()
    assert not (doortab.data / "ledger.json").exists()


def test_mistakes_get_one_line_and_an_exit_code(doortab: Doortab) -> None:
    cases = [
        (("report", "yesterday"), 2, b"2026-03"),
        (("report", "--by", "colour"), 2, b"dimensions.NAME"),
        (("ingest", "nowhere.ndjson"), 2, b"nowhere.ndjson"),
        (("keys", "show", "key_nobody"), 3, b"key_nobody"),
        (("--log", "amqp://x", "report"), 2, b"kafka://"),
    ]
    for arguments, code, words in cases:
        done = doortab.run(*arguments)

        assert done.returncode == code, (arguments, done.stderr)
        assert words in done.stderr
        assert b"Traceback" not in done.stderr


def test_large_files_are_packed_by_a_process_of_their_own_with_the_same_counts(
    doortab: Doortab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doortab.ingest.LARGE_BYTES", 1)
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n".join([*(event(n) for n in range(3000)), b"rubbish", event(5)]))

    counts = doortab.json("ingest", str(file))
    missing = doortab.run("ingest", str(file), str(tmp_path / "nowhere"))

    assert counts == {"read": 3002, "accepted": 3000, "duplicates": 1, "rejected": 1}
    assert missing.returncode == 2
    assert b"nowhere" in missing.stderr


def test_rotation_resets_no_budget(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)
    first = doortab.json("keys", "issue", "--account", "acme")["key_id"]
    doortab.ok("ingest", "-", given=b"\n".join(event(n, key=first) for n in range(6)))
    second = doortab.json("keys", "rotate", first)["key_id"]

    doortab.ok("ingest", "-", given=b"\n".join(event(n, key=second) for n in range(6, 12)))

    (cap,) = doortab.json("caps", "--reached")["rows"]
    assert (cap["subject"], cap["used"]) == (f"key:{first}", "1.2")
    doortab.ok("apply", "-", given=CATALOG.replace(b'amount = "1.00"', b'amount = "1.10"'))
    (cap,) = doortab.json("caps", "--reached")["rows"]
    assert (cap["subject"], cap["used"], cap["limit"]) == (f"key:{first}", "1.2", "1.1")


def test_a_cap_that_a_key_was_issued_with_stays_when_another_catalog_is_applied(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)
    key = doortab.json("keys", "issue", "--account", "acme", "--cap", "0.50EUR/month")["key_id"]

    doortab.ok("apply", "-", given=CATALOG.replace(b"0.001", b"0.002"))
    doortab.ok("ingest", "-", given=b"\n".join(event(n, key=key) for n in range(3)))

    reached = doortab.json("caps", "--reached")["rows"]
    assert [(cap["subject"], cap["limit"], cap["period"]) for cap in reached] == [(f"key:{key}", "0.5", "month")]


def test_a_key_is_not_issued_when_its_cap_is_in_another_currency(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)

    done = doortab.run("keys", "issue", "--account", "acme", "--cap", "5.00USD/month")

    assert done.returncode == 2
    assert b"EUR" in done.stderr
    assert doortab.json("keys", "list")["rows"] == []


def test_a_cap_from_a_new_catalog_knows_the_zone_and_currency_of_whose_key_it_is(doortab: Doortab) -> None:
    zoned = CATALOG.replace(b'currency = "EUR"', b'currency = "EUR"\ntimezone = "Asia/Tokyo"')
    doortab.ok("apply", "-", given=zoned.split(b"[[caps]]")[0])
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lines = [event(n).replace(b"2026-03-10T08:00:00Z", now.encode()) for n in range(12)]
    doortab.ok("ingest", "-", given=b"\n".join(lines))

    doortab.ok("apply", "-", given=zoned.replace(b'period = "total"', b'period = "month"'))

    alerts = doortab.json("alerts", "list", "--kind", "cap")["rows"]
    assert [alert["key"] for alert in alerts] == ["key_a"]
    assert "1 EUR per month" in alerts[0]["text"]


def test_a_catalog_record_that_nobody_can_read_is_kept_with_its_reason(doortab: Doortab) -> None:
    doortab.ok("apply", "-", given=CATALOG)
    log = open_log(f"file:{doortab.data / 'log'}")
    log.append("catalog", [Entry(0, b"catalog", b"rubbish")])
    log.close()

    doortab.json("report")
    told = doortab.json("rejected")

    assert [(row["topic"], row["offset"], row["reason"]) for row in told["rows"]] == [("catalog", 1, "invalid_state")]
    assert doortab.json("report")["control"]["unexplained"] == "0"

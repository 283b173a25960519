"""What a new catalog changes about what was counted before it came."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from doortab.consumers.intake import Inline
from doortab.schemas import instants, keys, periods, revocations, topics
from doortab.schemas.batch import CounterKey, Decision
from doortab.schemas.log import Entry, TopicPartition
from tests import naive
from tests.analytics.installation import START, Installation

HOUR = 3600 * instants.SECOND
USED = START + 240 * HOUR


def document(unit: str = "1", caps: list[Mapping[str, Any]] | None = None, **plan: Any) -> str:
    charge = {"meter": "tokens", "model": "per_unit", "unit": unit}
    whole = {"name": "p", "currency": "USD", "charges": [charge], **plan}
    return naive.document({"default_plan": "p", "meters": naive.METERS, "plans": [whole], "caps": caps or []})


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, document())
    yield made
    made.close()


def spend(installation: Installation) -> dict[str, str]:
    counters = installation.store.resume().counters
    return {key.subject: value for key, value in counters.items() if key.measure == "amount"}


def use(installation: Installation, account: str, key: str, tokens: int) -> None:
    installation.clock.now += HOUR
    installation.add([installation.event(USED, account=account, key=key, units={"tokens": tokens})])
    installation.fold()


def adopt(installation: Installation, words: str) -> None:
    installation.clock.now += HOUR
    installation.apply(words)
    installation.clock.now += HOUR
    installation.fold()


def lifts(decision: Decision) -> bool:
    return decision.id.startswith("lift:")


def refused(installation: Installation) -> set[str]:
    """The subjects that a gate refuses, by all that the ledger has said."""
    standing: dict[tuple[str, str], bool] = {}
    reader = installation.log.reader({TopicPartition(topics.REVOCATIONS, 0): 0})
    for record in reader.poll(1000, 1_000_000, 0.0):
        fact = revocations.decode(record.value or b"")
        standing[fact.subject, fact.cause] = fact.type == "access.revoked"
    reader.close()
    return {subject for (subject, _), is_refused in standing.items() if is_refused}


def issue(installation: Installation, key_id: str, lineage: str) -> None:
    """Publishes a key, as a desk does."""
    at = instants.text(installation.clock.now)
    key = keys.Key(
        key_id=key_id,
        account="a",
        lineage=lineage,
        owner="o",
        owner_kind="app",
        purpose="p",
        environment="live",
        digest="00" * 32,
        pepper_id="p",
        hint="h",
        created_at=at,
        changed_at=at,
        changed_by="t",
    )
    installation.log.append(topics.KEYS, [Entry(0, key_id.encode(), keys.encode(key))])


ACCOUNTS = ["a", "b", "c", "d", "e", "f"]


def test_a_key_that_several_accounts_use_keeps_all_of_them_counted(installation: Installation) -> None:
    partitions = {topics.partition_of(account.encode(), topics.USAGE_PARTITIONS) for account in ACCOUNTS}
    for account in ACCOUNTS:
        use(installation, account, "shared", 5)
        use(installation, account, f"own-{account}", 7)
    before = spend(installation)

    adopt(installation, document(unit="2"))

    assert len(partitions) > 1
    assert before["key:shared"] == "30"
    assert spend(installation) == {subject: str(2 * int(value)) for subject, value in before.items()}


def test_a_catalog_that_changes_nothing_decides_nothing(installation: Installation) -> None:
    cap = {"subject": "key:*", "meter": "tokens", "quantity": "10", "period": "month"}
    adopt(installation, document(caps=[cap]))
    use(installation, "a", "k", 12)
    before = spend(installation), installation.store.decided()

    adopt(installation, document(caps=[cap]) + "\n")

    assert (spend(installation), installation.store.decided()) == before
    assert sorted(made.percent for made in before[1]) == [50, 80, 95, 100]


def test_an_idle_ledger_waits_with_a_catalog_for_what_came_before_it(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(installation, "a", "k", 5)
    installation.add([installation.event(USED, account="a", key="k", units={"tokens": 7})])
    installation.clock.now += HOUR
    installation.apply(document("2"))
    with monkeypatch.context() as slow:
        slow.setattr(Inline, "poll", lambda *_: None)  # as when a broker does not answer in time
        list(installation.turn())

    installation.fold()

    part = topics.partition_of(b"a", topics.USAGE_PARTITIONS)
    (counted,) = installation.reader()(f"SELECT max(batch) FROM commits WHERE part = {part} AND events > 0")
    (adopted,) = installation.reader()(f"SELECT max(batch) FROM adopted WHERE part = {part} AND catalog_offset = 1")
    assert counted < adopted, "what was recorded before the catalog was counted by the one before"
    assert spend(installation)["account:a"] == "24"


def test_a_lower_cap_is_reached_when_it_comes_and_a_higher_one_lifts_it(installation: Installation) -> None:
    def cap(amount: str) -> list[Mapping[str, Any]]:
        return [{"subject": "key:*", "amount": amount, "period": "month", "thresholds": []}]

    use(installation, "a", "k", 12)

    adopt(installation, document(caps=cap("10")))
    adopt(installation, document(caps=cap("100")))

    made = [(one.id.split(":")[0], one.subject, one.limit, one.value) for one in installation.store.decided()]
    assert made == [("key", "key:k", "10", "12"), ("lift", "key:k", "10", "12")]


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "Europe/Berlin", "UTC"])
def test_a_keys_period_ends_by_the_clocks_of_its_account(installation: Installation, zone: str) -> None:
    cap = {"subject": "key:*", "amount": "10", "period": "month", "thresholds": []}
    adopt(installation, document(timezone=zone))
    use(installation, "a", "k", 12)

    adopt(installation, document(timezone=zone, caps=[cap]))

    (made,) = installation.store.decided()
    month = periods.period_of("month", zone, USED)
    assert (made.start, made.end) == (month.start, month.end)


def test_a_cap_of_nothing_waits_for_use_when_it_comes_with_a_catalog(installation: Installation) -> None:
    cap = {"subject": "key:*", "meter": "weight", "quantity": "0", "period": "month", "thresholds": []}
    use(installation, "a", "k", 12)

    adopt(installation, document(caps=[cap]))

    assert installation.store.decided() == []
    assert not [key for key in installation.store.resume().counters if key.measure == "weight"]


def test_counters_name_their_period_by_its_start(installation: Installation) -> None:
    use(installation, "a", "k", 1)

    assert set(installation.store.resume().counters) == {
        CounterKey("account:a", "amount", "month", START),
        CounterKey("key:k", "amount", "month", START),
    }


@pytest.mark.parametrize(
    "cap",
    [
        {"amount": "10", "period": "total"},
        {"amount": "10", "period": "day"},
        {"amount": "10", "period": "month"},
        {"meter": "tokens", "quantity": "10", "period": "month"},
    ],
)
def test_a_cap_that_is_taken_away_is_lifted(installation: Installation, cap: dict[str, Any]) -> None:
    installation.clock.now = USED
    installation.apply(document(caps=[{"subject": "key:*", "thresholds": [], **cap}]))
    use(installation, "a", "k", 12)
    assert [lifts(one) for one in installation.store.decided()] == [False]

    adopt(installation, document())

    assert [lifts(one) for one in installation.store.decided()] == [False, True]
    assert refused(installation) == set()


def test_a_cap_whose_periods_begin_at_another_time_is_lifted_for_the_old_one(installation: Installation) -> None:
    installation.clock.now = USED
    cap = {"subject": "key:*", "thresholds": [], "period": "month"}
    installation.apply(document(caps=[cap | {"amount": "10"}]))
    use(installation, "a", "k", 12)

    adopt(installation, document(caps=[cap | {"amount": "100"}], timezone="Europe/Berlin"))

    assert refused(installation) == set()


def test_a_lower_cap_in_another_time_zone_refuses_still(installation: Installation) -> None:
    installation.clock.now = USED
    cap = {"subject": "key:*", "thresholds": [], "period": "month"}
    installation.apply(document(caps=[cap | {"amount": "10"}]))
    use(installation, "a", "k", 12)

    adopt(installation, document(caps=[cap | {"amount": "8"}], timezone="Europe/Berlin"))

    assert refused(installation) == {"key:k"}


def test_keys_of_one_lineage_are_counted_anew_together(installation: Installation) -> None:
    issue(installation, "k1", lineage="k1")
    use(installation, "a", "k1", 5)
    issue(installation, "k2", lineage="k1")
    for account in ACCOUNTS[1:]:
        use(installation, account, "k2", 7)
    before = spend(installation)
    assert before["key:k1"] == "40"

    adopt(installation, document() + "\n")

    assert spend(installation) == before


@pytest.mark.parametrize("events", [1, 20])
def test_a_price_of_one_account_holds_for_events_that_name_only_its_subject(tmp_path: Path, events: int) -> None:
    charge = {"meter": "tokens", "model": "per_unit", "unit": "1", "where": {"account": "acme"}}
    words = naive.document(
        {
            "default_plan": "p",
            "meters": naive.METERS,
            "plans": [{"name": "p", "currency": "USD", "charges": [charge]}],
            "accounts": [{"id": "acme", "subjects": ["customer"]}],
        }
    )
    made = Installation(tmp_path, words)
    said = [made.event(USED, key=None, account="customer", units={"tokens": 30}) for _ in range(events)]
    for event in said:
        event["subject"] = event["data"].pop("account")
    made.log.append(topics.USAGE, [Entry(0, None, json.dumps(said).encode())])

    made.fold()

    assert spend(made) == {"account:acme": str(30 * events)}
    assert made.report("account")["rows"][0]["amount"] == str(30 * events)
    made.close()

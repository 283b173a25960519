"""The spike rule: who is told when a key does what it never did.

On the labelled public series (13 of them, sums of an hour, default settings; run on 2026-11-24) the rule
found 5 of the 41 marked windows that it may judge, and nothing outside of them: no false alarm in 1,230
days. It finds a key that runs away, 3 of 3 windows in which an hour exceeded 1.7 times the peak before
it, and not the slow, small or downward changes that make up the rest. On 43 real customers of a language
model (14 days, no labels) it spoke three times, of hours at 1.9 to 2.4 times the peak.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doortab.analytics.alerts import RULES, Settings, find
from doortab.analytics.episodes import SpikeSettings
from doortab.analytics.spikes import Memory
from doortab.schemas import instants
from doortab.schemas.alerts import Alert
from tests.analytics.installation import HOUR, START, Installation

SERIES = Path(__file__).parent / "series"
MINUTE = HOUR // 60

SHORT = SpikeSettings(look_back_buckets=48, warm_up_buckets=24, accept_after_buckets=6)
"""Two days are enough to know a key in these tests."""


class Watch:
    """Somebody who asks the rules again and again, and remembers what they said."""

    def __init__(self, installation: Installation, spikes: SpikeSettings = SHORT, **how: Any) -> None:
        self.installation = installation
        self.settings = Settings(spikes=spikes)
        self.how = how
        self.known: list[Alert] = []

    def look(self, now: int) -> list[Alert]:
        """What is new at that time."""
        self.installation.fold()
        found = find(self.installation.reader(), now, self.settings, self.known, **self.how)
        self.known += found
        return found


def requests(installation: Installation, start: int, count: int, key: str = "key_1", **data: Any) -> None:
    """So many requests within an hour, or rather one event that stands for ten of them."""
    tens, ones = divmod(count, 10)
    assert ones == 0
    installation.add([installation.event(start + i * 1000, key, **data) for i in range(tens * 10)])


@pytest.fixture
def watch(installation: Installation) -> Watch:
    """Of a key that made 100 requests in every sixth of 30 hours."""
    for hour in range(0, 30, 6):
        requests(installation, START + hour * HOUR, 100)
    return Watch(installation)


NOW = START + 30 * HOUR
"""The hour in which something happens."""


def test_the_spike_rule_is_in_the_list() -> None:
    assert [rule.name for rule in RULES] == ["spike"]


def test_a_key_that_does_what_it_always_did_is_no_news(watch: Watch) -> None:
    requests(watch.installation, NOW, 150)

    assert watch.look(NOW + 59 * MINUTE) == []


def test_a_spike_is_told_before_its_hour_is_over_with_all_that_it_takes_to_act(watch: Watch) -> None:
    requests(watch.installation, NOW, 620)

    (alert,) = watch.look(NOW + 5 * MINUTE)

    assert alert.id == "spike/key_1/2026-11-02T06:00:00Z"
    assert (alert.kind, alert.severity, alert.subject, alert.account) == ("spike", "critical", "key:key_1", "acct_1")
    assert alert.text == (
        "key key_1 of acct_1: 620 requests since 2026-11-02T06:00:00Z, 6.2 times the most of any hour in the last "
        "2 days (100 requests). Look: doortab keys show key_1. Cut it off: doortab keys revoke key_1"
    )
    assert alert.facts["value"] == "620"
    assert alert.facts["normal"] == "100"


def test_a_spike_is_told_once(watch: Watch) -> None:
    requests(watch.installation, NOW, 300)
    watch.look(NOW + 5 * MINUTE)
    requests(watch.installation, NOW + 10 * MINUTE, 300)

    assert watch.look(NOW + 15 * MINUTE) == []
    requests(watch.installation, NOW + HOUR, 400)
    assert watch.look(NOW + HOUR + 5 * MINUTE) == []


def test_a_warning_that_grows_wakes_somebody_once(watch: Watch) -> None:
    requests(watch.installation, NOW, 180)
    (warning,) = watch.look(NOW + 5 * MINUTE)
    requests(watch.installation, NOW + 5 * MINUTE, 100)
    (page,) = watch.look(NOW + 10 * MINUTE)
    requests(watch.installation, NOW + 10 * MINUTE, 100)

    assert (warning.severity, page.severity) == ("warning", "critical")
    assert page.id == f"{warning.id}/critical"
    assert watch.look(NOW + 15 * MINUTE) == []


def test_a_spike_is_over_after_a_whole_hour_as_before(watch: Watch) -> None:
    requests(watch.installation, NOW, 300)
    watch.look(NOW + 5 * MINUTE)
    requests(watch.installation, NOW + HOUR, 90)

    assert watch.look(NOW + HOUR + 59 * MINUTE) == []
    assert watch.look(NOW + 2 * HOUR + MINUTE // 2) == [], "what is still on its way may belong to that hour"
    (over,) = watch.look(NOW + 2 * HOUR + MINUTE)
    assert (over.id, over.severity) == ("spike/key_1/2026-11-02T06:00:00Z/resolved", "info")
    assert over.text == (
        "key key_1 of acct_1: the spike since 2026-11-02T06:00:00Z ended at 2026-11-02T07:00:00Z: "
        "a whole hour near what it was before (at most 100 requests)"
    )
    assert watch.look(NOW + 3 * HOUR + MINUTE) == []


def test_a_spike_is_over_when_nothing_comes_any_more(watch: Watch) -> None:
    requests(watch.installation, NOW, 300)
    watch.look(NOW + 5 * MINUTE)

    (over,) = watch.look(NOW + 40 * HOUR + MINUTE)

    assert over.facts["state"] == "over"
    assert over.account == "acct_1"


def test_one_spike_does_not_hide_the_next(watch: Watch) -> None:
    requests(watch.installation, NOW, 1000)
    watch.look(NOW + 5 * MINUTE)
    watch.look(NOW + 3 * HOUR + MINUTE)
    requests(watch.installation, NOW + 5 * HOUR, 500)

    (again,) = watch.look(NOW + 5 * HOUR + MINUTE)

    assert again.id == "spike/key_1/2026-11-02T11:00:00Z"
    assert again.facts["normal"] == "125", "an hour that alerted counts for a quarter more than what was known"


def test_a_level_that_lasts_is_the_new_normal(watch: Watch) -> None:
    found = []
    for hour in range(12):
        requests(watch.installation, NOW + hour * HOUR, 300)
        found += watch.look(NOW + hour * HOUR + 30 * MINUTE)

    assert [alert.facts["state"] for alert in found] == ["spiking", "accepted"]
    assert found[1].text.endswith("has lasted for 6 hours and is taken as normal from now on")
    requests(watch.installation, NOW + 12 * HOUR, 700)
    assert [alert.facts["normal"] for alert in watch.look(NOW + 12 * HOUR + MINUTE)] == ["300"]


def test_what_comes_late_to_the_hour_before_is_judged_there(watch: Watch) -> None:
    assert watch.look(NOW + HOUR) == []
    requests(watch.installation, NOW + 50 * MINUTE, 400)

    (alert,) = watch.look(NOW + HOUR + MINUTE)

    assert alert.id == "spike/key_1/2026-11-02T06:00:00Z"


def test_a_new_key_has_a_week_to_find_its_pace(watch: Watch) -> None:
    for hour in range(0, 23, 4):
        requests(watch.installation, NOW + hour * HOUR, 10, "key_2")
    requests(watch.installation, NOW + 23 * HOUR, 500, "key_2")

    assert watch.look(NOW + 23 * HOUR + MINUTE) == []
    assert watch.look(NOW + 24 * HOUR + MINUTE) == [], "by now it is warm, and the hour before is its peak"
    requests(watch.installation, NOW + 25 * HOUR, 1200, "key_2")
    assert [alert.key for alert in watch.look(NOW + 25 * HOUR + MINUTE)] == ["key_2"]


def test_a_key_that_slept_longer_than_anybody_looks_back_is_news_when_it_wakes(watch: Watch) -> None:
    later = NOW + 200 * HOUR
    requests(watch.installation, later, 20)

    (alert,) = watch.look(later + MINUTE)

    assert alert.severity == "critical"
    assert "more than the most of any hour in the last 2 days (0 requests)" in alert.text


def test_a_handful_of_requests_is_never_a_spike(watch: Watch) -> None:
    later = NOW + 200 * HOUR
    watch.installation.add([watch.installation.event(later + i) for i in range(9)])

    assert watch.look(later + MINUTE) == []


def test_refused_requests_count_as_well(watch: Watch) -> None:
    requests(watch.installation, NOW, 300, verdict="refused", reason="unknown_key")

    assert len(watch.look(NOW + MINUTE)) == 1


def test_a_key_that_costs_more_without_asking_more_is_a_spike(watch: Watch) -> None:
    installation = watch.installation
    for hour in (0, 6, 12, 18, 24):
        requests(installation, START + hour * HOUR, 10, "key_2", units={"requests": 1, "tokens": 50_000})
    requests(installation, NOW, 10, "key_2", units={"requests": 1, "tokens": 500_000})
    installation.fold()
    watch.how["tariff"] = installation.tariff

    (alert,) = watch.look(NOW + MINUTE)

    assert alert.facts["measure"] == "cost"
    assert "50 USD since 2026-11-02T06:00:00Z, 10.0 times the most of any hour in the last 2 days (5 USD)" in alert.text
    (over,) = watch.look(NOW + 2 * HOUR + MINUTE)
    assert over.facts == {
        "state": "over",
        "since": "2026-11-02T06:00:00Z",
        "until": "2026-11-02T07:00:00Z",
        "measure": "cost",
        "normal": "5",
        "bucket_seconds": "3600",
        "currency": "USD",
    }


def test_the_name_of_a_key_cannot_become_a_command(watch: Watch) -> None:
    evil = "x; rm -rf ~"
    requests(watch.installation, START, 10, evil)
    requests(watch.installation, NOW, 300, evil)

    (alert,) = watch.look(NOW + MINUTE)

    assert "doortab keys revoke 'x; rm -rf ~'" in alert.text


def test_alerts_of_others_do_not_disturb(watch: Watch) -> None:
    watch.known.append(Alert(id="leak/1", kind="leak", severity="critical", subject="key:key_1", at="", text=""))
    watch.known.append(Alert(id="spike/x", kind="spike", severity="info", subject="", at="", text="", key="key_1"))
    requests(watch.installation, NOW, 300)

    assert len(watch.look(NOW + MINUTE)) == 1


@settings(max_examples=3, deadline=None)
@given(counts=st.lists(st.sampled_from([0, 3, 20, 33, 47, 90, 200]), min_size=16, max_size=20))
def test_what_is_remembered_changes_nothing_and_asking_again_finds_nothing(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    installation = Installation(tmp_path_factory.mktemp("store"), None)
    units = [{"requests": count} for count in counts]
    installation.add([installation.event(START + i * HOUR, units=made) for i, made in enumerate(units)])
    few = SpikeSettings(
        look_back_buckets=12, warm_up_buckets=4, accept_after_buckets=4, requests_sql='sum("units.requests")'
    )
    plain, remembering = Watch(installation, few), Watch(installation, few, memory=Memory())

    for hour in range(len(counts)):
        for minute in (0, 30):
            now = START + hour * HOUR + minute * MINUTE

            assert plain.look(now) == remembering.look(now)
            assert plain.look(now) == []
    assert len({alert.id for alert in plain.known}) == len(plain.known)
    installation.close()


def hours_of(series: str) -> tuple[int, list[int]]:
    first, *counts = (SERIES / f"{series}.txt").read_text(encoding="utf-8").split()
    return instants.parse(first), [int(count) for count in counts]


@pytest.mark.parametrize(
    ("series", "first", "days", "expected"),
    [
        ("small_noise", "2014-04-10T00:00:00Z", 3, []),
        ("purchases", "2018-04-01T00:00:00Z", 3, []),
        ("mentions", "2015-03-13T00:00:00Z", 2, ["2015-03-13T20:00:00Z"]),
        ("api_requests", "2017-11-14T00:00:00Z", 2, ["2017-11-14T22:00:00Z"]),
    ],
)
def test_real_series_alert_where_an_expert_did_and_nowhere_else(
    tmp_path: Path, series: str, first: str, days: int, expected: list[str]
) -> None:
    installation = Installation(tmp_path, None)
    start, counts = hours_of(series)
    events = [installation.event(start + i * HOUR, units={"requests": n}) for i, n in enumerate(counts)]
    installation.add(events)
    watch = Watch(installation, SpikeSettings(requests_sql='sum("units.requests")'), memory=Memory())

    for hour in range(days * 24):
        watch.look(instants.parse(first) + hour * HOUR + 59 * MINUTE)

    installation.close()
    assert [alert.facts["since"] for alert in watch.known if alert.facts["state"] == "spiking"] == expected

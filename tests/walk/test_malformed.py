"""Malformed traffic among good: every good event is billed, every bad one kept with its place and reason."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from doortab.log.open import open_log
from doortab.schemas import topics
from doortab.schemas.log import Entry
from tests.commands.conftest import Doortab
from tests.traces import expected, write_catalog, write_events

pytestmark = pytest.mark.promises("R4")


def event(data: object = None, **more: object) -> bytes:
    body = {"specversion": "1.0", "id": "bad", "source": "bad", "type": "request.validated", "data": data or {}}
    return json.dumps(body | more).encode()


def raw(text: str) -> bytes:
    return event({"units": {"requests": "@"}}).replace(b'"@"', text.encode())


BAD: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "null_value"),
    "nothing": (b"", "bad_json"),
    "bad utf-8": (b'{"specversion":"1.0","id":"\xff"}', "bad_utf8"),
    "bad json": (b'{"specversion":', "bad_json"),
    "a number": (b"12", "not_an_event"),
    "an empty batch": (b"[]", "empty_batch"),
    "a batch in a batch": (b"[[]]", "not_an_event"),
    "NaN": (raw("NaN"), "bad_json"),
    "infinity": (raw('"Infinity"'), "invalid_quantity"),
    "negative": (raw("-1"), "invalid_quantity"),
    "negative text": (raw('"-0.5"'), "invalid_quantity"),
    "a boolean": (raw("true"), "invalid_quantity"),
    "a fraction": (raw("1.5"), "invalid_quantity"),
    "an exponent": (raw("1e400"), "invalid_quantity"),
    "words": (raw('"many"'), "invalid_quantity"),
    "units that are a list": (event({"units": [1]}), "invalid_event"),
    "a verdict nobody knows": (event({"verdict": "perhaps"}), "invalid_event"),
    "no id": (event().replace(b'"id": "bad", ', b""), "invalid_event"),
    "an id that is a number": (event(id=7), "invalid_event"),
    "an unknown version": (event(specversion="9.9"), "unknown_version"),
    "year 9999": (event(time="9999-12-31T23:59:59Z"), "time_out_of_range"),
    "31 February": (event(time="2026-02-31T00:00:00Z"), "invalid_time"),
    "no zone": (event(time="2026-02-03T00:00:00"), "invalid_time"),
    "binary data": (event(datacontenttype="application/octet-stream"), "not_json_data"),
    "deep nesting": (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "too_deep"),
    "a megabyte": (event({"operation": "x" * 1_000_000}), "too_large"),
}


def test_malformed_records_take_nothing_along_on_the_file_log(tmp_path: Path) -> None:
    walk(Doortab(tmp_path / "data"), tmp_path, f"file:{tmp_path / 'data' / 'log'}")


@pytest.mark.kafka
def test_malformed_records_take_nothing_along_on_kafka(tmp_path: Path) -> None:
    url = f"kafka://{os.environ['DOORTAB_TEST_KAFKA']}/bad-{os.getpid()}-"
    walk(Doortab(tmp_path / "data", url), tmp_path, url)


def walk(doortab: Doortab, directory: Path, url: str) -> None:
    """Somebody else writes to the topic: good batches, good events, rubbish, and rubbish in good batches."""
    doortab.ok("apply", str(write_catalog("azconv", directory)))
    lines = write_events("azconv", directory).read_bytes().splitlines()
    chance = random.Random(1)
    log = open_log(url)
    for batch in _batches(lines, chance):
        log.append(topics.USAGE, batch)
    wanted = _append_bad(log, lines, chance)
    log.close()

    told = doortab.json("report", "2023", "--by", "account,key,day")
    rejected = doortab.json("rejected", "--limit", "1000")

    assert expected("azconv").differences(told["rows"]) == []
    assert rejected["reasons"] == wanted
    assert told["control"]["unexplained"] == "0"
    assert told["control"]["rejected"] == str(sum(wanted.values()))
    places = {(row["partition"], row["offset"], row["index"]) for row in rejected["rows"]}
    assert len(places) == len(rejected["rows"]) == sum(wanted.values())
    assert all(row["topic"] == "usage" and row["detail"] for row in rejected["rows"])


def _batches(lines: list[bytes], chance: random.Random) -> Iterator[list[Entry]]:
    """The good events, with every kind of rubbish somewhere between them."""
    rubbish = list(BAD.values())
    for start in range(0, len(lines), 700):
        good = [Entry(chance.randrange(4), b"k", b"[" + b",".join(lines[start : start + 600]) + b"]")]
        good += [Entry(chance.randrange(4), None, line) for line in lines[start + 600 : start + 700]]
        value, _ = rubbish.pop() if rubbish else (b"more rubbish", "")
        yield [*good, Entry(chance.randrange(4), None if value is not None else b"k", value)]


def _append_bad(log: object, lines: list[bytes], chance: random.Random) -> dict[str, int]:
    """One batch with a bad event between two repeated good ones, and a known id with other content."""
    other = json.loads(lines[0])
    other["data"]["units"]["input_tokens"] += 1
    spoiled = b"[" + b",".join([lines[0], raw("-7"), lines[1], json.dumps(other).encode()]) + b"]"
    log.append(topics.USAGE, [Entry(chance.randrange(4), b"", spoiled)])  # type: ignore[attr-defined]
    wanted: dict[str, int] = {"id_conflict": 1, "invalid_quantity": 1}
    sent = -(-len(lines) // 700)
    for _, reason in list(BAD.values())[max(0, len(BAD) - sent) :]:
        wanted[reason] = wanted.get(reason, 0) + 1
    if sent > len(BAD):
        wanted["bad_json"] += sent - len(BAD)
    return wanted

"""The load: a month of usage events, the same for everybody who is measured.

The token counts and the seconds within the hour are those of a real trace, the Azure LLM inference
trace of conversations (19,366 requests of one hour; CC-BY 4.0, cited in ``tests/traces/data/README.md``).
It is repeated as often as events are wanted, each time a little later, so that all of them lie in
November 2023. Ids are distinct. Keys 1 to 1,000 follow a Zipf law; an account has ten of them.

Whoever asks again for the same number of events gets the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from doortab.schemas import catalog, instants, topics

HERE = Path(__file__).resolve().parent
TRACE = HERE.parent / "tests/traces/data/llm/azure_llm_2023_conv.csv.gz"
CATALOG = HERE / "azconv.toml"
DATA = HERE / "data"

KEYS = 1_000
ACCOUNTS = 100
MODELS = ("gpt-3.5-turbo", "gpt-4", "claude-instant-1", "claude-2")
BEGINS = instants.parse("2023-11-01T00:00:00Z")
SPREAD = 28 * 86_400 * instants.SECOND
CHUNK = 10_000

# Of one token in 10^-8 USD, as azconv.toml has them: the check of the ledger's sum uses nothing of the ledger.
PRICES = {"gpt-3.5-turbo": (150, 200), "gpt-4": (3000, 6000), "claude-instant-1": (163, 551), "claude-2": (1102, 3268)}


class Wanted(NamedTuple):
    """One usage event: its key, the partition of its account, its tokens and its JSON."""

    key: int
    partition: int
    input_tokens: int
    output_tokens: int
    value: bytes


class Sums:
    """What a correct count of the events comes to."""

    def __init__(self) -> None:
        self.events = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.amount = 0

    def add(self, event: Wanted) -> None:
        """Counts one event."""
        input_price, output_price = PRICES[MODELS[event.key % 4]]
        self.events += 1
        self.input_tokens += event.input_tokens
        self.output_tokens += event.output_tokens
        self.amount += event.input_tokens * input_price + event.output_tokens * output_price

    @property
    def usd(self) -> str:
        """The amount as decimal text without zeros at its end."""
        return f"{self.amount // 10**8}.{self.amount % 10**8:08d}".rstrip("0").rstrip(".")


def priced() -> catalog.Catalog:
    """The catalog that prices the load: per token by model, with a cap for every key."""
    return catalog.parse(CATALOG.read_text())


def key_name(key: int) -> str:
    """The key as it stands in the events."""
    return f"key-{key:04d}"


def account_name(key: int) -> str:
    """Whose the key is."""
    return f"acct-{(key - 1) % ACCOUNTS + 1:03d}"


def events(count: int, seed: int = 7) -> Iterator[Wanted]:
    """So many events, in the order of their times."""
    requests = _requests()
    after = np.array([time for time, _, _ in requests])
    rounds = -(-count // len(requests))
    numbers = range(1, KEYS + 1)
    partitions = [0] + [topics.partition_of(account_name(key).encode(), topics.USAGE_PARTITIONS) for key in numbers]
    # Text that stays the same is put together once: a key's around what differs from event to event.
    subjects = [("", "")] + [_subject(key) for key in numbers]
    ends = [""] + [f'}},"dimensions":{{"model":"{MODELS[key % 4]}"}}}}}}' for key in numbers]
    units = [f'"units":{{"requests":1,"input_tokens":{i},"output_tokens":{o}' for _, i, o in requests]
    keys = _keys(random.Random(seed))
    for number in range(rounds):
        times = np.datetime_as_string((BEGINS + number * SPREAD // rounds + after).astype("datetime64[us]")).tolist()
        for row in range(min(len(requests), count - number * len(requests))):
            key = next(keys)
            opening, data = subjects[key]
            _, input_tokens, output_tokens = requests[row]
            text = (
                f'{{"specversion":"1.0","id":"azconv-{number:05d}-{row:05d}",{opening}"{times[row]}Z",{data}'
                f"{units[row]}{ends[key]}"
            )
            yield Wanted(key, partitions[key], input_tokens, output_tokens, text.encode())


def _subject(key: int) -> tuple[str, str]:
    """What stands before the time, and between it and the units."""
    before = f'"source":"gate/eu-1","type":"request.validated","subject":"{key_name(key)}","time":'
    after = (
        f'"datacontenttype":"application/json","data":{{"account":"{account_name(key)}","key":"{key_name(key)}",'
        f'"verdict":"allowed","reason":null,"billable":true,"operation":"POST /v1/chat",'
    )
    return before, after


def _requests() -> list[tuple[int, int, int]]:
    """The trace: microseconds after its first request, tokens in, tokens out."""
    with gzip.open(TRACE, "rt", newline="") as file:
        rows = [
            (_instant(r["TIMESTAMP"]), int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in csv.DictReader(file)
        ]
    return [(time - rows[0][0], tokens_in, tokens_out) for time, tokens_in, tokens_out in rows]


def _instant(text: str) -> int:
    return instants.parse(text[:26].replace(" ", "T") + "Z")


def _keys(source: random.Random) -> Iterator[int]:
    weights = list(accumulate(10**12 // k for k in range(1, KEYS + 1)))
    while True:
        yield from source.choices(range(1, KEYS + 1), cum_weights=weights, k=CHUNK)

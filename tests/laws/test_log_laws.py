"""The log's law: whatever is appended and polled in whatever order, each reader gets each record once, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doortab.log.open import open_log
from doortab.schemas.log import Entry, Log, Reader, Record, TopicPartition
from doortab.schemas.topics import Topic

PARTITIONS = 3
READERS = 2
_topics = itertools.count()

sizes = st.sampled_from([0, 1, 10, 1000, 20_000])
batches = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), sizes), max_size=12)
appends = st.tuples(st.just("append"), batches)
polls = st.tuples(
    st.just("poll"), st.tuples(st.integers(0, READERS - 1), st.integers(1, 20), st.sampled_from([1, 3000, 10**6]))
)
seeks = st.tuples(
    st.just("seek"), st.tuples(st.integers(0, READERS - 1), st.integers(0, PARTITIONS - 1), st.integers(0))
)
steps = st.lists(st.one_of(appends, polls, seeks), max_size=40)


@pytest.fixture(scope="module", params=["memory", "file"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    log = open_log("memory:" if request.param == "memory" else f"file:{tmp_path_factory.mktemp('log')}")
    yield log
    log.close()


class Model:
    """What a log is, in lists; and what each reader must get next."""

    def __init__(self) -> None:
        self.partitions: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
        self.positions = [[0] * PARTITIONS for _ in range(READERS)]

    def check(self, reader: int, records: list[Record]) -> None:
        for record in records:
            position = self.positions[reader][record.partition]
            entry = self.partitions[record.partition][position]
            assert (record.offset, record.key, record.value) == (position, entry.key, entry.value)
            self.positions[reader][record.partition] += 1

    def left(self, reader: int) -> int:
        return sum(len(held) - at for held, at in zip(self.partitions, self.positions[reader], strict=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(steps=steps)
def test_every_reader_gets_every_record_once_and_in_order(log: Log, steps: list[tuple[str, object]]) -> None:
    topic = f"t{next(_topics)}"
    log.ensure_topics([Topic(topic, PARTITIONS)])
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    readers = [log.reader(dict.fromkeys(places, 0)) for _ in range(READERS)]
    model = Model()
    numbers = itertools.count()

    for step in steps:
        match step:
            case ("append", list(batch)):
                entries = [Entry(partition, b"%d" % next(numbers), bytes(size)) for partition, size in batch]
                offsets = log.append(topic, entries)
                for entry, offset in zip(entries, offsets, strict=True):
                    assert offset == len(model.partitions[entry.partition])
                    model.partitions[entry.partition].append(entry)
            case ("poll", (int(reader), int(count), int(size))):
                model.check(reader, poll(readers[reader], model.left(reader), count, size))
            case ("seek", (int(reader), int(partition), int(raw))):
                position = raw % (len(model.partitions[partition]) + 1)
                readers[reader].seek({places[partition]: position})
                model.positions[reader][partition] = position

    for number, each in enumerate(readers):
        while model.left(number):
            model.check(number, poll(each, model.left(number), 1000, 10**9))
        assert each.poll(10, 10**6, 0.0) == []
        each.close()
    assert log.end_offsets(topic) == {number: len(held) for number, held in enumerate(model.partitions)}


def poll(reader: Reader, left: int, count: int, size: int) -> list[Record]:
    """One poll, which keeps its limits and returns something if there is something."""
    records = reader.poll(count, size, 0.0)
    assert bool(records) == bool(left)
    assert len(records) <= count
    assert len(records) == 1 or sum(len(r.key or b"") + len(r.value or b"") for r in records) <= size
    return records

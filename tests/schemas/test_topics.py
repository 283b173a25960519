"""Which partition a record belongs to, in the words of Kafka."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doortab.schemas import topics

# apache/kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2.
KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), KNOWN.items())
def test_murmur2_is_that_of_java(key: bytes, signed: int) -> None:
    assert topics.murmur2(key) == signed & 0xFFFFFFFF


@given(st.binary(max_size=300))
def test_murmur2_is_that_of_kafka_python(key: bytes) -> None:
    partitioner = pytest.importorskip("kafka.partitioner.default")

    assert topics.murmur2(key) == partitioner.murmur2(key) & 0xFFFFFFFF


@given(st.binary(max_size=300), st.integers(1, 100))
def test_a_key_has_one_partition_and_it_exists(key: bytes, count: int) -> None:
    assert 0 <= topics.partition_of(key, count) < count
    assert topics.partition_of(key, count) == topics.partition_of(bytes(key), count)


def test_only_usage_is_partitioned() -> None:
    made = {topic.name: topic for topic in topics.topics(7)}

    assert made["usage"].partitions == 7
    assert {topic.partitions for topic in made.values() if topic.name != "usage"} == {1}
    assert all(topic.retention_ms == topics.FOREVER_MS for topic in made.values())

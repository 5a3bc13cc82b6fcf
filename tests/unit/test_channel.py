"""Channel names and where channels live."""

import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.channel import MAX_CHANNEL, hash_tags, parse, partition_of
from holdfast.errors import Reject


@pytest.mark.parametrize("name", ["user:bob", "room:a/b", "group:7", "device_x:ü", "x:1:2"])
def test_good_names_are_split_at_the_first_colon(name):
    """kind:id, where the id may hold colons."""
    assert ":".join(parse(name)) == name


@pytest.mark.parametrize(
    "name",
    ["", "bob", ":bob", "user:", "User:bob", "user:a b", "user:a\0b", "1x:a", "user:" + "x" * MAX_CHANNEL],
)
def test_bad_names_are_refused(name):
    """inv 11: a malformed name is a Reject with bad_channel."""
    with pytest.raises(Reject) as refusal:
        parse(name)
    assert refusal.value.code == "bad_channel"


@pytest.mark.parametrize("partitions", [1, 2, 12, 64])
def test_hash_tags_spread_over_the_slots(partitions):
    """Each partition's slot lies in its own equal share of the 16384 slots."""
    slots = [binascii.crc_hqx(tag.encode(), 0) % 16384 for tag in hash_tags(partitions)]
    assert [slot * partitions // 16384 for slot in slots] == list(range(partitions))


def test_the_crc16_is_the_one_of_redis_cluster():
    """The check value that the Redis Cluster specification gives."""
    assert binascii.crc_hqx(b"123456789", 0) == 0x31C3


@given(st.text(max_size=50), st.integers(1, 100))
def test_partitions_are_librdkafka_s(key, partitions):
    """crc32 of the key's UTF-8, modulo the count."""
    assert partition_of(key, partitions) == binascii.crc32(key.encode()) % partitions

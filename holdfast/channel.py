"""Channel names, and where a channel lives: its partition, and the Redis hash tag of its shard."""

from __future__ import annotations

import binascii
import functools
import re
from typing import TYPE_CHECKING

from holdfast.errors import Reject

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CHANNEL = 200
"""Longest channel name, in UTF-8 bytes."""

_is_name = re.compile(r"[a-z][a-z0-9_-]{0,31}:[^\x00-\x20\x7f]+").fullmatch
_SLOTS = 16_384


def parse(channel: str) -> tuple[str, str]:
    """Split `kind:id`.

    Raises Reject(`bad_channel`) for a name that is malformed or too long.
    """
    if (
        len(channel) > MAX_CHANNEL
        or not _is_name(channel)
        or (not channel.isascii() and len(channel.encode()) > MAX_CHANNEL)
    ):
        raise Reject(
            "bad_channel", f"a channel is named kind:id, without spaces, in {MAX_CHANNEL} bytes at most"
        )
    kind, _, identity = channel.partition(":")
    return kind, identity


def partition_of(key: str, partitions: int) -> int:
    """Return crc32(key) % partitions: librdkafka's default for keyed records, so all producers agree."""
    return binascii.crc32(key.encode()) % partitions


@functools.lru_cache(maxsize=16)
def hash_tags(partitions: int) -> Sequence[str]:
    """Return one Redis Cluster hash tag per partition, chosen so that their slots spread evenly.

    Partition p's tag is the first `p-i` whose slot falls into the p-th of `partitions` equal ranges of slots.
    The slot is CRC16/XMODEM of the tag, modulo 16384 (Redis Cluster specification).
    """
    tags = []
    for partition in range(partitions):
        attempt = 0
        while (
            binascii.crc_hqx(f"{partition}-{attempt}".encode(), 0) % _SLOTS * partitions // _SLOTS
            != partition
        ):
            attempt += 1
        tags.append(f"{partition}-{attempt}")
    return tuple(tags)

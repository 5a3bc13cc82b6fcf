"""Which dispatcher owns which partition: rendezvous hashing, so that a change moves only what it must."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def owner(partition: int, names: Iterable[str]) -> str:
    """Return the name with the highest hash together with the partition; "" when there are no names."""
    return max(names, key=lambda name: (_weight(partition, name), name), default="")


def owned(name: str, names: Iterable[str], partitions: int) -> set[int]:
    """Return the partitions that `name` owns among `names`."""
    among = set(names)
    return {partition for partition in range(partitions) if owner(partition, among) == name}


def _weight(partition: int, name: str) -> bytes:
    return hashlib.blake2b(f"{partition}\0{name}".encode(), digest_size=8).digest()

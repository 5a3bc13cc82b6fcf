"""Rendezvous hashing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.dispatch.ownership import owned, owner

NAMES = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=8)


@given(NAMES)
def test_each_partition_has_one_owner(names: set[str]) -> None:
    """Dispatchers that see the same membership agree, and leave no partition out."""
    taken = [partition for name in names for partition in owned(name, names, 24)]
    assert sorted(taken) == list(range(24))


@given(NAMES, st.text(min_size=1, max_size=8))
def test_a_change_moves_only_what_it_must(names: set[str], other: str) -> None:
    """When one comes, partitions move only to it; when it goes, only its own move."""
    more = names | {other}
    for partition in range(24):
        before, after = owner(partition, names - {other}), owner(partition, more)
        assert after in (before, other)


def test_shares_are_about_even() -> None:
    """No dispatcher of four has much more than its share."""
    names = [f"dispatch-{number}" for number in range(4)]
    shares = [len(owned(name, names, 1024)) for name in names]
    assert max(shares) < 1.3 * 256

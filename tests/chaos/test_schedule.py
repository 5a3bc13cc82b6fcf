"""The schedule follows from its seed, and has in it what it says."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos import schedule

NAMES = schedule.roles(
    [f"{role}-{number}" for role in ("access", "logic", "dispatch") for number in (0, 1)]
    + ["kafka-1", "kafka-2", "kafka-3", "redis", "consul"]
)


def test_the_same_seed_is_the_same_schedule() -> None:
    """A run is repeated by its seed; another seed is another run."""
    assert schedule.make(7, 100.0, NAMES) == schedule.make(7, 100.0, NAMES)
    assert schedule.make(7, 100.0, NAMES) != schedule.make(8, 100.0, NAMES)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), seconds=st.sampled_from([20.0, 85.0, 600.0, 1800.0]))
def test_each_kind_of_fault_comes(seed: int, seconds: float) -> None:
    """Every kind is in every schedule, in the order of time, and on a process that there is."""
    plan = schedule.make(seed, seconds, NAMES)
    assert {fault.kind for fault in plan.faults} == set(schedule.KINDS)
    assert [fault.at for fault in plan.faults] == sorted(fault.at for fault in plan.faults)
    for fault in plan.faults:
        assert fault.target in NAMES[fault.kind.on]
        assert fault.to != fault.target
        assert fault.to in NAMES.get(fault.kind.to, [""])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_one_broker_at_a_time(seed: int) -> None:
    """Two of three brokers away at the same time is more than is promised to be survived without waiting."""
    plan = schedule.make(seed, 600.0, NAMES)
    until = 0.0
    for fault in plan.faults:
        if fault.kind.on == "kafka":
            assert fault.at >= until
            until = fault.at + fault.hold


def test_with_time_each_comes_by_itself_first() -> None:
    """In a long run nothing else happens while a kind of fault is there for the first time."""
    plan = schedule.make(1, 1800.0, NAMES)
    first = plan.faults[: len(schedule.KINDS)]
    assert {fault.kind for fault in first} == set(schedule.KINDS)
    for one, other in itertools.pairwise(first):
        assert other.at >= one.at + one.hold


def test_only_some() -> None:
    """A run may be of some kinds of faults."""
    plan = schedule.make(1, 60.0, NAMES, "kill,cut access to redis")
    assert {str(fault.kind) for fault in plan.faults} == {
        *(f"kill {role}" for role in ("access", "logic", "dispatch", "kafka", "consul")),
        "cut access to redis",
    }
    assert schedule.make(1, 60.0, NAMES, "nothing such").faults == []


def test_one_broker_has_no_links_to_others() -> None:
    """With one broker there is nothing to cut between brokers."""
    names = schedule.roles(["access-0", "logic-0", "dispatch-0", "kafka", "redis", "consul"])
    kinds = {str(fault.kind) for fault in schedule.make(1, 60.0, names).faults}
    assert "cut kafka to kafka" not in kinds
    assert "kill kafka" in kinds

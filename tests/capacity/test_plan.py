"""The cluster that a load needs."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import cli
from holdfast.capacity.plan import LEAST, Counts, Load, checked, cores, needs, plan, redis_bytes

PAGE = Path(__file__).parents[2] / "docs" / "capacity.md"

MORE = {
    "connections": st.integers(1, 20_000_000),
    "rate": st.floats(0, 1e6),
    "fan_out": st.floats(0, 1e4),
    "size": st.floats(0, 1e5),
    "channels": st.floats(0, 1e8),
    "history": st.floats(0, 1000),
    "handler": st.floats(0, 1000),
    "headroom": st.floats(0, 0.9),
    "spare": st.integers(0, 10),
    "replication": st.integers(1, 5),
}
"""Inputs of which more never needs less."""

LESS = {
    "session": st.floats(10, 1e6),
    "heartbeat": st.floats(1, 100),
    "node_connections": st.integers(100, 100_000),
    "redis_memory": st.floats(1, 100),
    "broker_cores": st.floats(1, 64),
}
"""Inputs of which more never needs more."""


def counts(load: dict[str, Any]) -> Counts:
    """Return the plan's counts; a plan that is refused counts as more than any."""
    try:
        return plan(checked(**load)).counts
    except ValueError:
        return Counts(*[10**9] * 6)


@given(st.fixed_dictionaries(MORE | LESS), st.data())
def test_more_of_an_input_never_needs_less(load, data):
    """More head-room or load never needs fewer of anything, larger parts never need more."""
    name = data.draw(st.sampled_from(sorted(load)))
    one, two = sorted((load[name], data.draw((MORE | LESS)[name])))
    small, large = (one, two) if name in MORE else (two, one)
    pairs = zip(counts(load | {name: small}), counts(load | {name: large}), strict=True)
    assert all(few <= many for few, many in pairs), name


SIZES = st.builds(Counts, *[st.integers(1, 2000)] * 6)


@given(st.fixed_dictionaries(MORE | LESS), SIZES, SIZES)
def test_a_larger_cluster_never_needs_less(load, one, two):
    """What parts cost each other only adds: else the plan's search could pass by a smaller cluster."""
    small, large = Counts(*map(min, one, two)), Counts(*map(max, one, two))
    asked = checked(**load)
    spent = cores(asked, large)
    assert all(few <= spent[role] * (1 + 1e-9) for role, few in cores(asked, small).items())
    assert all(few <= many for few, many in zip(needs(asked, small), needs(asked, large), strict=True))


@given(st.fixed_dictionaries(MORE | LESS), SIZES, st.data())
def test_more_to_do_never_costs_less(load, size, data):
    """In one cluster, more of anything is no less CPU for any part."""
    name = data.draw(st.sampled_from(["connections", "rate", "fan_out", "handler", "replication"]))
    one, two = sorted((load[name], data.draw(MORE[name])))
    more = cores(checked(**load | {name: two}), size)
    less = cores(checked(**load | {name: one}), size)
    assert all(0 <= less[role] <= more[role] * (1 + 1e-9) for role in less), name


@given(st.fixed_dictionaries(MORE | LESS))
def test_what_is_planned_is_enough_and_nothing_is_there_twice(load):
    """A plan has what it needs, and a master of Redis has a partition to hold."""
    made = counts(load)
    if max(made) == 10**9:
        return
    assert all(need <= there for need, there in zip(needs(checked(**load), made), made, strict=True))
    assert made.redis <= made.partitions
    assert made.logic <= made.partitions


def test_the_least_cluster():
    """One connection needs two of each service, so that one may be gone."""
    assert plan(Load(connections=1)).counts == LEAST


def test_connections_fill_nodes():
    """Without a message it is connections that count: 18,000 a node, and 30 % of them free."""
    assert plan(Load(connections=1_260_000, channels=0)).counts.access == 100 + 1


def test_redis_holds_what_channels_keep():
    """Twice the messages are twice their memory, whatever else is there."""
    one, two, three = (redis_bytes(Load(connections=1000, history=n)) for n in (10, 20, 30))
    assert two - one == pytest.approx(three - two)
    assert two - one == pytest.approx(1000 * 10 * (128 + 64))


def test_a_load_that_no_cluster_bears():
    """A plan beyond what anybody has seen is refused, not invented."""
    with pytest.raises(ValueError, match="several clusters"):
        plan(Load(connections=10**12))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"connections": 0}, "connections: expected a whole number >= 1"),
        ({"connections": 1.5}, "connections: expected a whole number"),
        ({"connections": 1, "headroom": 1.0}, "headroom: expected a number < 1.0"),
        ({"connections": 1, "rate": -1}, "rate: expected a number >= 0.0"),
        ({"connections": 1, "session": 0}, "session: expected a number > 0.0"),
    ],
)
def test_a_wrong_input_is_named(given, what):
    """inv 11: what is wrong is refused by its name."""
    with pytest.raises(ValueError, match="^" + re.escape(what)):
        checked(**given)


def examples():
    """Return (arguments, output) of each run of the command that the page shows."""
    shown = re.findall(
        r"```\n\$ holdfast (capacity [^\n]*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown
    return shown


@pytest.mark.parametrize(("arguments", "output"), examples())
def test_the_page_shows_what_the_command_prints(arguments, output, capsys):
    """docs/capacity.md is up to date."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(arguments.split())
    assert capsys.readouterr().out == output

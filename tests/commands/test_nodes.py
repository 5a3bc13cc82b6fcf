"""`holdfast nodes` and `holdfast drain`, on memory."""

from __future__ import annotations

import dataclasses

import pytest

from holdfast.commands import drain, nodes
from holdfast.doctor.spans import spans
from holdfast.errors import Reject
from holdfast.settings import Membership, Settings


async def test_all_is_well(operator):
    """Every process with its role, an access node with its connections, a dispatcher with its partitions."""
    await operator.cluster.connect("ann", node=1)
    await operator.cluster.advance(2)
    status, text = await operator.run(nodes.show)
    assert status == 0
    assert [line.split()[:4] for line in text.splitlines()[1:3]] == [
        ["access-1", "access", "alive", "0"],
        ["access-2", "access", "alive", "1"],
    ]
    found = await operator.json(nodes.show)
    assert [(one["node"], one["state"]) for one in found["nodes"]] == [
        ("access-1", "alive"),
        ("access-2", "alive"),
        ("logic-1", "alive"),
        ("dispatch-1", "alive"),
        ("dispatch-2", "alive"),
    ]
    assert sorted(p for one in found["nodes"] for p in one["partitions"] or ()) == [0, 1, 2, 3]


async def test_a_node_whose_beat_stands_still_is_silent(operator):
    """inv 6: registered and without a beat for 5 s it does not live, and the status says so."""
    await operator.cluster.embedded.access[1].beat.stop()
    began = operator.cluster.clock.monotonic()
    status, text = await operator.run(nodes.show)
    assert status == 1
    assert operator.cluster.clock.monotonic() - began >= 5
    assert "access-2 is registered, but its beat" in text
    assert text.splitlines()[2].split()[2] == "silent"


async def test_a_node_that_membership_does_not_know(operator):
    """It beats and has clients, but nobody pushes to it; without clients it is one that was drained."""
    await operator.cluster.connect("ann", node=0)
    await operator.cluster.advance(2)
    for node in list(operator.cluster.embedded.nodes()):
        operator.cluster.embedded.registry.remove(node.incarnation)
    found = await operator.json(nodes.show)
    assert sorted(one["state"] for one in found["nodes"] if one["role"] == "access") == [
        "drained",
        "unregistered",
    ]
    status, text = await operator.run(nodes.show)
    assert status == 1
    assert "the membership store does not know it" in text


async def test_who_died_long_ago_is_not_listed(operator):
    """What the dead left in Redis is no node."""
    log = operator.cluster.embedded.parts().log
    await log.beat(0, "access-9.0123456789ab", load=3)
    status, text = await operator.run(nodes.show)
    assert (status, "access-9" in text) == (0, False)


async def test_a_role_without_anybody(operator):
    """Each role is missed in its own words; partitions that nobody has are named."""
    registry = operator.cluster.embedded.registry
    for node in [node for node in registry.nodes.values() if node.role != "access"]:
        registry.remove(node.incarnation)
    status, text = await operator.run(nodes.show)
    assert status == 1
    assert "There is no logic node" in text
    assert "There is no dispatch node" in text
    found = await operator.json(nodes.show)
    assert (found["missing"], found["untaken"]) == (["logic", "dispatch"], [0, 1, 2, 3])


async def test_partitions_that_nobody_has(operator):
    """A dispatcher that is gone and not followed yet shows by its partitions."""
    registry = operator.cluster.embedded.registry
    (gone,) = [node for node in registry.nodes.values() if node.name == "dispatch-2"]
    held = [
        one["partitions"] for one in (await operator.json(nodes.show))["nodes"] if one["node"] == "dispatch-2"
    ]
    registry.nodes.pop(gone.incarnation)  # nobody was told yet
    status, text = await operator.run(nodes.show)
    assert status == 1
    assert f"Nobody who is registered has partitions {spans(held[0])}" in text


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [((), "-"), ((3,), "3"), ((2, 0, 1), "0-2"), ((0, 1, 4, 6, 7), "0-1, 4, 6-7")],
)
def test_spans(numbers, shown):
    """Partitions as people write them."""
    assert spans(numbers) == shown


async def test_a_file_knows_no_incarnations(operator):
    """membership.kind static: the name of a node is looked for in what beats."""
    from holdfast.commands.ports import registered
    from holdfast.membership.port import Node

    class File:
        def nodes(self, role):
            return (
                [Node("access-1", "", "access", "h:1"), Node("gone", "", "access")]
                if role == "access"
                else []
            )

    ports = dataclasses.replace(operator.ports(), directory=File())
    first, gone = registered(ports, (await ports.log.beats(0)).keys())
    assert first.incarnation == operator.cluster.embedded.access[0].incarnation
    assert gone.incarnation == ""


# drain


async def test_drain_sends_clients_elsewhere(operator):
    """inv 10: the node sends its clients away and leaves; `--wait` returns when they are gone."""
    ann = await operator.cluster.connect("ann", node=0)
    first = ann.session
    status, text = await operator.run(drain.drain, nodes=["access-1"], wait=True)
    assert status == 0
    assert text.splitlines()[1].split()[0] == "access-1"
    assert text.splitlines()[1].split()[1] in ("draining", "gone")
    assert text.splitlines()[1].split()[2] == "0"
    assert ann.session != first
    await operator.cluster.advance(40)
    assert [node.name for node in operator.cluster.embedded.nodes()] == ["access-2"]
    with pytest.raises(Reject, match="no node is called 'access-1'"):
        await operator.run(drain.drain, nodes=["access-1"])


async def test_the_last_one_is_not_drained_by_mistake(operator):
    """A node that hangs takes no clients: it does not count as another one."""
    with pytest.raises(Reject, match="nobody to connect to"):
        await operator.run(drain.drain, nodes=["access-1", "access-2"])
    await operator.cluster.embedded.access[1].beat.stop()
    with pytest.raises(Reject, match="nobody to connect to"):
        await operator.run(drain.drain, nodes=["access-1"])
    await operator.cluster.advance(3)
    assert not any(node.draining for node in operator.cluster.embedded.nodes())
    found = await operator.json(drain.drain, nodes=["access-1"], force=True)
    assert found["access-1"]["state"] in ("draining", "gone")


async def test_what_cannot_be_drained(operator):
    """inv 11: a wrong name, another role, and a membership that could not show it."""
    for names, says in ((["access-1", "nobody"], "no node is called 'nobody'"), (["logic-1"], "is of logic")):
        with pytest.raises(Reject, match=says):
            await operator.run(drain.drain, nodes=names)
    settings = Settings(membership=Membership(kind="static"))
    static = dataclasses.replace(operator.ports(), settings=settings)
    with pytest.raises(Reject, match="SIGTERM"):
        await operator.run(drain.drain, ports=static, nodes=["access-1"])
    await operator.cluster.advance(3)
    assert not any(node.draining for node in operator.cluster.embedded.nodes())


async def test_a_node_that_does_not_hear(operator):
    """A node that hangs does not begin; after 10 s that is told, with status 1."""
    await operator.cluster.embedded.access[0].beat.stop()
    status, text = await operator.run(drain.drain, nodes=["access-1"])
    assert status == 1
    assert "asked" in text
    assert "has not begun after 10 s" in operator.notes

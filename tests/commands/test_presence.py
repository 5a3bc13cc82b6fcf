"""`holdfast presence`, on memory."""

from __future__ import annotations

import pytest

from holdfast.commands import presence
from holdfast.errors import Reject


async def test_sessions_with_their_nodes(operator):
    """Each session with the name of its node; who has none is told, and the status says it."""
    await operator.cluster.connect("ann", node=0, device="web")
    await operator.cluster.connect("ann", node=1, client="tab\x1b[31m")
    status, text = await operator.run(presence.show, users=["ann", "ben"])
    assert status == 1
    lines = [line.split() for line in text.splitlines()]
    assert sorted((line[2], line[3]) for line in lines[1:]) == [
        ("online", "access-1"),
        ("online", "access-2"),
    ]
    assert "\x1b" not in text
    assert operator.notes == "ben has no session\n"
    assert (await operator.run(presence.show, users=["ann"]))[0] == 0
    found = await operator.json(presence.show, users=["ann", "ben"])
    assert sorted(one["device"] for one in found["ann"]) == ["", "web"]
    assert found["ben"] == []


async def test_a_session_of_a_dead_node_is_not_online(operator):
    """inv 6: the session stands in Redis until it is swept, and counts for nothing."""
    await operator.cluster.connect("ann", node=0)
    await operator.cluster.embedded.access[0].beat.stop()
    status, text = await operator.run(presence.show, users=["ann"])
    assert status == 1
    assert "node dead" in text
    assert "ann is not online" in operator.notes


async def test_a_name_that_is_none(operator):
    """inv 11: what cannot be a user is refused by name."""
    with pytest.raises(Reject):
        await operator.run(presence.show, users=["an\nn"])

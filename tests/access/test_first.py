"""The thinnest path through one access node."""

from __future__ import annotations

from tests.access.world import World


async def test_connect_send_ack_push() -> None:
    """A client connects, its send is acked once durable, and pushes reach it."""
    async with World() as world:
        bob = await world.join("bob")
        bob.send(t="send", id=1, n=1, to="user:ann", type="text", data={"a": 1})
        await bob.got("ack", id=1)
        assert world.sends() == [("bob", 1)]
        await world.publish("user:bob", "one", "two")
        await bob.got("message", seq=2)
        assert bob.seqs("user:bob") == [1, 2]
        bob.send(t="subscribe", id=2, channel="room:1")
        await bob.got("subscribed", id=2)
        await world.publish("room:1", "three")
        await bob.got("message", channel="room:1")

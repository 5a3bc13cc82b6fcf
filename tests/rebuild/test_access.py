"""An access node whose store knows less than its client does."""

from __future__ import annotations

from holdfast.channel import partition_of
from tests.access.world import PARTITIONS, World

ROOM = "room:1"
SHARD = partition_of(ROOM, PARTITIONS)


async def test_a_client_that_knows_a_later_epoch_waits() -> None:
    """inv 4, 9: a channel that began at an offset which the store has not reached is not resumed yet."""
    async with World() as world:
        await world.publish(ROOM, "1")
        client = await world.open(tcp=True)
        resume = {ROOM: {"epoch": f"g{SHARD}.50", "seq": 3}}
        client.send(t="connect", token=world.token("bob"), resume=resume)
        await world.clock.advance(1.0)
        assert not client.take("connected")
        world.offsets[SHARD] = 60
        await world.publish(ROOM, "2")
        await world.clock.advance(1.0)
        (connected,) = client.take("connected")
        assert connected["channels"][ROOM]["recovered"] is False


async def test_its_wait_has_an_end() -> None:
    """inv 7: a position that the store never reaches is refused when the time for connecting is over."""
    async with World() as world:
        client = await world.open(tcp=True)
        resume = {ROOM: {"epoch": f"g{SHARD}.9999999", "seq": 3}}
        client.send(t="connect", token=world.token("bob"), resume=resume)
        await world.clock.advance(world.settings.redis.timeout + 1)
        assert not client.take("connected")
        (error,) = client.take("error")
        assert error["retry"] is True

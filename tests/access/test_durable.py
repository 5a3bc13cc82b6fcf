"""Who may not subscribe is told so only by a store that has taken in what is durable."""

from __future__ import annotations

from holdfast.channel import partition_of
from holdfast.log.port import Op
from tests.access.world import PARTITIONS, World

GROUP = "group:9"


async def on_its_way(world: World, *records: bytes) -> None:
    """Write what no dispatcher has applied yet."""
    producer = await world.parts.bus.producer(deadline=5.0)
    for record in records:
        sent = producer.produce("outbound", partition_of(GROUP, PARTITIONS), None, record)
        await world.clock.advance(0.1)
        await sent
    await producer.close()


async def test_a_member_is_not_refused_by_a_store_that_is_behind() -> None:
    """inv 9: a store that lacks the join says no; that waits for the join, which is in the queue."""
    async with World() as world:
        ann = await world.join("ann")
        await on_its_way(world, b"the join")
        ann.send(t="subscribe", id=1, channel=GROUP)
        await world.clock.advance(1)
        assert ann.take("error") == []
        await world.apply(GROUP, Op.JOIN, source="ann")
        await world.clock.advance(1)
        await ann.got("subscribed", id=1)
        assert ann.take("error") == []


async def test_who_is_no_member_is_refused() -> None:
    """inv 11: the refusal comes once the store has taken in all, or with the queue away an error to retry."""
    async with World() as world:
        ann = await world.join("ann")
        await on_its_way(world, b"something else")
        ann.send(t="subscribe", id=1, channel=GROUP)
        await world.clock.advance(1)
        await world.apply(GROUP, Op.APPEND, body=b'"id":"1"')
        await world.clock.advance(1)
        assert (await ann.got("error", id=1))["code"] == "forbidden"
        world.broker.away = True
        ann.send(t="subscribe", id=2, channel=GROUP)
        await world.clock.advance(30)
        refused = await ann.got("error", id=2)
        assert (refused["code"], refused["retry"]) != ("forbidden", False)
        assert refused["retry"]

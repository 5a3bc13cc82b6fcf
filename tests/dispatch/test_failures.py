"""What dispatch does when parts fail, hang, forget, or are taken over."""

from __future__ import annotations

import asyncio

from holdfast import records
from holdfast.channel import partition_of
from holdfast.nodelink.frames import BREAK
from holdfast.settings import Dispatch
from services.dispatch.ownership import owned
from tests.dispatch.world import PARTITIONS, World, channel_of

ROOM = "room:x"
SHARD = partition_of(ROOM, PARTITIONS)


async def test_lost_reply_of_an_apply(world: World) -> None:
    """inv 3, 4: when an apply's reply is lost nothing is doubled, and every node's chain is broken."""
    node = await world.access("a", ROOM)
    await world.dispatcher()
    await world.clock.advance(0.1)
    before = node.breaks(SHARD)
    world.logs["d1"].lost_replies = 1
    world.message(ROOM, "one", source="u\0c", score=1024)
    world.send(records.Reply(channel_of(SHARD, "user"), "a-1", 1, world.clock.now_ms() + 9000, b"{}"))
    await world.clock.advance(1)
    assert (await world.view(ROOM)).head == 1
    assert node.breaks(SHARD) == before + 1
    assert world.count("d1", "breaks_total", why="watermark") == 1
    assert node.replies() == []  # at or below the watermark: never pushed again
    world.message(ROOM, "two")
    await world.clock.advance(0.1)
    assert node.messages() == [(ROOM, 2)]


async def test_outage_of_the_log(world: World) -> None:
    """While Redis is away nothing is lost: the same batch is applied when it is back."""
    node = await world.access("a", ROOM)
    await world.dispatcher()
    world.logs["d1"].away = True
    for number in range(3):
        world.message(ROOM, str(number))
        await world.clock.advance(1)
    assert node.messages() == []
    world.logs["d1"].away = False
    await world.clock.advance(3)
    assert node.messages() == [(ROOM, 1), (ROOM, 2), (ROOM, 3)]
    assert world.count("d1", "apply_retries_total") > 2


async def test_superseded_dispatcher(world: World) -> None:
    """inv 8: a dispatcher that was cut off and comes back changes nothing, and stops."""
    node = await world.access("a", ROOM)
    zombie = await world.dispatcher("d1")
    world.message(ROOM, "zero")
    await world.clock.advance(0.1)
    hangs = {shard: asyncio.get_running_loop().create_future() for shard in range(PARTITIONS)}
    world.logs["d1"].hangs = hangs
    world.message(ROOM, "one")
    await world.clock.advance(1.5)  # its applies hang
    world.registry.remove(zombie.incarnation)
    await world.dispatcher("d2")
    before_takeover = node.breaks(SHARD)
    await world.clock.advance(4)
    # What was there when the token was taken may be a replay: it is not pushed, the node is to look.
    assert node.messages() == [(ROOM, 1)]
    assert node.breaks(SHARD) > before_takeover
    assert node.chain(SHARD)[-1][1] == 1
    assert (await world.view(ROOM)).head == 2
    before = {shard: (await world.log.state(shard)).owner for shard in range(PARTITIONS)}
    for hang in hangs.values():
        hang.set_result(None)
    world.logs["d1"].hangs = {}
    world.message(ROOM, "two")
    await world.clock.advance(1)
    assert world.count("d1", "claims_total", event="lost") == PARTITIONS
    assert {shard: (await world.log.state(shard)).owner for shard in range(PARTITIONS)} == before
    assert node.messages() == [(ROOM, 1), (ROOM, 3)]
    assert (await world.view(ROOM)).head == 3


async def test_takeover_after_silence(world: World) -> None:
    """inv 8: a token is taken when it did not move for 3 s of own reads, and not earlier."""
    dead = await world.dispatcher("d1")
    world.logs["d1"].hangs = {s: asyncio.get_running_loop().create_future() for s in range(PARTITIONS)}
    await world.clock.advance(1.5)
    world.registry.remove(dead.incarnation)
    taker = await world.dispatcher("d2")
    await world.clock.advance(2.6)
    assert taker.details()["partitions"] == []
    await world.clock.advance(0.6)
    assert taker.details()["partitions"] == [0, 1, 2, 3]


async def test_no_takeover_by_an_outage(world: World) -> None:
    """inv 8: time in which the claimant could not read does not count as the owner's silence."""
    dead = await world.dispatcher("d1")
    world.logs["d1"].hangs = {s: asyncio.get_running_loop().create_future() for s in range(PARTITIONS)}
    await world.clock.advance(1.5)
    world.registry.remove(dead.incarnation)
    taker = await world.dispatcher("d2")
    await world.clock.advance(1)
    world.logs["d2"].away = True
    await world.clock.advance(10)
    world.logs["d2"].away = False
    await world.clock.advance(2.5)
    assert taker.details()["partitions"] == []
    await world.clock.advance(1)
    assert taker.details()["partitions"] == [0, 1, 2, 3]


async def test_living_owner_keeps_its_partitions(world: World) -> None:
    """inv 8: who still moves its tokens is not superseded by one that believes to be their owner."""
    first = await world.dispatcher("d1")
    # d2 does not see d1, as if the directory had lost it; d1 goes on.
    world.registry.remove(first.incarnation)
    second = await world.dispatcher("d2")
    wanted = owned("d1", ["d1", "d2"], PARTITIONS)
    await world.clock.advance(10)
    assert set(first.details()["partitions"]) == wanted
    assert set(second.details()["partitions"]) == set(range(PARTITIONS)) - wanted


async def test_graceful_hand_over(world: World) -> None:
    """Partitions move within a second when a dispatcher joins or leaves, and nothing is lost or doubled."""
    channels = [channel_of(partition) for partition in range(PARTITIONS)]
    node = await world.access("a", *channels)
    await world.dispatcher("d1")
    sent = 0

    async def traffic(seconds: float) -> None:
        nonlocal sent
        for _ in range(int(seconds * 10)):
            sent += 1
            for channel in channels:
                world.message(channel, str(sent))
            await world.clock.advance(0.1)

    await traffic(0.5)
    second = await world.dispatcher("d2")
    await traffic(1.0)
    mine = owned("d2", ["d1", "d2"], PARTITIONS)
    assert mine
    assert set(second.details()["partitions"]) == mine
    stopping = asyncio.ensure_future(second.stop())
    await traffic(1.0)
    assert stopping.done()
    await world.clock.advance(0.5)
    assert world.nodes[0].details()["partitions"] == [0, 1, 2, 3]
    for channel in channels:
        assert (await world.view(channel)).head == sent
        seqs = [seq for name, seq in node.messages() if name == channel]
        assert len(seqs) == len(set(seqs))
    assert world.count("d2", "claims_total", event="released") == len(mine)


async def test_hung_access_node(world: World) -> None:
    """inv 7: a node that takes no pushes has them dropped, and delays no other node and no partition."""
    hung = await world.access("h", ROOM)
    fine = await world.access("a", ROOM)
    await world.dispatcher()
    hung.incoming[0].pause()
    for number in range(300):
        world.message(ROOM, "x" * 1000 + str(number))
        if number % 50 == 49:
            await world.clock.advance(0.05)
    await world.clock.advance(0.1)
    assert [seq for _, seq in fine.messages()] == list(range(1, 301))
    assert fine.breaks(SHARD) == 1
    assert world.count("d1", "dropped_total") > 90_000
    # Its link was restarted: from the break on it is served again.
    await world.clock.advance(3)
    world.message(ROOM, "last")
    await world.clock.advance(0.1)
    assert hung.breaks(SHARD) == 2
    assert hung.messages()[-1] == (ROOM, 301)


async def test_hung_shard(world: World) -> None:
    """inv 7: a shard that does not answer delays no other partition, and its queue is bounded."""
    await world.stop()
    small = World(dispatch=Dispatch(pending=100, fetch=20))
    other = channel_of((SHARD + 1) % PARTITIONS)
    node = await small.access("a", ROOM, other)
    dispatcher = await small.dispatcher()
    hang = asyncio.get_running_loop().create_future()
    small.logs["d1"].hangs[SHARD] = hang
    for number in range(500):
        small.message(ROOM, str(number))
    await small.clock.advance(0.5)
    small.message(other, "fast")
    await small.clock.advance(0.1)
    assert node.messages() == [(other, 1)]
    assert small.count("d1", "queue_full_total") == 1
    assert dispatcher._feed is not None
    assert len(dispatcher._feed._queues[SHARD]) <= 100
    small.logs["d1"].hangs.clear()
    hang.set_result(None)
    await small.clock.advance(2)
    assert [seq for name, seq in node.messages() if name == ROOM] == list(range(1, 501))
    await small.stop()


async def test_rewind(world: World) -> None:
    """inv 9: when Redis has lost its last writes they are applied again, alike, and not shown as new."""
    node = await world.access("a", ROOM)
    await world.dispatcher()
    for number in range(3):
        world.message(ROOM, str(number))
    await world.clock.advance(0.1)
    snapshot = world.store.snapshot(SHARD)
    for number in range(3, 6):
        world.message(ROOM, str(number))
    await world.clock.advance(0.1)
    before = await world.view(ROOM)
    world.store.restore(SHARD, snapshot)
    await world.clock.advance(2)
    assert world.count("d1", "rewinds_total") == 1
    assert await world.view(ROOM) == before
    assert node.messages() == [(ROOM, seq) for seq in range(1, 7)]
    assert node.chain(SHARD)[-1][1] == 5
    assert node.breaks(SHARD) == 2
    world.message(ROOM, "new")
    await world.clock.advance(0.1)
    assert node.messages()[-1] == (ROOM, 7)


async def test_flushed_store(world: World) -> None:
    """inv 9: when Redis comes back empty everything is applied again, and breaks tell the nodes."""
    node = await world.access("a", ROOM)
    await world.dispatcher()
    for number in range(3):
        world.message(ROOM, str(number))
    await world.clock.advance(0.1)
    world.store.flush()
    await world.clock.advance(3)
    assert (await world.view(ROOM)).head == 3
    assert len(node.messages()) == 3
    assert node.chain(SHARD)[-1][1] == 2
    assert [follows for follows, _ in node.chain(SHARD)].count(BREAK) == 2


async def test_log_no_longer_joins(world: World) -> None:
    """inv 9: when the queue has lost what the shard needs next, an alarm says so and dispatch goes on."""
    await world.dispatcher("d1")
    world.message(ROOM, "one")
    await world.clock.advance(1.5)
    first = await world.view(ROOM)
    world.logs["d1"].away = True
    for number in range(5):
        world.message(ROOM, str(number))
    stopping = asyncio.ensure_future(world.nodes[0].stop())
    await world.clock.advance(5)
    assert stopping.done()
    world.broker.truncate("outbound", SHARD, 4)
    successor = await world.dispatcher("d2")
    await world.clock.advance(5)
    view = await world.view(ROOM)
    assert view.head == 2
    assert view.epoch.split(".")[0] != first.epoch.split(".")[0]  # a new generation
    assert len(successor.details()["alarms"]) == 1
    assert world.count("d2", "unjoined_total") == 1


async def test_outage_of_the_bus(world: World) -> None:
    """While Kafka is away the positions go on being told, and work resumes by itself."""
    node = await world.access("a", ROOM)
    await world.dispatcher()
    world.broker.away = True
    before = len(node.chain(SHARD))
    await world.clock.advance(5)
    assert len(node.chain(SHARD)) >= before + 4
    world.broker.away = False
    world.message(ROOM)
    await world.clock.advance(0.5)
    assert node.messages() == [(ROOM, 1)]


async def test_another_number_of_partitions(world: World) -> None:
    """inv 11: a shard made with another number of partitions is not served; readiness names the setting."""
    state = await world.log.state(SHARD)
    await world.log.claim(SHARD, "x", expected=state, generation="g")
    await world.log.release(SHARD, "x")
    world.store.shards[SHARD].partitions = PARTITIONS + 1
    node = await world.dispatcher()
    assert SHARD not in node.details()["partitions"]
    (problem,) = node.problems()
    assert "kafka.partitions" in problem
    world.store.shards[SHARD].partitions = PARTITIONS
    await world.clock.advance(4)
    assert node.problems() == []
    assert node.details()["partitions"] == [0, 1, 2, 3]

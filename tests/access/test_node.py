"""A node among others: kicks, shards that forget, drain, session events."""

from __future__ import annotations

from tests.access.world import World


async def test_kicks_come_with_the_beat() -> None:
    """A session that the API ends is closed with its code at the next beat, and its entry goes."""
    async with World() as world:
        bob = await world.join("bob")
        session = bob.frames[0]["session"]
        shard = world.node.registry.shard_of("user:bob")
        assert await world.log.kick(shard, "bob", [session], "disconnected", "go away") == 1
        await world.clock.advance(1.1)
        await bob.until(lambda: bob.lost)
        assert (bob.frames[-1]["code"], bob.frames[-1]["message"]) == ("disconnected", "go away")
        await world.clock.advance(1.1)
        assert not (await world.log.sessions(shard, ["bob"]))[0]


async def test_a_shard_that_forgets_is_written_again() -> None:
    """inv 9: after Redis lost everything, routes and sessions are there again within two beats."""
    async with World() as world:
        bob = await world.join("bob")
        bob.send(t="subscribe", id=1, channel="room:1")
        await bob.got("subscribed")
        world.store.flush()
        for shard in range(4):
            await world.claim(shard)
        await world.clock.advance(2.2)
        shard = world.node.registry.shard_of("user:bob")
        assert len((await world.log.sessions(shard, ["bob"]))[0]) == 1
        assert world.value("access_forgotten") >= 1
        from holdfast.log.port import Op

        assert world.node.incarnation in (await world.apply("room:1", Op.APPEND, body=b'"id":"1"')).nodes


async def test_an_update_that_finds_a_shard_empty_writes_it_all() -> None:
    """inv 9: a shard that forgot is noticed by the next update too, before any beat."""
    async with World() as world:
        bob = await world.join("bob")
        shard = world.node.registry.shard_of("user:bob")
        room = next(f"room:{n}" for n in range(99) if world.node.registry.shard_of(f"room:{n}") == shard)
        world.store.flush()
        await world.claim(shard)
        bob.send(t="subscribe", id=1, channel=room)
        await bob.got("subscribed", id=1)
        assert len((await world.log.sessions(shard, ["bob"]))[0]) == 1
        assert [update.whole for update in world.log.updates][-1]


async def test_session_entries_wait_for_their_disconnect() -> None:
    """The entry in the log is removed only after its disconnect is in the queue."""
    async with World() as world:
        bob = await world.join("bob")
        shard = world.node.registry.shard_of("user:bob")
        world.broker.away = True
        bob.transport.close()
        await world.clock.advance(30)
        assert len((await world.log.sessions(shard, ["bob"]))[0]) == 1
        world.broker.away = False
        await world.clock.advance(3)
        assert not (await world.log.sessions(shard, ["bob"]))[0]
        assert set(world.events()) == {("bob", "connect", ""), ("bob", "disconnect", "lost")}


async def test_drain() -> None:
    """inv 10: a draining node asks its clients to go at the set rate, acks what they send until they do,
    closes the rest, and leaves nothing behind."""  # noqa: D209, D205
    world = World(drain_rate=20)
    async with world:
        clients = [await world.join(f"u{number}") for number in range(30)]
        stopping = world.node.drain()
        await world.clock.advance(0.3)
        assert world.node.problems() == ["draining"]
        assert [node.draining for node in world.registry.nodes.values()] == [True]
        asked = [client for client in clients if client.take("drain")]
        assert 3 <= len(asked) <= 8
        asked[0].send(t="send", id=1, n=1, to="user:x", type="t")
        await asked[0].got("ack", id=1)
        await world.clock.advance(2)
        assert all(client.take("drain") for client in clients)
        for client in clients[:29]:
            client.transport.close()
        await world.clock.advance(10)
        await stopping
        assert clients[29].frames[-1]["code"] == "draining"
    assert not world.registry.nodes
    for shard in range(4):
        assert not any(await world.log.sessions(shard, [f"u{number}" for number in range(30)]))
    assert len([event for event in world.events() if event[1] == "disconnect"]) == 30


async def test_asked_to_drain() -> None:
    """An operator's ask comes with the beat."""
    async with World() as world:
        bob = await world.join("bob")
        await world.log.ask(0, world.node.incarnation, "drain")
        await world.clock.advance(2)
        await bob.got("drain")
        assert world.node.problems() == ["draining"]
        assert [node.draining for node in world.registry.nodes.values()] == [True]
        bob.transport.close()
        await world.clock.advance(2)
        assert not world.registry.nodes, "it leaves the membership last, and waits to be stopped"
        assert world.node.problems() == ["draining"]

"""A node that was found dead, though it was only cut off; and sessions that take each other's place."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.errors import Stop
from holdfast.log.port import TOMBSTONE_SECONDS, Op
from holdfast.records import StateRecord
from services.access.devices import Devices
from tests.access.world import PARTITIONS, World


async def bury(world: World, shard: int) -> str:
    """Do to one shard what its dispatcher does when the node is found dead."""
    dead = world.node.incarnation
    assert await world.log.load(shard, "d", [StateRecord("dead", "", dead, world.clock.now_ms())])
    return dead


async def test_who_was_found_dead_begins_anew() -> None:
    """inv 6: at its next beat it closes its clients with "come back", and serves under a new incarnation."""
    async with World() as world:
        bob = await world.join("bob", tcp=False)
        ann = await world.join("ann")
        dead = await bury(world, 0)
        await world.clock.advance(1.1)
        await bob.gone()
        assert bob.closed == 4004
        assert (ann.frames[-1]["code"], ann.frames[-1]["close"]) == ("fenced", 4004)
        assert world.node.incarnation != dead
        assert [node.incarnation for node in world.registry.nodes.values()] == [world.node.incarnation]
        assert world.value("access_fenced") == 1
        assert world.node.problems() == []
        await world.clock.advance(5)
        assert world.value("access_fenced") == 1, "and not again"
        assert sorted(world.events()) == [
            ("ann", "connect", ""),
            ("ann", "disconnect", "fenced"),
            ("bob", "connect", ""),
            ("bob", "disconnect", "fenced"),
        ]

        bob = await world.join("bob")
        bob.send(t="subscribe", id=1, channel="room:1")
        await bob.got("subscribed")
        placed = await world.apply("room:1", Op.APPEND, body=b'"id":"1"')
        assert world.node.incarnation in placed.nodes
        shard = world.node.registry.shard_of("user:bob")
        (sessions,) = await world.log.sessions(shard, ["bob"])
        assert bob.frames[0]["session"] in {
            info.session for info in sessions if info.node == world.node.incarnation
        }


async def test_fenced_by_an_update() -> None:
    """inv 8: an update of a dead incarnation changes nothing; who waited for it is closed too."""
    async with World() as world:
        await world.join("bob")
        shard = world.node.registry.shard_of("user:eve")
        dead = await bury(world, shard)
        eve = await world.open(tcp=True)
        eve.send(t="connect", token=world.token("eve"))
        await eve.gone()
        assert eve.frames[-1]["code"] in ("fenced", "overloaded")
        assert not eve.take("connected")
        assert not any(info.node == dead for info in (await world.log.sessions(shard, ["eve"]))[0])
        await world.clock.advance(1)
        assert (await world.join("eve")).take("connected")
        assert len((await world.log.sessions(shard, ["eve"]))[0]) == 1
        assert ("eve", "disconnect", "fenced") not in world.events(), "nobody was told of its connect"


async def test_fenced_while_the_queue_is_away() -> None:
    """The last events of its sessions are kept and written later; its new incarnation does not hold them."""
    async with World() as world:
        bob = await world.join("bob")
        world.broker.away = True
        dead = await bury(world, 0)
        await world.clock.advance(3)
        await bob.gone()
        shard = world.node.registry.shard_of("user:bob")
        assert [info.node for info in (await world.log.sessions(shard, ["bob"]))[0]] == [dead]
        await world.clock.advance(20)
        world.broker.away = False
        await world.clock.advance(15)
        assert ("bob", "disconnect", "fenced") in world.events()
        assert [info.node for info in (await world.log.sessions(shard, ["bob"]))[0]] == [dead], (
            "for the sweeper"
        )


async def test_who_heard_nothing_for_long_begins_anew() -> None:
    """inv 6: tombstones are not kept for ever: whoever was away for half of that time may have had one."""
    async with World(heartbeat=TOMBSTONE_SECONDS * 2, handshake=TOMBSTONE_SECONDS) as world:
        before = world.node.incarnation
        world.log.away = True
        # As a process that was stopped: nothing of it ran meanwhile.
        world.clock._elapsed += TOMBSTONE_SECONDS / 2 + 10
        await world.clock.advance(2)
        assert world.node.incarnation == before
        world.log.away = False
        await world.clock.advance(2)
        assert world.node.incarnation != before


async def test_an_outage_of_redis_changes_no_incarnation() -> None:
    """inv 6: minutes without Redis, and everybody stays."""
    async with World() as world:
        bob = await world.join("bob")
        before = world.node.incarnation
        world.log.away = True
        await world.clock.advance(20)
        world.log.away = False
        await world.clock.advance(3)
        assert (world.node.incarnation, bob.lost) == (before, False)


async def test_events_in_order_when_the_queue_was_away() -> None:
    """A session that began and ended while Kafka was away has both events, once each and in order."""
    async with World() as world:
        world.broker.away = True
        for number in range(5):
            client = await world.join(f"u{number}")
            if number % 2:
                await world.clock.advance(3)
            client.transport.close()
            await world.clock.advance(0.5)
        await world.clock.advance(30)
        world.broker.away = False
        await world.clock.advance(15)
        for number in range(5):
            events = [event[1] for event in world.events() if event[0] == f"u{number}"]
            # A record whose outcome was unknown may be there twice: its id makes it one.
            assert list(dict.fromkeys(events)) == ["connect", "disconnect"]


async def test_a_disconnect_does_not_overtake_its_connect() -> None:
    """While a connect waits to be written again, its session's disconnect waits behind it."""
    async with World() as world:
        await world.clock.advance(0.4)  # so that it fails between two of the node's seconds
        world.broker.away = True
        bob = await world.join("bob")
        for _ in range(400):
            if world.node.produce._again:
                break
            await world.clock.advance(0.05)
        assert list(world.node.produce._again) == [f"{bob.frames[0]['session']}/connect"]
        world.broker.away = False
        bob.transport.close()
        await world.clock.settle()
        assert world.events() == []
        await world.clock.advance(2)
        assert [kind for _, kind, _ in world.events()] == ["connect", "disconnect"]


async def test_a_channel_that_outlives_its_incarnation_is_routed_again() -> None:
    """inv 5: a join that hangs keeps its channel; who joins it under the new incarnation has a route."""
    async with World() as world:
        registry = world.node.registry
        shard = registry.shard_of("room:1")
        user = next(f"u{n}" for n in range(99) if registry.shard_of(f"user:u{n}") != shard)
        eve = await world.join("eve")
        world.log.hold_reads = held = asyncio.Event()
        eve.send(t="subscribe", id=1, channel="room:1")
        await eve.until(lambda: (channel := registry.get("room:1")) is not None and channel.routed)
        await world.clock.settle()
        world.log.hold_reads = None
        await bury(world, shard)
        await world.clock.advance(1.1)
        await eve.gone()
        before = registry.get("room:1")
        assert before is not None
        ann = await world.open(tcp=True)
        ann.send(t="connect", token=world.token(user), resume={"room:1": {"epoch": "", "seq": 0}})
        await world.clock.settle()
        held.set()
        await ann.got("connected")
        assert registry.get("room:1") is before
        placed = await world.apply("room:1", Op.APPEND, body=b'"id":"1"')
        assert world.node.incarnation in placed.nodes


async def test_told() -> None:
    """What a beat tells of durable connects is below every session whose connect is not durable."""
    async with World() as world:
        await world.join("ann")
        await world.clock.advance(2)
        shard = world.node.registry.shard_of("user:ann")
        (ann,) = (await world.log.sessions(shard, ["ann"]))[0]
        nodes = world.store.shards[shard].nodes
        assert nodes.told[world.node.incarnation] > ann.since
        world.broker.away = True
        await world.join("ann", client="other")
        since = next(info.since for info in (await world.log.sessions(shard, ["ann"]))[0] if info != ann)
        await world.clock.advance(5)
        assert ann.since < nodes.told[world.node.incarnation] <= since
        world.broker.away = False
        await world.clock.advance(15)
        assert nodes.told[world.node.incarnation] > since


async def test_told_of_who_gave_up() -> None:
    """inv 6: a connect that was given up is not told as durable while its entry may be there."""
    async with World() as world:
        shard = world.node.registry.shard_of("user:ann")
        told = world.store.shards[shard].nodes.told
        await world.join("ann")
        await world.clock.advance(2)
        world.log.away = True
        began = world.clock.now_ms()
        ann = await world.open(tcp=True)
        ann.send(t="connect", token=world.token("ann"), client="other")
        await world.clock.advance(0.3)
        ann.transport.abort()
        await world.clock.advance(0.3)
        assert world.node.roster.told() <= began + 300
        await world.clock.advance(5)
        assert world.node.roster.told() <= began + 300
        world.log.away = False
        await world.clock.advance(15)
        assert told[world.node.incarnation] > began + 300


# devices


def test_seats() -> None:
    """The rules: none by default; one per class; the newest of several classes."""
    assert Devices(()).seat("web") == ""
    rules = Devices(("*=class", "tv=all", "ios=newest", "android=newest"))
    assert [rules.seat(name) for name in ("web", "", "tv", "ios", "android")] == ["=web", "=", "", "*", "*"]


@pytest.mark.parametrize("wrong", ["web", "web=some", "=all", "web=all,web=all"])
def test_wrong_rules(wrong: str) -> None:
    """inv 11: a rule that is none is refused by the setting's name."""
    with pytest.raises(Stop, match=r"access\.devices"):
        Devices(tuple(wrong.split(",")))


async def test_one_per_class() -> None:
    """The newest session of a class ends the older one with the next beat; those of other classes stay."""
    async with World(devices=("*=class", "tv=all")) as world:
        web = await world.join("bob", device="web")
        ios = await world.join("bob", device="ios")
        screens = [await world.join("bob", device="tv") for _ in range(2)]
        other = await world.join("ann", device="web")
        newer = await world.join("bob", device="web")
        await world.clock.advance(1.1)
        await web.gone()
        assert (web.frames[-1]["code"], web.frames[-1]["close"]) == ("disconnected", 4104)
        await world.clock.advance(2)
        assert not any(client.lost for client in (ios, newer, other, *screens))
        shard = world.node.registry.shard_of("user:bob")
        assert len((await world.log.sessions(shard, ["bob"]))[0]) == 4


async def test_a_lost_kick_takes_effect_all_the_same() -> None:
    """inv 9: after Redis lost everything, of two sessions of one class the older one goes."""
    async with World(devices=("*=newest",)) as world:
        old = await world.join("bob", device="web")
        new = await world.join("bob", device="ios")
        world.store.flush()
        for shard in range(PARTITIONS):
            await world.claim(shard)
        await world.clock.advance(4)
        assert (old.lost, new.lost) == (True, False)

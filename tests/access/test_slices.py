"""Crowds are served in slices: messages and resets alike, on every carrier."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from holdfast.log.port import Query
from services.access.fanout import SMALL
from tests.access.world import World

if TYPE_CHECKING:
    from tests.access.world import Client

CROWD = SMALL + 30
SENDS = 10
ENTRY = b'"ts":1,"id":"x","from":null,"type":"t","data":1'


async def crowd_in(world: World, room: str, **more: Any) -> list[Client]:
    clients = []
    for number in range(CROWD):
        client = await world.join(f"u{number}", **more)
        client.send(t="subscribe", id=1, channel=room)
        await client.got("subscribed")
        clients.append(client)
    return clients


def writes(world: World) -> dict[int, int]:
    """Count what each connection is given, from now on."""
    counts: dict[int, int] = {}
    for driver in world.node.drivers.values():
        original = driver.transport.write

        def write(data: bytes, number: int = driver.number, original: Any = original) -> None:
            counts[number] = counts.get(number, 0) + 1
            original(data)

        driver.transport.write = write  # type: ignore[method-assign, assignment]
    return counts


async def longest_slice(counts: dict[int, int], until: int) -> int:
    """Return the most writes in one turn of the loop, until there are so many."""
    most, before = 0, sum(counts.values())
    for _ in range(5000):
        await asyncio.sleep(0)
        total = sum(counts.values())
        most, before = max(most, total - before), total
        if total >= until:
            break
    return most


@pytest.mark.parametrize(
    "more", [{"tcp": True}, {"tcp": False}, {"msgpack": True}], ids=["tcp", "json", "msgpack"]
)
async def test_a_message_to_a_crowd(more: dict[str, Any]) -> None:
    """inv 7: between two slices of a fan-out the loop has its turn, on every carrier; each gets it once."""
    async with World(sends_a_slice=SENDS) as world:
        clients = await crowd_in(world, "room:1", **more)
        item = await world.append("room:1")
        counts = writes(world)
        world.push("room:1", item)
        assert await longest_slice(counts, CROWD) <= SENDS
        for client in clients:
            await client.count("room:1", 1)
            assert client.seqs("room:1") == [1]


@pytest.mark.parametrize("tcp", [True, False])
async def test_a_reset_to_a_crowd(tcp: bool) -> None:
    """inv 7, inv 4: a reset goes out in slices as well, once, and before all that follows it."""
    async with World(sends_a_slice=SENDS) as world:
        clients = await crowd_in(world, "room:1", tcp=tcp)
        await world.publish("room:1", "1", "2")
        for client in clients:
            await client.count("room:1", 2)
        channel = world.node.registry.get("room:1")
        assert channel is not None
        counts = writes(world)
        # Another epoch begins, and messages of it come while the reset is on its way.
        view = (await world.log.read(channel.shard, [Query("room:1")]))[0]
        view = msgspec.structs.replace(view, epoch="new.99", head=7, first=8, entries=[])
        world.node.delivery._switch(channel, view)
        await asyncio.sleep(0)
        assert 0 < sum(counts.values()) <= 2 * SENDS
        for seq in (8, 9):
            world.node.delivery.push(channel, "new.99", seq, ENTRY)
        assert await longest_slice(counts, 2 * CROWD) <= SENDS
        for client in clients:
            await client.count("room:1", 4)
            kinds = [frame["t"] for frame in client.frames[-3:]]
            assert kinds == ["reset", "message", "message"]
            assert client.seqs("room:1") == [1, 2, 8, 9]
            assert len(client.take("reset")) == 1
        assert world.value("access_resets") == CROWD


async def test_a_reset_in_the_middle_of_a_fan_out() -> None:
    """inv 4: of the epoch before nothing comes after the reset, also to those whose turn had not come."""
    async with World(sends_a_slice=SENDS) as world:
        clients = await crowd_in(world, "room:1")
        channel = world.node.registry.get("room:1")
        assert channel is not None
        counts = writes(world)
        world.push("room:1", await world.append("room:1", "1"))
        for _ in range(3):
            await asyncio.sleep(0)
        assert 0 < sum(counts.values()) < CROWD
        view = (await world.log.read(channel.shard, [Query("room:1")]))[0]
        world.node.delivery._switch(channel, msgspec.structs.replace(view, epoch="new.99", head=7, first=8))
        for client in clients:
            await client.got("reset", epoch="new.99")
        await world.clock.settle()
        kinds = [[frame["t"] for frame in client.frames[2:]] for client in clients]
        assert all(kind in (["message", "reset"], ["reset"]) for kind in kinds)
        assert ["reset"] in kinds


async def test_a_reset_reaches_who_does_not_read() -> None:
    """inv 4: who was put aside before a reset is told of it, and goes on behind it."""
    async with World(sends_a_slice=SENDS, buffer=2000) as world:
        clients = await crowd_in(world, "room:1")
        slow = clients[3]
        slow.stop_reading()
        for number in range(30):
            await world.publish("room:1", f"{number}-" + "x" * 100)
        assert world.value("access_aside") == 1
        channel = world.node.registry.get("room:1")
        assert channel is not None
        view = (await world.log.read(channel.shard, [Query("room:1")]))[0]
        world.node.delivery._switch(channel, msgspec.structs.replace(view, epoch="new.99", head=0, first=1))
        world.node.delivery.push(channel, "new.99", 1, ENTRY)
        await clients[0].got("message", epoch="new.99")
        slow.read_again()
        await slow.got("reset")
        assert slow.take("reset")[0]["epoch"] == "new.99"
        place = [frame["t"] for frame in slow.frames].index("reset")
        assert all(frame["epoch"] != "new.99" for frame in slow.frames[:place] if frame["t"] == "message")
        assert all(frame["epoch"] == "new.99" for frame in slow.frames[place:] if frame["t"] == "message")


async def test_many_who_missed_too_much_are_told_in_slices() -> None:
    """inv 7: more was missed than is sent again, by a crowd: they are told in slices too."""
    async with World(sends_a_slice=SENDS, catch_up=5) as world:
        clients = await crowd_in(world, "room:1")
        await world.publish("room:1", "1")
        for client in clients:
            await client.count("room:1", 1)
        channel = world.node.registry.get("room:1")
        assert channel is not None
        await world.publish("room:1", *"23456789", lose=True)
        # All stand where they stood, and the channel is ahead of them.
        for driver in channel.live_drivers():
            channel.remove_live(driver)
            channel.lag(driver, 1)
        channel.seq = 9
        counts = writes(world)
        world.node.delivery._sync(channel)
        assert await longest_slice(counts, CROWD) <= SENDS
        for client in clients:
            await client.got("reset", seq=9)
        await world.publish("room:1", "10")
        for client in clients:
            await client.count("room:1", 2)
            assert client.seqs("room:1") == [1, 10]

"""Dispatch falling behind: publishes are refused with a time to wait, and logic stops to take more in."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.backlog import marks
from holdfast.channel import partition_of
from holdfast.settings import Logic
from tests.logic.world import PARTITIONS, World

GROUP = "holdfast-dispatch"


def apart(channel: str) -> str:
    """Return a channel of another partition."""
    there = partition_of(channel, PARTITIONS)
    return next(f"room:{n}" for n in range(99) if partition_of(f"room:{n}", PARTITIONS) != there)


def apply(world: World) -> None:
    """Have dispatch be done with everything in outbound."""
    for partition in range(PARTITIONS):
        end = world.broker.partition("outbound", partition).end
        world.broker.group(GROUP, "outbound").committed[partition] = end


async def test_publishes_to_a_partition_that_is_behind_are_refused(api):
    """inv 7: at the bound of outbound a publish is a 503 with Retry-After; others are taken."""
    api.backlog._bound = 3
    api.backlog.start()
    full, other = "room:x", apart("room:x")
    for number in range(3):
        await api.call("POST", "/v1/publish", {"channel": full, "type": "t", "data": number})
    await api.clock.advance(1.5)
    problem = await api.call("POST", "/v1/publish", {"channel": full, "type": "t", "id": "k"}, status=503)
    assert (problem["code"], problem["retry"]) == ("unavailable", True)
    assert 1 <= int(api.headers["Retry-After"]) <= 15
    await api.call("POST", "/v1/publish", {"channel": other, "type": "t"})

    both = {"messages": [{"channel": channel, "type": "t"} for channel in (full, other)]}
    results = (await api.call("POST", "/v1/publish", both))["results"]
    assert results[0]["error"]["code"] == "unavailable"
    assert results[0]["error"]["retry"] is True
    assert results[1]["id"]
    only = {"messages": [{"channel": full, "type": "t"}] * 2}
    await api.call("POST", "/v1/publish", only, status=503)
    assert 1 <= int(api.headers["Retry-After"]) <= 15
    assert api.count("bus_backlog_refused_total", topic="outbound") == 4

    apply(api)
    await api.clock.advance(1.5)
    await api.call("POST", "/v1/publish", {"channel": full, "type": "t", "id": "k"})
    await api.backlog.stop()


async def test_revocations_and_memberships_are_not_refused(api):
    """Whoever must be kept out is kept out, whatever waits in the queue."""
    api.backlog._bound = 1
    for partition in range(PARTITIONS):
        api.broker.append("outbound", partition, None, None, ())
    api.backlog.start()
    await api.clock.advance(1.5)
    await api.call("POST", "/v1/publish", {"channel": "room:x", "type": "t"}, status=503)
    await api.call("POST", "/v1/tokens/revoke", {"user": "ann"})
    await api.backlog.stop()


async def test_logic_takes_nothing_more_in_while_dispatch_is_far_behind():
    """inv 2, 7: at twice what outbound may hold nothing is fetched; then all goes on, in order, each once."""
    world = World(logic=Logic(batch=10))
    world.backlog._bound = 40 // (2 * PARTITIONS)
    world.backlog.start()
    worker = await world.start()
    for n in range(50):
        world.send("alice", n, "room:x", "text", n)
    await world.clock.advance(3)
    assert len(world.messages()) == 50
    assert world.backlog.far
    for n in range(50, 100):
        world.send("alice", n, "room:x", "text", n)
    await world.clock.advance(30)
    assert len(world.messages()) == 50
    assert all(part.paused for part in worker._parts.values())
    assert world.count("logic_backlog_waits_total") == 1
    apply(world)
    await world.clock.advance(3)
    assert [message["data"] for message in world.messages()] == list(range(100))
    await world.stop()
    await world.backlog.stop()


@pytest.mark.parametrize("factor", [1, 2])
async def test_between_the_bounds_handlers_go_on(factor):
    """Between the bound, where publishes are refused, and twice what all may hold, logic goes on."""
    world = World()
    world.backlog._bound = 12
    world.backlog.start()
    await world.start()
    count = 12 if factor == 1 else 24 * PARTITIONS
    for n in range(count):
        world.send("alice", n, "room:x", "text", n)
    await world.clock.advance(3)
    assert (world.backlog.full, world.backlog.far) == (True, factor == 2)
    world.send("alice", count, "room:x", "text", count)
    await world.clock.advance(3)
    assert len(world.messages()) == count + (factor == 1)
    await world.stop()
    await world.backlog.stop()


async def test_who_crowds_a_partition_is_noted():
    """inv 7: a sender with too many unfinished records is named with the commit, and not when it has half."""
    world = World(logic=Logic(share=10, concurrency=4))
    release = asyncio.Event()

    @world.app.on("slow")
    async def slow(ctx, message):
        await release.wait()

    await world.start()
    group = world.broker.group(world.settings.kafka.group, "inbound")
    partition = partition_of("alice", PARTITIONS)
    other = next(f"u{n}" for n in range(99) if partition_of(f"u{n}", PARTITIONS) == partition)
    for n in range(9):
        world.send("alice", n, "room:x", "slow", n)
        world.send(other, n, "room:x", "text", n)
    await world.clock.advance(3)
    assert not group.notes.get(partition)
    world.send("alice", 9, "room:x", "slow", 9)
    await world.clock.advance(3)
    assert group.notes[partition] == marks(["alice"])
    assert world.metrics.registry.get_sample_value("holdfast_logic_crowding") == 1
    assert group.committed[partition] == 0
    release.set()
    await world.clock.advance(3)
    assert group.notes[partition] == ""
    assert world.metrics.registry.get_sample_value("holdfast_logic_crowding") == 0
    await world.stop()

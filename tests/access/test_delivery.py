"""Messages to subscribers: each once and in order, whatever is lost, late, slow or joins (inv 4, inv 5)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from holdfast.log.port import Watermark
from holdfast.nodelink.frames import BREAK, MessageItem
from holdfast.policy import DEFAULT_POLICIES, Policy
from services.access import fanout
from tests.access.world import Client, World


async def in_room(world: World, user: str, room: str = "room:1", **more: Any) -> Client:
    client = await world.join(user, **more)
    client.send(t="subscribe", id="s", channel=room)
    await client.got("subscribed", id="s")
    return client


async def test_a_gap_is_read_from_the_log() -> None:
    """inv 4: a lost push shows in the next one; what was missed is read, what came twice is dropped."""
    async with World() as world:
        bob = await in_room(world, "bob")
        await world.publish("room:1", "1")
        await world.publish("room:1", "2", "3", lose=True)
        item = await world.append("room:1", "4")
        world.push("room:1", item)
        world.push("room:1", item)
        await bob.until(lambda: len(bob.seqs("room:1")) == 4)
        world.push("room:1", item)
        await world.clock.settle()
        assert bob.seqs("room:1") == [1, 2, 3, 4]
        assert world.value("access_gaps") == 1
        assert world.value("access_duplicates") >= 1


async def test_a_broken_chain_asks_what_changed() -> None:
    """inv 4: a push that does not follow what is known, or says so, makes the node ask the shard."""
    async with World() as world:
        bob = await in_room(world, "bob")
        await world.publish("room:1", "1")
        await world.publish("room:1", "2", lose=True)
        shard = world.node.registry.shard_of("room:1")
        world.push("room:1", follows=world.offsets[shard] - 1)
        await bob.until(lambda: bob.seqs("room:1") == [1, 2])
        await world.publish("room:1", "3", lose=True)
        world.push("room:1", follows=BREAK)
        await bob.until(lambda: bob.seqs("room:1") == [1, 2, 3])
        assert world.value("access_breaks") == 2
        assert world.value("access_polls", why="break") == 2


async def test_old_links_break_nothing() -> None:
    """A push from a link that is behind, with nothing new, is no break."""
    async with World() as world:
        await in_room(world, "bob")
        for text in ("1", "2", "3"):
            await world.publish("room:1", text)
        world.push("room:1", follows=0, upto=1)
        assert world.value("access_breaks") == 0


async def test_without_a_dispatcher_the_node_polls() -> None:
    """inv 4: nothing heard of a partition for 3 s, and messages still come, within a second or so."""
    async with World() as world:
        bob = await in_room(world, "bob")
        await world.clock.advance(4)
        await world.publish("room:1", "1", lose=True)
        await world.clock.advance(1.5)
        await bob.until(lambda: bob.seqs("room:1") == [1])
        assert world.value("access_polls", why="quiet") > 0


async def test_a_drained_node_asks_nobody() -> None:
    """With clients it asks as ever; drained, nobody pushes to it, which is no reason to page anybody."""
    async with World() as world:
        bob = await in_room(world, "bob")
        await world.clock.advance(4)
        asked = world.value("access_polls", why="quiet")
        stopping = world.node.drain()
        await world.clock.advance(1.5)
        assert world.value("access_polls", why="quiet") > asked
        bob.transport.close()
        await world.clock.advance(2)
        await stopping
        asked = world.value("access_polls", why="quiet")
        await world.clock.advance(10)
        assert world.value("access_polls", why="quiet") == asked


async def test_many_missed_messages_come_in_pages_and_too_many_are_a_reset() -> None:
    """inv 4: up to access.catch_up missed messages are sent, of more the client is told by a reset."""
    async with World(catch_up=250) as world:
        bob = await in_room(world, "bob")
        await world.publish("room:1", "1")
        epoch = (await bob.got("message"))["epoch"]
        await world.publish("room:1", *[str(n) for n in range(2, 252)], lose=True)
        resumed = await world.join("ann", resume={"room:1": {"epoch": epoch, "seq": 1}})
        assert resumed.frames[0]["channels"]["room:1"] == {"epoch": epoch, "seq": 1, "recovered": True}
        await resumed.until(lambda: len(resumed.seqs("room:1")) == 250)
        assert resumed.seqs("room:1") == list(range(2, 252))
        await bob.until(lambda: len(bob.seqs("room:1")) == 251)
        await world.publish("room:1", "last")
        far = await world.join("carl", resume={"room:1": {"epoch": epoch, "seq": 1}})
        assert far.frames[0]["channels"]["room:1"] == {"epoch": epoch, "seq": 252, "recovered": False}
        await world.publish("room:1", "newer")
        for client in (bob, resumed):
            await client.got("message", seq=253)
        assert far.seqs("room:1") == [253]


async def test_one_write_for_what_is_ready() -> None:
    """Messages of one channel that are ready together reach a connection in one write."""
    async with World() as world:
        bob = await in_room(world, "bob")
        reads = bob.reads
        await world.publish("room:1", *"abcdefghijklmnop")
        await bob.until(lambda: len(bob.seqs("room:1")) == 16)
        assert bob.reads == reads + 1


async def test_another_epoch_is_a_reset() -> None:
    """inv 4: a push with a foreign epoch triggers a read; when the log says so, clients get a reset."""
    async with World() as world:
        bob = await in_room(world, "bob")
        await world.publish("room:1", "1")
        item = MessageItem("room:1", "foreign", 7, b'"ts":1,"id":"x"')
        world.push("room:1", item)
        await world.clock.settle()
        assert not bob.take("reset")  # the log has no such epoch
        world.store.flush()
        for shard in range(4):
            await world.claim(shard)
        await world.clock.advance(2.5)
        from holdfast.log.port import Watermark

        world.watermarks = [Watermark()] * 4
        world.offsets = [offset + 100 for offset in world.offsets]
        await world.publish("room:1", "2")
        await world.clock.advance(1.5)
        reset = await bob.got("reset", channel="room:1")
        await world.publish("room:1", "3")
        assert reset["seq"] == 1
        await bob.until(lambda: bob.seqs("room:1")[-1] == 2)
        assert bob.seqs("room:1") == [1, 2]


async def test_who_begins_after_what_is_lost_to_others_gets_no_reset() -> None:
    """inv 4: a node far behind resets those who stand there, and not who came back within what is kept."""
    async with World(policies={**DEFAULT_POLICIES, "room": Policy(keep_count=5)}) as world:
        bob = await in_room(world, "bob")
        await world.publish("room:1", "1")
        epoch = (await bob.got("message"))["epoch"]
        await world.publish("room:1", *[str(n) for n in range(2, 13)], lose=True)
        ann = await world.join("ann", resume={"room:1": {"epoch": epoch, "seq": 9}})
        eve = await in_room(world, "eve")  # at the head at once
        assert ann.frames[0]["channels"]["room:1"] == {"epoch": epoch, "seq": 9, "recovered": True}
        assert (await bob.got("reset", channel="room:1"))["seq"] == 12
        await world.publish("room:1", "13")
        await bob.until(lambda: bob.seqs("room:1") == [1, 13])
        await ann.until(lambda: ann.seqs("room:1") == [10, 11, 12, 13])
        await eve.until(lambda: eve.seqs("room:1") == [13])
        assert not ann.take("reset")
        assert not eve.take("reset")


@pytest.mark.parametrize("alone", [False, True])
async def test_a_slow_client_is_put_aside_and_caught_up(alone: bool) -> None:
    """inv 7: who does not read is buffered for up to its bound, harms nobody, and gets all from the log."""
    async with World(buffer=2000) as world:
        slow = await in_room(world, "slow")
        fast = None if alone else await in_room(world, "fast")
        slow.stop_reading()
        for number in range(60):
            await world.publish("room:1", f"{number}-" + "x" * 100)
        assert fast is None or fast.seqs("room:1") == list(range(1, 61))
        assert slow.transport._inbox_size < 3000
        assert world.value("access_aside") == 1
        assert world.value("access_put_aside") == 1
        slow.read_again()
        await slow.until(lambda: len(slow.seqs("room:1")) == 60)
        assert slow.seqs("room:1") == list(range(1, 61))
        assert world.value("access_aside") == 0
        await world.publish("room:1", "live")
        assert slow.seqs("room:1")[-1] == 61


async def test_an_only_subscriber_who_reads_again_in_the_same_turn() -> None:
    """inv 4: what waits for it stays in front of what comes now."""
    async with World() as world:
        bob = await world.join("bob")
        (driver,) = world.node.drivers.values()
        items = [await world.append("user:bob", text) for text in "abc"]
        driver.pause_writing()
        world.push("user:bob", items[0])
        driver.resume_writing()
        world.push("user:bob", items[1])
        world.push("user:bob", items[2])
        await bob.count("user:bob", 3)
        assert bob.seqs("user:bob") == [1, 2, 3]


async def test_what_an_only_subscriber_gets_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """At debug level a node says what it has handed to whom, inboxes as well as crowds."""
    with caplog.at_level(logging.DEBUG, logger="services.access.journal"):
        async with World() as world:
            bob = await world.join("bob")
            await world.publish("user:bob", "a", "b")
            await bob.count("user:bob", 2)
    told = [record for record in caplog.records if record.message == "delivered"]
    assert [record.seq for record in told] == [1, 2]  # type: ignore[attr-defined]


async def test_a_client_that_never_reads_is_closed() -> None:
    """inv 7: after access.aside seconds it is closed as `slow`."""
    async with World(buffer=2000, aside=5) as world:
        slow = await in_room(world, "slow")
        slow.stop_reading()
        for number in range(60):
            await world.publish("room:1", f"{number}-" + "x" * 100)
        await world.clock.advance(6)
        assert ("slow", "disconnect", "slow") in world.events()
        await world.clock.advance(5)
        assert not world.node.drivers


async def test_order_holds_across_slices() -> None:
    """inv 7: a crowd is served in slices; what comes meanwhile follows, who joins meanwhile is in place."""
    async with World(sends_a_slice=7) as world:
        crowd = [await in_room(world, f"u{number}") for number in range(80)]
        items = [await world.append("room:1", str(number)) for number in range(6)]
        late: list[Client] = []
        for number, item in enumerate(items):
            world.push("room:1", item)
            await asyncio.sleep(0)
            if number in (1, 3):
                client = await world.open(tcp=True)
                client.send(t="connect", token=world.token(f"late{number}"))
                client.send(t="subscribe", id=1, channel="room:1", since={"epoch": item.epoch, "seq": 0})
                late.append(client)
        for client in [*crowd, *late]:
            await client.count("room:1", 6)
            assert client.seqs("room:1") == [1, 2, 3, 4, 5, 6]


async def test_what_waits_for_a_crowd_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """inv 7: above the bound of a channel its messages are dropped, and read from the log later."""
    monkeypatch.setattr(fanout, "MAX_PENDING", 2000)
    async with World(sends_a_slice=1) as world:
        crowd = [await in_room(world, f"u{number}") for number in range(70)]
        items = [await world.append("room:1", "x" * 300) for _ in range(40)]
        channel = world.node.registry.get("room:1")
        assert channel is not None
        for item in items:
            world.push("room:1", item)
            await asyncio.sleep(0)
            assert channel.flow is None or channel.flow.size < 2000 + 700
        for client in crowd:
            await client.count("room:1", 40)
            assert client.seqs("room:1") == list(range(1, 41))


async def test_positions_are_forgotten_with_the_last_subscriber() -> None:
    """Nothing of a channel stays when nobody has it any more."""
    async with World() as world:
        bob = await in_room(world, "bob")
        await world.publish("room:1", "1")
        channel = world.node.registry.get("room:1")
        assert channel is not None
        assert channel.flow is None
        assert channel.own is None
        bob.transport.close()
        await world.clock.settle()
        assert len(world.node.registry) == 0
        assert not world.node.drivers


async def test_who_reads_a_store_that_lost_writes_gets_them_when_they_are_back() -> None:
    """inv 9: what was applied before the route, lost, announced and applied again is delivered."""
    async with World() as world:
        shard = world.node.registry.shard_of("room:1")
        before = world.store.snapshot(shard)
        await world.append("room:1", "1")
        world.store.restore(shard, before)
        bob = await in_room(world, "bob")
        assert bob.take("subscribed")[0]["seq"] == 0
        world.push("room:1")  # the position of before the loss: it follows what the node knows
        world.offsets[shard], world.watermarks[shard] = 0, Watermark()
        await world.append("room:1", "1")
        world.push("room:1", follows=BREAK)
        await bob.until(lambda: bob.seqs("room:1") == [1])


async def test_reads_of_long_ago_do_not_make_a_break_dear() -> None:
    """inv 7: after a break the node asks from what it heard on, or its reads of the last seconds."""
    async with World() as world:
        await in_room(world, "bob")
        for text in ("1", "2", "3"):
            await world.publish("room:1", text)
        shard = world.node.registry.shard_of("room:1")
        asked: list[int] = []
        changed = world.log.changed

        async def noted(number: int, since: int, limit: int) -> Any:
            if number == shard:
                asked.append(since)
            return await changed(number, since, limit)

        world.log.changed = noted  # type: ignore[method-assign, assignment]
        world.push("room:1", follows=BREAK)
        await world.clock.settle()
        for _ in range(12):
            await world.clock.advance(1)
            world.push("room:1")
        world.push("room:1", follows=BREAK)
        await world.clock.settle()
        assert asked == [-1, 2]


async def test_deliveries_are_counted() -> None:
    """A message to an inbox is one delivery of a fan-out to one."""
    async with World() as world:
        bob = await world.join("bob")
        await in_room(world, "ann")
        await in_room(world, "tom")
        await world.publish("user:bob", "a", "b")
        await world.publish("room:1", "c")
        await bob.count("user:bob", 2)
        assert world.value("access_deliveries") == 4
        assert world.value("access_fanout_size_count") == 3
        assert world.value("access_fanout_size_sum") == 4

"""What clients send faster than it is handled is refused before the ack, in order, and goes on from there."""

from __future__ import annotations

from holdfast.bus.backlog import marks
from holdfast.channel import partition_of
from holdfast.errors import Retry
from tests.access.world import PARTITIONS, World


def handle(world: World) -> None:
    """Have logic be done with everything in inbound."""
    committed = world.broker.group("holdfast", "inbound").committed
    for partition in range(PARTITIONS):
        committed[partition] = world.broker.partition("inbound", partition).end


def fill(world: World, channel: str, count: int) -> None:
    """Put records into a channel's partition of outbound, which nobody applies."""
    for _ in range(count):
        world.broker.append("outbound", partition_of(channel, PARTITIONS), None, b"", ())


async def test_inbound_faster_than_logic() -> None:
    """inv 7, 11, 12: at the bound a send is refused with seconds to wait, and no later one passes it.

    Who shares no partition with it goes on; sent again when there is room, all are in the queue in order.
    """
    async with World() as world:
        world.node.inbound._bound = 5
        bob = await world.join("bob")
        other = next(f"u{n}" for n in range(99) if partition_of(f"u{n}", 4) != partition_of("bob", 4))
        ann = await world.join(other)
        handle(world)
        for n in range(1, 6):
            bob.send(t="send", id=n, n=n, to="room:x", type="text", data=n)
        await bob.got("ack", id=5)
        await world.clock.advance(1.5)
        for n in range(6, 9):
            bob.send(t="send", id=n, n=n, to="room:x", type="text", data=n)
        bob.send(t="request", id="ask", type="echo", data=1)
        await bob.got("error", id="ask")
        errors = {error["id"]: error for error in bob.take("error")}
        assert [errors[key]["code"] for key in (6, 7, 8)] == ["unavailable", "out_of_order", "out_of_order"]
        assert errors["ask"]["code"] == "unavailable"
        for refused in (errors[6], errors["ask"]):
            assert 1.0 <= refused["retry"] <= 15.0
        ann.send(t="send", id=1, n=1, to="room:x", type="text", data="another partition")
        assert await ann.got("ack", id=1)
        assert world.value("bus_backlog_full", topic="inbound") == 1
        assert world.value("bus_backlog_refused", topic="inbound") == 2

        bob.send(t="send", id=60, n=6, to="room:x", type="text", data=6)
        assert (await bob.got("error", id=60))["code"] == "unavailable", "still behind"
        handle(world)
        await world.clock.advance(1.5)
        for n in (6, 7, 8):
            bob.send(t="send", id=100 + n, n=n, to="room:x", type="text", data=n)
        await bob.got("ack", id=108)
        assert [n for user, n in world.sends() if user == "bob"] == list(range(1, 9))


async def test_what_must_be_recorded_is() -> None:
    """inv 6: a backlog refuses what people send, not that their sessions begin and end."""
    async with World() as world:
        world.node.inbound._bound = 1
        fill_in = world.broker.append
        for partition in range(PARTITIONS):
            fill_in("inbound", partition, None, None, ())
        await world.clock.advance(1.5)
        assert world.node.inbound.full
        bob = await world.join("bob")
        bob.transport.close()
        await world.clock.advance(1.5)
        assert [kind for user, kind, _ in world.events() if user == "bob"] == ["connect", "disconnect"]


async def test_a_channel_whose_dispatch_is_behind() -> None:
    """inv 7, 12: what is sent to a channel whose log is far behind the queue is refused; others go on."""
    async with World() as world:
        world.node.outbound._bound = 10
        bob, ann = await world.join("bob"), await world.join("ann")
        other = next(
            f"room:{n}" for n in range(99) if partition_of(f"room:{n}", 4) != partition_of("room:x", 4)
        )
        fill(world, "room:x", 10)
        await world.clock.advance(1.5)
        bob.send(t="send", id=1, n=1, to="room:x", type="text", data=1)
        ann.send(t="send", id=1, n=1, to=other, type="text", data=1)
        refused = await bob.got("error", id=1)
        assert (refused["code"], refused["retry"] >= 1.0) == ("unavailable", True)
        assert await ann.got("ack", id=1)
        assert world.value("bus_backlog_refused", topic="outbound") == 1


async def test_without_an_answer_of_kafka_nothing_is_refused_for_long() -> None:
    """inv 7: a backlog that cannot be seen any more closes nobody out."""
    async with World() as world:
        world.node.inbound._bound = 1
        bob = await world.join("bob")
        await world.clock.advance(1.5)
        bob.send(t="send", id=1, n=1, to="room:x", type="text", data=1)
        assert await bob.got("error", id=1)

        async def fail(*_: object) -> None:
            raise Retry("no coordinator")

        world.parts.bus.progress = fail  # type: ignore[method-assign, assignment]
        await world.clock.advance(7.0)
        bob.send(t="send", id=2, n=1, to="room:x", type="text", data=1)
        assert await bob.got("ack", id=2)


async def test_a_sender_whose_messages_are_slow() -> None:
    """inv 7, 12: whoever logic notes is refused alone, in order; who shares its partition goes on."""
    async with World() as world:
        bob = await world.join("bob")
        other = next(f"u{n}" for n in range(99) if partition_of(f"u{n}", 4) == partition_of("bob", 4))
        ann = await world.join(other)
        group = world.broker.group("holdfast", "inbound")
        bob.send(t="send", id=1, n=1, to="room:x", type="slow", data=1)
        assert await bob.got("ack", id=1)
        group.notes[partition_of("bob", 4)] = marks(["bob"])
        await world.clock.advance(1.5)
        bob.send(t="send", id=2, n=2, to="room:x", type="slow", data=2)
        bob.send(t="send", id=3, n=3, to="room:x", type="slow", data=3)
        await bob.got("error", id=3)
        errors = {error["id"]: error for error in bob.take("error")}
        assert (errors[2]["code"], errors[3]["code"]) == ("unavailable", "out_of_order")
        assert errors[2]["retry"] >= 1.0
        ann.send(t="send", id=1, n=1, to="room:x", type="text", data=1)
        assert await ann.got("ack", id=1)
        group.notes[partition_of("bob", 4)] = ""
        await world.clock.advance(1.5)
        bob.send(t="send", id=4, n=2, to="room:x", type="slow", data=2)
        assert await bob.got("ack", id=4)

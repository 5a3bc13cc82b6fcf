"""The histograms behind the latency objectives count what they say they do."""

from __future__ import annotations

from holdfast.app import App
from tests.access.world import World as AccessWorld
from tests.logic.world import World as LogicWorld


async def test_delivery_is_timed_from_the_append() -> None:
    """A message that was 2 s on its way counts as 2 s; one in eight counts, however they come."""
    async with AccessWorld() as world:
        bob = await world.join("bob")
        items = [await world.append("user:bob", text) for text in "ab"]
        await world.clock.advance(2.0)
        world.push("user:bob", *items)
        await bob.until(lambda: len(bob.seqs("user:bob")) == 2)
        assert world.value("access_delivery_seconds_count") == 1
        assert 2.0 <= world.value("access_delivery_seconds_sum") < 2.2
        for size in (5, 1, 17, 8):
            world.push("user:bob", *[await world.append("user:bob") for _ in range(size)])
        assert world.value("access_delivery_seconds_count") == 1 + (2 + 31 - 1) // 8


async def test_what_a_lost_push_makes_late_is_timed_too() -> None:
    """Sixteen messages whose pushes were lost are read 5 s later: two of them count, as 5 s each."""
    async with AccessWorld() as world:
        bob = await world.join("bob")
        await world.publish("user:bob", *map(str, range(8)))
        await world.publish("user:bob", *map(str, range(8, 24)), lose=True)
        before = world.value("access_delivery_seconds_sum")
        await world.clock.advance(5.0)
        await bob.until(lambda: len(bob.seqs("user:bob")) == 24)
        assert world.value("access_delivery_seconds_count") == 3
        assert world.value("access_delivery_seconds_sum") - before > 2.0


async def test_handling_is_timed_until_what_it_caused_is_durable() -> None:
    """A handler that takes 3 s makes an age of at least 3 s."""
    app = App()
    world = LogicWorld(app=app)

    @app.on("slow")
    async def slow(ctx, message):
        await world.clock.sleep(3.0)
        ctx.forward()

    await world.start()
    world.send("ann", 1, "room:all", "slow", "x")
    while not world.count("logic_age_seconds_count"):
        await world.clock.advance(0.5)
    assert 3.0 <= world.count("logic_age_seconds_sum") < 5.0
    for n in range(2, 18):
        world.send("ann", n, "room:all", "plain", n)
    while world.count("logic_age_seconds_count") < 3:
        await world.clock.advance(0.5)
    await world.stop()

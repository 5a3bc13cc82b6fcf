"""Order, repetition, commits and rebalances, searched by chance."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import records
from holdfast.app import App
from holdfast.errors import Retry
from holdfast.settings import Logic
from tests.logic.world import World


def shaky_app(world_of, random: Random, runs: list[tuple[str, int]]) -> App:
    """Handlers that take their time and fail by chance."""
    app = App()

    @app.on("handled")
    async def handled(ctx, message):
        runs.append((message.user, message.n))
        await world_of().clock.sleep(random.uniform(0, 0.05))
        if random.random() < 0.15:
            raise Retry("by chance")
        ctx.publish(f"user:{message.user}-copy", "copy", message.n)
        ctx.forward()
        await world_of().clock.sleep(random.uniform(0, 0.02))

    return app


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), chance=st.sampled_from([0.0, 0.2, 0.5]), workers=st.integers(1, 3))
async def test_each_message_once_and_in_its_sender_s_order(seed, chance, workers):
    """inv 2, 3, 12: whatever is slow, fails, or comes and goes, messages appear once and in order."""
    random = Random(seed)
    runs: list[tuple[str, int]] = []
    world = World(seed=seed, chance=chance, logic=Logic(backoff=0.05, retries=50, time_limit=5.0))
    world.app = shaky_app(lambda: world, random, runs)
    await world.start()
    sent: dict[str, list[int]] = {}
    for n in range(1, 16):
        for user in ("ann", "ben", "cy", "dee"):
            world.send(user, n, "room:all", random.choice(("handled", "plain")), n)
            sent.setdefault(user, []).append(n)
        if n == 5:
            for _ in range(workers - 1):
                starting = asyncio.ensure_future(world.start())
                while not starting.done():
                    await world.clock.advance(0.1)
                await starting
        if n == 10 and workers > 1:
            leaving = asyncio.ensure_future(world.workers.pop(0).stop())
            while not leaving.done():
                await world.clock.advance(0.1)
            await leaving
        await world.clock.advance(random.uniform(0, 0.1))
    for producer in world.producers:
        producer.chance = 0.0
    await world.clock.advance(60)
    await world.apply()
    room = await world.channel("room:all")
    for user, numbers in sent.items():
        assert [m["data"] for m in room if m["from"] == user] == numbers
        copies = await world.channel(f"user:{user}-copy")
        handled = [n for n in numbers if (user, n) in runs]
        assert [m["data"] for m in copies] == handled
    assert world.letters() == []
    for partition, offset in world.committed.items():
        assert offset == world.broker.partition("inbound", partition).end
    await world.stop()


async def test_senders_do_not_wait_for_each_other():
    """inv 7: one sender's handler that sleeps delays no other sender, and keeps its own in order."""
    app = App()
    order: list[tuple[str, int]] = []

    @app.on("nap")
    async def nap(ctx, message):
        if message.user == "slow":
            await world.clock.sleep(2)
        order.append((message.user, message.n))

    world = World(app)
    await world.start()
    for n in (1, 2):
        world.send("slow", n, "room:r", "nap")
        world.send("fast", n, "room:r", "nap")
    await world.clock.advance(1)
    assert order == [("fast", 1), ("fast", 2)]
    await world.clock.advance(5)
    assert order[2:] == [("slow", 1), ("slow", 2)]
    await world.stop()


async def test_the_commit_trails_the_slowest_unfinished():
    """inv 2: what is behind an unfinished record of the partition is not committed, finished or not."""
    app = App()
    go = asyncio.Event()

    @app.on("wait")
    async def wait(ctx, message):
        await go.wait()

    world = World(app)
    worker = await world.start()
    del worker
    world.send("alice", 1, "room:r")
    world.send("alice", 2, "room:r", "wait")
    world.send("alice", 3, "room:r")
    await world.clock.advance(3)
    (partition,) = {r.partition for r in world.records("inbound")}
    assert world.committed[partition] == 1
    go.set()
    await world.clock.advance(3)
    assert world.committed[partition] == 3
    await world.stop()


async def test_nothing_is_committed_before_its_outputs_are_durable():
    """inv 2: a message whose output is on its way is not finished."""
    world = World()
    await world.start()
    world.producers[0].holds = True
    world.send("alice", 1, "room:r")
    await world.clock.advance(3)
    assert not any(world.committed.values())
    world.producers[0].holds = False
    world.producers[0].flush()
    await world.clock.advance(3)
    assert 1 in world.committed.values()
    await world.stop()


@pytest.mark.parametrize("how", ["fails", "is full"])
async def test_after_a_failed_output_later_ones_are_withheld(how):
    """inv 12: after a failure nothing of the sender is written until the failed output is written again."""
    world = World()
    await world.start()
    if how == "fails":
        world.producers[0].fail_next = 1
    else:
        world.producers[0].full_next = 1
    for n in range(1, 6):
        world.send("alice", n, "room:r", data=n)
        world.send("alice", n, "room:s", data=n, client="other")
    await world.clock.advance(0.01)
    await world.clock.advance(10)
    await world.apply()
    assert [m["data"] for m in await world.channel("room:r")] == [1, 2, 3, 4, 5]
    assert [m["data"] for m in await world.channel("room:s")] == [1, 2, 3, 4, 5]
    assert world.count("logic_rewinds_total") >= 1
    await world.stop()


async def test_handlers_wait_for_room_instead_of_filling_the_producer():
    """inv 7: a crowd that was held up and goes on at once is handled once, as fast as Kafka takes it."""
    app = App()
    runs: list[str] = []
    release = asyncio.Event()

    @app.on("held")
    async def held(ctx, message):
        await release.wait()
        runs.append(message.user)
        ctx.publish("room:r", "one", message.user)
        ctx.publish("room:s", "two", message.user)

    world = World(app, logic=Logic(time_limit=100, backoff=0.1, concurrency=10))
    await world.start()
    producer = world.producers[0]
    producer.most, producer.holds = 60, True
    users = [f"u{number}" for number in range(200)]
    for user in users:
        world.send(user, 1, "room:r", "held")
    await world.clock.advance(1)
    release.set()
    for _ in range(100):
        await world.clock.advance(0.05)
        assert len(producer.pending) <= 30 + 2 * 10
        producer.holds = False
        producer.flush()
        producer.holds = True
    producer.holds = False
    await world.clock.advance(3)
    assert sorted(runs) == sorted(users)
    assert world.count("logic_rewinds_total") == 0
    assert world.count("logic_output_waits_total") > 0
    await world.stop()


async def test_a_superseded_worker_releases_nothing():
    """inv 8: a run that outlives its partition's revocation puts out nothing."""
    app = App()
    runs: list[int] = []
    release = asyncio.Event()

    @app.on("long")
    async def long(ctx, message):
        runs.append(len(runs))
        ctx.forward(len(runs))
        if len(runs) == 1:
            await release.wait()

    world = World(app, logic=Logic(time_limit=100, backoff=0.1))
    first = await world.start()
    world.send("alice", 1, "room:r", "long")
    await world.clock.advance(1)
    assert runs == [0]
    leaving = asyncio.ensure_future(first._revoked(list(first.partitions)))
    await world.clock.advance(10)
    assert leaving.done()
    release.set()
    await world.clock.advance(1)
    assert world.messages() == []
    await world.stop()


async def test_a_revoked_partition_s_runs_may_end_before_it_goes():
    """inv 2: within the bound a run that is on is finished and committed, so it is not handled twice."""
    app = App()
    runs: list[int] = []

    @app.on("short")
    async def short(ctx, message):
        runs.append(message.n)
        await world.clock.sleep(1)
        ctx.forward()

    world = World(app)
    await world.start()
    world.send("alice", 1, "room:r", "short")
    await world.clock.advance(0.5)
    second = asyncio.ensure_future(world.start())
    await world.clock.advance(5)
    await second
    assert runs == [1]
    assert len(world.messages()) == 1
    await world.stop()


async def test_a_full_partition_is_paused_and_resumed():
    """inv 7: at most `pending` records (and one fetch) of a partition are in hand; others go on."""
    app = App()
    go = asyncio.Event()

    @app.on("wait")
    async def wait(ctx, message):
        await go.wait()

    world = World(app, logic=Logic(pending=20, batch=10, time_limit=100))
    worker = await world.start()
    for n in range(100):
        world.send("alice", n, "room:r", "wait")
    await world.clock.advance(2)
    assert max(len(part.items) for part in worker._parts.values()) <= 30
    assert world.count("logic_paused_total") == 1
    assert 20 <= world.count("logic_pending") <= 30
    world.send("zoe", 1, "room:r", "text", "past it")
    await world.clock.advance(1)
    other = {r.partition for r in world.records("inbound")}
    if len(other) > 1:
        assert [m["data"] for m in world.messages()] == ["past it"]
    go.set()
    await world.clock.advance(20)
    assert sum(world.committed.values()) == 101
    await world.stop()


async def test_concurrency_is_bounded():
    """inv 7: no more handlers run at once than the setting says; the rest wait their turn."""
    app = App()
    running = most = 0

    @app.on("work")
    async def work(ctx, message):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await world.clock.sleep(0.01)
        running -= 1

    world = World(app, logic=Logic(concurrency=4))
    await world.start()
    for user in range(40):
        world.send(f"u{user}", 1, "room:r", "work")
    await world.clock.advance(5)
    assert most == 4
    assert world.count("logic_crowded_total") >= 36
    assert sum(world.committed.values()) == 40
    await world.stop()


async def test_records_lost_before_they_were_handled():
    """inv 11: when retention took what was not handled, the worker says so and goes on at the log's start."""
    world = World()
    world.send("alice", 1, "room:r", data="lost")
    (partition,) = {r.partition for r in world.records("inbound")}
    world.broker.group(world.settings.kafka.group, "inbound").committed[partition] = 0
    world.send("alice", 2, "room:r", data="kept")
    world.broker.truncate("inbound", partition, 1)
    await world.start()
    await world.clock.advance(3)
    assert [m["data"] for m in world.messages()] == ["kept"]
    await world.stop()


async def test_a_connect_handled_again_is_not_taken_for_a_late_one():
    """inv 2: going back does not make the worker ignore events it saw before their outputs failed."""
    app = App()

    @app.on_connect
    async def connected(ctx, session):
        ctx.publish("room:door", "came", session.user)

    world = World(app)
    await world.start()
    world.producers[0].fail_next = 1
    world.event("alice", "connect", "s1")
    world.event("alice", "disconnect", "s1")
    await world.clock.advance(10)
    await world.apply()
    assert [m["data"] for m in await world.channel("room:door")] == ["alice"]
    assert world.outbound(records.Reply) == []
    await world.stop()

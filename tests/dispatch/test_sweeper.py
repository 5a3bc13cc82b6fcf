"""Dead access nodes: tombstones, and the last events of their sessions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast import records
from holdfast.channel import partition_of
from holdfast.log.port import TOMBSTONE_SECONDS, Change, NodeUpdate, SessionInfo
from services.dispatch.sweeper import PAGE, TIDY_SECONDS
from tests.dispatch.world import PARTITIONS, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.port import Swept


async def record(
    world: World, node: str, *users: str, since: int = 5, number: int = 1, count: int = 1
) -> None:
    """Write sessions of a node, `count` of each user, and their routes."""
    for shard in range(PARTITIONS):
        mine = [user for user in users if partition_of(f"user:{user}", PARTITIONS) == shard]
        changes = [
            change
            for user in mine
            for change in (
                Change("+r", f"user:{user}"),
                *(
                    Change("+s", user, SessionInfo(f"{user}-{n}", node, "web", since, "c" if n == 0 else ""))
                    for n in range(count)
                ),
            )
        ]
        await world.log.update(shard, NodeUpdate(node, number, changes))


async def live(world: World, seconds: int, *nodes: str, told: int = 1000) -> None:
    """Let time pass; nodes that beat do so once a second."""
    for _ in range(seconds):
        for node in nodes:
            for shard in range(PARTITIONS):
                await world.log.beat(shard, node, told=told)
        await world.clock.advance(1.0)


def events(world: World) -> list[tuple[str, str, str]]:
    found = [records.decode_inbound(record.value) for record in world.written("inbound")]
    return [(e.session, e.kind, e.reason) for e in found if isinstance(e, records.SessionEvent)]


async def sessions(world: World, *users: str) -> list[str]:
    return [
        info.session
        for user in users
        for info in (await world.log.sessions(partition_of(f"user:{user}", PARTITIONS), [user]))[0]
    ]


def tombstones(world: World) -> list[tuple[str, int]]:
    return [
        (fact.field, partition)
        for partition in range(PARTITIONS)
        for record in world.broker.partition("state", partition).records
        if record.value is not None and (fact := records.decode_state(record.value)).kind == "dead"
    ]


USERS = [f"u{n}" for n in range(12)]


async def test_a_dead_node_is_buried_and_swept(world: World) -> None:
    """inv 6: its sessions' disconnects are written once each, then nothing is left; the living stay."""
    await world.dispatcher()
    await record(world, "n1", *USERS)
    await record(world, "n2", "bob")
    await live(world, 3, "n1", "n2")
    await live(world, 4, "n2")
    assert (events(world), tombstones(world)) == ([], [])
    await live(world, 5, "n2")
    assert sorted(events(world)) == sorted((f"{user}-0", "disconnect", "node_lost") for user in USERS)
    assert sorted(tombstones(world)) == [("n1", partition) for partition in range(PARTITIONS)]
    assert await sessions(world, *USERS, "bob") == ["bob-0"]
    for shard in range(PARTITIONS):
        assert (await world.log.beat(shard, "n1")).fenced
        assert "n1" not in await world.log.beats(shard)
    await live(world, 20, "n2")
    assert len(events(world)) == len(USERS)
    assert world.metrics["d1"].registry.get_sample_value("holdfast_dispatch_swept_total") == len(USERS)


async def test_a_connect_that_was_not_told_is_written_first(world: World) -> None:
    """Where the node may have died before its `connect` was durable, both are written, in order."""
    await world.dispatcher()
    await record(world, "n1", "ann", since=10)
    await live(world, 1, "n1", told=10)
    await record(world, "n1", "ben", since=9, number=2)
    await live(world, 8)
    assert [event[:2] for event in events(world) if event[0] == "ann-0"] == [
        ("ann-0", "connect"),
        ("ann-0", "disconnect"),
    ]
    assert [event[:2] for event in events(world) if event[0] == "ben-0"] == [("ben-0", "disconnect")]


async def test_nothing_is_swept_before_it_is_durable(world: World) -> None:
    """inv 6: while Kafka is away neither a tombstone is set nor an entry removed."""
    await world.dispatcher()
    await record(world, "n1", *USERS)
    await live(world, 2, "n1")
    world.broker.away = True
    await live(world, 20)
    assert len(await sessions(world, *USERS)) == len(USERS)
    assert not (await world.log.tombstones(0))
    world.broker.away = False
    await live(world, 5)
    assert await sessions(world, *USERS) == []
    assert len(set(events(world))) == len(USERS)


async def test_more_than_a_page(world: World) -> None:
    """inv 6: a thousand sessions of one shard are swept page by page, each told once."""
    await world.dispatcher()
    await record(world, "n1", "u", count=3 * PAGE + 1)
    await live(world, 1, "n1")
    await live(world, 9)
    assert len(events(world)) == len(set(events(world))) == 3 * PAGE + 1
    assert await sessions(world, "u") == []


async def test_a_sweep_goes_on_elsewhere(world: World) -> None:
    """A dispatcher that ends in the middle leaves the rest to the next one (inv 6, 8)."""
    first = await world.dispatcher("d1")
    await record(world, "n1", "u", count=3 * PAGE)
    await live(world, 1, "n1")
    await live(world, 4)
    while not events(world):
        await world.clock.advance(0.01)
    assert len(await sessions(world, "u")) > 0
    world.nodes.remove(first)
    stopping = asyncio.ensure_future(first.stop())
    await world.clock.advance(1.0)
    await stopping
    left = len(await sessions(world, "u"))
    assert left > 0
    await world.dispatcher("d2")
    await live(world, 12)
    assert await sessions(world, "u") == []
    assert len(set(events(world))) == 3 * PAGE


async def test_a_tombstone_outlives_redis(world: World) -> None:
    """inv 6, 9: after Redis lost everything, an incarnation that was found dead is fenced all the same."""
    await world.dispatcher()
    await record(world, "n1", "ann")
    await live(world, 1, "n1")
    await live(world, 8)
    world.store.flush()
    await live(world, 5)
    for shard in range(PARTITIONS):
        assert (await world.log.beat(shard, "n1")).fenced
        assert list(await world.log.tombstones(shard)) == ["n1"]


async def test_old_tombstones_go(world: World) -> None:
    """inv 7: tombstones are kept for a day, in the topic too."""
    await world.dispatcher()
    old = records.StateRecord("dead", "", "n0", world.clock.now_ms() - TOMBSTONE_SECONDS * 1000 - 1)
    new = records.StateRecord("dead", "", "n1", world.clock.now_ms())
    owner = world.nodes[0].incarnation
    assert await world.log.load(0, owner, [old, new])
    await world.clock.advance(TIDY_SECONDS + 2)
    assert list(await world.log.tombstones(0)) == ["n1"]
    last = world.broker.partition("state", 0).records[-1]
    assert (last.key, last.value) == (old.key.encode(), None)


async def test_one_shard_that_hangs_delays_no_other(world: World) -> None:
    """inv 7: a sweep that waits for its shard leaves those of the others alone."""
    await world.dispatcher()
    await record(world, "n1", *USERS)
    await live(world, 1, "n1")
    plain = world.logs["d1"].sweep

    async def sweep(
        shard: int, owner: str, incarnation: str, done: Sequence[tuple[str, str]], limit: int
    ) -> Swept | None:
        if shard == 0:
            await asyncio.Event().wait()
        return await plain(shard, owner, incarnation, done, limit)

    world.logs["d1"].sweep = sweep  # type: ignore[method-assign]
    await live(world, 9)
    left = await sessions(world, *USERS)
    assert left
    assert {partition_of(f"user:{name.partition('-')[0]}", PARTITIONS) for name in left} == {0}

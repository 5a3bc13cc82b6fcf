"""Dispatch when the shard has lost something, or the log is another one: time by hand, all in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from holdfast import records
from holdfast.channel import partition_of
from holdfast.errors import Retry
from holdfast.log.port import Query, Rebuilding
from holdfast.policy import Policy
from tests.dispatch.world import PARTITIONS, World, channel_of, settled

if TYPE_CHECKING:
    from holdfast.log.port import View

ROOM = "room:x"
SHARD = partition_of(ROOM, PARTITIONS)
GROUP = channel_of(SHARD, "group")


async def views(world: World, *channels: str, **more: object) -> list[View]:
    return [await world.view(channel, **more) for channel in channels]


async def test_lost_suffix_is_noticed_by_an_idle_partition(world: World) -> None:
    """inv 9: a partition without traffic notices within a second that its shard lost writes."""
    await world.dispatcher()
    world.message(ROOM, "one")
    await world.clock.advance(0.5)
    snapshot = world.store.snapshot(SHARD)
    world.message(ROOM, "two")
    await world.clock.advance(1.5)
    whole = await world.view(ROOM)
    world.store.restore(SHARD, snapshot)
    assert (await world.log.read(SHARD, [Query(ROOM)]))[0].head == 1  # nobody knows yet
    await world.clock.advance(1.3)
    assert await world.view(ROOM) == whole
    assert world.count("d1", "rewinds_total") == 1


async def test_lost_suffix_and_dispatcher_at_once(world: World) -> None:
    """inv 4, 9: what a new dispatcher finds after the shard's position may be a replay: it is not pushed."""
    node = await world.access("a", ROOM)
    await world.dispatcher("d1")
    world.message(ROOM, "one")
    await world.clock.advance(0.2)
    snapshot = world.store.snapshot(SHARD)
    for number in range(5):
        world.message(ROOM, str(number))
    await world.clock.advance(0.2)
    pushed, whole = node.messages(), await world.view(ROOM)
    world.logs["d1"].hangs = {s: asyncio.get_running_loop().create_future() for s in range(PARTITIONS)}
    await world.clock.advance(1.2)
    world.registry.remove(world.nodes[0].incarnation)
    assert snapshot is not None
    snapshot.owner, snapshot.moved = "d1", world.store.shards[SHARD].moved
    world.store.restore(SHARD, snapshot)
    breaks = node.breaks(SHARD)
    await world.dispatcher("d2")
    await world.clock.advance(4.0)
    assert await world.view(ROOM) == whole
    assert node.messages() == pushed
    assert node.breaks(SHARD) > breaks
    assert node.chain(SHARD)[-1][1] == 5
    world.message(ROOM, "new")
    await world.clock.advance(0.2)
    assert node.messages() == [*pushed, (ROOM, 7)]


async def test_until_is_stored(world: World) -> None:
    """inv 9: a dispatcher that dies while it rebuilds leaves a shard that says so."""
    for number in range(500):
        world.message(ROOM, str(number))
    await world.dispatcher("d1")
    assert (await world.log.state(SHARD)).until == -1  # done within moments
    world.store.flush()
    log = world.logs["d1"]
    real = log.apply
    applied = 0

    async def one_batch_only(shard: int, batch: object) -> object:
        nonlocal applied
        if shard == SHARD and getattr(batch, "records", None):
            applied += 1
            if applied > 1:
                raise Retry("away")
        return await real(shard, batch)  # type: ignore[arg-type]

    log.apply = one_batch_only  # type: ignore[method-assign, assignment]
    await world.clock.advance(3)
    state = await world.log.state(SHARD)
    assert (state.until, state.watermark.offset, state.rebuilding) == (499, 199, True)
    with pytest.raises(Rebuilding):
        await world.log.read(SHARD, [Query(ROOM)])
    log.apply = real  # type: ignore[method-assign]
    await settled(world)
    assert (await world.view(ROOM)).head == 500


async def test_flush(world: World) -> None:
    """inv 9: after a flush logs, members, groups, cursors and revocations are what they were."""
    node = await world.access("a", ROOM, "user:bob")
    await world.dispatcher()
    bob, gone = "user:bob", channel_of(SHARD, "token")
    home = partition_of(bob, PARTITIONS)
    world.message(GROUP, "before")
    world.send(records.Member(GROUP, "bob", True))
    world.send(records.Member(GROUP, "eve", True))
    world.send(records.Member(GROUP, "eve", False))
    world.message(GROUP, "after")
    world.message(ROOM, "one", source="u\0c", score=1024)
    await world.clock.advance(1.5)
    epoch = (await world.view(GROUP)).epoch
    world.send(records.Cursor(GROUP, "bob", "web", 2, epoch))
    world.send(records.Revoke(gone, 77))
    world.send(records.Revoke(bob, 88))
    await world.clock.advance(1.5)
    more = {"device": "bob\0web", "member": "bob", "user": True}
    before = await views(world, ROOM, GROUP, bob, gone, **more)
    states = {(await world.log.state(shard)).generation for shard in range(PARTITIONS)}
    pushed = node.messages()
    world.store.flush()
    await settled(world)
    after = await views(world, ROOM, GROUP, bob, gone, **more)
    assert [(v.epoch, v.head, v.entries) for v in after] == [(v.epoch, v.head, v.entries) for v in before]
    assert [(v.cursor, v.membership, v.groups, v.revoked) for v in after] == [
        (v.cursor, v.membership, v.groups, v.revoked) for v in before
    ]
    assert after[1].membership is not None
    assert after[1].membership.seq == 1
    assert (after[1].cursor, after[2].revoked, after[3].revoked) == ((epoch, 2), 88, 77)
    assert [m.name for m in await world.log.members(SHARD, GROUP)] == ["bob"]
    assert {(await world.log.state(shard)).generation for shard in range(PARTITIONS)} == states
    assert node.messages() == pushed  # nothing that was replayed is shown as new
    world.message(ROOM, "again", source="u\0c", score=1024)
    world.message(ROOM, "two", source="u\0c", score=2048)
    await world.clock.advance(0.5)
    assert (await world.view(ROOM)).head == 2  # what was taken in before the flush is still known
    assert home == partition_of(bob, PARTITIONS)


async def test_facts_beyond_the_log(world: World) -> None:
    """inv 9: a revoked token stays revoked and a member a member, when the log forgot why long ago."""
    await world.dispatcher()
    world.send(records.Member(GROUP, "bob", True))
    world.send(records.Member(GROUP, "eve", True))
    token = channel_of(SHARD, "token")
    world.send(records.Revoke(token, 77))
    world.send(records.Cursor(ROOM, "bob", "web", 4, "g.1"))
    await world.clock.advance(1.5)
    world.message(ROOM, "later")
    await world.clock.advance(1.5)
    world.broker.truncate("outbound", SHARD, 4)
    home = partition_of("user:bob", PARTITIONS)
    end = world.broker.partition("outbound", home).end
    world.broker.truncate("outbound", home, end)
    world.store.flush()
    await settled(world)
    assert [m.name for m in await world.log.members(SHARD, GROUP)] == ["bob", "eve"]
    assert (await world.view(token)).revoked == 77
    assert (await world.view(ROOM, device="bob\0web")).cursor == ("g.1", 4)
    assert [g.name for g in (await world.view("user:bob", user=True)).groups] == [GROUP]
    assert world.count("d1", "unjoined_total") == 0


async def test_a_channel_that_began_before_the_replay_gets_a_new_epoch() -> None:
    """inv 3, 4: where the log no longer has a channel's beginning, its epoch is another, the rest is not."""
    world = World()
    await world.dispatcher()
    world.message(ROOM, "0")
    young = channel_of(SHARD, "user")
    await world.clock.advance(2)
    world.message(ROOM, "1")
    world.message(young, "0")
    await world.clock.advance(1)
    old = await views(world, ROOM, young)
    world.broker.truncate("outbound", SHARD, 1)
    world.store.flush()
    await settled(world)
    new = await views(world, ROOM, young)
    assert (new[0].epoch, new[0].head) == (old[0].epoch.rpartition(".")[0] + ".1", 1)
    assert new[1] == old[1]
    await world.stop()


async def test_the_replay_reaches_back_as_far_as_any_channel_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild does not read what no channel could hold any more."""
    monkeypatch.setattr("services.dispatch.rebuild.Policy", lambda: Policy(keep_seconds=1000))
    monkeypatch.setattr("holdfast.settings.DEFAULT_POLICIES", {"room": Policy(keep_seconds=1000)})
    world = World()
    await world.dispatcher()
    for number in range(5):
        world.message(ROOM, str(number))
    await world.clock.advance(1)
    for _ in range(17):
        await world.clock.advance(100)
    world.message(ROOM, "new")
    await world.clock.advance(1)
    world.store.flush()
    await settled(world)
    first = next(batch for batch in reversed(world.logs["d1"].batches) if batch.records)
    assert [record.offset for record in first.records] == [5]
    assert (await world.view(ROOM)).epoch.endswith(".5")
    await world.stop()


@pytest.mark.parametrize("lost_at", [1100, 1750])
async def test_a_repetition_is_not_shown_where_its_first_is_gone(
    monkeypatch: pytest.MonkeyPatch, lost_at: int
) -> None:
    """inv 3, 9: what repeats a message from before the replay is new only where it is too old to show."""
    policies = {"room": Policy(keep_seconds=1000)}
    monkeypatch.setattr("services.dispatch.rebuild.Policy", lambda: policies["room"])
    monkeypatch.setattr("holdfast.settings.DEFAULT_POLICIES", policies)
    world = World(policies=policies)
    await world.dispatcher()

    async def until(seconds: int) -> None:
        while world.clock.monotonic() < seconds:
            await world.clock.advance(50)

    world.message(ROOM, "first", source="u\0c", score=1024)
    await until(290)
    world.message(ROOM, "again", source="u\0c", score=1024)
    await until(900)
    world.message(ROOM, "later")
    await until(lost_at)
    assert (await world.view(ROOM)).head == 2
    world.store.flush()
    await settled(world)
    shown = b"".join(entry for _, entry in (await world.view(ROOM)).entries)
    assert b"later" in shown
    assert b"again" not in shown
    await world.stop()


async def test_damaged_shard(world: World) -> None:
    """inv 3, 9: a shard that was written in part is rebuilt as it was."""
    await world.dispatcher()
    rooms = [
        channel for number in range(40) if partition_of(channel := f"room:{number}", PARTITIONS) == SHARD
    ]
    for room in rooms * 3:
        world.message(room)
    await world.clock.advance(1.5)
    before = await views(world, *rooms)
    world.store.damage(SHARD)
    await settled(world)
    assert await views(world, *rooms) == before
    assert world.count("d1", "rebuilds_total", why="damaged") == 1


async def test_replies_are_pushed_while_rebuilding(world: World) -> None:
    """A reply waits for no rebuild: somebody waits for it, and it is in no log."""
    node = await world.access("a")
    await world.dispatcher()
    for number in range(3):
        world.message(ROOM, str(number))
    await world.clock.advance(1.5)
    snapshot = world.store.snapshot(SHARD)
    for number in range(300):
        world.message(ROOM, str(number))
    await world.clock.advance(0.2)
    world.store.restore(SHARD, snapshot)
    user = channel_of(SHARD, "user")
    world.send(records.Reply(user, "a-1", 1, world.clock.now_ms() + 9000, b'{"t":"reply"}'))
    await settled(world)
    await world.clock.advance(0.2)
    assert [reply.connection for reply in node.replies()] == [1]

"""What both adapters do while a shard is rebuilt: nothing is read, facts are loaded, damage is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis import Redis as Client

from holdfast import records
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.port import (
    NEW,
    WINDOW_MS,
    Batch,
    Change,
    LogRecord,
    Membership,
    NodeUpdate,
    Op,
    Outcome,
    Query,
    Rebuilding,
    Status,
    Watermark,
)
from holdfast.log.redis import RedisLog
from holdfast.records import StateRecord
from holdfast.settings import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deploy.local.servers import Running
    from holdfast.log.port import Applied, Log

T0 = 6000 * WINDOW_MS


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    """One log of two shards, empty."""
    if request.param == "memory":
        yield MemoryLog(MemoryStore(2), {})
        return
    server = request.getfixturevalue("redis_server")
    settings = Redis(url=f"redis://{server.address}/0", prefix=request.getfixturevalue("unique_prefix"))
    made = RedisLog(settings, 2, {})
    yield made
    await made.close()


def message(offset: int, channel: str = "user:a", **more: object) -> LogRecord:
    body = records.log_entry(T0 + offset, b'"id":"m%d"' % offset)
    return LogRecord(offset, T0 + offset, Op.APPEND, channel, body=body, **more)  # type: ignore[arg-type]


async def claim(log: Log, owner: str = "d") -> None:
    state = await log.claim(0, owner, expected=await log.state(0), generation="")
    assert state.owner == owner


async def apply(log: Log, *batch: LogRecord, generation: str = "") -> Applied:
    carried = (await log.state(0)).watermark
    last = Watermark(batch[-1].offset, batch[-1].ts, batch[-1].offset + 7) if batch else carried
    return await log.apply(0, Batch("d", carried, last, batch, now_ms=last.ts, generation=generation))


async def test_an_empty_shard_is_rebuilding(log: Log) -> None:
    """Until a tenure has begun nothing is read, and routes are taken all the same (inv 9)."""
    for asked in (log.read(0, [Query("user:a")]), log.changed(0, NEW, 1), log.members(0, "group:g")):
        with pytest.raises(Rebuilding):
            await asked
    await claim(log)
    assert (await log.state(0)).rebuilding
    assert (await log.beat(0, "n")).rebuilding
    assert await log.update(0, NodeUpdate("n", 1, [Change("+r", "user:a")])) == 1
    begun = await log.begin(0, "d", generation="g", until=NEW)
    assert (begun.generation, begun.until, begun.rebuilding) == ("g", NEW, False)
    (view,) = await log.read(0, [Query("user:a")])
    assert (view.epoch, view.generation, view.position) == ("", "g", NEW)
    assert not (await log.beat(0, "n")).rebuilding
    assert list(await log.members(0, "group:g")) == []


async def test_rebuilding_ends_at_until(log: Log) -> None:
    """A shard is rebuilding until its position reaches `until`, however batches are cut (inv 9)."""
    await claim(log)
    assert (await log.begin(0, "d", generation="g", until=5)).until == 5
    for offset in (1, 4):
        await apply(log, message(offset))
        with pytest.raises(Rebuilding):
            await log.read(0, [Query("user:a")])
    await apply(log, message(5), message(6))
    (view,) = await log.read(0, [Query("user:a")])
    assert (view.head, view.position) == (4, 6)
    assert (await log.state(0)).until == NEW


async def test_only_the_owner_begins_and_loads(log: Log) -> None:
    """A superseded dispatcher changes neither facts nor generation (inv 8)."""
    await claim(log)
    assert (await log.begin(0, "x", generation="h", until=9)).owner == "d"
    assert not await log.load(0, "x", [StateRecord("revoke", "user:a", "", 5)])
    assert not await log.load(0, "", [StateRecord("revoke", "user:a", "", 5)])
    await log.begin(0, "d", generation="g", until=NEW)
    (view,) = await log.read(0, [Query("user:a")])
    assert (view.generation, view.revoked) == ("g", 0)


async def test_load(log: Log) -> None:
    """Facts come back as the state topic has them, never over a higher version (inv 9)."""
    await claim(log)
    facts = [
        StateRecord("member", "group:g", "bob", 10, "g.3", 2),
        StateRecord("member", "group:g", "bob", 7, "g.3", 1, present=False),
        StateRecord("member", "group:g", "eve", 8, "g.3", 1),
        StateRecord("member", "group:g", "eve", 11, "g.3", 1, present=False),
        StateRecord("group", "user:bob", "group:g", 10, "g.3", 2),
        StateRecord("cursor", "user:bob", "bob\0web", 12, "g.4", 9),
        StateRecord("cursor", "user:bob", "bob\0web", 11, "g.4", 3),
        StateRecord("revoke", "user:bob", "", 99, seq=99),
        StateRecord("revoke", "user:bob", "", 98, seq=98),
        StateRecord("unheard of", "user:bob", "", 1),
    ]
    assert await log.load(0, "d", facts)
    assert await log.load(0, "d", facts)
    await log.begin(0, "d", generation="g", until=NEW)
    assert list(await log.members(0, "group:g")) == [Membership("bob", 10, "g.3", 2)]
    (view,) = await log.read(0, [Query("user:bob", user=True, device="bob\0web")])
    assert list(view.groups) == [Membership("group:g", 10, "g.3", 2)]
    assert (view.cursor, view.revoked) == (("g.4", 9), 99)


async def test_a_replay_undoes_no_loaded_fact(log: Log) -> None:
    """An older join of one who left meanwhile does not bring the member back, not even for a moment."""
    await claim(log)
    left = StateRecord("member", "group:g", "bob", 7, "g.3", 1, present=False)
    await log.load(0, "d", [left, StateRecord("revoke", "token:t", "", 50, seq=50)])
    await log.begin(0, "d", generation="g", until=7)
    first = await apply(log, message(3, "group:g"), LogRecord(4, T0, Op.JOIN, "group:g", "bob"))
    assert [p.outcome for p in first.placed] == [Outcome.DONE, Outcome.SKIPPED]
    again = await apply(
        log,
        LogRecord(5, T0, Op.REVOKE, "token:t", score=50),
        message(6, "group:g"),
        LogRecord(7, T0, Op.LEAVE, "group:g", "bob"),
    )
    assert [p.outcome for p in again.placed] == [Outcome.SKIPPED, Outcome.DONE, Outcome.DONE]
    assert list(await log.members(0, "group:g")) == []
    # What was skipped has touched its channel as it did at first.
    assert list((await log.changed(0, NEW, 9))[1]) == [("token:t", 5), ("group:g", 7)]
    (late,) = (await apply(log, LogRecord(8, T0, Op.JOIN, "group:g", "bob"))).placed
    assert (late.outcome, late.seq) == (Outcome.DONE, 2)


async def test_a_member_s_own_join_is_decided_again(log: Log) -> None:
    """A join that is replayed onto its own fact gets its place in the rebuilt log (inv 9)."""
    await claim(log)
    await log.load(0, "d", [StateRecord("member", "group:g", "bob", 7, "g.1", 40)])
    await log.begin(0, "d", generation="g", until=7)
    placed = (await apply(log, message(5, "group:g"), LogRecord(7, T0, Op.JOIN, "group:g", "bob"))).placed
    assert (placed[1].outcome, placed[1].seq, placed[1].epoch) == (Outcome.DONE, 1, "g.5")


async def test_versions_of_another_generation_mean_nothing(log: Log) -> None:
    """In a log that begins anew, offsets are low again: what they decide counts (inv 9)."""
    await claim(log)
    facts = [
        StateRecord("member", "group:g", "bob", 1000, "old.3", 2),
        StateRecord("member", "group:g", "eve", 1000, "old.3", 2, present=False),
        StateRecord("group", "user:bob", "group:h", 1000, "old.3", 2),
        StateRecord("group", "user:bob", "group:i", 1000, "old.3", 2, present=False),
    ]
    await log.load(0, "d", facts)
    await log.begin(0, "d", generation="g", until=9)
    placed = (
        await apply(
            log,
            LogRecord(1, T0, Op.LEAVE, "group:g", "bob"),
            LogRecord(2, T0, Op.JOIN, "group:g", "eve"),
            LogRecord(3, T0, Op.GROUP, "user:bob", "group:h", 5, 0, epoch="g.1", seq=1),
            LogRecord(9, T0, Op.GROUP, "user:bob", "group:i", 6, 1, epoch="g.1", seq=1),
        )
    ).placed
    assert [p.outcome for p in placed] == [Outcome.DONE] * 4
    assert [held.name for held in await log.members(0, "group:g")] == ["eve"]
    (view,) = await log.read(0, [Query("user:bob", user=True)])
    assert [held.name for held in view.groups] == ["group:i"]


async def test_wipe(log: Log) -> None:
    """A new generation empties the logs, and keeps facts, routes and sessions (inv 9)."""
    await claim(log)
    await log.begin(0, "d", generation="g", until=NEW)
    await log.update(0, NodeUpdate("n", 1, [Change("+r", "room:0")]))
    batch = [message(n, f"room:{n}", source="s", score=1) for n in range(150)]
    await apply(log, *batch, LogRecord(150, T0, Op.JOIN, "group:g", "bob"))
    begun = await log.begin(0, "d", generation="h", until=1, wipe=True)
    assert (begun.watermark, begun.saved, begun.generation) == (Watermark(), NEW, "h")
    applied = await apply(log, message(0, "room:0", source="s", score=1), message(1, "room:1"))
    assert [(p.outcome, p.seq, p.epoch) for p in applied.placed] == [
        (Outcome.DONE, 1, "h.0"),
        (Outcome.DONE, 1, "h.1"),
    ]
    assert applied.placed[0].nodes == ("n",)
    views = await log.read(0, [Query("room:0", 0), Query("room:2", 0)])
    assert [(view.epoch, view.head, len(view.entries)) for view in views] == [("h.0", 1, 1), ("", 0, 0)]
    assert [held.name for held in await log.members(0, "group:g")] == ["bob"]
    assert list((await log.changed(0, NEW, 9))[1]) == [("room:0", 0), ("room:1", 1)]


async def test_another_generation_is_behind(log: Log) -> None:
    """A shard that fell back to an earlier generation takes in nothing of the later one (inv 3, 9)."""
    await claim(log)
    await log.begin(0, "d", generation="g", until=NEW)
    assert (await apply(log, message(1), generation="g")).status is Status.APPLIED
    assert (await apply(log, message(2), generation="h")).status is Status.BEHIND
    assert (await log.state(0)).watermark.offset == 1


async def test_a_tenure_takes_a_token_that_moved(log: Log) -> None:
    """Beginning moves the token, so that nobody takes it for dead (inv 8)."""
    await claim(log)
    seen = await log.state(0)
    await log.begin(0, "d", generation="g", until=NEW)
    assert (await log.claim(0, "x", expected=seen, generation="")).owner == "d"


async def damage(log: Log, request: pytest.FixtureRequest) -> None:
    """Make the shard fail in the middle of writing."""
    if isinstance(log, MemoryLog):
        log._store.damage(0)
        return
    assert isinstance(log, RedisLog)
    server: Running = request.getfixturevalue("redis_server")
    host, _, port = server.address.rpartition(":")
    with Client(host=host, port=int(port)) as client:
        client.set(log._keys[0].list("room:b"), "not a list")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await apply(log, message(2, "room:a"), message(3, "room:b"), message(4, "room:c"))


async def test_damage(log: Log, request: pytest.FixtureRequest) -> None:
    """A batch that failed while it was written marks the shard, until it is wiped and rebuilt (inv 9)."""
    await claim(log)
    await log.begin(0, "d", generation="g", until=NEW)
    await apply(log, message(0, "room:b"), message(1, "room:a"))
    await damage(log, request)
    state = await log.state(0)
    assert (state.damaged, state.rebuilding, state.watermark.offset) == (True, True, 1)
    assert (await apply(log, message(2, "room:a"))).status is Status.DAMAGED
    with pytest.raises(Rebuilding):
        await log.read(0, [Query("room:a")])
    assert (await log.begin(0, "d", generation="g", until=4)).damaged
    assert not (await log.begin(0, "d", generation="g", until=4, wipe=True)).damaged
    await apply(log, *(message(n, f"room:{name}") for n, name in enumerate("baabc")))
    views = await log.read(0, [Query(f"room:{name}", 0) for name in "abc"])
    assert [(view.epoch, view.head, len(view.entries)) for view in views] == [
        ("g.1", 2, 2),
        ("g.0", 2, 2),
        ("g.4", 1, 1),
    ]

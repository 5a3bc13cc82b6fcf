"""What both adapters do about nodes that die, sessions that take each other's place, and loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.errors import Retry
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.log.port import (
    FENCED,
    REPLACED,
    Batch,
    Change,
    LogRecord,
    NodeUpdate,
    Op,
    SessionInfo,
    Watermark,
)
from holdfast.log.redis import RedisLog
from holdfast.records import StateRecord
from holdfast.settings import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deploy.local.servers import Running
    from holdfast.log.port import Log


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    """One log of two shards; shard 0 is owned by d."""
    made: Log
    if request.param == "memory":
        made = MemoryLog(MemoryStore(2), {})
    else:
        server = request.getfixturevalue("redis_server")
        url = f"redis://{server.address}/0"
        made = RedisLog(Redis(url=url, prefix=request.getfixturevalue("unique_prefix")), 2, {})
    await made.claim(0, "d", expected=await made.state(0), generation="g")
    yield made
    await made.close()


def dead(node: str, *, present: bool = True) -> StateRecord:
    return StateRecord("dead", "", node, 1000, present=present)


def plus(user: str, session: str, node: str, **more: object) -> Change:
    return Change("+s", user, SessionInfo(session, node, "web", **{"since": 5, **more}))  # type: ignore[arg-type]


async def kicks(log: Log, node: str) -> list[tuple[str, str]]:
    return [(kick.session, kick.code) for kick in (await log.beat(0, node)).kicks]


async def test_a_buried_incarnation_never_returns(log: Log) -> None:
    """It beats no more, writes nothing more, and is told so; others go on (inv 6)."""
    await log.update(0, NodeUpdate("n1", 1, [plus("a", "s1", "n1")]))
    await log.beat(0, "n1")
    assert not (await log.beat(0, "n2")).fenced
    assert not await log.load(0, "x", [dead("n1")]), "another owner buries nobody"
    assert await log.tombstones(0) == {}
    assert await log.load(0, "d", [dead("n1")])
    assert await log.tombstones(0) == {"n1": 1000}
    assert (await log.beat(0, "n1")).fenced
    assert await log.update(0, NodeUpdate("n1", 2, [plus("a", "s2", "n1")])) == FENCED
    assert await log.update(0, NodeUpdate("n1", 3, (), whole=True)) == FENCED
    assert [info.session for info in (await log.sessions(0, ["a"]))[0]] == ["s1"]
    assert await log.beats(0) == {"n1": 1, "n2": 1}
    assert await log.update(0, NodeUpdate("n2", 1, [plus("a", "s3", "n2")])) == 1
    await log.load(0, "d", [dead("n1", present=False)])
    assert not (await log.beat(0, "n1")).fenced


async def test_sweep(log: Log) -> None:
    """Page by page, sessions stay until they are said to be done; then nothing is known of it (inv 6)."""
    rooms = [f"room:{number}" for number in range(5)]
    changes = [
        *(Change("+r", room) for room in rooms),
        *(plus("a", f"s{n}", "n1", client="c") for n in range(4)),
    ]
    await log.update(0, NodeUpdate("n1", 1, changes))
    await log.update(0, NodeUpdate("n2", 1, [Change("+r", "room:0"), plus("a", "t", "n2")]))
    await log.beat(0, "n1", told=7, load=3)
    await log.beat(0, "n2", load=4)
    await log.ask(0, "n1", "drain")
    assert await log.sweep(0, "d", "n1", (), 3) is None, "nobody sweeps what is not buried"
    await log.load(0, "d", [dead("n1")])
    assert await log.sweep(0, "x", "n1", (), 3) is None, "nor what is another's"
    done: list[tuple[str, str]] = []
    seen: list[str] = []
    for _ in range(20):
        swept = await log.sweep(0, "d", "n1", done, 3)
        assert swept is not None
        assert swept.told == 7
        assert len(swept.sessions) <= 3
        assert all(user == "a" and info.node == "n1" for user, info in swept.sessions)
        again = await log.sweep(0, "d", "n1", (), 100)
        assert again is not None
        assert {info.session for _, info in again.sessions} >= {info.session for _, info in swept.sessions}
        if swept.over:
            break
        done = [(user, info.session) for user, info in swept.sessions]
        seen += [session for _, session in done]
    else:
        pytest.fail("never over")
    assert sorted(seen) == ["s0", "s1", "s2", "s3"]
    assert [info.session for info in (await log.sessions(0, ["a"]))[0]] == ["t"]
    assert await log.beats(0) == {"n2": 1}
    assert await kicks(log, "n1") == []
    answer = await log.beat(0, "n2", load=4)
    assert answer.loads == {"n2": 4}
    assert (await log.beat(0, "n1")).asks == ()
    for room, nodes in (("room:0", ("n2",)), ("room:1", ())):
        mark = (await log.state(0)).watermark
        record = LogRecord(mark.offset + 1, 1, Op.APPEND, room, body=b"x")
        applied = await log.apply(0, Batch("d", mark, Watermark(record.offset, 1, 0), [record], now_ms=1))
        assert applied.placed[0].nodes == nodes


async def test_whoever_holds_something_is_known_by_beats(log: Log) -> None:
    """A node that wrote and never beat is found by who looks for the dead (inv 6)."""
    await log.update(0, NodeUpdate("n1", 1, [Change("+r", "room:1")]))
    assert await log.beats(0) == {"n1": 0}


async def test_the_newest_takes_the_seat(log: Log) -> None:
    """Of the sessions with one seat the newcomer stays, on whatever node; those without one stay too."""
    await log.update(0, NodeUpdate("n1", 1, [plus("a", "s1", "n1", seat="*"), plus("a", "free", "n1")]))
    await log.update(
        0, NodeUpdate("n1", 2, [plus("a", "s2", "n1", seat="=web"), plus("b", "s3", "n1", seat="*")])
    )
    assert await kicks(log, "n1") == []
    await log.update(0, NodeUpdate("n2", 1, [plus("a", "s4", "n2", seat="*", since=1)]))
    for _ in range(2):
        answer = await log.beat(0, "n1")
        assert [(kick.user, kick.session, kick.code, kick.reason) for kick in answer.kicks] == [
            ("a", "s1", "disconnected", REPLACED)
        ], "until it is gone"
    assert await kicks(log, "n2") == []
    await log.update(0, NodeUpdate("n1", 3, [Change("-s", "a", session="s1")]))
    assert await kicks(log, "n1") == []


@pytest.mark.parametrize("more", [{"client": "c"}, {"seat": "*"}])
async def test_who_writes_all_again_replaces_nothing_newer(log: Log, more: dict[str, str]) -> None:
    """After a loss the nodes write in any order: the session that began later stays (inv 9)."""
    code = "superseded" if "client" in more else "disconnected"
    newer, older = plus("a", "s2", "n2", since=9, **more), plus("a", "s1", "n1", since=8, **more)
    await log.update(0, NodeUpdate("n2", 4, [newer], whole=True))
    await log.update(0, NodeUpdate("n1", 7, [older], whole=True))
    assert await kicks(log, "n1") == [("s1", code)]
    assert await kicks(log, "n2") == []
    await log.update(0, NodeUpdate("n1", 8, [Change("-s", "a", session="s1")]))
    await log.update(0, NodeUpdate("n3", 1, [plus("a", "s3", "n3", since=1, **more)]))
    assert await kicks(log, "n2") == [("s2", code)], (
        "a newcomer counts as the newest, whatever its clock says"
    )


async def test_the_other_order(log: Log) -> None:
    """The same, when the older one was written first."""
    await log.update(0, NodeUpdate("n1", 7, [plus("a", "s1", "n1", since=8, seat="*")], whole=True))
    await log.update(0, NodeUpdate("n2", 4, [plus("a", "s2", "n2", since=9, seat="*")], whole=True))
    assert (await kicks(log, "n1"), await kicks(log, "n2")) == ([("s1", "disconnected")], [])


async def test_who_has_ended_takes_nobodys_place(log: Log) -> None:
    """A session written again without its client lets go of it: whoever has it next supersedes nobody."""
    await log.update(0, NodeUpdate("n1", 1, [plus("a", "s1", "n1", client="c")]))
    await log.update(0, NodeUpdate("n1", 2, [plus("a", "s1", "n1")], whole=True))
    await log.update(0, NodeUpdate("n2", 1, [plus("a", "s2", "n2", client="c")]))
    assert await kicks(log, "n1") == []
    await log.update(0, NodeUpdate("n1", 3, [Change("-s", "a", session="s1")]))
    await log.update(0, NodeUpdate("n1", 4, [plus("a", "s3", "n1", client="c")]))
    assert await kicks(log, "n2") == [("s2", "superseded")]


async def test_loads(log: Log) -> None:
    """Who tells its load learns the others'."""
    assert (await log.beat(0, "n1", load=0)).loads == {"n1": 0}
    assert (await log.beat(0, "n2", load=7)).loads == {"n1": 0, "n2": 7}
    assert (await log.beat(0, "n1")).loads == {}
    assert await log.loads(0) == {"n1": 0, "n2": 7}
    assert await log.loads(1) == {}


@pytest.mark.redis
async def test_a_server_that_takes_no_writes_shows_no_beats(
    redis_server: Running, unique_prefix: str
) -> None:
    """Where nobody can beat, nobody is looked at: a read-only Redis makes nobody dead (inv 6)."""
    settings = Redis(url=f"redis://{redis_server.address}/0", prefix=unique_prefix)
    log = RedisLog(settings, 2, {})
    await log.beat(0, "n1")
    await log._caller.command(0, "config", ("CONFIG", "SET", "min-replicas-to-write", "1"))
    try:
        with pytest.raises(Retry):
            await log.beats(0)
    finally:
        await log._caller.command(0, "config", ("CONFIG", "SET", "min-replicas-to-write", "0"))
    assert await log.beats(0) == {"n1": 1}
    await log.close()

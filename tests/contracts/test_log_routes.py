"""The log port: routes, sessions, kicks and beats; every adapter answers alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.log.port import (
    Change,
    NodeUpdate,
    SessionInfo,
)
from tests.contracts.log_world import T0, Owner, message

if TYPE_CHECKING:
    from holdfast.log.port import Log


def session(name: str, node: str = "n1", client: str = "", since: int = T0) -> SessionInfo:
    return SessionInfo(name, node, "web", since, client, "j1")


def plus(user: str, info: SessionInfo) -> Change:
    return Change("+s", user, info)


async def test_route_is_told_with_the_append(owner: Owner, log: Log) -> None:
    """Append and route look-up are one step; a node that left is told no more (inv 5)."""
    await log.update(0, NodeUpdate("n1", 1, [Change("+r", "user:a")]))
    await log.update(0, NodeUpdate("n2", 1, [Change("+r", "user:a"), Change("+r", "user:a")]))
    placed = await owner.placed(message(1), message(2, "user:b"))
    assert [p.nodes for p in placed] == [("n1", "n2"), ()]
    await log.update(0, NodeUpdate("n1", 2, [Change("-r", "user:a"), Change("-r", "user:never")]))
    assert [p.nodes for p in await owner.placed(message(3))] == [("n2",)]


async def test_update_numbers(log: Log) -> None:
    """Update k applies only onto k-1, once; below, the shard says what it knows (inv 8)."""
    assert await log.update(0, NodeUpdate("n1", 2, [])) == 0
    assert await log.update(0, NodeUpdate("n1", 1, [plus("a", session("s1"))])) == 1
    assert await log.update(0, NodeUpdate("n1", 1, [plus("a", session("s2"))])) == 1
    assert await log.update(0, NodeUpdate("n1", 3, [])) == 1
    assert await log.update(0, NodeUpdate("n1", 2, [plus("a", session("s3"))])) == 2
    assert [info.session for info in (await log.sessions(0, ["a"]))[0]] == ["s1", "s3"]


async def test_whole_replaces(owner: Owner, log: Log) -> None:
    """A whole update replaces what this incarnation holds, and nothing of another's (inv 9)."""
    await log.update(0, NodeUpdate("n2", 1, [Change("+r", "user:a"), plus("a", session("x", "n2"))]))
    changes = [
        Change("+r", "user:a"),
        Change("+r", "user:b"),
        plus("a", session("s1")),
        plus("a", session("s2")),
    ]
    await log.update(0, NodeUpdate("n1", 1, changes))
    await log.kick(0, "a", ["s1", "s2"], "disconnected", "")
    whole = [Change("+r", "user:b"), plus("a", session("s2"))]
    assert await log.update(0, NodeUpdate("n1", 7, whole, whole=True)) == 7
    placed = await owner.placed(message(1, "user:a"), message(2, "user:b"))
    assert [p.nodes for p in placed] == [("n2",), ("n1",)]
    assert [info.session for info in (await log.sessions(0, ["a"]))[0]] == ["s2", "x"]
    assert [kick.session for kick in (await log.beat(0, "n1")).kicks] == ["s2"]
    assert await log.update(0, NodeUpdate("n1", 7, [], whole=True)) == 7
    assert len((await log.sessions(0, ["a"]))[0]) == 2, "a late repetition changes nothing"


async def test_sessions(log: Log) -> None:
    """Sessions are told as they were written, by user, and of no user whose name only begins alike."""
    info = SessionInfo("s1", "n1", "web", 1_700_000_000_123, "c\0x", "jé")
    await log.update(0, NodeUpdate("n1", 1, [plus("a", info), plus("ab", session("s2"))]))
    assert [list(found) for found in await log.sessions(0, ["a", "b", "ab"])] == [
        [info],
        [],
        [session("s2")],
    ]
    await log.update(0, NodeUpdate("n1", 2, [Change("-s", "a", session="s1")]))
    assert [list(found) for found in await log.sessions(0, ["a"])] == [[]]


async def test_newer_client_supersedes(log: Log) -> None:
    """A second session of one client kicks the first; its node is told until it is gone (inv 12)."""
    await log.update(0, NodeUpdate("n1", 1, [plus("a", session("s1", client="c"))]))
    await log.update(0, NodeUpdate("n2", 1, [plus("a", session("s2", "n2", client="c"))]))
    for _ in range(2):
        assert [(k.user, k.session, k.code) for k in (await log.beat(0, "n1")).kicks] == [
            ("a", "s1", "superseded")
        ]
    assert list((await log.beat(0, "n2")).kicks) == []
    await log.update(0, NodeUpdate("n1", 2, [Change("-s", "a", session="s1")]))
    assert list((await log.beat(0, "n1")).kicks) == []
    await log.update(0, NodeUpdate("n1", 3, [plus("a", session("s3", client="c"))]))
    assert [k.session for k in (await log.beat(0, "n2")).kicks] == ["s2"]
    await log.update(0, NodeUpdate("n1", 4, [Change("-s", "a", session="s3")]))
    await log.update(0, NodeUpdate("n1", 5, [plus("a", session("s4", client="c"))]))
    assert list((await log.beat(0, "n1")).kicks) == []


async def test_a_session_written_again(log: Log) -> None:
    """A session that is written again replaces what was written of it, and supersedes nothing."""
    await log.update(0, NodeUpdate("n1", 1, [plus("a", session("s1", client="c"))]))
    newer = session("s1", client="c", since=T0 + 1)
    await log.update(0, NodeUpdate("n1", 2, [plus("a", newer)]))
    assert [list(found) for found in await log.sessions(0, ["a"])] == [[newer]]
    assert list((await log.beat(0, "n1")).kicks) == []


async def test_kick(log: Log) -> None:
    """A kick counts the sessions that are there, and carries its reason."""
    await log.update(0, NodeUpdate("n1", 1, [plus("a", session("s1")), plus("a", session("s2"))]))
    assert await log.kick(0, "a", ["s1", "nope", "s1"], "disconnected", "because\0so") == 1
    (kick,) = (await log.beat(0, "n1")).kicks
    assert (kick.user, kick.session, kick.code, kick.reason) == ("a", "s1", "disconnected", "because\0so")


async def test_beats(owner: Owner, log: Log) -> None:
    """Beats are counted by incarnation, and bring back number, watermark, generation and asks (inv 6)."""
    await log.update(0, NodeUpdate("n1", 1, []))
    await owner.placed(message(3))
    await log.ask(0, "n1", "drain")
    await log.ask(0, "n1", "drain")
    await log.beat(0, "n1")
    answer = await log.beat(0, "n1")
    assert (answer.number, answer.watermark, answer.generation) == (1, owner.watermark, "g1")
    assert list(answer.asks) == ["drain"]
    other = await log.beat(0, "n2")
    assert (other.number, list(other.asks)) == (0, [])
    assert await log.beats(0) == {"n1": 2, "n2": 1}


async def test_healthy(log: Log) -> None:
    """A store that answers is healthy."""
    assert await log.healthy()

"""The log port's contract: every adapter answers alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import records
from holdfast.errors import Stop
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
    Placed,
    Query,
    SessionInfo,
    Status,
    Watermark,
)
from holdfast.log.redis import RedisLog
from holdfast.policy import Policy
from holdfast.settings import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from holdfast.log.port import Applied, Log

T0 = 6000 * WINDOW_MS
POLICIES = {
    "user": Policy(keep_count=5, keep_seconds=1000),
    "group": Policy(keep_seconds=2000),
    "room": Policy(keep_seconds=400),
}


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[int], Log]]:
    """Make handles on one store, each for a number of partitions."""
    made: list[Log] = []
    if request.param == "memory":
        stores: dict[int, MemoryStore] = {}

        def make(partitions: int) -> Log:
            return MemoryLog(stores.setdefault(partitions, MemoryStore(partitions)), POLICIES)

    else:
        server = request.getfixturevalue("redis_server")
        settings = Redis(url=f"redis://{server.address}/0", prefix=request.getfixturevalue("unique_prefix"))

        def make(partitions: int) -> Log:
            made.append(RedisLog(settings, partitions, POLICIES))
            return made[-1]

    yield make
    for log in made:
        await log.close()


@pytest.fixture
async def log(logs: Callable[[int], Log]) -> Log:
    """One started handle."""
    log = logs(4)
    await log.start()
    return log


class Owner:
    """A dispatcher in short: owns shard 0 and carries its watermark."""

    def __init__(self, log: Log, name: str = "d1") -> None:
        self.log = log
        self.name = name
        self.watermark = Watermark()

    async def claim(self) -> bool:
        state = await self.log.state(0)
        state = await self.log.claim(0, self.name, expected=state, generation="g1")
        self.watermark = state.watermark
        return state.owner == self.name

    async def apply(self, *batch: LogRecord, saved: int = NEW, last: Watermark | None = None) -> Applied:
        carried = self.watermark
        if last is None:
            last = Watermark(batch[-1].offset, batch[-1].ts, batch[-1].offset + 7) if batch else carried
        applied = await self.log.apply(0, Batch(self.name, carried, last, batch, saved, now_ms=last.ts))
        if applied.status is Status.APPLIED and last.offset > carried.offset:
            self.watermark = last
        return applied

    async def placed(self, *batch: LogRecord) -> Sequence[Placed]:
        applied = await self.apply(*batch)
        assert applied.status is Status.APPLIED, applied.reason
        return applied.placed


@pytest.fixture
async def owner(log: Log) -> Owner:
    """A dispatcher that owns shard 0."""
    owner = Owner(log)
    assert await owner.claim()
    return owner


def message(
    offset: int, channel: str = "user:a", source: str = "", score: int = 0, content: int = 0, ts: int = T0
) -> LogRecord:
    body = records.log_entry(ts, b'"id":"m%d"' % offset)
    return LogRecord(offset, ts, Op.APPEND, channel, source, score, content, body)


async def seqs(log: Log, channel: str, after: int = 0, **more: object) -> list[int]:
    (view,) = await log.read(0, [Query(channel, after, **more)])  # type: ignore[arg-type]
    return [seq for seq, _ in view.entries]


# the token


async def test_empty_shard(log: Log) -> None:
    """An empty shard says so: no owner, no generation, a watermark before any record."""
    state = await log.state(0)
    assert (state.owner, state.moved, state.generation) == ("", 0, "")
    assert (state.watermark, state.saved, state.until) == (Watermark(), NEW, NEW)


async def test_claim_once(log: Log) -> None:
    """Of two that claim what they saw alike, one gets it (inv 8)."""
    seen = await log.state(0)
    first = await log.claim(0, "d1", expected=seen, generation="g1")
    second = await log.claim(0, "d2", expected=seen, generation="g2")
    assert first.owner == second.owner == "d1"
    assert second.generation == "g1"


async def test_claim_fails_when_the_owner_moved(owner: Owner, log: Log) -> None:
    """An owner that applies, if only nothing, keeps its token (inv 8)."""
    seen = await log.state(0)
    await owner.apply()
    assert (await log.claim(0, "d2", expected=seen, generation="g2")).owner == "d1"


async def test_takeover_fences_the_old_owner(owner: Owner, log: Log) -> None:
    """After a takeover the superseded owner changes nothing, nor releases (inv 8)."""
    other = Owner(log, "d2")
    assert await other.claim()
    assert (await owner.apply(message(1))).status is Status.FENCED
    await log.release(0, "d1")
    assert (await log.state(0)).owner == "d2"
    assert (await other.apply(message(1))).placed[0].seq == 1


async def test_release(owner: Owner, log: Log) -> None:
    """A released shard has no owner, and nobody without a name applies to it (inv 8)."""
    await log.release(0, "d1")
    assert (await log.state(0)).owner == ""
    assert (await log.apply(0, Batch("", Watermark(), Watermark()))).status is Status.FENCED


@pytest.mark.redis
@pytest.mark.parametrize("logs", ["redis"], indirect=True)
async def test_partitions_are_fixed(logs: Callable[[int], Log]) -> None:
    """A store made with another number of partitions is refused, naming the setting (inv 11)."""
    await logs(1).claim(0, "d1", expected=await logs(1).state(0), generation="g")
    other = logs(3)  # the first tag is the same for both
    with pytest.raises(Stop, match=r"kafka\.partitions"):
        await other.claim(0, "d2", expected=await other.state(0), generation="g")


# apply


async def test_append_in_order(owner: Owner, log: Log) -> None:
    """A channel's seq is contiguous, several records of one batch included (inv 3)."""
    placed = await owner.placed(message(3), message(5), message(6, "room:x"))
    assert [(p.outcome, p.seq, p.epoch) for p in placed] == [
        (Outcome.DONE, 1, "g1.3"),
        (Outcome.DONE, 2, "g1.3"),
        (Outcome.DONE, 1, "g1.6"),
    ]
    assert [p.seq for p in await owner.placed(message(9))] == [3]
    (view,) = await log.read(0, [Query("user:a", 0)])
    assert (view.epoch, view.head, view.first) == ("g1.3", 3, 1)
    assert [records.entry_ts(entry) for _, entry in view.entries] == [T0] * 3
    assert b'"m5"' in view.entries[1][1]


async def test_watermark_and_saved(owner: Owner, log: Log) -> None:
    """The watermark follows the batch, `saved` what was said; neither falls."""
    assert (await owner.apply(message(4), saved=2)).found == Watermark()
    applied = await owner.apply(saved=1)
    assert applied.found == Watermark(4, T0, 11)
    state = await log.state(0)
    assert (state.watermark, state.saved, state.moved) == (Watermark(4, T0, 11), 2, 3)


async def test_behind(owner: Owner, log: Log) -> None:
    """A shard that lost writes says so and changes nothing (inv 9)."""
    await owner.apply(message(4))
    owner.watermark = Watermark(9, T0, 1)
    applied = await owner.apply(message(10))
    assert (applied.status, applied.found) == (Status.BEHIND, Watermark(4, T0, 11))
    assert (await log.state(0)).watermark.offset == 4


async def test_applied_again(owner: Owner, log: Log) -> None:
    """A batch whose reply was lost is skipped record by record, and `found` tells (inv 3)."""
    before = owner.watermark
    await owner.apply(message(1), message(2))
    owner.watermark = before
    applied = await owner.apply(message(1), message(2), message(3))
    assert applied.found.offset == 2
    assert [(p.outcome, p.seq) for p in applied.placed] == [
        (Outcome.SKIPPED, 0),
        (Outcome.SKIPPED, 0),
        (Outcome.DONE, 3),
    ]
    assert await seqs(log, "user:a") == [1, 2, 3]


async def test_refused(owner: Owner, log: Log) -> None:
    """A record that cannot be decided refuses its whole batch (inv 11)."""
    poison = LogRecord(2, T0, 99, "user:a")  # type: ignore[arg-type]
    applied = await owner.apply(message(1, source="s", score=1), poison, last=Watermark(2, T0, 1))
    assert applied.status is Status.REFUSED
    assert "unknown op 99" in applied.reason
    assert (await log.state(0)).watermark.offset == NEW
    owner.watermark = Watermark()
    assert (await owner.placed(message(1, source="s", score=1)))[0].seq == 1


async def test_repetitions(owner: Owner) -> None:
    """A source's number appears once; the same with another content is told apart (inv 3, 12)."""
    outcomes = [
        p.outcome
        for p in await owner.placed(
            message(1, source="s", score=1024, content=5),
            message(2, source="s", score=1024, content=5),
            message(3, source="s", score=1024, content=6),
            message(4, source="s", score=1024, content=0),
            message(5, source="s", score=1000, content=6),
            message(6, source="s", score=1025, content=6),
            message(7, source="other", score=1024, content=6),
            message(8, "room:x", source="s", score=1024, content=5),
        )
    ]
    done, skipped, reused = Outcome
    assert outcomes == [done, skipped, reused, skipped, skipped, done, done, done]


async def test_idempotency_key(owner: Owner) -> None:
    """A key that was applied is skipped whatever came after it (inv 3)."""
    first = await owner.placed(message(1, source="k", score=records.KEYED))
    again = await owner.placed(message(2, source="k", score=records.KEYED, content=3))
    assert [p.outcome for p in (*first, *again)] == [Outcome.DONE, Outcome.SKIPPED]


async def test_window(owner: Owner) -> None:
    """A repetition is known for at least a window of record time, and forgotten after two (inv 3)."""
    end = T0 + WINDOW_MS
    placed = await owner.placed(
        message(1, source="s", score=1, ts=end - 1),
        message(2, source="t", score=1, ts=end),
        message(3, source="s", score=1, ts=end + WINDOW_MS - 1),
    )
    assert [p.outcome for p in placed] == [Outcome.DONE, Outcome.DONE, Outcome.SKIPPED]
    placed = await owner.placed(
        message(4, source="s", score=1, ts=end + WINDOW_MS),
        message(5, source="t", score=1, ts=end + WINDOW_MS),
    )
    assert [p.outcome for p in placed] == [Outcome.DONE, Outcome.SKIPPED]


async def test_window_of_others(owner: Owner) -> None:
    """What others send moves the windows too (inv 3)."""
    await owner.placed(message(1, source="s", score=1))
    await owner.placed(message(2, ts=T0 + WINDOW_MS))
    (known,) = await owner.placed(message(3, source="s", score=1, ts=T0 + WINDOW_MS))
    await owner.placed(message(4, ts=T0 + 2 * WINDOW_MS))
    (forgotten,) = await owner.placed(message(5, source="s", score=1, ts=T0 + 2 * WINDOW_MS))
    assert (known.outcome, forgotten.outcome) == (Outcome.SKIPPED, Outcome.DONE)


async def test_window_after_a_pause(owner: Owner) -> None:
    """After a pause of two windows or more nothing is known, from the first record on (inv 3)."""
    await owner.placed(message(1, source="s", score=1))
    (known,) = await owner.placed(message(2, source="s", score=1, ts=T0 + 2 * WINDOW_MS))
    assert known.outcome is Outcome.DONE
    await owner.placed(message(3, source="t", score=1, ts=T0 + 3 * WINDOW_MS))
    await owner.placed(message(4, ts=T0 + 5 * WINDOW_MS))
    later = T0 + 5 * WINDOW_MS
    placed = await owner.placed(*(message(5 + i, source=s, score=1, ts=later) for i, s in enumerate("st")))
    assert [p.outcome for p in placed] == [Outcome.DONE, Outcome.DONE]


async def test_swept_is_gone(owner: Owner) -> None:
    """A header that this very batch sweeps is gone for its records, even where time went back (inv 3)."""
    await owner.placed(message(1, "room:x"))
    await owner.placed(LogRecord(2, T0 + 3 * WINDOW_MS + 1, Op.PASS, "user:a"))
    (placed,) = await owner.placed(message(3, "room:x", ts=T0))
    assert (placed.seq, placed.epoch) == (1, "g1.3")


async def test_kept_by_count(owner: Owner, log: Log) -> None:
    """A channel keeps its newest entries, as many as its policy says (inv 7)."""
    await owner.placed(*(message(offset) for offset in range(8)))
    (view,) = await log.read(0, [Query("user:a", 0)])
    assert (view.head, view.first, [seq for seq, _ in view.entries]) == (8, 4, [4, 5, 6, 7, 8])


async def test_kept_by_age(owner: Owner, log: Log) -> None:
    """Entries older than the policy says go when a newer one comes (inv 7)."""
    await owner.placed(message(1, "room:x"), message(2, "room:x", ts=T0 + 1), message(3, "room:x", ts=T0 + 9))
    await owner.placed(message(4, "room:x", ts=T0 + 400_005))
    assert await seqs(log, "room:x") == [3, 4]
    await owner.placed(message(5, "room:x", ts=T0 + 400_010))
    assert await seqs(log, "room:x") == [4, 5]


async def test_idle_channel_begins_again(owner: Owner, log: Log) -> None:
    """By record time alone, a channel idle for longer than it keeps anything gets a new epoch (inv 4)."""
    await owner.placed(message(1, "user:a"))
    late = T0 + 1_000_001
    (placed,) = await owner.placed(message(2, "user:a", ts=late))
    assert (placed.seq, placed.epoch) == (1, "g1.2")
    (view,) = await log.read(0, [Query("user:a", 0)])
    assert (view.first, [seq for seq, _ in view.entries]) == (1, [1])
    await owner.placed(message(3, "user:b", ts=late + 1_000_001 + WINDOW_MS))
    assert (await log.read(0, [Query("user:a", 0)]))[0].epoch == ""
    await owner.placed(message(4, "user:b", ts=late + 1_000_002 + WINDOW_MS))
    assert list((await log.changed(0, NEW, 10))[1]) == [("user:b", 4)]


async def test_pass_moves_the_watermark_only(owner: Owner, log: Log) -> None:
    """A record that the shard does not keep leaves nothing but the watermark."""
    (placed,) = await owner.placed(LogRecord(3, T0, Op.PASS, "user:a"))
    assert placed == Placed(Outcome.DONE)
    assert (await log.read(0, [Query("user:a")]))[0].epoch == ""
    assert (await log.state(0)).watermark.offset == 3


# facts


async def test_join_and_leave(owner: Owner, log: Log) -> None:
    """A member sees what comes after the head at the join; joining again keeps the place."""
    await owner.placed(message(1, "group:g"))
    joined, _, again = await owner.placed(
        LogRecord(2, T0, Op.JOIN, "group:g", "bob"),
        message(3, "group:g"),
        LogRecord(4, T0, Op.JOIN, "group:g", "bob"),
    )
    assert joined == Placed(Outcome.DONE, 1, "g1.1", (), 2)
    assert again == Placed(Outcome.DONE, 1, "g1.1", (), 4)
    assert list(await log.members(0, "group:g")) == [Membership("bob", 4, "g1.1", 1)]
    (left,) = await owner.placed(LogRecord(5, T0, Op.LEAVE, "group:g", "bob"))
    assert (left.outcome, left.version) == (Outcome.DONE, 5)
    assert list(await log.members(0, "group:g")) == []
    assert (await log.read(0, [Query("group:g", member="bob")]))[0].membership is None


async def test_facts_tell_what_is_held(owner: Owner) -> None:
    """A record that was taken in before returns what the shard holds, to write its state again (inv 9)."""
    batch = (
        LogRecord(1, T0, Op.JOIN, "group:g", "bob"),
        LogRecord(2, T0, Op.JOIN, "group:g", "eve"),
        LogRecord(3, T0, Op.LEAVE, "group:g", "eve"),
        LogRecord(4, T0, Op.CURSOR, "group:g", "bob\0web", 7, epoch="e"),
        LogRecord(5, T0, Op.REVOKE, "token:t", score=99),
        LogRecord(6, T0, Op.GROUP, "user:bob", "group:g", 1, 1, epoch="e", seq=3),
    )
    first = await owner.placed(*batch)
    again = await owner.placed(*batch)
    assert {p.outcome for p in again} == {Outcome.SKIPPED}
    held = [(p.version, p.seq, p.epoch) for p in again]
    decided = [(p.version, p.seq, p.epoch) for p in first]
    assert held[0] == decided[0]
    assert held[1] == held[2] == (3, 0, "")  # a later record decided
    assert held[3:] == decided[3:] == [(4, 7, "e"), (99, 99, ""), (1, 3, "e")]


async def test_groups_of_a_user(owner: Owner, log: Log) -> None:
    """The newest version of a membership wins, whatever comes late."""

    def told(offset: int, version: int, joined: int) -> LogRecord:
        return LogRecord(offset, T0, Op.GROUP, "user:bob", "group:g", version, joined, epoch="e", seq=4)

    outcomes = [p.outcome for p in await owner.placed(told(1, 10, 1), told(2, 9, 0))]
    assert outcomes == [Outcome.DONE, Outcome.SKIPPED]
    (view,) = await log.read(0, [Query("user:bob", user=True)])
    assert list(view.groups) == [Membership("group:g", 10, "e", 4)]
    placed = await owner.placed(told(3, 12, 0), told(4, 11, 1))
    assert [(p.outcome, p.version) for p in placed] == [(Outcome.DONE, 12), (Outcome.SKIPPED, 12)]
    (view,) = await log.read(0, [Query("user:bob", user=True)])
    assert list(view.groups) == []


async def test_cursors(owner: Owner, log: Log) -> None:
    """A cursor goes forward in its epoch, and never back to a past epoch."""
    await owner.placed(message(1, "room:x"), message(2, "room:x"))

    def cursor(offset: int, seq: int, epoch: str) -> LogRecord:
        return LogRecord(offset, T0, Op.CURSOR, "room:x", "bob\0web", seq, epoch=epoch)

    placed = await owner.placed(
        cursor(3, 5, "old"), cursor(4, 2, "g1.1"), cursor(5, 1, "g1.1"), cursor(6, 9, "old")
    )
    done, skipped, _ = Outcome
    assert [p.outcome for p in placed] == [done, done, skipped, skipped]
    mine, other = await log.read(0, [Query("room:x", device="bob\0web"), Query("room:x", device="bob\0ios")])
    assert (mine.cursor, other.cursor) == (("g1.1", 2), None)


async def test_revocation(owner: Owner, log: Log) -> None:
    """The latest revocation of a channel's tokens holds."""
    placed = await owner.placed(
        LogRecord(1, T0, Op.REVOKE, "user:bob", score=50), LogRecord(2, T0, Op.REVOKE, "user:bob", score=40)
    )
    assert [(p.outcome, p.seq) for p in placed] == [(Outcome.DONE, 50), (Outcome.SKIPPED, 50)]
    assert (await log.read(0, [Query("user:bob")]))[0].revoked == 50


# reading


async def test_ranges(owner: Owner, log: Log) -> None:
    """`after`, `before`, `limit` and `newest` mean the same on a trimmed list."""
    await owner.placed(*(message(offset) for offset in range(8)))  # 4..8 are kept
    assert await seqs(log, "user:a", 5) == [6, 7, 8]
    assert await seqs(log, "user:a", 0, limit=2) == [4, 5]
    assert await seqs(log, "user:a", 0, limit=2, newest=True) == [7, 8]
    assert await seqs(log, "user:a", 0, before=7, limit=2, newest=True) == [5, 6]
    assert await seqs(log, "user:a", 4, before=6) == [5]
    assert await seqs(log, "user:a", 8) == []
    assert await seqs(log, "user:a", 0, before=3) == []
    assert await seqs(log, "user:a", 0, epoch="g1.0") == [4, 5, 6, 7, 8]
    assert await seqs(log, "user:a", 0, epoch="other") == []


async def test_unknown_channel(owner: Owner, log: Log) -> None:
    """A channel that was never written has no epoch and nothing in it."""
    assert owner.watermark == Watermark()
    (view,) = await log.read(0, [Query("user:x", 0, user=True, device="d", member="m")])
    assert (view.epoch, view.head, view.first, list(view.entries)) == ("", 0, 1, [])
    assert (view.cursor, view.membership, list(view.groups), view.revoked) == (None, None, [], 0)
    assert list(await log.read(0, [])) == []


async def test_changed(owner: Owner, log: Log) -> None:
    """All that was written after an offset is told, the oldest first, up to a limit (inv 4)."""
    await owner.placed(message(1), message(2, "room:x"), message(3), message(4, "room:y"))
    watermark, channels = await log.changed(0, 1, 10)
    assert watermark == owner.watermark
    assert list(channels) == [("room:x", 2), ("user:a", 3), ("room:y", 4)]
    assert list((await log.changed(0, 1, 2))[1]) == [("room:x", 2), ("user:a", 3)]
    assert list((await log.changed(0, 4, 2))[1]) == []


async def test_shards_are_apart(owner: Owner, log: Log) -> None:
    """What happens in one shard is not seen in another."""
    await owner.placed(message(1))
    await log.claim(1, "d2", expected=await log.state(1), generation="g")
    assert (await log.read(1, [Query("user:a")]))[0].epoch == ""
    assert (await log.state(2)).owner == ""


# nodes


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

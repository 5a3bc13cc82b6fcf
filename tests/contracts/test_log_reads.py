"""The log port: memberships, cursors, revocations, and what is read; every adapter answers alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.log.port import (
    LogRecord,
    Membership,
    Op,
    Outcome,
    Placed,
    Query,
    Watermark,
)
from tests.contracts.log_world import T0, Owner, message, seqs

if TYPE_CHECKING:
    from holdfast.log.port import Log


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
    assert held[1] == held[2] == (3, 0, "g1")  # a later record decided, of this generation
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


async def test_a_leave_that_is_told_again_can_be_compared(owner: Owner) -> None:
    """inv 9: a leave that was taken in before names its generation: an older join brings nobody back."""
    join, leave = (LogRecord(4 + n, T0, op, "group:g", "bob") for n, op in enumerate((Op.JOIN, Op.LEAVE)))
    await owner.placed(join, leave)
    await owner.placed(LogRecord(9, T0, Op.PASS, ""))
    known, unknown = await owner.placed(leave, LogRecord(6, T0, Op.LEAVE, "group:g", "eve"))
    for placed, version in ((known, 5), (unknown, 6)):
        assert (placed.outcome, placed.version) == (Outcome.SKIPPED, version)
        assert placed.epoch.partition(".")[0] == "g1"

    def told(offset: int, version: int, epoch: str, joined: int) -> LogRecord:
        return LogRecord(offset, T0, Op.GROUP, "user:bob", "group:g", version, joined, epoch=epoch, seq=0)

    await owner.placed(told(10, known.version, known.epoch, 0))
    (late,) = await owner.placed(told(11, 4, "g1.4", 1))
    assert late.outcome == Outcome.SKIPPED
    (view,) = await owner.log.read(0, [Query("user:bob", user=True)])
    assert list(view.groups) == []

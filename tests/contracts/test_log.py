"""The log port's contract: every adapter answers alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import records
from holdfast.errors import Stop
from holdfast.log.port import (
    NEW,
    WINDOW_MS,
    Batch,
    LogRecord,
    Op,
    Outcome,
    Placed,
    Query,
    Status,
    Watermark,
)
from tests.contracts.log_world import T0, Owner, message, seqs

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.log.port import Log


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

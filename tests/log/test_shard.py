"""Properties of the shard's rules, searched for on the pure code that the Redis adapter is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import records
from holdfast.log.port import (
    NEW,
    WINDOW_MS,
    Batch,
    LogRecord,
    Op,
    Outcome,
    Query,
    Status,
    Watermark,
)
from holdfast.log.shard import Shard
from holdfast.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.port import Placed

T0 = 6000 * WINDOW_MS
POLICIES = {"user": Policy(keep_count=4, keep_seconds=1000), "room": Policy(keep_seconds=400)}
CHANNELS = ("user:a", "room:r", "room:s")

records_of_a_log = st.lists(
    st.tuples(
        st.sampled_from((Op.APPEND, Op.APPEND, Op.APPEND, Op.JOIN, Op.LEAVE, Op.REVOKE, Op.PASS)),
        st.sampled_from(CHANNELS),
        st.sampled_from(("", "s", "t")),
        st.integers(records.KEYED, 5),
        st.sampled_from((0, 1, WINDOW_MS // 3, WINDOW_MS, 700_000)),
    ),
    max_size=40,
)


def numbered(made: Sequence[tuple[Op, str, str, int, int]]) -> list[LogRecord]:
    """Give records offsets with gaps, and times."""
    log, offset, ts = [], NEW, T0
    for op, channel, source, score, step in made:
        offset, ts = offset + 1 + step % 3, ts + step
        body = records.log_entry(ts, b'"id":%d' % offset)
        log.append(LogRecord(offset, ts, op, channel, source, score, 0, body))
    return log


def owned() -> Shard:
    shard = Shard(POLICIES)
    shard.claim("d", shard.state(), "g", 1)
    return shard


def feed(shard: Shard, log: Sequence[LogRecord], sizes: Sequence[int]) -> dict[int, Placed]:
    """Apply what follows the shard's watermark, in batches of these sizes (then the rest)."""
    placed: dict[int, Placed] = {}
    left = [record for record in log if record.offset > shard.watermark.offset]
    for size in (*sizes, len(left)):
        batch, left = left[:size], left[size:]
        if not batch:
            continue
        last = Watermark(batch[-1].offset, batch[-1].ts, 0)
        applied = shard.apply(Batch("d", shard.watermark, last, batch, now_ms=last.ts), last.ts)
        assert applied.status is Status.APPLIED
        placed.update((record.offset, p) for record, p in zip(batch, applied.placed, strict=True))
    return placed


sizes = st.lists(st.integers(1, 9), max_size=8)


@settings(max_examples=150, deadline=None)
@given(made=records_of_a_log, first=sizes, second=sizes, lost=st.integers(0, 40))
def test_replay_gives_the_same(
    made: list[tuple[Op, str, str, int, int]], first: list[int], second: list[int], lost: int
) -> None:
    """Whatever suffix is lost and however the replay is cut, each record gets its place again (inv 3, 9)."""
    log = numbered(made)
    whole = owned()
    placed = feed(whole, log, first)
    early = owned()
    feed(early, log[: max(0, len(log) - lost)], second)
    shard = early.copy()
    feed(early, log, first)  # is lost: the copy knows nothing of it
    again = feed(shard, log, second)
    assert len(again) == min(lost, len(log))
    for offset, place in again.items():
        assert (place.outcome, place.seq, place.epoch) == (
            placed[offset].outcome,
            placed[offset].seq,
            placed[offset].epoch,
        )
    views = [Query(channel, member="s", device="s") for channel in CHANNELS]
    for one, other in zip(shard.read(views, 0), whole.read(views, 0), strict=True):
        assert (one.epoch, one.head, one.membership, one.revoked) == (
            other.epoch,
            other.head,
            other.membership,
            other.revoked,
        )
    assert shard.seen.current == whole.seen.current
    assert shard.seen.previous == whole.seen.previous


@settings(max_examples=150, deadline=None)
@given(made=records_of_a_log, cut=sizes)
def test_seq_is_contiguous_and_a_source_appears_once(
    made: list[tuple[Op, str, str, int, int]], cut: list[int]
) -> None:
    """In one epoch seq counts 1, 2, 3; a number of a source appears once within a window (inv 3)."""
    log = numbered(made)
    placed = feed(owned(), log, cut)
    heads: dict[tuple[str, str], int] = {}
    seen: dict[tuple[str, str, int], int] = {}
    for record in log:
        place = placed[record.offset]
        if record.op is not Op.APPEND or place.outcome is not Outcome.DONE:
            continue
        key = record.channel, place.epoch
        assert place.seq == heads.get(key, 0) + 1
        heads[key] = place.seq
        if record.source:
            number = record.channel, record.source, record.score
            assert record.ts - seen.get(number, -WINDOW_MS) >= WINDOW_MS
            seen[number] = record.ts


@settings(max_examples=100, deadline=None)
@given(made=records_of_a_log, cut=sizes, since=st.integers(NEW, 60))
def test_changed_is_complete(made: list[tuple[Op, str, str, int, int]], cut: list[int], since: int) -> None:
    """Every channel that got anything after an offset is told, in order, once (inv 4)."""
    log = numbered(made)
    shard = owned()
    placed = feed(shard, log, cut)
    last = {
        record.channel: record.offset
        for record in log
        if record.op is not Op.PASS
        and (record.op is not Op.APPEND or placed[record.offset].outcome is Outcome.DONE)
    }
    alive = {c for c in last if shard.read([Query(c)], 0)[0].epoch}
    told = shard.changed(since, 1000)[1]
    assert sorted(told, key=lambda pair: pair[1]) == list(told)
    assert {c for c, _ in told} >= {c for c in alive if last[c] > since}
    assert all(last[c] == offset > since for c, offset in told)


def test_seen_is_bounded_by_two_windows() -> None:
    """Sources are forgotten after two windows, so what is kept is bounded by who sent in them (inv 7)."""
    shard = owned()
    log = [
        LogRecord(i, T0 + i * 1000, Op.APPEND, "room:r", f"s{i}", 1, 0, records.log_entry(T0, b""))
        for i in range(2000)
    ]
    feed(shard, log, (100,) * 20)
    assert len(shard.seen.current) + len(shard.seen.previous) <= 2 * WINDOW_MS // 1000


def test_idle_headers_are_swept() -> None:
    """Channels that nobody writes to leave nothing behind, and a batch removes a bounded number (inv 7)."""
    shard = owned()
    log = [LogRecord(i, T0, Op.APPEND, f"room:{i}", "", 0, 0, records.log_entry(T0, b"")) for i in range(100)]
    feed(shard, log, (50,))
    late = T0 + 4 * WINDOW_MS
    left = []
    for i in range(9):
        feed(shard, [LogRecord(200 + i, late, Op.PASS, "user:a")], ())
        left.append(len(shard.headers))
    assert left == [100, 84, 68, 52, 36, 20, 4, 0, 0]
    assert not shard.last_offsets
    assert not shard.bodies

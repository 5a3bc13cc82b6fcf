"""Liveness: dead is who did not move while the observer could see."""

from __future__ import annotations

import pytest

from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.log.liveness import DEAD_AFTER, Liveness
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.observe.metrics import Metrics


class FaultyLog(MemoryLog):
    """A log some of whose shards are away."""

    away: frozenset[int] = frozenset()
    broken = False

    async def beats(self, shard: int) -> dict[str, int]:
        if shard in self.away:
            raise Retry("away")
        if self.broken:
            raise ValueError("what no adapter should raise")
        return await super().beats(shard)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(settle=20)


@pytest.fixture
def log(clock: ManualClock) -> FaultyLog:
    return FaultyLog(MemoryStore(3), {}, clock)


async def run(log: FaultyLog, clock: ManualClock, seconds: int, *beating: str) -> None:
    """Let time pass; nodes that beat do so once a second in the shards that are there."""
    for _ in range(seconds):
        for node in beating:
            for shard in set(range(3)) - log.away:
                await log.beat(shard, node)
        await clock.advance(1.0)


async def test_dead_when_it_stops(log: FaultyLog, clock: ManualClock) -> None:
    """A node that stops beating is dead within 6 s, and not before 5; others live (inv 6)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await run(log, clock, 3, "a", "b")
    await run(log, clock, 4, "b")
    assert liveness.alive("a")
    await run(log, clock, 1, "b")
    assert (liveness.alive("a"), liveness.alive("b")) == (False, True)
    await liveness.stop()


async def test_an_outage_kills_nobody(log: FaultyLog, clock: ManualClock) -> None:
    """While the observer sees nothing, no time passes for anybody (inv 6)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await run(log, clock, 3, "a")
    log.away = frozenset(range(3))
    await run(log, clock, 60)
    log.away = frozenset()
    await run(log, clock, 4)
    assert liveness.alive("a")
    await run(log, clock, 1)
    assert not liveness.alive("a")
    await liveness.stop()


async def test_an_outage_raises_nobody(log: FaultyLog, clock: ManualClock) -> None:
    """Who was dead before an outage is dead after it (inv 6)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await run(log, clock, 1, "a")
    await run(log, clock, 7)
    log.away = frozenset(range(3))
    await run(log, clock, 3)
    log.away = frozenset()
    await run(log, clock, 1)
    assert not liveness.alive("a")
    await liveness.stop()


async def test_a_stopped_observer_kills_nobody(log: FaultyLog, clock: ManualClock) -> None:
    """Time in which the observer itself stood still does not count (inv 6)."""
    liveness = Liveness(log, clock)
    await log.beat(0, "a")
    await liveness.look()
    await clock.advance(60.0)
    await liveness.look()
    assert liveness.alive("a")


async def test_one_shard_is_enough(log: FaultyLog, clock: ManualClock) -> None:
    """With shards away, those that answer tell the living from the dead (inv 6)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await run(log, clock, 3, "a", "b")
    log.away = frozenset((0, 2))
    await run(log, clock, 6, "a")
    assert (liveness.alive("a"), liveness.alive("b")) == (True, False)
    await liveness.stop()


async def test_a_flush_kills_nobody(log: FaultyLog, clock: ManualClock) -> None:
    """Counts that begin again are a sign of life (inv 9)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await run(log, clock, 4, "a")
    log._store.flush()
    await run(log, clock, 6, "a")
    assert liveness.alive("a")
    await liveness.stop()


async def test_never_heard_of(log: FaultyLog, clock: ManualClock) -> None:
    """An incarnation absent from all beats is dead after 5 s of looking for it, not of outage (inv 6)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await run(log, clock, 30)
    assert liveness.alive("ghost")
    log.away = frozenset(range(3))
    await run(log, clock, 20)
    log.away = frozenset()
    await run(log, clock, 4)
    assert liveness.alive("ghost")
    await run(log, clock, 2)
    assert not liveness.alive("ghost")
    await liveness.stop()


async def test_a_look_that_fails_is_not_the_last(log: FaultyLog, clock: ManualClock) -> None:
    """Whatever goes wrong while looking, looking goes on afterwards (inv 6)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await run(log, clock, 2, "a", "b")
    log.broken = True
    await run(log, clock, 3, "a", "b")
    log.broken = False
    await run(log, clock, 7, "b")
    assert (liveness.alive("a"), liveness.alive("b")) == (False, True)
    await liveness.stop()


async def test_the_dead_of_a_shard(log: FaultyLog, clock: ManualClock) -> None:
    """Those a shard knows that moved nowhere; one that moves in any shard lives (inv 6)."""
    liveness = Liveness(log, clock)
    await liveness.start()
    await log.beat(1, "elsewhere")
    await run(log, clock, 2, "a", "b")
    assert liveness.dead(0) == []
    log.away = frozenset({1})
    await run(log, clock, 7, "b")
    assert liveness.dead(0) == ["a"]
    assert liveness.dead(1) == ["a", "elsewhere"], "as last seen"
    await liveness.stop()


async def test_bound(log: FaultyLog, clock: ManualClock) -> None:
    """Above the bound the longest unmoved is forgotten, and counted (inv 7)."""
    metrics = Metrics()
    liveness = Liveness(log, clock, metrics, max_known=3)
    await liveness.look()
    for name in "abcd":
        assert liveness.alive(name)
    assert metrics.registry.get_sample_value("holdfast_log_liveness_forgotten_total") == 1
    assert DEAD_AFTER == 5.0
    assert len(liveness._moved) == 3

"""A backlog is looked at now and then; at its bound more of it is refused, with a time to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import pytest

from holdfast.bus import backlog
from holdfast.bus.backlog import Backlog
from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.bus.port import MAX_NOTE
from holdfast.channel import partition_of
from holdfast.clock import ManualClock
from holdfast.errors import Retry
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.bus.port import Progress, Topic

P = 2
BOUND = 100
KEYS = {partition_of(key, P): key for key in ("a", "b", "c", "d", "e")}


class Counted(MemoryBus):
    """Counts how often it is asked."""

    asked = 0

    async def progress(self, topic: Topic, group: str) -> Mapping[int, Progress]:
        self.asked += 1
        return await super().progress(topic, group)


class World:
    def __init__(self, bound: int = BOUND) -> None:
        self.clock, self.metrics = ManualClock(), Metrics()
        self.broker = MemoryBroker(P, self.clock)
        self.bus = Counted(self.broker)
        self.backlog = Backlog(self.bus, "inbound", "g", bound, clock=self.clock, metrics=self.metrics)
        self.committed = self.broker.group("g", "inbound").committed
        self.notes = self.broker.group("g", "inbound").notes

    async def __aenter__(self) -> Self:
        self.backlog.start()
        await self.clock.advance(2.0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.backlog.stop()

    def put(self, count: int, partition: int = 0) -> None:
        for _ in range(count):
            self.broker.append("inbound", partition, None, b"", ())

    def refused(self, partition: int = 0) -> float:
        """Return the seconds to wait, 0 where nothing is refused."""
        try:
            self.backlog.check(KEYS[partition])
        except Retry as retry:
            return retry.after or -1.0
        return 0.0

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"holdfast_{name}", {"topic": "inbound"})


async def test_at_the_bound_its_partition_is_refused_and_others_are_not() -> None:
    """inv 7: at the bound, within a look, records of that partition are refused, and of no other."""
    async with World() as world:
        world.put(BOUND - 1)
        world.put(BOUND - 1, 1)
        await world.clock.advance(2.0)
        assert not world.refused()
        assert not world.backlog.full
        world.put(1)
        await world.clock.advance(backlog.EVERY * 1.25)
        assert world.refused()
        assert not world.refused(1)
        assert (world.backlog.full, world.backlog.far) == (True, False)
        assert (world.value("bus_backlog"), world.value("bus_backlog_full")) == (BOUND, 1)
        assert world.value("bus_backlog_refused_total") == 1


async def test_what_is_closed_opens_below_the_bound_and_not_at_it() -> None:
    """Where a bound was reached, it opens at a tenth less, and closes again at the bound only."""
    async with World() as world:
        world.put(BOUND)
        await world.clock.advance(2.0)
        assert world.refused()
        opens = round(BOUND * (1 - backlog.AGAIN))
        world.committed[0] = opens - 1
        await world.clock.advance(2.0)
        assert world.refused(), "a tenth less, less one"
        world.committed[0] = opens
        await world.clock.advance(2.0)
        assert not world.refused()
        assert (world.backlog.full, world.value("bus_backlog_full")) == (False, 0)
        world.put(opens - 1)
        await world.clock.advance(2.0)
        assert not world.refused(), "the bound, less one"
        world.put(1)
        await world.clock.advance(2.0)
        assert world.refused()


async def test_one_sender_of_whom_too_much_waits() -> None:
    """inv 7: who is noted by whoever handles them is refused alone, for as long as something waits."""
    async with World() as world:
        here = [key for key in map(str, range(99)) if partition_of(key, P) == 0]
        world.put(3)
        world.notes[0] = backlog.marks(here[:1])
        await world.clock.advance(2.0)
        assert (world.backlog.full, world.backlog.far) == (True, False)
        with pytest.raises(Retry) as refused:
            world.backlog.check(here[0])
        assert backlog.SLOW_WAIT <= (refused.value.after or 0) <= 1.5 * backlog.SLOW_WAIT
        for other in (*here[1:], KEYS[1]):
            world.backlog.check(other)
        assert world.value("bus_backlog_full") == 0
        world.committed[0] = 3
        await world.clock.advance(2.0)
        # Nothing waits: whoever noted it may be dead.
        assert (world.backlog.full, world.backlog.far) == (False, False)
        world.backlog.check(here[0])
        world.put(1)
        await world.clock.advance(2.0)
        assert (world.backlog.full, world.backlog.far) == (True, False)
        world.broker.away = True
        await world.clock.advance(backlog.TRUSTED + 1.0)
        world.backlog.check(here[0])


def test_a_note_has_room_for_a_hundred() -> None:
    """A note is bounded: the worst senders come first, and are those who are named."""
    names = [f"u{n}" for n in range(500)]
    note = backlog.marks(names)
    assert len(note) <= MAX_NOTE
    assert note.split(",") == [backlog.marks([name]) for name in names[:100]]
    assert backlog.marks([]) == ""


async def test_far_is_all_partitions_together() -> None:
    """inv 7: one partition that stands still stops nobody else, until all hold far too much."""
    async with World() as world:
        most = backlog.FAR * P * BOUND
        world.put(most - 1)
        await world.clock.advance(2.0)
        assert (world.backlog.full, world.backlog.far) == (True, False)
        world.put(1, 1)
        await world.clock.advance(2.0)
        assert world.backlog.far
        world.committed[0] = most // 10 - 1
        await world.clock.advance(2.0)
        assert world.backlog.far
        world.committed[0] = most // 10
        await world.clock.advance(2.0)
        assert (world.backlog.full, world.backlog.far) == (True, False)


async def test_the_wait_fits_the_drain() -> None:
    """What is told is about as long as it takes at the rate at which the partition is read, within bounds."""
    async with World() as world:
        world.put(BOUND + 600)
        await world.clock.advance(2.0)
        assert backlog.LONGEST_WAIT <= world.refused() <= 1.5 * backlog.LONGEST_WAIT, "nobody reads"
        for second in range(1, 11):
            world.committed[0] = 50 * second  # 50 a second
            await world.clock.advance(1.0)
        excess = 100 + BOUND // 10
        assert excess / 50 / 2 <= world.refused() <= excess / 50 * 2 * 1.5
        world.committed[0] = 600 + BOUND // 10 - 1
        await world.clock.advance(1.25)
        assert backlog.SHORTEST_WAIT <= world.refused() <= 1.5 * backlog.SHORTEST_WAIT


async def test_what_nobody_can_see_holds_for_a_while_and_then_refuses_nothing() -> None:
    """inv 7: while Kafka does not answer the last look holds for some seconds, then there is no bound."""
    async with World() as world:
        world.put(3 * P * BOUND)
        await world.clock.advance(2.0)
        assert (world.backlog.full, world.backlog.far) == (True, True)
        world.broker.away = True
        await world.clock.advance(backlog.TRUSTED - 1.5)
        assert world.refused()
        await world.clock.advance(2.0)
        assert not world.refused()
        assert (world.backlog.full, world.backlog.far) == (False, False)
        assert world.value("bus_backlog") is None
        assert (world.value("bus_backlog_unknown_total") or 0) >= 4
        world.broker.away = False
        await world.clock.advance(2.0)
        assert world.refused()


async def test_what_retention_took_is_no_backlog() -> None:
    """Records that are gone are nobody's to read: a partition does not stay closed for them."""
    async with World() as world:
        world.put(2 * BOUND)
        await world.clock.advance(2.0)
        assert world.refused()
        world.broker.truncate("inbound", 0, 2 * BOUND)
        await world.clock.advance(2.0)
        assert not world.refused()


async def test_looks_are_about_one_a_second_and_not_in_step() -> None:
    """Each look is one call; processes that start together drift apart."""
    async with World() as one, World() as another:
        times: list[list[float]] = [[], []]
        for _ in range(600):
            for world, seen in zip((one, another), times, strict=True):
                before = world.bus.asked
                await world.clock.advance(0.05)
                if world.bus.asked > before:
                    seen.append(round(world.clock.monotonic(), 2))
        assert all(25 <= len(seen) <= 35 for seen in times)
        assert times[0] != times[1]


async def test_without_a_bound_nobody_looks() -> None:
    """0: no bound, and no question either."""
    async with World(bound=0) as world:
        world.put(10_000)
        await world.clock.advance(5.0)
        assert world.bus.asked == 0
        assert not world.refused()


def test_the_groups_are_those_who_commit() -> None:
    """inv 7: inbound's reader is logic's group; outbound's is dispatch's."""
    world = World()

    settings = Kafka(group="mine", inbound_backlog=5, outbound_backlog=7)
    parts = (world.bus, settings, world.clock, world.metrics)
    inbound, outbound = backlog.of_inbound(*parts), backlog.of_outbound(*parts)
    assert (inbound._topic, inbound._group, inbound._bound) == ("inbound", "mine", 5)
    assert (outbound._topic, outbound._group, outbound._bound) == ("outbound", "mine-dispatch", 7)


@pytest.mark.parametrize("partition", range(P))
async def test_every_partition_has_a_key(partition: int) -> None:
    """The keys of these tests lead where they say."""
    assert partition_of(KEYS[partition], P) == partition

"""The shared consumer and its queues, against a consumer that answers when it is told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from holdfast.bus.port import OffsetLost, Record
from holdfast.clock import ManualClock
from holdfast.observe.metrics import Metrics
from services.dispatch.feed import Feed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOUND = 40


class SlowConsumer:
    """Reads endless logs; a fetch that is under way has its records before anybody moves a position."""

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        self.paused: set[int] = set()
        self.lost: OffsetLost | None = None
        self.go = asyncio.Event()

    async def fetch(self, max_records: int, timeout: float) -> Mapping[int, Sequence[Record]]:
        if self.lost is not None:
            lost, self.lost = self.lost, None
            raise lost
        found: dict[int, Sequence[Record]] = {}
        for partition, position in self.positions.items():
            if partition not in self.paused:
                found[partition] = [
                    Record(partition, offset, 0, None, b"v")
                    for offset in range(position, position + min(max_records, 10))
                ]
                self.positions[partition] = position + len(found[partition])
        await self.go.wait()
        self.go.clear()
        return found

    def assigned(self) -> Sequence[int]:
        return list(self.positions)

    def assign(self, positions: Mapping[int, int]) -> None:
        self.positions = dict(positions)
        self.paused.clear()

    def seek(self, partition: int, offset: int) -> None:
        self.positions[partition] = offset

    def pause(self, partition: int) -> None:
        self.paused.add(partition)

    def resume(self, partition: int) -> None:
        self.paused.discard(partition)

    async def commit(self, offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> None:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("go"), st.just(0), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 2), st.integers(1, 60)),
        st.tuples(st.just("seek"), st.integers(0, 2), st.integers(0, 100)),
        st.tuples(st.just("reopen"), st.integers(0, 2), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_record_once_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    """inv 3, 7: whatever moves during a fetch, each queue has each record once, and is bounded."""

    async def run() -> None:
        consumer = SlowConsumer()
        feed = Feed(consumer, ManualClock(), Metrics(), bound=BOUND)

        def opened(partition: int, position: int) -> None:
            queues[partition] = feed.open(
                partition, position, wake=lambda: None, on_lost=lambda lost: lost.start
            )
            wanted[partition] = position

        queues: dict[int, object] = {}
        wanted: dict[int, int] = {}
        feed.start(3)
        for partition in range(3):
            opened(partition, 0)
        for step, partition, number in [*steps, ("go", 0, 0), ("go", 0, 0), ("go", 0, 0)]:
            queue = feed._queues[partition]
            if step == "go":
                consumer.go.set()
            elif step == "take":
                for record in feed.take(queue, number, 1 << 20):
                    assert record.offset == wanted[partition]
                    wanted[partition] += 1
            elif step == "seek":
                feed.seek(queue, number)
                wanted[partition] = number
            else:
                feed.close(partition)
                assert partition in consumer.paused
                opened(partition, number)
            await turn()
            assert all(len(each) <= BOUND for each in feed._queues.values())
        for partition in range(3):
            # Nothing is stuck: after what is queued was taken, the rest comes.
            for _ in range(8):
                for record in feed.take(feed._queues[partition], 1000, 1 << 20):
                    assert record.offset == wanted[partition]
                    wanted[partition] += 1
                consumer.go.set()
                await turn()
            assert feed._queues[partition] or feed._queues[partition].next == wanted[partition]
            assert len(feed._queues[partition]) > 0
        await feed.stop()

    asyncio.run(run())


async def test_lost_position() -> None:
    """A position that is not in the log is asked of the partition, and reading goes on there."""
    consumer = SlowConsumer()
    feed = Feed(consumer, ManualClock(), Metrics(), bound=BOUND)
    lost: list[int] = []

    def on_lost(error: OffsetLost) -> int:
        lost.append(error.position)
        return error.start

    feed.start(2)
    queue = feed.open(0, 5, wake=lambda: None, on_lost=on_lost)
    consumer.lost = OffsetLost(0, 5, 50, 60)
    consumer.go.set()
    await turn()
    assert lost == [5]
    assert feed.take(queue, 1, 1 << 20)[0].offset == 50
    await feed.stop()

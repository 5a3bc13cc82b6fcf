"""Reading what a topic holds, to its end."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.bus import span
from holdfast.bus.port import OffsetLost, Record
from holdfast.clock import ManualClock
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def batch(partition: int, *offsets: int) -> Sequence[Record]:
    return [Record(partition, offset, 0, None, b"") for offset in offsets]


class Topic:
    """A bus and its reader, which gives these answers in turn, then nothing, half a second each."""

    def __init__(self, clock: ManualClock, *answers: Mapping[int, Sequence[Record]] | OffsetLost) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.positions: dict[int, int] = {}
        self.closed = False

    async def reader(self, topic: str) -> Any:
        assert topic == "dead"
        return self

    def assign(self, positions: Mapping[int, int]) -> None:
        self.positions = dict(positions)

    def seek(self, partition: int, offset: int) -> None:
        self.positions[partition] = offset

    async def fetch(self, most: int, seconds: float) -> Mapping[int, Sequence[Record]]:
        assert most == span.BATCH
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, OffsetLost):
                raise answer
            return answer
        await self.clock.advance(seconds)
        return {}

    async def close(self) -> None:
        self.closed = True


async def taken(topic: Any, spans: Mapping[int, tuple[int, int]]) -> list[tuple[int, int]]:
    return [
        (record.partition, record.offset)
        async for records in span.read(topic, topic.clock, "dead", spans)
        for record in records
    ]


async def test_to_the_end_of_each_partition() -> None:
    """Each partition's records up to its end come in order; what is empty is not asked for."""
    topic = Topic(ManualClock(), {0: batch(0, 3, 4)}, {1: batch(1, 0)}, {0: batch(0, 5, 6)})
    assert await taken(topic, {0: (3, 6), 1: (0, 1), 2: (7, 7)}) == [(0, 3), (0, 4), (1, 0), (0, 5), (0, 6)]
    assert topic.positions == {0: 3, 1: 0}
    assert topic.closed


async def test_nothing_there() -> None:
    """A topic that holds nothing is not read."""
    topic = Topic(ManualClock())
    assert await taken(topic, {0: (4, 4)}) == []
    assert not topic.closed


async def test_retention_was_faster() -> None:
    """inv 11: what is gone is passed over, a whole partition's span too."""
    lost = OffsetLost(0, 0, 5, 9), OffsetLost(1, 0, 8, 8)
    topic = Topic(ManualClock(), *lost, {0: batch(0, 5)})
    assert await taken(topic, {0: (0, 6), 1: (0, 2)}) == [(0, 5)]
    assert topic.positions == {0: 5, 1: 8}


async def test_patience_ends() -> None:
    """inv 7: partitions of which nothing comes are named, after PATIENCE seconds."""
    clock = ManualClock()
    topic = Topic(clock, {0: batch(0, 0)})
    with pytest.raises(Retry, match=r"dead: partitions \[1\]"):
        await taken(topic, {0: (0, 1), 1: (0, 1)})
    assert span.PATIENCE < clock.monotonic() <= span.PATIENCE + 1.0
    assert topic.closed


async def test_who_ends_early_closes_the_reader() -> None:
    """No reader is left behind."""
    topic = Topic(ManualClock(), {0: batch(0, 0)})
    bus: Any = topic
    async with contextlib.aclosing(span.read(bus, topic.clock, "dead", {0: (0, 5)})) as batches:
        async for _ in batches:
            break
    assert topic.closed

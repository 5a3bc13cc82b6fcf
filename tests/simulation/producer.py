"""Producers of the simulated Kafka.

A producer is a chain of sessions. Within one, the records of a partition are written as a prefix without
gaps, as the broker's sequence numbers see to; after a failure everything pending fails and a new session
begins, while what the old one has on its way may still be written, late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from holdfast.bus.port import MAX_RECORD, Topic
from holdfast.errors import Reject, Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulation.kafka import SimKafka
    from tests.simulation.loop import Process

NAME: Final = "kafka"
LONGEST_HOLD: Final = 2.5
"""Times the deadline of a producer, after which a batch that is late is written."""


class _Batch:
    __slots__ = ("records",)

    def __init__(self, records: list[Any]) -> None:
        self.records = records


class _Session:
    """One producer id: for each partition a queue of batches, of which one is on its way.

    The next one is sent once the one before was answered, so records are written in order or not at all.
    """

    def __init__(self, producer: SimProducer) -> None:
        self.producer = producer
        self.over = False
        self.queues: dict[tuple[Topic, int], deque[_Batch]] = {}

    def send(self, place: tuple[Topic, int], batch: _Batch) -> None:
        queue = self.queues.setdefault(place, deque())
        queue.append(batch)
        if len(queue) == 1:
            self._travel(place)

    def _travel(self, place: tuple[Topic, int]) -> None:
        kafka = self.producer.kafka
        delay = kafka.links.delay(self.producer.process.name, NAME)
        if kafka.random.random() < kafka.hold_batch:
            delay += kafka.random.uniform(0.5, LONGEST_HOLD) * self.producer.deadline
        self._later(delay, self._arrive, place)

    def _later(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        loop = self.producer.kafka.loop
        loop.call_later(delay, call, *args, context=loop.world.context)

    def _arrive(self, place: tuple[Topic, int]) -> None:
        kafka, producer = self.producer.kafka, self.producer
        if kafka.down:
            kafka.when_up(lambda: self._travel(place))
            return
        if not kafka.links.reachable(producer.process.name, NAME):
            if not producer.process.dead and not self.over:
                self._later(0.2, self._arrive, place)
            return
        if (self.over or producer.process.dead) and kafka.random.random() < 0.5:
            return  # what was given up was on its way, or was not
        if kafka.random.random() < kafka.lose_batch:
            if kafka.random.random() < 0.5:
                self._later(kafka.links.delay(NAME, producer.process.name), producer.fail, self, "refused")
            return
        batch = self.queues[place][0]
        offsets = [kafka.write(*record[:5]) for record in batch.records]
        kafka.wake()
        delay = kafka.links.delay(NAME, producer.process.name)
        if kafka.random.random() < kafka.lose_answer:
            delay += kafka.random.uniform(0.2, 2.0) * producer.deadline  # asked for again, or given up
        self._later(delay, self._answered, place, batch, offsets)

    def _answered(self, place: tuple[Topic, int], batch: _Batch, offsets: list[int]) -> None:
        kafka, process = self.producer.kafka, self.producer.process
        if self.over or process.dead:
            return
        if kafka.down or not kafka.links.reachable(process.name, NAME):
            self._later(0.3, self._answered, place, batch, offsets)
            return
        queue = self.queues[place]
        queue.popleft()
        kafka.loop.call_in(process, self.producer.settle, self, batch, offsets)
        if queue:
            self._travel(place)


class SimProducer:
    """See `holdfast.bus.port.Producer`."""

    def __init__(self, kafka: SimKafka, process: Process, deadline: float, buffer: int) -> None:
        self.kafka = kafka
        self.process = process
        self.deadline = deadline
        self._buffer = buffer
        self._session = _Session(self)
        self._waiting: list[Any] = []
        self._pending: dict[asyncio.Future[int], float] = {}
        self._scheduled = False
        self._closed = False
        self._timer: Any = None

    def produce(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[int]:
        if len(value or b"") > MAX_RECORD:
            raise Reject("too_large", "the record is too large")
        if self._closed:
            raise Retry("this producer is closed")
        if len(self._pending) >= self._buffer:
            raise Retry("too much is on its way already", after=1.0)
        future: asyncio.Future[int] = self.kafka.loop.create_future()
        self._waiting.append((topic, partition, key, value, tuple(headers), future))
        self._pending[future] = self.kafka.loop.now + self.deadline
        if self._timer is None:
            self._timer = self.kafka.loop.call_later(self.deadline, self._expire)
        if not self._scheduled:
            self._scheduled = True
            self.kafka.loop.call_soon(self._flush)
        return future

    @property
    def crowded(self) -> bool:
        return 2 * len(self._pending) > self._buffer

    def _flush(self) -> None:
        self._scheduled = False
        waiting, self._waiting = self._waiting, []
        by_place: dict[tuple[Topic, int], list[Any]] = {}
        for record in waiting:
            by_place.setdefault((record[0], record[1]), []).append(record)
        for place, records in by_place.items():
            start = 0
            while start < len(records):  # a batch has several records, or one
                end = start + self.kafka.random.randint(1, 4)
                self._session.send(place, _Batch(records[start:end]))
                start = end

    def settle(self, session: _Session, batch: _Batch, offsets: list[int]) -> None:
        """Take the broker's answer."""
        if session.over:
            return
        for record, offset in zip(batch.records, offsets, strict=True):
            future = record[5]
            self._pending.pop(future, None)
            if not future.done():
                future.set_result(offset)

    def fail(self, session: _Session, why: str) -> None:
        if not self.process.dead:
            self.kafka.loop.call_in(self.process, self._fail, session, why)

    def _fail(self, session: _Session, why: str) -> None:
        if session.over:
            return
        session.over = True
        self._session = _Session(self)
        self._waiting.clear()
        pending, self._pending = self._pending, {}
        for future in pending:
            if not future.done():
                future.set_exception(Retry(f"the outcome is unknown: {why}"))
                future.exception()

    def _expire(self) -> None:
        self._timer = None
        oldest = next(iter(self._pending.values()), None)
        if oldest is None:
            return
        if oldest <= self.kafka.loop.now:
            self._fail(self._session, "no answer in time")
            oldest = next(iter(self._pending.values()), None)
        if oldest is not None:
            self._timer = self.kafka.loop.call_at(oldest, self._expire)

    async def close(self) -> None:
        self._closed = True
        while self._pending:
            await asyncio.sleep(0.05)

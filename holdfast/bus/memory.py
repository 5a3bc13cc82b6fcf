"""The bus in memory: one `MemoryBroker` stands for Kafka, each `MemoryBus` for a process that uses it.

For the embedded cluster and for tests, which move its clock and make it fail (see `MemoryBroker`).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from holdfast.bus.memory_broker import MemoryBroker
from holdfast.bus.memory_group import Group, Member
from holdfast.bus.port import MAX_RECORD, OffsetLost, Progress, Record, Topic, between
from holdfast.errors import Reject, Retry
from holdfast.observe.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.clock import Timer

__all__ = ["MemoryBroker", "MemoryBus"]

_Waiting = tuple[Topic, int, bytes | None, bytes | None, Any, "asyncio.Future[int]"]
"""Topic, partition, key, value, headers, future."""


class MemoryProducer:
    """See `holdfast.bus.port.Producer`. Records are written at the end of the loop's turn."""

    def __init__(
        self, broker: MemoryBroker, deadline: float, metrics: Metrics, buffer: tuple[int, int]
    ) -> None:
        self._broker = broker
        self._deadline = deadline
        self._metrics = metrics
        self._most_records, self._most_bytes = buffer
        self._waiting: list[_Waiting] = []
        self._unanswered: list[_Waiting] = []
        self._bytes = 0
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._timer: Timer | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def produce(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[int]:
        """See `holdfast.bus.port.Producer`."""
        size = len(key or b"") + len(value or b"") + sum(len(name) + len(text) for name, text in headers)
        if size > MAX_RECORD:
            self._metrics.bus_too_large.labels(topic).inc()
            raise Reject("too_large", f"a record has {size} bytes; {MAX_RECORD} are possible")
        if self._closed:
            raise Retry("this producer is closed")
        if self._records >= self._most_records or self._bytes + size > self._most_bytes:
            self._metrics.bus_buffer_full.inc()
            raise Retry("too much is on its way already", after=1.0)
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append((topic, partition, key, value, headers, future))
        self._bytes += size
        self._idle.clear()
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        return future

    @property
    def _records(self) -> int:
        return len(self._waiting) + len(self._unanswered)

    @property
    def crowded(self) -> bool:
        """See `holdfast.bus.port.Producer`."""
        return 2 * self._records > self._most_records or 2 * self._bytes > self._most_bytes

    async def close(self) -> None:
        """See `holdfast.bus.port.Producer`."""
        self._closed = True
        await self._idle.wait()

    def flush(self) -> None:
        """Write what waits, unless the broker is away or owes an answer."""
        self._scheduled = False
        if not self._waiting:
            return
        if self._broker.away or self._unanswered:
            self._broker.when_back(self.flush)
            self._watch()
            return
        batch, self._waiting = self._waiting, []
        offsets = [self._broker.append(*record[:5]) for record in batch]
        self._broker.wake()
        if self._broker.drop_acks:
            self._unanswered = batch
            self._watch()
            return
        self._settled()
        for record, offset in zip(batch, offsets, strict=True):
            self._metrics.bus_produced.labels(record[0]).inc()
            if not record[5].done():
                record[5].set_result(offset)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._broker.clock.call_later(self._deadline, self._expire)

    def _expire(self) -> None:
        failed = self._unanswered + self._waiting
        self._unanswered, self._waiting = [], []
        self._settled()
        self._metrics.bus_producer_replaced.inc()
        for record in failed:
            self._metrics.bus_produce_failed.labels(record[0]).inc()
            if not record[5].done():
                record[5].set_exception(Retry(f"no answer within {self._deadline:g} s"))
                record[5].exception()  # looked at: whoever does not wait for it need not be told at exit

    def _settled(self) -> None:
        self._bytes = 0
        self._idle.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class MemoryConsumer:
    """See `holdfast.bus.port.Consumer`; with a `member` of a group, whose partitions it then reads."""

    def __init__(
        self, broker: MemoryBroker, topic: Topic, group: Group | None, member: Member | None
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._group = group
        self._member = member
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()

    async def fetch(self, max_records: int, timeout: float) -> Mapping[int, Sequence[Record]]:
        """See `holdfast.bus.port.Consumer`."""
        clock = self._broker.clock
        until = clock.monotonic() + timeout
        await asyncio.sleep(0)  # one turn of the loop, as any real fetch: a busy reader starves nobody
        while True:
            found = self._read(max_records)
            left = until - clock.monotonic()
            if found or left <= 0 or not await self._broker.news(left):
                return found

    def assigned(self) -> Sequence[int]:
        """See `holdfast.bus.port.Consumer`."""
        return sorted(self._positions)

    def assign(self, positions: Mapping[int, int]) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._positions = dict(positions)
        self._paused &= set(positions)
        self._broker.wake()

    def seek(self, partition: int, offset: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if partition in self._positions:
            self._positions[partition] = offset
            self._broker.wake()

    def pause(self, partition: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._paused.add(partition)

    def resume(self, partition: int) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._paused.discard(partition)
        self._broker.wake()

    async def commit(self, offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> None:
        """See `holdfast.bus.port.Consumer`."""
        if self._group is None:
            raise ValueError("a reader without a group has nowhere to commit to")
        if self._broker.away:
            raise Retry("the broker is away")
        if self._member is not None and not set(offsets) <= set(self._member.partitions):
            raise Retry("the group has given these partitions to another member")
        self._group.committed.update(offsets)
        self._group.notes.update({p: (notes or {}).get(p, "") for p in offsets})

    async def close(self) -> None:
        """See `holdfast.bus.port.Consumer`."""
        self._positions = {}
        if self._group is not None and self._member is not None:
            await self._group.leave(self._member)

    def take_over(self, partitions: Sequence[int]) -> None:
        """Read these partitions from where the group is."""
        if self._group is not None:
            start = self._broker.partition
            committed = self._group.committed
            self._paused.clear()
            self._positions = {p: committed.get(p, start(self._topic, p).start) for p in partitions}

    def _read(self, max_records: int) -> dict[int, Sequence[Record]]:
        if self._broker.away or (self._member is not None and not self._member.settled):
            return {}
        found: dict[int, Sequence[Record]] = {}
        for partition, position in self._positions.items():
            if partition in self._paused:
                continue
            log = self._broker.partition(self._topic, partition)
            if not log.start <= position <= log.end:
                if found:
                    continue  # what others have first: the next call raises
                raise OffsetLost(partition, position, log.start, log.end)
            if position < log.end:
                records = log.read(position, max_records)
                # Where compaction took the rest, the end is the next position.
                self._positions[partition] = records[-1].offset + 1 if records else log.end
                if records:
                    found[partition] = records
        return found


class MemoryBus:
    """See `holdfast.bus.port.Bus`. `buffer`: records and bytes on their way in one producer, at most."""

    def __init__(
        self,
        broker: MemoryBroker,
        metrics: Metrics | None = None,
        *,
        buffer: tuple[int, int] = (20_000, 64 * 1024 * 1024),
    ) -> None:
        self.partitions = broker.partitions
        self._broker = broker
        self._metrics = metrics or Metrics()
        self._buffer = buffer

    async def start(self) -> None:
        """See `holdfast.bus.port.Bus`."""
        if self._broker.away:
            raise Retry("the broker is away")

    async def close(self) -> None:
        """See `holdfast.bus.port.Bus`."""

    async def producer(self, *, deadline: float) -> MemoryProducer:
        """See `holdfast.bus.port.Bus`."""
        return MemoryProducer(self._broker, deadline, self._metrics, self._buffer)

    async def join_group(
        self,
        topic: Topic,
        group: str,
        *,
        on_assigned: Callable[[Sequence[int]], Awaitable[None]],
        on_revoked: Callable[[Sequence[int]], Awaitable[None]],
    ) -> MemoryConsumer:
        """See `holdfast.bus.port.Bus`."""
        if self._broker.away:
            raise Retry("the broker is away")
        joined = self._broker.group(group, topic)
        member = Member(on_assigned, on_revoked)
        consumer = MemoryConsumer(self._broker, topic, joined, member)
        member.take_over = consumer.take_over
        await joined.join(member)
        return consumer

    async def reader(self, topic: Topic, group: str = "") -> MemoryConsumer:
        """See `holdfast.bus.port.Bus`."""
        return MemoryConsumer(self._broker, topic, self._broker.group(group, topic) if group else None, None)

    async def ends(self, topic: Topic) -> Mapping[int, tuple[int, int]]:
        """See `holdfast.bus.port.Bus`."""
        if self._broker.away:
            raise Retry("the broker is away")
        logs = {partition: self._broker.partition(topic, partition) for partition in range(self.partitions)}
        return {partition: (log.start, log.end) for partition, log in logs.items()}

    async def progress(self, topic: Topic, group: str) -> Mapping[int, Progress]:
        """See `holdfast.bus.port.Bus`."""
        ends = await self.ends(topic)
        known = self._broker.group(group, topic)
        return between(known.committed, known.notes, ends)

    async def offset_at(self, topic: Topic, partition: int, ts: int) -> int:
        """See `holdfast.bus.port.Bus`."""
        if self._broker.away:
            raise Retry("the broker is away")
        log = self._broker.partition(topic, partition)
        place = bisect_left(log.records, ts, key=attrgetter("ts"))
        return log.records[place].offset if place < len(log.records) else log.end

    async def healthy(self) -> bool:
        """See `holdfast.bus.port.Bus`."""
        return not self._broker.away
